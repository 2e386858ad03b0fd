"""Image files to pixels, by Pillow: no more of a JPEG than the model needs."""

from __future__ import annotations

import io
import math
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Optional, Tuple, Union

import numpy as np

from edgekit_runtime import environment, resize
from edgekit_runtime.errors import InputError

if TYPE_CHECKING:
    from edgekit_runtime.manifest import Preprocess
    from edgekit_runtime.quant import Pixels

    Source = Union[str, Path, bytes, bytearray, memoryview]

# Pillow's own limit (1/4 GiB of RGB) from which it warns of a decompression bomb; here it is refused.
MAX_PIXELS = 89_478_485
# No decoder that starts another program or needs a library of its own.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# Of a picture's pixel while it is decoded and shrunk: Pillow keeps RGB in 4 bytes, and it is held two or three times.
_BYTES = 12
_CHECKED_KB = 64 * 1024
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # EXIF's orientations that swap width and height


class ImageError(InputError):
    """The picture cannot be read, or is not one."""


def decode(source: Source, spec: Optional[Preprocess] = None) -> Pixels:
    """An image file (path or bytes) upright as uint8: (H, W, 1) for grey, else (H, W, 3) RGB. Raises ImageError.

    For `spec` a JPEG is decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size that is not below what the model
    takes of it, and to grey for a grey model.
    """
    with _opened(source) as (image, name):
        from PIL import ImageOps

        if spec is not None and image.format == "JPEG":
            _draft(image, spec)
        _require_memory(image, name)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _eight_bit(image, name)


def size(source: Source) -> Tuple[int, int]:
    """Height and width of an image file, upright, from its header. Raises ImageError."""
    with _opened(source) as (image, _name):
        if image.format == "TIFF":  # some versions of Pillow give its size turned already, some do not
            from PIL import ImageOps

            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            width, height = image.size
            return height, width
        return _upright(image)[::-1]


@contextmanager
def _opened(source: Source) -> Iterator[Tuple[Any, str]]:
    if isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    if not isinstance(source, (str, Path, bytes)):
        raise ImageError(f"a picture is a file's name, its bytes or an array of pixels, not {type(source).__name__}")
    name = "the image" if isinstance(source, bytes) else f"'{source}'"
    image_module = resize.pillow(f"decode {name}")
    try:
        if not isinstance(source, bytes) and os.path.exists(source) and not os.path.isfile(source):
            raise ImageError(f"{name} is no file", source=name)  # to open a pipe would never end
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
            yield image, name
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist", source=name) from error
    except Exception as error:  # decoders raise anything on hostile bytes
        reason = "not a picture of a known format" if type(error).__name__ == "UnidentifiedImageError" else str(error)
        raise ImageError(
            f"cannot read {name}: {reason or type(error).__name__}", hint="known formats: " + ", ".join(FORMATS)
        ) from error


def _require_memory(image: Any, name: str) -> None:
    """A picture of a few bytes may have millions of pixels: on a small board they would take all memory."""
    width, height = image.size
    needed_kb = width * height * _BYTES // 1024
    if needed_kb < _CHECKED_KB:
        return
    available = environment.available_kb()
    if available is not None and needed_kb > available:
        raise ImageError(
            f"{name} has {width}x{height} pixels, and to decode them takes {needed_kb // 1024} MiB of memory, of which "
            f"{available // 1024} MiB are left",
            hint="shrink the picture first",
            width=width,
            height=height,
        )


def _draft(image: Any, spec: Preprocess) -> None:
    """The smallest scale that suffices, and at which the picture lies where the whole one would: bars by a pixel wider
    would be another picture.
    """
    across, down = _upright(image)
    whole = resize.window(across, down, spec)
    width, height = image.size
    for scale in (8, 4, 2, 1):
        part = resize.window(math.ceil(across / scale), math.ceil(down / scale), spec)
        if whole.shrinks >= scale and part.place == whole.place:
            image.draft("L" if spec.channels == 1 else None, (max(1, width // scale), max(1, height // scale)))
            return
    image.draft("L" if spec.channels == 1 else None, (width, height))


def _upright(image: Any) -> Tuple[int, int]:
    """Width and height as the picture is to be seen."""
    width, height = image.size
    return (height, width) if image.getexif().get(_ORIENTATION) in _TURNED else (width, height)


def _eight_bit(image: Any, name: str) -> Pixels:
    """A Pillow image as uint8 (H, W, 1) or (H, W, 3). Pillow clips 16-bit grey when it converts: take the high byte."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.int64)
        return (wide >> 8).astype(np.uint8)[..., None]
    if image.mode in ("I", "F"):
        raise ImageError(f"cannot read {name}: pixels of 32 bits", hint="save it with 8 or 16 bits a channel")
    grey = image.mode in ("1", "L", "LA", "La")
    wanted = "L" if grey else "RGB"
    pixels: Pixels = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return pixels[..., None] if grey else pixels
