"""A picture's way into a graph, measured: which size it becomes, and how its pixels are scaled.

What a graph does in front of its first convolution (decode, resize, scale, picture by picture in a loop) is cut off and
declared instead: none of it has an INT8 form, and the board does it better.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime.manifest import FILTERS, Preprocess
from edgekit_runtime.preprocess import load_pixels
from numpy.typing import NDArray

from edgekit.errors import UserError
from edgekit.models import graph
from edgekit.models.graph import FrozenGraph, node_name
from edgekit.models.session import Session

Array = NDArray[Any]
_ANY = 256  # a size for graphs that take any
_ROUNDED = 1.0  # of a pixel's 256 levels: the runtime rounds to whole ones, and 'linear' has weights of 8 bits
_HINT = 'let it only resize and scale a picture; a detector can be declared as task = "raw", to convert it as it is'
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_DECODERS = {"DecodeJpeg", "DecodePng", "DecodeBmp", "DecodeGif", "DecodeImage", "DecodeAndCropJpeg"}
_LOOPS = {"While", "StatelessWhile", "LoopCond"}
_EXAMPLES = {"ParseExample", "ParseExampleV2", "ParseSingleExample"}


@dataclass(frozen=True)
class PictureInput:
    """`name` and `tensor` of the input take one picture; `scaled` is the tensor of what the network sees.

    `scaled = (pixel - mean) / std`, pixels being 0 to 255, in the order `color`. An input of text takes a file's bytes,
    or with `example` the tf.train.Example of the Object Detection API. `filter` is the one of the runtime's that gives
    what the graph's own resize does; None where none of them does, or where it takes one size only.
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
    example: bool = False
    filter: str | None = None

    @property
    def scaling(self) -> str:
        """In words."""
        return f"(pixel - {_words(self.mean)}) / {_words(self.std)}"

    def __str__(self) -> str:
        given = "a file is decoded" if self.dtype == "string" else "a picture"
        how = f" by the filter '{self.filter}'" if self.filter else ""
        return f"{given}, resized to {self.width}x{self.height}{how} and scaled, {self.scaling} of {self.color}"

    def feed(self, pixels: Array) -> Any:
        """What the input takes for one picture: uint8 (H, W, 3), RGB."""
        if self.dtype == "string":
            import tensorflow as tf

            file = tf.io.encode_png(pixels).numpy()
            return [_example(file) if self.example else file]
        return pixels[None].astype(self.dtype)

    def blank(self) -> Array:
        """A black picture of the size that the network sees."""
        return np.zeros((self.height, self.width, 3), np.uint8)

    def cut(self, path: Path, frozen: FrozenGraph) -> FrozenGraph:
        """What leads from `scaled` to the outputs: with its size fixed, and every layout for any number of pictures."""
        left = graph.pruned(path, frozen.graph, [self.scaled], frozen.outputs.values(), {})
        part = replace(frozen, graph=left, inputs={self.name: self.scaled})
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
            raise UserError(f"{path}: it prepares pictures, but has {len(frozen.inputs)} inputs, not one", hint=_HINT)
        ((name, tensor),) = frozen.inputs.items()
        dtype = session.dtype(tensor)
        shape = session.static_shape(tensor) or [] if dtype != "string" else []
        height, width = (shape[axis] if len(shape) == 4 and shape[axis] > 0 else _ANY for axis in (1, 2))
        example = any(node.op in _EXAMPLES for node in graph.all_nodes(frozen.graph))
        draft = cls(name, tensor, dtype, scaled, height, width, "RGB", (0.0,) * 3, (1.0,) * 3, example)
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
                return replace(found, filter=found._filter(session))
        raise UserError(f"{path}: does more to a picture than to resize it and to scale its pixels", hint=_HINT)

    def _filter(self, session: Session) -> str | None:
        """Which filter shrinks noise as the graph does."""
        noise = np.random.default_rng(7).integers(0, 256, (2 * self.height - 1, 3 * self.width // 2, 3), np.uint8)
        try:
            seen = session.run([self.scaled], {self.tensor: self.feed(noise)})[0][0]
        except UserError:
            return None  # it takes one size only
        spec = Preprocess(self.width, self.height, color=self.color, mean=self.mean, std=self.std)
        for name in FILTERS:
            ours = load_pixels(noise, replace(spec, filter=name)).astype(np.float32)
            if np.abs(seen * self.std + self.mean - ours).max() < _ROUNDED:
                return name
        return None

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


def prepares(graph_def: Any) -> bool:
    """Whether a graph decodes pictures, or takes whole pixels and has a loop."""
    import tensorflow as tf

    kinds = {node.op for node in graph.all_nodes(graph_def)}
    given = {node.attr["dtype"].type for node in graph_def.node if node.op in graph.PLACEHOLDERS}
    decodes = kinds & _DECODERS and tf.string.as_datatype_enum in given
    return bool(decodes or (kinds & _LOOPS and tf.uint8.as_datatype_enum in given))


def find(path: Path, frozen: FrozenGraph) -> PictureInput | None:
    """The picture of a graph that prepares it before its first convolution; None of one that does not.

    Raises UserError when it decodes files, and does more than to resize and scale them.
    """
    if not prepares(frozen.graph):
        return None
    scaled = first_convolution(path, frozen)
    nodes = {node.name: node for node in frozen.graph.node}
    if not any(nodes[name].op in _DECODERS | _LOOPS for name in graph.ancestors(frozen.graph, [scaled])):
        return None
    try:
        return PictureInput.measure(path, frozen, Session(path, frozen.graph), scaled)
    except UserError:
        if any(node.op in _DECODERS for node in graph.all_nodes(frozen.graph)):
            raise
        return None  # what is done to pixels may have a form in TFLite


def first_convolution(path: Path, frozen: FrozenGraph) -> str:
    """The tensor that the first convolution takes, before any padding. Raises UserError for several."""
    nodes = {node.name: node for node in frozen.graph.node}
    behind, first = set[str](), set[str]()
    for node in graph.in_order(frozen.graph):
        after = any(node_name(name) in behind for name in node.input)
        if node.op in CONVOLUTIONS and not after:
            first.add(node.input[0])
        if after or node.op in CONVOLUTIONS:
            behind.add(node.name)
    if len(first) != 1:
        raise UserError(f"{path}: {len(first)} first convolutions behind its picture, not one", hint=_HINT)
    (tensor,) = first
    while nodes[node_name(tensor)].op in ("Pad", "PadV2", "MirrorPad", "Identity"):
        tensor = nodes[node_name(tensor)].input[0]
    return tensor if ":" in tensor else f"{tensor}:0"


def _example(file: bytes) -> bytes:
    import tensorflow as tf

    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    made: bytes = tf.train.Example(features=tf.train.Features(feature={"image/encoded": value})).SerializeToString()
    return made


def _words(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "[" + ", ".join(f"{value:g}" for value in values) + "]"


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
