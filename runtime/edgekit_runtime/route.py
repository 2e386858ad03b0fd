"""The way from frames of one format and size to the model's pixels: chosen once, then the least work for each."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Callable, List, Tuple

import numpy as np

from edgekit_runtime import color, frame, resize

if TYPE_CHECKING:
    from edgekit_runtime.frame import Layout
    from edgekit_runtime.manifest import Preprocess
    from edgekit_runtime.quant import Array, Pixels

# Sizes that most cameras offer.
_MODES = ((160, 120), (320, 180), (320, 240), (424, 240), (640, 360), (640, 480), (800, 600), (848, 480), (960, 540))
_FORWARD, _BACKWARD = slice(None), slice(None, None, -1)


class Route:
    """Frames of one layout to pixels as `spec` declares them. Serves several threads, each with its own buffers."""

    def __init__(self, spec: Preprocess, layout: Layout) -> None:
        self.spec = spec
        self.layout = layout
        self.window = resize.window(layout.width, layout.height, spec)
        self._scratch = resize.Scratch()
        self._copies = not layout.whole and (len(layout.planes) > 1 or not self.window.keeps)
        self.scalers = []
        for plane in layout.planes:
            across, down = layout.width // plane.width, layout.height // plane.height
            self.scalers.append(resize.scaler(plane, self.window.of(across, down), spec.filter, across, down))
        self._colour = self._colours()

    def pixels(self, image: Array) -> Pixels:
        """uint8 (height, width, channels) of a frame: a view of it, or a buffer that holds until this thread's next."""
        if self._copies:
            held = self._scratch.get("whole", image.shape, np.uint8)
            held[...] = image
            image = held
        return self._framed(self._colour([scale(image) for scale in self.scalers]))

    def findings(self) -> Tuple[str, ...]:
        """What whoever gives such frames could leave out."""
        found: List[str] = []
        layout, spec = self.layout, self.spec
        size = f"{layout.width}x{layout.height}"
        shrinks = self.window.shrinks
        if shrinks >= 2:
            mode = _smaller_mode(layout, spec)
            advice = f": ask the camera for {mode[0]}x{mode[1]}" if mode else ""
            found.append(f"frames arrive {size} and are shrunk {shrinks:.1f}x{advice}")
            if spec.filter != resize.LINEAR:
                found.append(
                    f"the filter '{spec.filter}' reads every pixel of {size}; 'linear' reads four for each of the "
                    "model's: convert with it and compare the accuracy"
                )
        elif shrinks < 1:
            found.append(f"frames arrive {size}, smaller than the model's {spec.width}x{spec.height}, and are enlarged")
        if self._copies:
            found.append(
                f"frames of {size} have gaps, or are turned round, and are copied first: give them in one piece"
            )
        if layout.format in ("RGBA", "BGRA"):
            found.append(f"frames arrive in {layout.format} and their alpha is dropped: ask for {layout.format[:3]}")
        if spec.color == "GRAY" and layout.format in ("RGB", "BGR", "RGBA", "BGRA"):
            found.append(f"frames arrive in {layout.format} and are made grey: ask for GRAY, NV12 or I420")
        return tuple(found)

    def _colours(self) -> Callable[[List[Pixels]], Pixels]:
        spec, form = self.spec, self.layout.format
        order = _BACKWARD if spec.color == "BGR" else _FORWARD
        if form in frame.SUBSAMPLED:
            if spec.color == "GRAY":
                self.scalers = self.scalers[:1]
                return lambda planes: color.grey_of_luma(planes[0], self._scratch)
            return lambda planes: color.rgb_of_yuv(planes[0], _chroma(planes), order, self._scratch)
        if form == "GRAY":
            return lambda planes: np.broadcast_to(planes[0], (*planes[0].shape[:2], spec.channels))
        as_given = _BACKWARD if form.startswith("BGR") else _FORWARD
        if spec.color == "GRAY":
            return lambda planes: color.grey(planes[0][..., :3][..., as_given], self._scratch)
        if as_given == order:
            return lambda planes: planes[0][..., :3]
        return lambda planes: planes[0][..., :3][..., ::-1]

    def _framed(self, pixels: Pixels) -> Pixels:
        spec, part = self.spec, self.window
        if (part.width, part.height) == (spec.width, spec.height):
            return pixels
        framed = self._scratch.get("framed", (spec.height, spec.width, spec.channels), np.uint8)
        framed[...] = spec.pad
        framed[part.top : part.top + part.height, part.left : part.left + part.width] = pixels
        return framed


@functools.lru_cache(maxsize=16)
def route(spec: Preprocess, layout: Layout) -> Route:
    """The Route; those used last are kept. Raises InputError when Pillow is needed and is not there."""
    return Route(spec, layout)


def _chroma(planes: List[Pixels]) -> Tuple[Pixels, Pixels]:
    if len(planes) == 2:
        return planes[1][..., 0], planes[1][..., 1]
    return planes[1][..., 0], planes[2][..., 0]


def _smaller_mode(layout: Layout, spec: Preprocess) -> "Tuple[int, int] | None":
    """The smallest size that cameras offer in the frame's shape and that holds the model's; None without one."""
    for width, height in _MODES:
        same = abs(width * layout.height - height * layout.width) < 0.02 * width * layout.height
        if same and width < layout.width and resize.window(width, height, spec).shrinks >= 1:
            return width, height
    return None
