"""A picture's way into a graph, measured: which size it becomes, and how its pixels are scaled."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UserError
from edgekit.models.graph import FrozenGraph, node_name
from edgekit.models.session import Session

Array = NDArray[Any]
_ANY = 256  # a size for graphs that take any
_HINT = 'declare task = "raw" to convert it as it is'


@dataclass(frozen=True)
class PictureInput:
    """`name` and `tensor` of the input take one picture; `scaled` is the tensor of what the network sees.

    `scaled = (pixel - mean) / std`, pixels being 0 to 255, in the order `color`. `encoded` inputs take a file's bytes.
    """

    name: str
    tensor: str
    dtype: str
    scaled: str
    height: int
    width: int
    color: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def feed(self, pixels: Array) -> Any:
        """What the input takes for one picture: uint8 (H, W, 3), RGB."""
        if self.dtype == "string":
            import tensorflow as tf

            return [tf.io.encode_png(pixels).numpy()]
        return pixels[None].astype(self.dtype)

    def blank(self) -> Array:
        """A black picture of the size that the network sees."""
        return np.zeros((self.height, self.width, 3), np.uint8)

    def cut(self, path: Path, part: FrozenGraph) -> FrozenGraph:
        """`part` begins at `scaled`: with its size fixed, and every layout for any number of pictures."""
        for node in part.graph.node:
            if node.name == node_name(self.scaled):
                shape = node.attr["shape"].shape
                shape.Clear()
                for size in (-1, self.height, self.width, 3):
                    shape.dim.add(size=size)
        return _any_batch(path, part, {self.scaled: np.zeros((1, self.height, self.width, 3), np.float32)})

    @classmethod
    def measure(cls, path: Path, frozen: FrozenGraph, session: Session, scaled: str) -> "PictureInput":
        """Raises UserError when the graph does more to a picture than to resize and scale it."""
        if len(frozen.inputs) != 1:
            raise UserError(f"{path}: a detector with {len(frozen.inputs)} inputs, not one", hint=_HINT)
        ((name, tensor),) = frozen.inputs.items()
        dtype = session.dtype(tensor)
        shape = session.static_shape(tensor) or [] if dtype != "string" else []
        height, width = (shape[axis] if len(shape) == 4 and shape[axis] > 0 else _ANY for axis in (1, 2))
        draft = cls(name, tensor, dtype, scaled, height, width, "RGB", (0.0,) * 3, (1.0,) * 3)
        seen = session.run([scaled], {tensor: draft.feed(draft.blank())})[0]
        if seen.ndim != 4 or seen.shape[3] != 3:
            raise UserError(f"{path}: its first convolution takes {list(seen.shape)}, not a picture", hint=_HINT)
        draft = replace(draft, height=int(seen.shape[1]), width=int(seen.shape[2]))
        black, white = (
            session.run([scaled], {tensor: draft.feed(np.full_like(draft.blank(), level))})[0][0] for level in (0, 255)
        )
        low, high = black.mean(axis=(0, 1)), white.mean(axis=(0, 1))
        noise = np.random.default_rng(7).integers(0, 256, draft.blank().shape, np.uint8)
        real = session.run([scaled], {tensor: draft.feed(noise)})[0][0]
        for color in ("RGB", "BGR"):
            pixels = noise if color == "RGB" else noise[..., ::-1]
            if real.shape == noise.shape and np.allclose(
                real, low + pixels / 255.0 * (high - low), atol=1e-3 * np.ptp(real)
            ):
                std = 255.0 / (high - low)
                found = replace(draft, color=color, mean=_rounded(-low * std), std=_rounded(std))
                found._require_stretch(path, session, white)
                return found
        raise UserError(f"{path}: does more to a picture than to resize it and to scale its pixels", hint=_HINT)

    def _require_stretch(self, path: Path, session: Session, white: Array) -> None:
        """A white picture of another shape stays white throughout, unless the graph pads it."""
        wide = np.full((max(8, self.height // 2), self.width + 16, 3), 255, np.uint8)
        try:
            seen = session.run([self.scaled], {self.tensor: self.feed(wide)})[0][0]
        except UserError:
            return  # it takes one size only
        if seen.shape != white.shape:
            raise UserError(
                f"{path}: the size of its pictures is not fixed: one of {wide.shape[1]}x{wide.shape[0]} becomes "
                f"{seen.shape[1]}x{seen.shape[0]}",
                hint="export it with fixed_shape_resizer, or " + _HINT,
            )
        if not np.allclose(seen, white, atol=1e-3 * max(1.0, float(np.abs(white).max()))):
            raise UserError(
                f"{path}: pads pictures of another shape at one side, which the board's preprocessing does not",
                hint="export it with fixed_shape_resizer, or " + _HINT,
            )


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)


def _any_batch(path: Path, part: FrozenGraph, feed: dict[str, Array]) -> FrozenGraph:
    """Shapes that were fixed, or computed, for one picture become constants for any number of pictures."""
    import tensorflow as tf

    reshapes = [node for node in part.graph.node if node.op == "Reshape"]
    shapes = Session(path, part.graph).shapes([f"{node.name}:0" for node in reshapes], feed)
    for node in reshapes:
        shape = shapes[f"{node.name}:0"]
        if shape[:1] == (1,):
            constant = part.graph.node.add(name=f"{node.name}/any_batch", op="Const")
            constant.attr["dtype"].type = tf.int32.as_datatype_enum
            constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([-1, *shape[1:]], tf.int32))
            node.input[1] = constant.name
            node.attr["Tshape"].type = tf.int32.as_datatype_enum
    kept = tf.compat.v1.graph_util.extract_sub_graph(part.graph, [node_name(name) for name in part.outputs.values()])
    return replace(part, graph=kept)
