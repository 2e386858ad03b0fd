"""From a picture (a file, its bytes, or a frame) to the model's input, the same everywhere.

Calibration, validation and the board call these functions, so that the model sees on the board what it was made for.
A frame of the right size needs NumPy alone; Pillow is imported only to decode a file or to resize.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Tuple, Union

import numpy as np

from edgekit_runtime import quant
from edgekit_runtime.errors import InputError
from edgekit_runtime.manifest import Preprocess, TensorSpec

if TYPE_CHECKING:
    from edgekit_runtime.quant import Array, Floats, Fold, Pixels

    Source = Union[str, Path, bytes, Array]

# Pillow's own limit (1/4 GiB of RGB) from which it warns of a decompression bomb; here it is refused.
MAX_PIXELS = 89_478_485
# No decoder that starts another program or needs a library of its own.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_FILTERS = {"nearest": 0, "bilinear": 2, "bicubic": 3, "area": 4}  # Pillow's numbers, the same since 2.7


class ImageError(InputError):
    """The picture cannot be read, or is not one."""


def load_pixels(source: Source, spec: Preprocess, *, color: str = "RGB") -> Pixels:
    """The picture as the model wants it: uint8 (height, width, channels) in the order `spec.color`.

    `source` is a path, the bytes of an image file, or a frame: uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) in
    the order `color` (RGB or BGR; a fourth channel is alpha). Alpha is dropped, as TensorFlow's decoders do; EXIF
    orientation is applied; of an animation the first picture counts; 16-bit grey keeps its high byte. The result may
    share memory with the frame. Raises ImageError (naming the file) or InputError.
    """
    if isinstance(source, np.ndarray):
        return _arrange(_checked(source, color), spec)
    return _arrange(decode(source), spec)


def decode(source: Union[str, Path, bytes]) -> Pixels:
    """An image file (path or bytes) upright as uint8: (H, W, 1) for grey, else (H, W, 3) RGB. Raises ImageError."""
    name = "the image" if isinstance(source, bytes) else f"'{source}'"
    image_module = _pillow(f"decode {name}")
    from PIL import ImageOps

    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        with image_module.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"{name} has {width}x{height} pixels; more than {MAX_PIXELS} are refused",
                    hint="shrink the picture first",
                    width=width,
                    height=height,
                )
            image.load()
            return _eight_bit(ImageOps.exif_transpose(image), name)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist", source=name) from error
    except Exception as error:  # decoders raise anything on hostile bytes
        reason = "not a picture of a known format" if type(error).__name__ == "UnidentifiedImageError" else str(error)
        raise ImageError(
            f"cannot read {name}: {reason or type(error).__name__}", hint="known formats: " + ", ".join(FORMATS)
        ) from error


def to_real(pixels: Pixels, spec: Preprocess) -> Floats:
    """Real values of uint8 pixels (..., C): float32 `(pixel - mean) / std`, for each channel."""
    mean = np.asarray(spec.mean, dtype=np.float32)
    std = np.asarray(spec.std, dtype=np.float32)
    return (pixels.astype(np.float32) - mean) / std


def folded(spec: Preprocess, tensor: TensorSpec) -> Fold:
    """`quantize(to_real(pixels))` as one step from uint8 to the stored input, equal bit for bit."""
    every = np.repeat(np.arange(256, dtype=np.uint8)[:, None], spec.channels, axis=1)
    return quant.fold(to_real(every, spec), tensor)


def fits(spec: Preprocess, sample_shape: Tuple[int, ...]) -> bool:
    """Whether prepared pixels fill one sample of that shape (without the batch): (H, W, C), or (H, W) for grey."""
    wanted = (spec.height, spec.width, spec.channels)
    shapes = (wanted, wanted[:2]) if spec.channels == 1 else (wanted,)
    return any(
        len(sample_shape) == len(shape) and all(a in (-1, b) for a, b in zip(sample_shape, shape)) for shape in shapes
    )


def _checked(frame: Array, color: str) -> Pixels:
    if color not in ("RGB", "BGR"):
        raise InputError(f"a frame is RGB or BGR, not '{color}'")
    good = frame.dtype == np.uint8 and (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] in (1, 3, 4)))
    if not good or 0 in frame.shape:
        raise InputError(
            f"a frame is uint8 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not {frame.dtype} {frame.shape}",
            dtype=str(frame.dtype),
            shape=frame.shape,
        )
    if frame.ndim == 2:
        return frame[..., None]
    rgb = frame[..., :3]
    return rgb[..., ::-1] if color == "BGR" and rgb.shape[2] == 3 else rgb


def _arrange(pixels: Pixels, spec: Preprocess) -> Pixels:
    """Grey or RGB (H, W, 1 or 3) to the size and colour of `spec`: grey first, size next, order last."""
    if spec.channels == 1 and pixels.shape[2] == 3:
        pixels = _grey(pixels)
    pixels = _resized(pixels, spec)
    if pixels.shape[2] < spec.channels:
        return np.repeat(pixels, spec.channels, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1] if spec.color == "BGR" else pixels)


def _grey(rgb: Pixels) -> Pixels:
    """ITU-R 601 luma in Pillow's fixed point, so that both ways give the same bits."""
    red, green, blue = (rgb[..., channel].astype(np.uint32) for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[..., None]


def _resized(pixels: Pixels, spec: Preprocess) -> Pixels:
    height, width = pixels.shape[:2]
    if (width, height) == (spec.width, spec.height):
        return pixels
    if spec.resize == "letterbox":
        return _letterboxed(pixels, spec)
    box: Tuple[float, float, float, float] = (0, 0, width, height)
    if spec.resize == "crop":
        part = min(width / spec.width, height / spec.height)
        # 31 - 15 * (31 / 15) is a little below 0.
        left, top = max(0.0, (width - spec.width * part) / 2), max(0.0, (height - spec.height * part) / 2)
        if part == 1:
            return pixels[int(top) : int(top) + spec.height, int(left) : int(left) + spec.width]
        box = (left, top, width - left, height - top)
    return _scaled(pixels, (spec.width, spec.height), spec.filter, box)


def _letterboxed(pixels: Pixels, spec: Preprocess) -> Pixels:
    height, width = pixels.shape[:2]
    part = min(spec.width / width, spec.height / height)
    inner = (max(1, int(width * part + 0.5)), max(1, int(height * part + 0.5)))
    if inner != (width, height):
        pixels = _scaled(pixels, inner, spec.filter, (0, 0, width, height))
    framed = np.full((spec.height, spec.width, pixels.shape[2]), spec.pad, np.uint8)
    left, top = (spec.width - inner[0]) // 2, (spec.height - inner[1]) // 2
    framed[top : top + inner[1], left : left + inner[0]] = pixels
    return framed


def _scaled(pixels: Pixels, size: Tuple[int, int], kind: str, box: Tuple[float, float, float, float]) -> Pixels:
    image = _pillow("resize a picture").fromarray(
        np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    )
    scaled: Pixels = np.asarray(image.resize(size, _FILTERS[kind], box))
    return scaled if scaled.ndim == 3 else scaled[..., None]


def _eight_bit(image: Any, name: str) -> Pixels:
    """A Pillow image as uint8 (H, W, 1) or (H, W, 3). Pillow clips 16-bit grey when it converts: take the high byte."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N") or (image.mode == "I" and image.format == "PNG"):
        wide = np.asarray(image).astype(np.int64)
        return (wide >> 8).astype(np.uint8)[..., None]
    if image.mode in ("I", "F"):
        raise ImageError(f"cannot read {name}: pixels of 32 bits", hint="save it with 8 or 16 bits a channel")
    grey = image.mode in ("1", "L", "LA", "La")
    pixels: Pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def _pillow(purpose: str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            f"Pillow is needed to {purpose}",
            hint="give frames of the model's size as uint8 arrays, or bundle with Pillow",
        ) from error
    return Image
