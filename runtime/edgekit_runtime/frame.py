"""Frames as cameras and libraries give them: uint8 arrays of a few formats, and where their samples lie."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Tuple

import numpy as np

from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import InputError

if TYPE_CHECKING:
    from edgekit_runtime.quant import Array, Pixels

PACKED = {"RGB": 3, "BGR": 3, "RGBA": 4, "BGRA": 4, "GRAY": 1}
SUBSAMPLED = ("NV12", "I420", "YUYV")
FORMATS = (*PACKED, *SUBSAMPLED)
MAX_PIXELS = 1 << 26  # 8192x8192
_SHAPES = {"NV12": "(H * 3 / 2, W)", "I420": "(H * 3 / 2, W)", "YUYV": "(H, W, 2)"}


@dataclass(frozen=True)
class Plane:
    """One kind of sample in a frame: sample (y, x) is `channels` bytes at byte `offset + (y * width + x) * column`."""

    height: int
    width: int
    channels: int
    offset: int
    column: int

    def view(self, frame: Pixels) -> Pixels:
        """The samples (height, width, channels) of a frame, in one piece if it has other planes. Copies nothing."""
        if frame.size == self.height * self.width * self.channels:
            return frame.reshape(self.height, self.width, self.channels)
        first = self.offset % self.column
        start = self.offset - first
        flat = frame.reshape(-1)[start : start + self.height * self.width * self.column]
        return flat.reshape(self.height, self.width, self.column)[..., first : first + self.channels]


@dataclass(frozen=True)
class Layout:
    """What a frame is: its format, its size in pixels, its planes (pixels; or Y and UV; or Y, U and V), and whether it
    lies in one piece: without gaps between its rows, and not turned round.
    """

    format: str
    height: int
    width: int
    planes: Tuple[Plane, ...]
    whole: bool = True


def layout(frame: Array, form: str) -> Layout:
    """The layout of a frame that is said to be of `form`. Raises InputError when it cannot be.

    RGB, BGR: (H, W, 3), or (H, W, 4) with alpha, or grey as (H, W) or (H, W, 1). RGBA, BGRA: (H, W, 4). GRAY: (H, W) or
    (H, W, 1). NV12, I420: (H * 3 / 2, W), Y above the chroma as in OpenCV. YUYV: (H, W, 2). YUV is BT.601 with Y of
    16..235, as cameras give it.
    """
    if form not in FORMATS:
        raise InputError(f"a frame is one of {', '.join(FORMATS)}, not '{form}'", format=str(form))
    if frame.dtype != np.uint8 or 0 in frame.shape:
        raise _misfit(frame, form)
    if form in SUBSAMPLED:
        return _subsampled(frame, form)
    if frame.ndim not in (2, 3):
        raise _misfit(frame, form)
    height, width = frame.shape[:2]
    channels = 1 if frame.ndim == 2 else frame.shape[2]
    if channels == 1 and form in ("RGB", "BGR"):
        form = "GRAY"
    elif channels == 4 and form in ("RGB", "BGR"):
        form += "A"
    if channels != PACKED[form]:
        raise _misfit(frame, form)
    return Layout(form, height, width, (Plane(height, width, channels, 0, channels),), frame.flags.c_contiguous)


def parse(text: str) -> Tuple[str, Tuple[int, ...]]:
    """The format and the array's shape of "1920x1080:NV12"; without a format it is RGB. Raises InputError."""
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})(?::([A-Za-z0-9]+))?", text)
    if found is None:
        raise InputError(f"'{text}' is no frame", hint="say WIDTHxHEIGHT or WIDTHxHEIGHT:FORMAT, as 1920x1080:NV12")
    width, height, form = int(found.group(1)), int(found.group(2)), found.group(3) or "RGB"
    planar = form in ("NV12", "I420")
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        raise InputError(f"'{text}' is no frame", hint=f"a frame has 1 to {MAX_PIXELS} pixels")
    if (form in SUBSAMPLED and width % 2) or (planar and height % 2):
        raise InputError(f"no frame in {form} has {width}x{height} pixels", hint="its sides are even")
    if form not in FORMATS:
        raise InputError(f"a frame is one of {', '.join(FORMATS)}, not '{form}'", format=form)
    return form, (height * 3 // 2, width) if planar else (height, width, PACKED.get(form, 2))


def _subsampled(frame: Array, form: str) -> Layout:
    if form == "YUYV":
        if frame.ndim != 3 or frame.shape[2] != 2 or frame.shape[1] % 2:
            raise _misfit(frame, form)
        height, width = frame.shape[:2]
        chroma = [Plane(height, width // 2, 1, offset, 4) for offset in (1, 3)]
        return Layout(form, height, width, (Plane(height, width, 1, 0, 2), *chroma), frame.flags.c_contiguous)
    if frame.ndim != 2 or frame.shape[0] % 3 or frame.shape[1] % 2:
        raise _misfit(frame, form)
    height, width = frame.shape[0] // 3 * 2, frame.shape[1]
    luma = Plane(height, width, 1, 0, 1)
    size, half = height * width, (height // 2, width // 2)
    if form == "NV12":
        return Layout(form, height, width, (luma, Plane(*half, 2, size, 2)), frame.flags.c_contiguous)
    chroma = [Plane(*half, 1, size + number * (size // 4), 1) for number in range(2)]
    return Layout(form, height, width, (luma, *chroma), frame.flags.c_contiguous)


def _misfit(frame: Array, form: str) -> InputError:
    wanted = _SHAPES.get(form, "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if form in ("RGBA", "BGRA", "GRAY"):
        wanted = "(H, W) or (H, W, 1)" if form == "GRAY" else "(H, W, 4)"
    even = " with even H and W" if form in ("NV12", "I420") else " with even W" if form == "YUYV" else ""
    return InputError(
        f"a frame in {form} is uint8 of shape {wanted}{even}, not {frame.dtype} {frame.shape}",
        format=form,
        dtype=str(frame.dtype),
        shape=frame.shape,
    )
