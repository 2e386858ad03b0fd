"""From a picture (a file, its bytes, or a frame) to the model's input, the same everywhere.

Calibration, validation and the board call these functions, so that the model sees on the board what it was made for.
A frame of the right size needs NumPy alone; Pillow is imported only to decode a file or to resize.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from edgekit_runtime import batch, frame, quant
from edgekit_runtime.errors import InputError
from edgekit_runtime.manifest import Preprocess, TensorSpec
from edgekit_runtime.route import route

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit_runtime.quant import Array, Floats, Fold, Pixels
    from edgekit_runtime.route import Route

    Source = Union[str, Path, bytes, Array]

_ROUTES = 16


class Preprocessor:
    """Pictures into the one input of a model. Serves several threads, each with its own buffers.

    Raises InputError when pictures of `spec` do not fill that input.
    """

    def __init__(self, spec: Preprocess, inputs: Sequence[TensorSpec]) -> None:
        self._shape = batch.sample_shape(inputs[0])
        if len(inputs) != 1 or not fits(spec, self._shape):
            raise InputError(
                f"pictures of {spec.height}x{spec.width}x{spec.channels} do not fit the model's input "
                f"{list(self._shape)}",
                hint="preprocessing is for a model with one input of shape [N, height, width, channels]",
            )
        self.spec = spec
        self._fold = folded(spec, inputs[0])
        self._routes: Dict[Any, Route] = {}

    def pixels(self, source: Source, form: str) -> Pixels:
        """uint8 (height, width, channels) as the model wants them; a buffer of this thread, or the frame's own."""
        if not isinstance(source, np.ndarray):
            from edgekit_runtime.picture import decode

            source, form = decode(source, self.spec), "RGB"
        elif type(source) is not np.ndarray:
            source = np.asarray(source)  # no row of a matrix is a row
        if not isinstance(form, str):
            raise InputError(f"a format is text, as 'RGB', not {type(form).__name__}")
        key = (form, source.shape, source.dtype.num, source.flags.c_contiguous)
        way = self._routes.get(key)
        if way is None:
            way = route(self.spec, frame.layout(source, form))
            if len(self._routes) >= _ROUTES:
                self._routes.clear()
            self._routes[key] = way
        return way.pixels(source)

    def write(self, pixels: Pixels, tensor: Array) -> None:
        """Store prepared pixels in an input tensor of one sample."""
        self._fold.write(pixels, tensor.reshape(pixels.shape))

    def rows(self, sources: Sequence[Source], form: str, out: Optional[Array] = None) -> Array:
        """At least one picture, as rows (N, ...) in the stored dtype; in `out`, an earlier answer, if given.

        Raises InputError when there is none, when one is no picture, or when `out` cannot be such an answer.
        """
        if not len(sources):
            raise InputError("there is no picture to prepare")
        wanted = self.empty(len(sources)) if out is None else out
        if out is not None:
            _require_buffer(out, self._rows(len(sources)), self._fold.table.dtype)
        rows = wanted.reshape((len(sources), self.spec.height, self.spec.width, self.spec.channels))
        for number, source in enumerate(sources):
            self._fold.write(self.pixels(source, form), rows[number])
        return wanted

    def empty(self, count: int) -> Array:
        """Room for `count` rows."""
        return np.empty(self._rows(count), self._fold.table.dtype)

    def _rows(self, count: int) -> Tuple[int, ...]:
        return (count, self.spec.height, self.spec.width, self.spec.channels)[: len(self._shape) + 1]

    @property
    def findings(self) -> Tuple[str, ...]:
        """Work that whoever gives the pictures could spare, of the sizes and formats seen last."""
        found = (finding for way in tuple(self._routes.values()) for finding in way.findings())
        return tuple(dict.fromkeys(found))


def listed(frames: Any) -> Sequence[Source]:
    """Pictures as a list; an array of frames (N, H, W, C) is one, too. Raises InputError for others."""
    if isinstance(frames, np.ndarray) and frames.ndim == 4:
        return list(frames)
    if not isinstance(frames, (list, tuple)):
        raise InputError(
            f"pictures are given as a list, not as {type(frames).__name__}", hint="[picture], also for a single one"
        )
    return frames


def load_pixels(source: Source, spec: Preprocess, *, format: str = "RGB") -> Pixels:
    """The picture as the model wants it: uint8 (height, width, channels) in the order `spec.color`.

    `source` is a path, the bytes of an image file, or a frame: a uint8 array in `format` (frame.FORMATS; its shapes are
    told at frame.layout). Alpha is dropped, as TensorFlow's decoders do; EXIF orientation is applied; of an animation
    the first picture counts; 16-bit grey keeps its high byte. The result may share memory with the frame.
    Raises ImageError (naming the file) or InputError.
    """
    if isinstance(source, np.ndarray):
        image = np.asarray(source)
        way = route(spec, frame.layout(image, format))
    else:
        from edgekit_runtime.picture import decode

        image = decode(source, spec)
        way = route(spec, frame.layout(image, "RGB"))
    pixels = way.pixels(image)
    return np.ascontiguousarray(pixels) if np.may_share_memory(pixels, image) else pixels.copy()


def to_real(pixels: Pixels, spec: Preprocess) -> Floats:
    """Real values of uint8 pixels (..., C): float32 `(pixel - mean) / std`, for each channel."""
    real = pixels.astype(np.float32)
    alike = len(set(zip(spec.mean, spec.std))) == 1  # one number for all is taken in a tenth of the time
    real -= np.asarray(spec.mean[0] if alike else spec.mean, dtype=np.float32)
    real /= np.asarray(spec.std[0] if alike else spec.std, dtype=np.float32)
    return real


def folded(spec: Preprocess, tensor: TensorSpec) -> Fold:
    """`quantize(to_real(pixels))` as one step from uint8 to the stored input, equal bit for bit."""
    every = np.repeat(np.arange(256, dtype=np.uint8)[:, None], spec.channels, axis=1)
    return quant.fold(to_real(every, spec), tensor)


def _require_buffer(out: Any, shape: Tuple[int, ...], dtype: np.dtype[Any]) -> None:
    got = type(out).__name__
    if isinstance(out, np.ndarray):
        if (out.shape, out.dtype) == (shape, dtype) and out.flags.c_contiguous and out.flags.writeable:
            return
        got = f"{out.dtype} {list(out.shape)} with strides {out.strides}{'' if out.flags.writeable else ', read-only'}"
    raise InputError(
        f"out is a contiguous, writable {dtype} {list(shape)}, not {got}",
        hint="give what rows() has made of as many pictures for the same model",
        expected=f"{dtype} {list(shape)}",
    )


def fits(spec: Preprocess, sample_shape: Tuple[int, ...]) -> bool:
    """Whether prepared pixels fill one sample of that shape (without the batch): (H, W, C), or (H, W) for grey."""
    wanted = (spec.height, spec.width, spec.channels)
    shapes = (wanted, wanted[:2]) if spec.channels == 1 else (wanted,)
    return any(
        len(sample_shape) == len(shape) and all(a in (-1, b) for a, b in zip(sample_shape, shape)) for shape in shapes
    )
