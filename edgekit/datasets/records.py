"""TFRecord files: pictures or model inputs as `tf.Example`, and TensorFlow Serving's warm-up requests.

Only where the records are is held in memory; each is read, checked and parsed when its turn comes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import batch
from edgekit_runtime.manifest import TensorSpec
from numpy.typing import NDArray

from edgekit.datasets import protos, tfrecord
from edgekit.datasets.pictures import MAX_PICTURES
from edgekit.datasets.source import Array, Raw, Read, Unreadable, by_name, check
from edgekit.errors import UserError

# The names that TensorFlow's image models and TensorFlow Datasets give to a picture and its class.
PICTURES = ("image/encoded", "image", "image_raw")
LABELS = ("image/class/label", "label")
# train.tfrecord, train.tfrecord-00000-of-00010, train-00000-of-01024, TensorFlow Serving's own
_FILE = re.compile(r"\.tfrecords?(-|\.gz$|$)|\.records?$|-\d{5}-of-\d{5}$|^tf_serving_warmup_requests$")
_TRIED = 16  # records that may be unreadable before the kind of a file is known
_MANY = 1_000  # rows of one request; TensorFlow Serving's own batches are far smaller


@dataclass(frozen=True)
class Records:
    """Samples in TFRecord files. `places` has a row for each: file, record, offset, length, row of a request.

    `logs` says that they are PredictionLogs, whose inputs hold a batch; `pixels` that they are pictures.
    """

    path: Path
    files: tuple[Path, ...]
    logs: bool
    pixels: bool
    labelled: bool
    names: tuple[str, ...] = field(repr=False)
    places: NDArray[np.int64] = field(repr=False)
    in_order: bool = False

    def open(self, inputs: Sequence[TensorSpec]) -> Read:
        """What reads the sample of an index. Raises UserError where inputs and records do not fit."""

        def read(index: int) -> Raw:
            file, _, offset, length, row = (int(value) for value in self.places[index])
            content = tfrecord.read(self.files[file], tfrecord.Place(row, offset, length))
            held, label = _request(content, row) if self.logs else _example(content)
            if self.pixels:
                return Raw(picture=_picture(held), label=label)
            return Raw(rows=self._rows(f"{self.path}: {self.names[index]}", held, inputs), label=label)

        return read

    def shapes(self, inputs: Sequence[TensorSpec]) -> tuple[tuple[int, ...], ...]:
        """Those of the first readable sample; empty for pictures. Raises UserError."""
        if self.pixels:
            return ()
        read = self.open(inputs)
        for index in range(min(_TRIED, len(self.names))):
            try:
                return tuple(row.shape for row in read(index).rows)
            except Unreadable:
                continue
        raise UserError(f"{self.path}: none of the first records can be read", where=str(self.path))

    def _rows(self, where: str, held: dict[str, Any], inputs: Sequence[TensorSpec]) -> tuple[Array, ...]:
        known = {spec.name for spec in inputs}
        # An Example may well hold what the model does not take, a label or an id for example.
        wanted = {name: value for name, value in held.items() if name in known} or held
        strings = [name for name, value in wanted.items() if isinstance(value, list)]
        if strings:
            raise UserError(f"{where}: '{strings[0]}' holds text, which no TFLite input is", where=where)
        rows = by_name(where, wanted, inputs)
        if not self.logs:
            rows = tuple(_shaped(row, spec) for row, spec in zip(rows, inputs, strict=True))
        for row, spec in zip(rows, inputs, strict=True):
            check(where, row.shape, row.dtype, spec)
        return rows


def files(path: Path) -> tuple[Path, ...]:
    """The TFRecord files in a folder, or the file itself when it is one; none where there are none."""
    if path.is_file():
        return (path,) if _FILE.search(path.name) or tfrecord.begins_like_one(path) else ()
    return tuple(sorted(file for file in path.rglob("*") if _FILE.search(file.name) and file.is_file()))


def listing(path: Path, found: tuple[Path, ...]) -> Records:
    """Where the samples are. Raises UserError for files that are cut off or damaged between records."""
    records = [(number, file, place) for number, file in enumerate(found) for place in tfrecord.places(file)]
    if not records:
        raise UserError(f"{path}: holds no record", where=str(path))
    if len(records) > MAX_PICTURES:
        raise UserError(f"{path}: more than {MAX_PICTURES} records", where=str(path))
    logs, held, label = _first(path, [(file, place) for _, file, place in records[:_TRIED]])
    names, places = [], []
    for number, file, place in records:
        name = f"{file.name if file == path else file.relative_to(path).as_posix()}[{place.number}]"
        for row in range(_batch(file, place) if logs else 1):
            names.append(f"{name}[{row}]" if logs else name)
            places.append((number, place.number, place.offset, place.length, row))
    pixels = _is_picture(held, logs=logs)
    return Records(path, found, logs, pixels, label is not None, tuple(names), np.array(places, np.int64))


def _first(path: Path, records: list[tuple[Path, tfrecord.Place]]) -> tuple[bool, dict[str, Any], int | None]:
    """What the first readable record is: whether a PredictionLog, what it holds, and its label."""
    for file, place in records:
        try:
            content = tfrecord.read(file, place)
            if protos.parse("PredictionLog", content).HasField("predict_log"):
                return True, *_request(content, 0)
            held, label = _example(content)
        except Unreadable:
            continue
        if held:
            return False, held, label
    raise UserError(
        f"{path}: none of its first {len(records)} records can be read as an example or a request for a prediction",
        hint="write tf.train.Example with 'image/encoded', or with features named like the model's inputs",
        where=str(path),
    )


def _example(content: bytes) -> tuple[dict[str, Any], int | None]:
    """A picture alone if there is one, else all features; and the class number."""
    features = protos.parse("Example", content).features.feature
    held = {name: protos.feature(features[name]) for name in features}
    label = next((held[name] for name in LABELS if name in held), None)
    number = int(label[0]) if isinstance(label, np.ndarray) and label.dtype == np.int64 and len(label) == 1 else None
    picture = next((name for name in PICTURES if isinstance(held.get(name), list)), None)
    return ({picture: held[picture]} if picture else held), number


def _request(content: bytes, row: int) -> tuple[dict[str, Any], int | None]:
    inputs = protos.parse("PredictionLog", content).predict_log.request.inputs
    held = {name: protos.tensor(inputs[name]) for name in inputs}
    if not held:
        raise Unreadable("no request for a prediction")
    if any(row >= len(value) for value in held.values() if _has_rows(value)):
        raise Unreadable("its inputs have different numbers of rows")
    return {name: _row(value, row) for name, value in held.items()}, None


def _row(value: Any, row: int) -> Any:
    if isinstance(value, list):
        return value[row : row + 1]
    return np.asarray(value[row]) if value.ndim else value


def _batch(file: Path, place: tfrecord.Place) -> int:
    """The rows of a request; 1 for one that cannot be read, so that it is skipped and counted."""
    try:
        inputs = protos.parse("PredictionLog", tfrecord.read(file, place)).predict_log.request.inputs
        held = [protos.tensor(inputs[name]) for name in inputs]
    except Unreadable:
        return 1
    return min(_MANY, max((len(value) for value in held if _has_rows(value)), default=1)) or 1


def _has_rows(value: Any) -> bool:
    return isinstance(value, list) or value.ndim > 0


def _is_picture(held: dict[str, Any], *, logs: bool) -> bool:
    """Bytes of an image file, or of a request's only input a frame of pixels."""
    if len(held) != 1:
        return False
    ((name, value),) = held.items()
    if isinstance(value, list):
        return logs or name in PICTURES
    return logs and value.dtype == np.uint8 and value.ndim in (2, 3)


def _picture(held: dict[str, Any]) -> bytes | Array:
    picture = next(iter(held.values()), None)
    if isinstance(picture, list) and len(picture) == 1:
        return bytes(picture[0])
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
        return picture
    raise Unreadable("holds no picture")


def _shaped(row: Array, spec: TensorSpec) -> Array:
    """The flat values of a feature in the input's shape; where they do not fit they stay flat, and `check` says so."""
    shape = batch.sample_shape(spec)
    fixed = int(np.prod([size for size in shape if size != -1]))
    free = shape.count(-1)
    fits = row.size == fixed if free == 0 else free == 1 and row.size > 0 and row.size % fixed == 0
    return row.reshape(shape) if fits else row
