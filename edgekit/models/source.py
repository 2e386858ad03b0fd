"""SourceModel: what training left behind, recognised by its content and never by a flag."""

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import UserError

SAVED_MODEL = "saved_model.pb"
FORMS = {
    "saved-model": "TensorFlow SavedModel",
    "keras": "Keras 3 archive",
    "tflite": "TFLite model",
    "keras-h5": "Keras .h5 file",
    "graph-def": "frozen TensorFlow graph (GraphDef)",
    "tf1-checkpoint": "TensorFlow 1 checkpoint",
    "tf2-checkpoint": "TensorFlow 2 checkpoint, which holds weights but no graph",
    "serving-folder": "TensorFlow Serving version folder",
    "saved-model-text": "TensorFlow SavedModel in text form",
}
CONVERTIBLE = ("saved-model", "keras", "keras-h5")
KERAS = ("keras", "keras-h5")
# What to do with a form that is known but cannot be converted.
ADVICE = {
    "tflite": "convert the model that it was made from",
    "graph-def": "export a SavedModel from where it was trained",
    "tf1-checkpoint": "export a SavedModel from the code that built the graph",
    "tf2-checkpoint": "restore it into its model and export that: model.export('saved_model')",
    "saved-model-text": "save it in binary form (saved_model.pb)",
}
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class SourceModel:
    """A model file or folder. `sha256` is of the file, or of the sorted lines "path NUL sha256 LF" of a folder."""

    path: Path
    name: str
    form: str
    sha256: str
    size: int


def open_model(path: Path) -> SourceModel:
    """Recognise and hash a model. Raises UserError for what is not a model."""
    form = recognise(path)
    digest, size = _digest(path)
    return SourceModel(path, _name(path), form, digest, size)


def require_convertible(model: SourceModel) -> None:
    """Raises UserError that says which form this is, when it is none that can be converted."""
    if model.form in CONVERTIBLE:
        return
    hint = ADVICE.get(model.form, "")
    if model.form == "serving-folder":
        hint = f"name the version: {_versions(model.path)[-1]}"
    raise UserError(
        f"{model.path}: this is a {FORMS[model.form]}; edgekit converts SavedModel folders, .keras and .h5 files",
        hint=hint,
        form=model.form,
    )


def recognise(path: Path) -> str:
    """Which of FORMS it is, by its content. Raises UserError."""
    if not path.exists():
        raise UserError(f"{path}: no such model", hint="give a SavedModel folder, a .keras or an .h5 file")
    try:
        form = _folder_form(path) if path.is_dir() else _file_form(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read it: {error.strerror or error}") from error
    if form is None:
        below = sorted(path.glob(f"*/{SAVED_MODEL}")) if path.is_dir() else []
        hint = (
            f"there is a SavedModel in {below[0].parent}"
            if below
            else "give a SavedModel folder, a .keras or an .h5 file"
        )
        raise UserError(f"{path}: not a model that edgekit knows", hint=hint)
    return form


def _folder_form(path: Path) -> str | None:
    if (path / SAVED_MODEL).is_file():
        return "saved-model"
    if (path / "saved_model.pbtxt").is_file():
        return "saved-model-text"
    if _versions(path):
        return "serving-folder"
    names = [item.name for item in path.iterdir()]
    if any(name.endswith(".meta") for name in names):
        return "tf1-checkpoint"
    if any(name.endswith(".index") for name in names):
        return "tf2-checkpoint"
    return None


def _file_form(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(64)
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(_HDF5):
        return "keras-h5"
    if head.startswith(b"PK\x03\x04"):
        return "keras" if _is_keras(path) else None
    if path.suffix == ".meta":
        return "tf1-checkpoint"
    if path.suffix == ".index":
        return "tf1-checkpoint" if path.with_suffix(".meta").exists() else "tf2-checkpoint"
    return "graph-def" if _is_graph_def(head) else None


def _is_keras(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"metadata.json", "config.json"} <= set(archive.namelist())
    except zipfile.BadZipFile:
        return False


def _is_graph_def(head: bytes) -> bool:
    # GraphDef: field 1 (node), length, then NodeDef: field 1 (name), length, printable text.
    if len(head) < 6 or head[0] != 0x0A:
        return False
    start = 2 if head[1] < 0x80 else 3
    length = head[start + 1]
    name = head[start + 2 : start + 2 + min(length, 40)]
    return head[start] == 0x0A and 0 < length < 0x80 and name.isascii() and name.decode("latin-1").isprintable()


def _versions(path: Path) -> list[Path]:
    return sorted(item.parent for item in path.glob(f"[0-9]*/{SAVED_MODEL}") if item.parent.name.isdigit())


def _name(path: Path) -> str:
    resolved = path.resolve()
    name = resolved.name if resolved.is_dir() else resolved.stem
    if resolved.is_dir() and (name.isdigit() or name in ("saved_model", "savedmodel", "export", "model")):
        return resolved.parent.name
    return name


def _digest(path: Path) -> tuple[str, int]:
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
    lines, size = [], 0
    for folder, _, files in os.walk(path):
        for name in files:
            item = Path(folder) / name
            with item.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{item.relative_to(path).as_posix()}\0{digest}\n")
            size += item.stat().st_size
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest(), size
