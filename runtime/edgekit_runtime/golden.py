"""Golden samples: real inputs that travel in a release, and what the float model made of them.

The member is one `.npy` array after the other, as `np.save` writes them into one file: all inputs, then all outputs.
An archive would cost each start the import of zipfile.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Tuple

import numpy as np

from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import UserError
from edgekit_runtime.npy import DAMAGED

if TYPE_CHECKING:
    from edgekit_runtime.integrity import Location
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


def read(path: Location, inputs: int, outputs: int) -> GoldenSamples:
    """Read the member `golden.npy` of a model with that many inputs and outputs. Raises GoldenError."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise ValueError(f"it holds more than {MAX_BYTES} bytes")
            arrays = [np.lib.format.read_array(file, allow_pickle=False) for _ in range(inputs + outputs)]
            if file.tell() != size:
                raise ValueError("it holds more than the model's inputs and outputs")
    except DAMAGED as error:
        raise GoldenError(f"cannot read the golden samples '{path}': {error}", path=str(path)) from error
    counts = {array.shape[0] if array.ndim else 0 for array in arrays}
    if len(counts) != 1 or 0 in counts:
        raise GoldenError(f"'{path}': the arrays hold different numbers of samples", path=str(path))
    if any(array.dtype != np.float32 for array in arrays[inputs:]):
        raise GoldenError(f"'{path}': outputs are float32", path=str(path))
    return GoldenSamples(tuple(arrays[:inputs]), tuple(arrays[inputs:]))


def write(path: Location, samples: GoldenSamples) -> None:
    """Write the member. Raises OSError."""
    with open(path, "wb") as file:
        for array in (*samples.inputs, *samples.outputs):
            np.save(file, array, allow_pickle=False)
