"""From a frame's plane to another size: which part of it, and how.

The filters nearest, bilinear, bicubic and area are Pillow's (all but nearest weigh every pixel of the part). `linear`
weighs the four nearest pixels, however much is left out, as MediaPipe and OpenCV do; its fixed point is that of
OpenCV's INTER_LINEAR_EXACT, so that NumPy and OpenCV (used where it is installed) give the same bits.
"""

from __future__ import annotations

import importlib
from _thread import _local  # as threading.local, which would have to be imported
from typing import TYPE_CHECKING, Any, Callable, Tuple

import numpy as np

from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import InputError

if TYPE_CHECKING:
    from edgekit_runtime.frame import Plane
    from edgekit_runtime.manifest import Preprocess
    from edgekit_runtime.quant import Array, Pixels

LINEAR = "linear"
_PILLOW = {"nearest": 0, "bilinear": 2, "bicubic": 3, "area": 4}  # Pillow's numbers, the same since 2.7
_ONE = 256  # OpenCV's weights of 8 bits


@dataclass(frozen=True)
class Window:
    """The part of a frame that is used (left, top, right, bottom, in pixels), the size that it gets, and where it lies
    in the model's picture (left, top)."""

    box: Tuple[float, float, float, float]
    width: int
    height: int
    left: int = 0
    top: int = 0

    @property
    def place(self) -> Tuple[int, int, int, int]:
        """Where it lies in the model's picture: width, height, left, top."""
        return self.width, self.height, self.left, self.top

    @property
    def whole(self) -> bool:
        """Whether it begins and ends between two pixels."""
        return all(side == int(side) for side in self.box)

    @property
    def keeps(self) -> bool:
        """Whether its pixels stay as they are."""
        left, top, right, bottom = self.box
        return self.whole and (right - left, bottom - top) == (self.width, self.height)

    @property
    def shrinks(self) -> float:
        """How many pixels of the frame become one, along the side that shrinks less."""
        return min((self.box[2] - self.box[0]) / self.width, (self.box[3] - self.box[1]) / self.height)

    def of(self, across: int, down: int) -> "Window":
        """The same window in a plane with one sample for `across` x `down` pixels."""
        left, top, right, bottom = self.box
        box = (left / across, top / down, right / across, bottom / down)
        return Window(box, self.width, self.height, self.left, self.top)


