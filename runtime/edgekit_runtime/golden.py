"""Golden samples: real inputs that travel in a release, and what the float model made of them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, List, Tuple

import numpy as np

from edgekit_runtime.errors import UserError

if TYPE_CHECKING:
    from edgekit_runtime.quant import Array

MAX_BYTES = 64 << 20


class GoldenError(UserError):
    """The golden samples cannot be read or do not fit the model."""


@dataclass(frozen=True)
class GoldenSamples:
    """`inputs[i]` is (count, ...) in input i's stored dtype, `outputs[i]` (count, ...) float32 of the float model."""

    inputs: Tuple[Array, ...]
    outputs: Tuple[Array, ...]

    @property
    def count(self) -> int:
        return len(self.inputs[0])


def read(path: Path, inputs: int, outputs: int) -> GoldenSamples:
    """Read the member `golden.npz` of a model with that many inputs and outputs. Raises GoldenError."""
    wanted = [f"input_{i}" for i in range(inputs)] + [f"output_{i}" for i in range(outputs)]
    try:
        with zipfile.ZipFile(str(path)) as archive:
            if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
                raise GoldenError(f"'{path}' holds more than {MAX_BYTES} bytes")
        with np.load(str(path), allow_pickle=False) as data:
            arrays: List[Array] = [data[name] for name in wanted]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise GoldenError(f"cannot read the golden samples '{path}': {error}", path=str(path)) from error
    counts = {array.shape[0] if array.ndim else 0 for array in arrays}
    if len(counts) != 1 or 0 in counts:
        raise GoldenError(f"'{path}': the arrays hold different numbers of samples", path=str(path))
    return GoldenSamples(tuple(arrays[:inputs]), tuple(arrays[inputs:]))
