"""SourceModel: what training left behind, recognised by its content and never by a flag."""

import hashlib
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import UserError

SAVED_MODEL = "saved_model.pb"
SAVED_MODEL_TEXT = "saved_model.pbtxt"
FROZEN_GRAPH = "frozen_inference_graph.pb"
FORMS = {
    "saved-model": "TensorFlow SavedModel",
    "keras": "Keras 3 archive",
    "keras-h5": "Keras .h5 file",
    "graph-def": "frozen TensorFlow graph (GraphDef)",
    "tf1-checkpoint": "TensorFlow 1 checkpoint with its graph",
    "tflite": "TFLite model",
    "tf2-checkpoint": "TensorFlow 2 checkpoint, which holds weights but no graph",
}
KERAS = ("keras", "keras-h5")
NO_GRAPH = "tf2-checkpoint"
EXPORT = (
    "restore it into its model and export that: model.export('saved_model'), "
    "or tf.saved_model.save(model, 'saved_model')"
)
COPY_AGAIN = "copy it again, and compare its size with the original's"
_KNOWN = "a SavedModel or Serving folder, a .keras, .h5, frozen .pb or .tflite file, or a TensorFlow 1 checkpoint"
# What exporters call every model: the folder's name says more.
_NO_NAMES = ("saved_model", "savedmodel", "export", "model", "frozen_inference_graph", ".meta", ".index")
_SUFFIXES = (".h5", ".keras", ".pb", ".tflite")
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class SourceModel:
    """A model file or folder. `sha256` is of the file, or of the sorted lines "path NUL sha256 LF" of several.

    `path` is what is read: of a TensorFlow Serving folder its newest version, of an export of the Object Detection API
    its graph; `notes` say so.
    """

    path: Path
    name: str
    form: str
    sha256: str
    size: int
    notes: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """The file's own name; of a folder, which may lie anywhere, the model's."""
        return self.name if self.path.is_dir() else self.path.name


def open_model(path: Path) -> SourceModel:
    """Recognise and hash a model. Raises UserError for what is not a model."""
    path, notes = _chosen(path)
    form = recognise(path)
    try:
        digest, size = _digest(path, _files(path, form))
    except OSError as error:
        raise UserError(f"{path}: cannot read it: {error.strerror or error}") from error
    return SourceModel(path, _name(path), form, digest, size, notes)


def require_convertible(model: SourceModel) -> None:
    """Raises UserError for a form that holds no graph, with the command that exports one."""
    if model.form == NO_GRAPH:
        raise UserError(f"{model.path}: this is a {FORMS[model.form]}", hint=EXPORT, form=model.form)


def recognise(path: Path) -> str:
    """Which of FORMS it is, by its content. Raises UserError."""
    if not path.exists() and _checkpoint_form(path) is None:
        raise UserError(f"{path}: no such model", hint=f"give {_KNOWN}")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: neither a file nor a folder", hint=f"give {_KNOWN}")
    try:
        form = _folder_form(path) if path.is_dir() else _file_form(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read it: {error.strerror or error}") from error
    if form is None:
        raise UserError(f"{path}: not a model that edgekit knows", hint=_below(path) or f"give {_KNOWN}")
    return form


def _below(path: Path) -> str | None:
    """What is one folder further down, or in it."""
    if path.is_file() and not path.stat().st_size:
        return f"the file is empty: {COPY_AGAIN}"
    if path.is_file() and path.suffix in (".pbtxt", ".json"):
        return "a graph as text is not read: write it in binary (as_text=False), or give the SavedModel"
    if path.suffix == ".keras" and path.is_file() and not zipfile.is_zipfile(path):
        return f"if it is cut or damaged, {COPY_AGAIN}; else give {_KNOWN}"
    for kind, pattern in (("SavedModel", SAVED_MODEL), ("TensorFlow 1 checkpoint", "*.meta")):
        if path.is_dir() and (found := sorted(path.glob(f"*/{pattern}"))):
            return f"there is a {kind} in {found[0].parent}"
    models = [] if not path.is_dir() else sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES)
    if models:
        return f"there is {models[0].name} in it" + (f", and {len(models) - 1} more" if models[1:] else "")
    return None


def checkpoint_prefix(path: Path) -> str:
    """What the files of a TensorFlow 1 checkpoint begin with: `path` is their folder, one of them, or that prefix.

    In a folder with several the file `checkpoint` names the latest. The prefix may end in "/": files named `.meta`,
    `.index` and `.data-...` have an empty name. Raises UserError when it is not clear which one is meant.
    """
    if not path.is_dir():
        return re.sub(r"\.(meta|index|data-\d{5}-of-\d{5})$", "", str(path))
    prefixes = sorted(item.name.removesuffix(".meta") for item in path.iterdir() if item.name.endswith(".meta"))
    latest = _latest(path / "checkpoint")
    if latest in prefixes:
        prefixes = [latest]
    if len(prefixes) != 1:
        raise UserError(
            f"{path}: holds several checkpoints: {', '.join(prefixes)}",
            hint=f"name one: {path / prefixes[-1]}.meta",
            checkpoints=prefixes,
        )
    return f"{path}{os.sep}{prefixes[0]}"