def window(width: int, height: int, spec: Preprocess) -> Window:
    """The window of a frame of `width` x `height`, by the aspect rule of `spec`."""
    whole = (0.0, 0.0, float(width), float(height))
    if spec.resize == "letterbox":
        part = min(spec.width / width, spec.height / height)
        inner = (max(1, int(width * part + 0.5)), max(1, int(height * part + 0.5)))
        return Window(whole, *inner, (spec.width - inner[0]) // 2, (spec.height - inner[1]) // 2)
    if spec.resize == "crop":
        part = min(width / spec.width, height / spec.height)
        # 31 - 15 * (31 / 15) is a little below 0.
        left, top = max(0.0, (width - spec.width * part) / 2), max(0.0, (height - spec.height * part) / 2)
        if part == 1:
            left, top = float(int(left)), float(int(top))
            return Window((left, top, left + spec.width, top + spec.height), spec.width, spec.height)
        return Window((left, top, width - left, height - top), spec.width, spec.height)
    return Window(whole, spec.width, spec.height)


class Scratch:
    """Buffers that are made once in each thread and used again."""

    def __init__(self) -> None:
        self._local = _local()

    def get(self, name: str, shape: Tuple[int, ...], dtype: Any) -> Array:
        """The buffer of that name; what it holds is what was left in it."""
        found: Array = self.once(name, lambda: np.empty(shape, dtype))
        return found

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` made the first time."""
        found = getattr(self._local, name, None)
        if found is None:
            found = make()
            setattr(self._local, name, found)
        return found


def scaler(plane: Plane, part: Window, kind: str, across: int, down: int) -> Callable[[Pixels], Pixels]:
    """What takes a contiguous frame and gives that part of `plane` as (height, width, channels), until its next call in
    this thread; the plane has one sample for `across` x `down` pixels of the frame.

    Raises InputError when Pillow is needed and is not there.
    """
    left, top, right, bottom = part.box
    rows, columns = slice(int(top), int(bottom)), slice(int(left), int(right))
    if part.keeps:
        return lambda frame: plane.view(frame)[rows, columns]
    if part.whole and (part.width, part.height) == ((right - left) * across, (bottom - top) * down):
        return _repeated(plane, rows, columns, across, down)
    if kind != LINEAR:
        return _pillow_scaler(plane, part, kind)
    opencv = _opencv() if part.whole and plane.column == plane.channels else None
    if opencv is not None:
        return _opencv_scaler(opencv, plane, part, rows, columns)
    return Linear(plane, part)


def _repeated(plane: Plane, rows: slice, columns: slice, across: int, down: int) -> Callable[[Pixels], Pixels]:
    """The chroma of several pixels for each of them, as OpenCV takes it."""
    scratch = Scratch()

    def repeat(frame: Pixels) -> Pixels:
        small = plane.view(frame)[rows, columns]
        height, width, channels = small.shape
        out = scratch.get("out", (height, down, width, across, channels), np.uint8)
        out[...] = small[:, None, :, None]
        return out.reshape(height * down, width * across, channels)

    return repeat


def _pillow_scaler(plane: Plane, part: Window, kind: str) -> Callable[[Pixels], Pixels]:
    image_module = pillow("resize a picture")
    scratch = Scratch()
    size = (part.width, part.height)

    def one(samples: Pixels) -> Pixels:
        if not samples.flags.c_contiguous:
            held = scratch.get("plane", samples.shape, np.uint8)
            held[...] = samples
            samples = held
        canvas: Canvas = scratch.once("canvas", lambda: Canvas(image_module, *size, samples.ndim == 3))
        return canvas.show(image_module.fromarray(samples).resize(size, _PILLOW[kind], part.box))

    def scale(frame: Pixels) -> Pixels:
        samples = plane.view(frame)
        if plane.channels == 3:
            return one(samples)
        # Pillow would weigh the colours of four channels by the fourth.
        out = scratch.get("out", (part.height, part.width, plane.channels), np.uint8)
        for channel in range(plane.channels):
            out[..., channel] = one(samples[..., channel])
        return out

    return scale


class Canvas:
    """A Pillow image whose pixels lie in a NumPy array: to be read, they become no object of Python's."""

    def __init__(self, image_module: Any, width: int, height: int, color: bool) -> None:
        mode = "RGBX" if color else "L"
        shape = (height, width, 4) if color else (height, width)
        self._array = np.zeros(shape, np.uint8)
        self._image = image_module.frombuffer(mode, (width, height), self._array, "raw", mode, 0, 1)
        self._image.readonly = 0
        self._image.paste(image_module.new("L", (1, 1), 255))
        self._shared = bool(self._array.any())  # another Pillow may copy what it is given

    def show(self, image: Any) -> Pixels:
        """The pixels of an RGB image (H, W, 3), or of a grey one (H, W), until the next."""
        if not self._shared:
            return np.asarray(image)
        self._image.paste(image)
        return self._array[..., :3] if self._array.ndim == 3 else self._array


class Linear:
    """The four nearest pixels by NumPy: the indices and weights are found once."""

    def __init__(self, plane: Plane, part: Window) -> None:
        left, top, right, bottom = part.box
        above, below, down = _weights(top, bottom, part.height, plane.height)
        before, after, across = _weights(left, right, part.width, plane.width)
        self._item = np.dtype("V%d" % plane.channels if plane.channels > 1 else "u1")
        places = [
            (plane.offset + (rows[:, None] * plane.width + columns) * plane.column) // plane.channels
            for rows in (above, below)
            for columns in (before, after)
        ]
        # A row's four corners lie together in the frame: taken together, they are read once.
        self._places = np.stack(places, axis=1).astype(np.intp)
        self._weight_after = np.repeat(across, plane.channels).astype(np.uint16)
        self._weight_before = np.uint16(_ONE) - self._weight_after
        # Whole, for NumPy takes a buffer to repeat a column.
        self._weight_below = np.repeat(down.astype(np.int32)[:, None], part.width * plane.channels, axis=1)
        self._shape = (part.height, part.width, plane.channels)
        self._scratch = Scratch()

    def __call__(self, frame: Pixels) -> Pixels:
        height, width, channels = self._shape
        row = (height, width * channels)
        corners = self._scratch.get("corners", self._places.shape, self._item)
        np.take(frame.reshape(-1).view(self._item), self._places, out=corners, mode="clip")
        pixels = corners.view(np.uint8).reshape(height, 4, width * channels)
        upper = self._scratch.get("upper", row, np.uint16)
        lower = self._scratch.get("lower", row, np.uint16)
        other = self._scratch.get("other", row, np.uint16)
        for number, mixed in ((0, upper), (2, lower)):
            # Assigned first: an operation that also casts takes buffers of its own.
            mixed[...] = pixels[:, number]
            np.multiply(mixed, self._weight_before, out=mixed)
            other[...] = pixels[:, number + 1]
            other *= self._weight_after
            np.add(mixed, other, out=mixed)
        total = self._scratch.get("total", row, np.int32)
        base = self._scratch.get("base", row, np.int32)
        base[...] = upper
        total[...] = lower
        total -= base
        total *= self._weight_below
        base <<= np.int32(8)
        total += base
        total += np.int32(_ONE * _ONE // 2)
        total >>= np.int32(16)
        out = self._scratch.get("out", self._shape, np.uint8)
        np.copyto(out.reshape(row), total, casting="unsafe")
        return out


def _weights(start: float, end: float, count: int, limit: int) -> Tuple[Array, Array, Array]:
    """For each of `count` pixels over start..end: the pixel before, the one after, and the latter's weight of 256.

    Centres at half pixels; beyond the part's edge its last pixel is taken.
    """
    # The part of a subpixel is beside the point of OpenCV, whose parts begin at whole pixels.
    place = (np.arange(count) + 0.5) * ((end - start) / count) - 0.5 + (start - int(start))
    before = np.floor(place)
    weight = np.rint((place - before) * _ONE).astype(np.int64)
    first, last = 0, min(int(np.ceil(end)), limit) - int(start) - 1
    weight[before < first] = 0
    low = np.clip(before.astype(np.int64), first, last)
    high = np.clip(before.astype(np.int64) + 1, first, last)
    return low + int(start), high + int(start), weight


def _opencv_scaler(opencv: Any, plane: Plane, part: Window, rows: slice, columns: slice) -> Callable[[Pixels], Pixels]:
    scratch = Scratch()

    def scale(frame: Pixels) -> Pixels:
        out = scratch.get("out", (part.height, part.width, plane.channels), np.uint8)
        samples = plane.view(frame)[rows, columns]
        opencv.resize(samples, (part.width, part.height), dst=out, interpolation=opencv.INTER_LINEAR_EXACT)
        return out

    return scale


def _opencv() -> Any:
    try:
        found = importlib.import_module("cv2")
    except Exception:  # a broken OpenCV is as good as none
        return None
    return found if hasattr(found, "INTER_LINEAR_EXACT") else None


def pillow(purpose: str) -> Any:
    """Pillow's Image module. Raises InputError when it is not there."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            f"Pillow is needed to {purpose}",
            hint="give frames of the model's size as uint8 arrays, or bundle with Pillow",
        ) from error
    return Image
