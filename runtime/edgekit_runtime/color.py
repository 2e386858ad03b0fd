"""Colours of scaled planes: order, grey, and YUV to RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

import numpy as np

if TYPE_CHECKING:
    from edgekit_runtime.quant import Array, Pixels
    from edgekit_runtime.resize import Scratch

# ITU-R BT.601: luma 16..235 and chroma 16..240, in 16-bit fixed point (255/219; 1.402, 0.344136, 0.714136, 1.772 times
# 255/224).
_LUMA, _RED_V, _GREEN_U, _GREEN_V, _BLUE_U = 76309, 104597, 25675, 53279, 132201
_HALF = 1 << 15
_GREY = (19595, 38470, 7471)  # of 65536: 0.299, 0.587, 0.114


def grey(rgb: Pixels, scratch: Scratch) -> Pixels:
    """ITU-R 601 luma (H, W, 1) of RGB (H, W, 3) in Pillow's fixed point, so that both ways give the same bits."""
    shape = rgb.shape[:2]
    total, one = scratch.get("total", shape, np.uint32), scratch.get("one", shape, np.uint32)
    total[...] = np.uint32(_HALF)
    for channel, weight in enumerate(_GREY):
        one[...] = rgb[..., channel]
        one *= np.uint32(weight)
        total += one
    total >>= np.uint32(16)
    out = scratch.get("grey", (*shape, 1), np.uint8)
    np.copyto(out[..., 0], total, casting="unsafe")
    return out


def grey_of_luma(luma: Pixels, scratch: Scratch) -> Pixels:
    """Luma 16..235 (H, W, 1) as grey 0..255."""
    out = scratch.get("rgb", luma.shape, np.uint8)
    _store(_scaled_luma(luma[..., 0], scratch), out[..., 0])
    return out


def rgb_of_yuv(luma: Pixels, chroma: Sequence[Pixels], order: slice, scratch: Scratch) -> Pixels:
    """Y (H, W, 1), U and V (H, W) as RGB (H, W, 3), or as BGR when `order` turns it round."""
    shape = luma.shape[:2]
    scaled = _scaled_luma(luma[..., 0], scratch)
    blue_u, red_v, one, other = (scratch.get(name, shape, np.int32) for name in ("u", "v", "one", "other"))
    for plane, values in ((chroma[0], blue_u), (chroma[1], red_v)):
        values[...] = plane  # assigned first: an operation that also casts takes buffers of its own
        np.subtract(values, np.int32(128), out=values)
    out = scratch.get("rgb", (*shape, 3), np.uint8)
    red, green, blue = (out[..., order][..., channel] for channel in range(3))
    np.multiply(red_v, np.int32(_RED_V), out=one)
    one += scaled
    _store(one, red)
    np.multiply(blue_u, np.int32(_BLUE_U), out=one)
    one += scaled
    _store(one, blue)
    np.multiply(blue_u, np.int32(_GREEN_U), out=one)
    np.multiply(red_v, np.int32(_GREEN_V), out=other)
    scaled -= one
    scaled -= other
    _store(scaled, green)
    return out


def _scaled_luma(luma: Pixels, scratch: Scratch) -> Array:
    scaled = scratch.get("luma", luma.shape, np.int32)
    scaled[...] = luma
    scaled -= np.int32(16)
    scaled *= np.int32(_LUMA)
    scaled += np.int32(_HALF)
    return scaled


def _store(values: Array, out: Pixels) -> None:
    values >>= np.int32(16)
    np.clip(values, 0, 255, out=values)
    np.copyto(out, values, casting="unsafe")