def _latest(file: Path) -> str | None:
    # The first line of this text protocol buffer: model_checkpoint_path: "/where/it/was/model.ckpt-100"
    try:
        found = re.search(r'^model_checkpoint_path: "([^"]*)"', file.read_text("utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return found.group(1).rpartition("/")[2] if found else None


def _is_saved_model(path: Path) -> bool:
    return (path / SAVED_MODEL).is_file() or (path / SAVED_MODEL_TEXT).is_file()


def _folder_form(path: Path) -> str | None:
    if _is_saved_model(path):
        return "saved-model"
    names = [item.name for item in path.iterdir()]
    if any(name.endswith(".meta") for name in names):
        return "tf1-checkpoint"
    if any(name.endswith(".index") for name in names):
        return NO_GRAPH
    return None


def _file_form(path: Path) -> str | None:
    if (form := _checkpoint_form(path)) is not None:
        return form
    with path.open("rb") as file:
        head = file.read(64)
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(_HDF5):
        return "keras-h5"
    if head.startswith(b"PK\x03\x04"):
        return "keras" if _is_keras(path) else None
    return "graph-def" if _is_graph_def(head) else None


def _checkpoint_form(path: Path) -> str | None:
    prefix = checkpoint_prefix(path)
    if Path(prefix + ".meta").is_file():
        return "tf1-checkpoint"
    return NO_GRAPH if Path(prefix + ".index").is_file() else None


def _is_keras(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"metadata.json", "config.json"} <= set(archive.namelist())
    except zipfile.BadZipFile:
        return False


def _is_graph_def(head: bytes) -> bool:
    # GraphDef: field 1 (node), length (of 7 bits a byte, the last without its highest), then NodeDef: field 1 (name),
    # length, printable text.
    start = 2 + next((number for number, byte in enumerate(head[1:6]) if byte < 0x80), 5)
    if len(head) < start + 4 or head[0] != 0x0A:
        return False
    length = head[start + 1]
    name = head[start + 2 : start + 2 + min(length, 40)]
    return head[start] == 0x0A and 0 < length < 0x80 and name.isascii() and name.decode("latin-1").isprintable()


def _versions(path: Path) -> list[Path]:
    """The version folders of a TensorFlow Serving folder, oldest first: their names are numbers."""
    if not path.is_dir():
        return []
    return sorted(
        (item for item in path.iterdir() if re.fullmatch(r"[0-9]+", item.name) and _is_saved_model(item)),
        key=lambda item: int(item.name),
    )


def _chosen(path: Path) -> tuple[Path, tuple[str, ...]]:
    """What to read of a folder that holds one model in several versions or forms, and a note that says which."""
    if path.name in (SAVED_MODEL, SAVED_MODEL_TEXT) and path.is_file() and _is_saved_model(path.parent):
        return path.parent, ()
    if not path.is_dir() or _is_saved_model(path):
        return path, ()
    if versions := _versions(path):
        named = ", ".join(version.name for version in versions)
        return versions[-1], (f"version {versions[-1].name} of {named}: the newest",) if len(versions) > 1 else ()
    for inner in (path / FROZEN_GRAPH, path / "saved_model"):
        if inner.is_file() or _is_saved_model(inner):
            return inner, (f"{inner.name} of the export",)
    return path, ()


def _name(path: Path) -> str:
    resolved = path.resolve()
    while re.fullmatch(r"[0-9]+", resolved.stem) or resolved.stem.lower() in _NO_NAMES:
        resolved = resolved.parent
    return resolved.name if resolved.is_dir() else resolved.stem


def _files(path: Path, form: str) -> list[Path]:
    if path.is_dir():
        return [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    if form not in ("tf1-checkpoint", NO_GRAPH):
        return [path]
    prefix = Path(checkpoint_prefix(path) + ".meta").name.removesuffix(".meta")
    own = re.compile(re.escape(prefix) + r"(\.meta|\.index|\.data-\d{5}-of-\d{5})?")
    return [item for item in path.parent.iterdir() if own.fullmatch(item.name) and item.is_file()]


def _digest(path: Path, files: list[Path]) -> tuple[str, int]:
    digests, size = {}, 0
    for item in files:
        with item.open("rb") as file:
            digests[item] = hashlib.file_digest(file, "sha256").hexdigest()
        size += item.stat().st_size
    if files == [path]:
        return digests[path], size
    root = path if path.is_dir() else path.parent
    lines = [f"{item.relative_to(root).as_posix()}\0{digest}\n" for item, digest in digests.items()]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest(), size
