"""Listing pictures in a folder, with labels from class folders or from a CSV."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit_runtime.manifest import TensorSpec

from edgekit.datasets.source import Raw, Read, Unreadable
from edgekit.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
LABELS_CSV = "labels.csv"
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_PICTURES = 2_000_000


@dataclass(frozen=True)
class Pictures:
    """Pictures below `root`, sorted by name ('/' between the parts); `labels` has one class index for each."""

    root: Path
    names: tuple[str, ...]
    classes: tuple[str, ...]
    labels: tuple[int, ...] | None
    in_order: bool = False

    def open(self, _inputs: Sequence[TensorSpec]) -> Read:
        """What reads the picture of an index."""

        def read(index: int) -> Raw:
            try:
                picture = content(self.root / self.names[index])
            except OSError as error:
                raise Unreadable(error.strerror or str(error)) from error
            return Raw(picture=picture, label=None if self.labels is None else self.labels[index])

        return read

    def shapes(self, _inputs: Sequence[TensorSpec]) -> tuple[tuple[int, ...], ...]:
        """Nothing: pictures are made to fit."""
        return ()


def listing(path: Path, labels: Sequence[str] | None) -> Pictures:
    """The pictures of a folder (or of a CSV with the columns `file` and `label`). Raises UserError.

    With class folders (every picture in one of at least two folders) the classes are `labels` when given, else the
    folders' names in sorted order, as Keras' image_dataset_from_directory numbers them.
    """
    if not path.is_dir():
        return _from_csv(path, labels)
    if (path / LABELS_CSV).is_file():
        return _from_csv(path / LABELS_CSV, labels)
    names, others = walk(path)
    if not names:
        raise UserError(
            f"{path}: holds no picture" + (f", only {others} other files" if others else ", it is empty"),
            hint="pictures are " + ", ".join(sorted(SUFFIXES)),
            where=str(path),
        )
    folders = {name.split("/")[0] for name in names if "/" in name}
    if len(folders) < 2 or any("/" not in name for name in names):
        return Pictures(path, names, (), None)
    if labels is not None and not folders & set(labels):
        return Pictures(path, names, (), None)
    classes = tuple(labels) if labels is not None else tuple(sorted(folders))
    unknown = sorted(folders - set(classes))
    if unknown:
        raise UserError(
            f"{path}: class folders that are no label of the model: {', '.join(unknown[:5])}",
            hint="name the folders like the labels",
            where=str(path),
        )
    index = {name: number for number, name in enumerate(classes)}
    return Pictures(path, names, classes, tuple(index[name.split("/")[0]] for name in names))


def any_in(path: Path) -> bool:
    """Whether a folder holds a picture or a `labels.csv`."""
    if not path.is_dir():
        return False
    return (path / LABELS_CSV).is_file() or any(file.suffix.lower() in SUFFIXES for file in path.rglob("*"))


def content(path: Path) -> bytes:
    """A picture file's bytes. Raises OSError, also for one over 64 MiB."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(f"larger than {MAX_FILE_BYTES} bytes")
    return data


def walk(root: Path) -> tuple[tuple[str, ...], int]:
    """The names of all pictures below a folder, sorted, and how many other files there are."""
    names, others = [], 0
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if name.startswith(".") or Path(name).suffix.lower() not in SUFFIXES:
                others += 1
                continue
            names.append((Path(folder) / name).relative_to(root).as_posix())
            if len(names) > MAX_PICTURES:
                raise UserError(f"{root}: more than {MAX_PICTURES} pictures")
    return tuple(sorted(names)), others


def _from_csv(path: Path, labels: Sequence[str] | None) -> Pictures:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot read the CSV: {error}", where=str(path)) from error
    label_column = next((name for name in ("label", "class_index") if name in columns), None)
    if "file" not in columns or label_column is None:
        raise UserError(
            f"{path}: expected a header with the columns file,label; got {','.join(columns) or 'nothing'}",
            where=str(path),
        )
    if not rows:
        raise UserError(f"{path}: names no picture", where=str(path))
    names = []
    for line, row in enumerate(rows, 2):
        name = row["file"] or ""
        if not name or name.startswith(("/", "\\")) or ".." in Path(name).parts:
            raise UserError(f"{path}: line {line}: '{name}' is not a file below the CSV's folder", where=str(path))
        names.append(name)
    values = [(row[label_column] or "").strip() for row in rows]
    classes, indices = _label_indices(path, values, labels)
    return Pictures(path.parent, tuple(names), classes, indices)


def _label_indices(
    path: Path, values: list[str], labels: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if labels is not None and set(values) <= set(labels):
        index = {name: number for number, name in enumerate(labels)}
        return tuple(labels), tuple(index[value] for value in values)
    if all(value.isascii() and value.isdigit() for value in values):
        return tuple(labels or ()), tuple(int(value) for value in values)
    if labels is not None:
        unknown = sorted(set(values) - set(labels))
        raise UserError(f"{path}: labels that the model does not have: {', '.join(unknown[:5])}", where=str(path))
    classes = tuple(sorted(set(values)))
    return classes, tuple(classes.index(value) for value in values)
