"""Quantise and dequantise: the one place where stored integers and real values meet.

TFLite's 8-bit specification: `real = (stored - zero_point) * scale`. Here `stored = clip(round(real / scale) +
zero_point)`, in float32. What lies between two steps is as near to either. In 8 bits it goes up, and with it what
float32 cannot tell from it: pixels around a mean of 127.5 then are stored as they are. In wider types it goes to even,
as in XNNPACK (TFLite's reference kernel rounds away from zero), so a kernel may be one step apart there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import InputError
from edgekit_runtime.manifest import TensorSpec

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Floats = npt.NDArray[np.float32]
    Pixels = npt.NDArray[np.uint8]

COPY, SIGN_FLIP, TABLE = "copy", "sign-flip", "table"
_PART = 2048  # pixels
_HALF = 0.5 + 2**-12  # of a step: the quotients of 8-bit pixels were seen up to 2**-17 from the half that they are


def quantize(real: Any, spec: TensorSpec) -> Array:
    """Real values (any shape, taken as float32) as `spec` stores them; values out of range saturate.

    A tensor without scale stores the values themselves, rounded where it stores integers.
    Raises InputError for NaN where the tensor stores integers.
    """
    values: Floats = np.asarray(real, dtype=np.float32)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            stored: Array = values.astype(dtype)
        return stored
    if np.isnan(values).any():
        raise InputError(f"input '{spec.name}' has NaN, which {dtype} cannot store", name=spec.name)
    if dtype.kind == "b":
        truth: Array = np.not_equal(values, 0)
        return truth
    with np.errstate(over="ignore"):
        steps = values if spec.scale is None else values / np.float32(spec.scale)
    if dtype.itemsize == 1:
        steps = np.floor(steps + np.float32(_HALF))
    # Above 16 bits float32 has too few digits for the zero point and for the limits.
    wide: Array = np.rint(steps).astype(np.float32 if dtype.itemsize <= 2 else np.float64, copy=False)
    limits = np.iinfo(dtype)
    high = float(limits.max)
    if int(high) > limits.max:
        high = float(np.nextafter(high, 0.0))
    saturated: Array = np.clip(wide + (spec.zero_point or 0), float(limits.min), high)
    return saturated.astype(dtype)


def store(real: Any, spec: TensorSpec) -> Array:
    """As `quantize`, of whatever a caller gives; what float32 cannot hold saturates with the rest.

    Raises InputError for NaN, too, and for what is no regular array of real numbers.
    """
    try:
        with np.errstate(over="ignore"):
            if np.iscomplexobj(real):
                raise ValueError("complex numbers")
            return quantize(real, spec)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"input '{spec.name}' is not a regular array of real numbers: {error}") from error


def dequantize(stored: Any, spec: TensorSpec, out: Optional[Floats] = None) -> Floats:
    """Stored values (any shape) as real float32, in `out` if given; the difference to the zero point is taken in a
    wider type.
    """
    values = np.asarray(stored)
    real: Floats = np.empty(values.shape, np.float32) if out is None else out
    if spec.scale is None or spec.zero_point is None or values.dtype.itemsize <= 2:
        np.copyto(real, values, casting="unsafe")
        if spec.scale is not None and spec.zero_point is not None:
            real -= np.float32(spec.zero_point)
            real *= np.float32(spec.scale)
    else:
        real[...] = (values.astype(np.float64) - spec.zero_point) * np.float64(np.float32(spec.scale))
    return real


def step(spec: TensorSpec) -> float:
    """The real size of one quantisation step; 0 for a tensor that is not quantised."""
    return float(spec.scale) if spec.scale is not None else 0.0


@dataclass(frozen=True)
class Fold:
    """uint8 pixels straight to stored values: nothing to do, one bit to flip, or a table for each channel.

    `table` has shape (256, C) and the tensor's dtype; `kind` is found by looking at it, so it is never a guess.
    `uniform` says that the channels' tables are the same.
    """

    kind: str
    table: Array
    uniform: bool

    def write(self, pixels: Pixels, stored: Array) -> None:
        """Pixels (..., C) as stored values of the same shape, once through them: a whole row where it can be."""
        if pixels.strides[-1] == 1 and (self.kind != TABLE or self.uniform):
            self._write(pixels, stored, 0)
            return
        for channel in range(pixels.shape[-1]):
            self._write(pixels[..., channel], stored[..., channel], channel)

    def apply(self, pixels: Pixels) -> Array:
        """Pixels (..., C) as stored values of the same shape. A copy is not made when the pixels are it already."""
        if self.kind == COPY:
            return pixels
        stored = np.empty(pixels.shape, self.table.dtype)
        self.write(pixels, stored)
        return stored

    def _write(self, pixels: Pixels, stored: Array, channel: int) -> None:
        if self.kind == COPY:
            stored[...] = pixels
        elif self.kind == SIGN_FLIP:
            np.bitwise_xor(pixels, np.uint8(0x80), out=stored.view(np.uint8))
        else:  # in parts, for NumPy makes an index of eight bytes of each pixel
            if pixels.ndim == 1:
                pixels, stored = pixels[None], stored[None]
            rows = max(1, _PART * len(pixels) // max(1, pixels.size))
            columns = max(1, _PART * pixels.shape[1] // max(1, pixels[:1].size))
            for row in range(0, len(pixels), rows):
                for column in range(0, pixels.shape[1], columns):
                    part = slice(row, row + rows), slice(column, column + columns)
                    stored[part] = np.take(self.table[:, channel], pixels[part])


def fold(reals: Floats, spec: TensorSpec) -> Fold:
    """The Fold for the real values (256, C) of the 256 pixel values of each channel."""
    table = quantize(reals, spec)
    every = np.arange(256, dtype=np.uint8)[:, None]
    kind = TABLE
    if table.dtype == np.uint8 and (table == every).all():
        kind = COPY
    elif table.dtype == np.int8 and (table == (every ^ np.uint8(0x80)).view(np.int8)).all():
        kind = SIGN_FLIP
    return Fold(kind, table, bool((table == table[:, :1]).all()))


def largest_steps(one: Array, other: Array) -> Optional[int]:
    """The largest difference of two stored arrays of one shape, in quantisation steps; None for float arrays."""
    if one.dtype.kind not in "iu" or not one.size:
        return None
    return int(np.abs(one.astype(np.int64) - other.astype(np.int64)).max())
