"""Reading `.npy` and `.npz` datasets: never pickles, and no size that was not asked for."""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from edgekit_runtime.manifest import TensorSpec
from edgekit_runtime.npy import DAMAGED

from edgekit.datasets.source import Array, Raw, Read, by_name, check
from edgekit.errors import UserError

MAX_NPZ_BYTES = 4 * 1024**3
LABELS_KEY = "y"


@dataclass(frozen=True)
class Arrays:
    """Arrays whose first axis is the sample. A `.npy` is mapped, a `.npz` is read whole (at most 4 GiB).

    `pixels` is true for one uint8 array [N, height, width] or [N, height, width, channels].
    """

    path: Path
    count: int
    pixels: bool
    labels: tuple[int, ...] | None
    held: dict[str, Array] = field(repr=False)
    in_order: bool = False

    def columns(self, inputs: Sequence[TensorSpec], *, pixels: bool) -> tuple[Array, ...]:
        """One array for each model input. Raises UserError that names what is expected and what was got."""
        columns = by_name(self.path, self.held, inputs)
        if not pixels:
            for column, spec in zip(columns, inputs, strict=True):
                check(self.path, column.shape[1:], column.dtype, spec)
        return columns

    def open(self, inputs: Sequence[TensorSpec]) -> Read:
        """What reads the sample of an index. Raises UserError where inputs and arrays do not fit."""
        columns = self.columns(inputs, pixels=self.pixels)

        def read(index: int) -> Raw:
            label = None if self.labels is None else self.labels[index]
            rows = tuple(np.array(column[index]) for column in columns)
            return Raw(picture=rows[0], label=label) if self.pixels else Raw(rows=rows, label=label)

        return read

    def shapes(self, inputs: Sequence[TensorSpec]) -> tuple[tuple[int, ...], ...]:
        """The samples' shape for each input; empty for pictures. Raises UserError."""
        if self.pixels:
            return ()
        return tuple(column.shape[1:] for column in self.columns(inputs, pixels=False))


def read(path: Path) -> Arrays:
    """Look into a `.npy` or `.npz` file. Raises UserError."""
    try:
        held = _load_npz(path) if path.suffix.lower() == ".npz" else {"x": np.load(path, "r", allow_pickle=False)}
    except (*DAMAGED, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(
            f"{path}: not a readable NumPy file: {error}",
            hint="save plain arrays with np.save or np.savez; pickled objects are never loaded",
            where=str(path),
        ) from error
    given = held.pop(LABELS_KEY, None) if len(held) > 1 else None
    if not held:
        raise UserError(f"{path}: holds no array", where=str(path))
    for name, array in held.items():
        if array.ndim == 0 or not len(array):
            raise UserError(f"{path}: array '{name}' holds no sample: its shape is {list(array.shape)}")
        if array.dtype.kind not in "fiub":
            raise UserError(f"{path}: array '{name}' is {array.dtype}; expected numbers", where=str(path))
    counts = {name: len(array) for name, array in held.items()}
    count = next(iter(counts.values()))
    if len(set(counts.values())) != 1:
        raise UserError(f"{path}: the arrays have different numbers of samples: {counts}", where=str(path))
    only = next(iter(held.values()))
    pixels = len(held) == 1 and only.dtype == np.uint8 and only.ndim in (3, 4)
    return Arrays(path, count, pixels, _labels(path, given, count), held)


def _load_npz(path: Path) -> dict[str, Array]:
    with zipfile.ZipFile(path) as archive:
        total = sum(_declared_bytes(archive, name) for name in archive.namelist())
    if total > MAX_NPZ_BYTES:
        raise ValueError(f"it unpacks to {total} bytes, more than {MAX_NPZ_BYTES}; save large data as .npy")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _declared_bytes(archive: zipfile.ZipFile, name: str) -> int:
    if not name.endswith(".npy"):
        raise ValueError(f"'{name}' is not an array")
    with archive.open(name) as member:
        shape, dtype = _header(member)
    return max(math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size)


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(member)
    return shape, dtype


def _labels(path: Path, given: Array | None, count: int) -> tuple[int, ...] | None:
    if given is None:
        return None
    flat = given[:, 0] if given.ndim == 2 and given.shape[1] == 1 else given
    if flat.shape != (count,) or flat.dtype.kind not in "iu":
        raise UserError(
            f"{path}: labels 'y' must be {count} whole numbers, got {given.dtype} {list(given.shape)}",
            hint="'y' is each sample's class; where it is an input of the model, give a function (FILE.py:FUNCTION)",
            where=str(path),
        )
    return tuple(int(value) for value in flat)
