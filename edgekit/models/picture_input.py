"""A picture's way into a graph, measured: which size it becomes, and how its pixels are scaled.

What a graph does in front of its first convolution (decode, resize, scale, picture by picture in a loop) is cut off and
declared instead: none of it has an INT8 form, and the board does it better.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime.manifest import COLORS, FILTERS, RESIZES, Preprocess
from edgekit_runtime.preprocess import load_pixels
from numpy.typing import NDArray

from edgekit.errors import UserError
from edgekit.models import graph, inference
from edgekit.models.graph import FrozenGraph, node_name
from edgekit.models.session import Session

Array = NDArray[Any]
_ANY = 256  # a size for graphs that take any
_ROUNDED = 2.0  # of a pixel's 256 levels: the runtime rounds to whole ones, and 'linear' has weights of 8 bits
# Pixels of 0 to 1, or -1 to 1, nobody divides by as much, or moves by it.
_REACH = 16.0
# In the mean of a picture whose levels run from 0 to 255: filters differ by less, a tenth that is cropped by more.
_SAME = 2.0
_HALF = 64.0
_HINT = (
    "export it so that it resizes a picture, subtracts a mean and divides by a number for each channel, and no more; "
    "or with an input of decoded pixels"
)
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_DECODERS = {"DecodeJpeg", "DecodePng", "DecodeBmp", "DecodeGif", "DecodeImage", "DecodeAndCropJpeg"}
_LOOPS = {"While", "StatelessWhile", "LoopCond"}
_EXAMPLES = {"ParseExample", "ParseExampleV2", "ParseSingleExample"}


@dataclass(frozen=True)
class PictureInput:
    """`name` and `tensor` of the input take one picture; `scaled` is the tensor of what the network sees.

    `scaled = (pixel - mean) / std`, pixels being 0 to 255, in the order `color`. An input of text takes a file's bytes,
    or with `example` the tf.train.Example of the Object Detection API. `resize` and `filter` are those of the runtime's
    that do what the graph does, None where it takes the network's size only; noise then is `apart` in the mean, in
    levels of a pixel: 0 where no filter but the graph's own could be nearer.
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
    single: bool = False  # the input has no batch
    channels: int = 3  # of the input
    resize: str | None = None
    pad: int = 0
    filter: str | None = None
    apart: float = 0.0
    taken: tuple[int, int] | None = None  # height and width, where the graph takes one size that is not the network's
    # Of real pixels that are scaled before they are given: given = (pixel - outside[0]) / outside[1].
    outside: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,), (1.0,))

    @property
    def scaling(self) -> str:
        """In words."""
        return f"(pixel - {_words(self.mean)}) / {_words(self.std)}"

    def __str__(self) -> str:
        given = "a file is decoded" if self.dtype == "string" else "a picture"
        how = f" ({self.resize}, filter '{self.filter}')" if self.filter else ""
        near = (
            f"; the board does not do quite what its resize does: '{self.filter}' is the nearest filter, and noise "
            f"{self.apart:.1f} of 256 levels apart in the mean"
        )
        scaled = f"resized to {self.width}x{self.height}{how} and scaled, {self.scaling} of {self.color}"
        return f"{given}, {scaled}{near if self.apart else ''}"

    @property
    def spec(self) -> Preprocess:
        """How the board prepares its pictures."""
        return Preprocess(
            self.width, self.height, self.color, self.mean, self.std,
            self.resize or "stretch", self.filter or "bilinear", self.pad,
        )  # fmt: skip

    @property
    def of_levels(self) -> bool:
        """Whether its scaling makes sense for pixels of 0 to 255 alone, not for those of 0 to 1 or -1 to 1."""
        return max(self.std) > _REACH or max(map(abs, self.mean)) > _REACH

    def feed(self, pixels: Array) -> Any:
        """What the input takes for one picture: uint8 (H, W, 3) in RGB, or (H, W, 1), made to fit where it takes one
        size.
        """
        if self.taken is not None and pixels.shape[:2] != self.taken:
            height, width = self.taken
            color = "RGB" if pixels.shape[2] == 3 else "GRAY"
            pixels = load_pixels(pixels, Preprocess(width, height, color, filter="nearest")).reshape(height, width, -1)
        if self.dtype == "string":
            import tensorflow as tf

            file = tf.io.encode_png(pixels).numpy()
            file = _example(file) if self.example else file
            return file if self.single else [file]
        whole = np.broadcast_to(pixels, (*pixels.shape[:2], self.channels)).astype(self.dtype)
        if self.dtype == "float32":
            mean, std = (np.asarray(values, np.float32) for values in self.outside)
            whole = (whole - mean) / std
        return whole if self.single else whole[None]

    def given(self, mean: Sequence[float], std: Sequence[float]) -> "PictureInput":
        """As it is for pixels that are brought to another range before they are given."""
        outer, by = (np.broadcast_to(side, len(self.mean)) for side in (mean, std))
        return replace(
            self,
            outside=(tuple(mean), tuple(std)),
            mean=_rounded(outer + np.asarray(self.mean) * by),
            std=_rounded(np.asarray(self.std) * by),
        )

    def blank(self) -> Array:
        """A black picture of the size that the network sees."""
        return np.zeros((self.height, self.width, COLORS[self.color]), np.uint8)

    def cut(self, path: Path, frozen: FrozenGraph) -> FrozenGraph:
        """What leads from `scaled` to the outputs: with its size fixed, and every layout for any number of pictures."""
        left = inference.pruned(path, frozen.graph, [self.scaled], frozen.outputs.values(), {})
        part = replace(frozen, graph=left, inputs={self.name: self.scaled})
        for node in part.graph.node:
            if node.name == node_name(self.scaled):
                shape = node.attr["shape"].shape
                shape.Clear()
                for size in (-1, *self.blank().shape):
                    shape.dim.add(size=size)
        return _any_batch(path, part, {self.scaled: self.blank()[None].astype(np.float32)})

    @classmethod
    def measure(cls, path: Path, frozen: FrozenGraph, session: Session, scaled: str) -> "PictureInput":
        """Raises UserError when the graph does more to a picture than to resize and scale it."""
        if len(frozen.inputs) != 1:
            raise UserError(
                f"{path}: it prepares pictures, but has {len(frozen.inputs)} inputs, not one",
                hint="export it with the picture as its only input",
            )
        ((name, tensor),) = frozen.inputs.items()
        dtype, shape = session.dtype(tensor), session.static_shape(tensor)
        sizes = shape[-3:] if shape and len(shape) > 2 and dtype != "string" else [-1, -1, 3]
        height, width = (size if size > 0 else _ANY for size in sizes[:2])
        draft = cls(
            name, tensor, dtype, scaled, height, width, "RGB", (0.0,) * 3, (1.0,) * 3,
            example=any(node.op in _EXAMPLES for node in graph.all_nodes(frozen.graph)),
            single=shape is not None and len(shape) == (0 if dtype == "string" else 3),
            channels=sizes[2] if sizes[2] in (1, 3) else 3,
        )  # fmt: skip
        seen = draft.seen(session, draft.blank())
        if seen.shape[2] not in (1, 3):
            raise UserError(f"{path}: its first convolution takes {list(seen.shape)}, not a picture", hint=_HINT)
        color = "RGB" if seen.shape[2] == 3 else "GRAY"
        draft = replace(draft, height=int(seen.shape[0]), width=int(seen.shape[1]), color=color)
        if min(sizes[:2]) > 0 and (height, width) != seen.shape[:2]:
            return replace(draft, taken=(height, width))._of_one_size(path, session, height, width)
        found = draft._scaled(session)
        if found is None:
            raise UserError(
                f"{path}: does more to a picture than to resize it and to scale its pixels: one of its own size comes "
                "out cropped, turned, standardised by itself, or with its colours mixed",
                hint=_HINT,
            )
        return found._resized(path, session)

    def seen(self, session: Session, pixels: Array) -> Array:
        """What the network sees of a picture: (height, width, channels)."""
        values = session.run([self.scaled], {self.tensor: self.feed(pixels)})[0]
        return values[0] if values.ndim == 4 else values.reshape(*values.shape, *(1,) * (3 - values.ndim))

    def _scaled(self, session: Session) -> "PictureInput | None":
        """With mean, std and colour order; None when noise of the network's size is not scaled by these alone."""
        black, white = (self.seen(session, np.full_like(self.blank(), level)) for level in (0, 255))
        low, high = (level.mean(axis=(0, 1), dtype=np.float64) for level in (black, white))
        noise = np.random.default_rng(7).integers(0, 256, self.blank().shape, np.uint8)
        real = self.seen(session, noise)
        for color in ("GRAY",) if self.color == "GRAY" else ("RGB", "BGR"):
            pixels = noise[..., ::-1] if color == "BGR" else noise
            ours = low + pixels / 255.0 * (high - low)
            if real.shape == noise.shape and (high != low).all() and np.allclose(real, ours, atol=1e-3 * np.ptp(real)):
                std = 255.0 / (high - low)
                return replace(self, color=color, mean=_rounded(-low * std), std=_rounded(std))
        return None

    def _of_one_size(self, path: Path, session: Session, height: int, width: int) -> "PictureInput":
        """Of a graph that takes pictures of this size alone, and makes others of them. Raises UserError."""
        channels = COLORS[self.color]
        black, white = (self.seen(session, np.full((height, width, channels), level, np.uint8)) for level in (0, 255))
        low, high = (one[self.height // 2, self.width // 2].astype(np.float64) for one in (black, white))
        if (high != low).all():
            std = 255.0 / (high - low)
            edge = np.nan_to_num((black * std - low * std)[[0, self.height // 2], [self.width // 2, 0]]).max()
            pad = int(np.clip(np.rint(edge), 0, 255))
            scaled = replace(self, mean=_rounded(-low * std), std=_rounded(std))
            places = _ramp(height, width, channels)
            tried = [
                replace(scaled, color=color, resize=rule, filter=name, pad=pad if rule == "letterbox" else 0)
                for color in (("GRAY",) if self.color == "GRAY" else ("RGB", "BGR"))
                for rule in RESIZES
                for name in FILTERS
            ]
            same = max(_SAME, _HALF / min(self.height, self.width))
            tried = [one for one in tried if one._difference(session, places).mean() < same]
            errors = [one._error(session, height, width) for one in tried]
            # A third of a size is the middle one of three pixels by 'nearest', too.
            order = sorted(range(len(tried)), key=lambda number: (errors[number][0], tried[number].filter != "linear"))
            if order:
                mean, most = errors[order[0]]
                return replace(tried[order[0]], apart=mean if most >= _ROUNDED else 0.0)
        raise UserError(
            f"{path}: does more to a picture of {width}x{height}, the only size that it takes, than to resize it to "
            f"{self.width}x{self.height} and to scale its pixels",
            hint=_HINT,
        )

    def _resized(self, path: Path, session: Session) -> "PictureInput":
        """With the rule and the filter by which it makes pictures of another size and shape fit. Raises UserError."""
        wide, tall = (_ramp(side[0], side[1], COLORS[self.color]) for side in self._other_sizes())
        try:
            seen = [self.seen(session, picture) for picture in (wide, tall)]
        except UserError:
            return self  # it takes one size only
        for picture, one in zip((wide, tall), seen, strict=True):
            if one.shape != self.blank().shape:
                raise UserError(
                    f"{path}: the size of its pictures is not fixed: one of {picture.shape[1]}x{picture.shape[0]} "
                    f"becomes {one.shape[1]}x{one.shape[0]}",
                    hint="export it so that every picture gets one size (Object Detection API: fixed_shape_resizer)",
                )
        levels = [one * self.std + self.mean for one in seen]
        pad = int(np.clip(np.rint(levels[1][self.height // 2, 0].mean()), 0, 255))
        for rule in RESIZES:
            ours = replace(self, resize=rule, pad=pad if rule == "letterbox" else 0)
            made = [load_pixels(picture, ours.spec) for picture in (wide, tall)]
            # TensorFlow 1's resize is half a pixel off, which in a small picture is more.
            same = max(_SAME, _HALF / min(self.height, self.width))
            if all(np.abs(one - other).mean() < same for one, other in zip(levels, made, strict=True)):
                return ours._filtered(session)
        raise UserError(
            f"{path}: makes pictures of another shape fit in a way that the board does not: it crops, pads at one "
            "side or turns them",
            hint=f"the board's ways are {', '.join(RESIZES)} (of the centre): export it with one of them, or with an "
            "input of decoded pixels (Object Detection API: fixed_shape_resizer)",
        )

    def _other_sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of a wide picture and of a tall one, both larger."""
        return (5 * self.height // 4, 2 * self.width), (2 * self.height, 5 * self.width // 4)

    def _filtered(self, session: Session) -> "PictureInput":
        """With the filter that shrinks noise of a photograph's size as the graph does, or most nearly so.

        In a second size, margins and sizes are no whole pixels, which each rounds in its own way.
        """
        tried = [replace(self, filter=name) for name in FILTERS]
        errors = [one._error(session, 4 * self.height, 8 * self.width) for one in tried]
        best = min(range(len(tried)), key=lambda number: errors[number][0])
        odd = tried[best]._error(session, 3 * self.height + 7, 5 * self.width + 10)
        apart = max(mean for mean, _ in (errors[best], odd))
        return replace(tried[best], apart=apart if max(errors[best][1], odd[1]) >= _ROUNDED else 0.0)

    def _error(self, session: Session, height: int, width: int) -> tuple[float, float]:
        """By how many levels the board's noise of that size is apart from the graph's: in the mean, and at most."""
        noise = np.random.default_rng(7).integers(0, 256, (height, width, COLORS[self.color]), np.uint8)
        error = self._difference(session, noise)
        return float(error.mean()), float(error.max())

    def _difference(self, session: Session, picture: Array) -> Array:
        """By how many levels the board's picture is apart from the graph's, pixel by pixel."""
        return np.abs(self.seen(session, picture) * self.std + self.mean - load_pixels(picture, self.spec))


def _ramp(height: int, width: int, channels: int) -> Array:
    """A picture (height, width, channels) whose levels tell a place: across, down, and both."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    both = (across + 2 * down) / 3
    every = (both,) if channels == 1 else (across, down, both)
    return np.rint(np.stack(every, axis=-1)).astype(np.uint8)


def prepares(graph_def: Any) -> bool:
    """Whether a graph decodes pictures, or has a loop and takes whole pixels, or real ones in any size."""
    import tensorflow as tf

    kinds = {node.op for node in graph.all_nodes(graph_def)}
    given = [node for node in graph_def.node if node.op in graph.PLACEHOLDERS]
    dtypes = {node.attr["dtype"].type for node in given}
    decodes = kinds & _DECODERS and tf.string.as_datatype_enum in dtypes
    loops = tf.uint8.as_datatype_enum in dtypes or any(_any_size(node) for node in given)
    return bool(decodes or (kinds & _LOOPS and loops))


def _any_size(node: Any) -> bool:
    """Whether a placeholder takes real pictures of any size: [batch, height, width, 1 or 3]."""
    import tensorflow as tf

    sizes = [dim.size for dim in node.attr["shape"].shape.dim]
    real = node.attr["dtype"].type == tf.float32.as_datatype_enum
    return real and len(sizes) == 4 and -1 in sizes[1:3] and sizes[3] in (1, 3)


def find(path: Path, frozen: FrozenGraph) -> PictureInput | None:
    """The picture of a graph that prepares it before its first convolution; None of one that does not, and of one whose
    real pixels may have another range than 0 to 255.

    Raises UserError when it decodes files, or takes whole pixels of any size, and does more than to resize and scale.
    """
    if not prepares(frozen.graph):
        return None
    reals = any(_any_size(node) for node in frozen.graph.node if node.op in graph.PLACEHOLDERS)
    try:
        picture = _measured(path, frozen)
    except UserError:
        if reals:
            return None  # with its size declared the loop goes over one picture
        raise
    return None if picture is None or (reals and not picture.of_levels) else picture


def _measured(path: Path, frozen: FrozenGraph) -> PictureInput | None:
    _require_whole(path, frozen)
    scaled = first_convolution(path, frozen)
    nodes = {node.name: node for node in frozen.graph.node}
    if not any(nodes[name].op in _DECODERS | _LOOPS for name in graph.ancestors(frozen.graph, [scaled])):
        return None
    session = Session(path, frozen.graph)
    try:
        return PictureInput.measure(path, frozen, session, scaled)
    except UserError as error:
        shapes = [session.static_shape(tensor) or [-1, -1] for tensor in frozen.inputs.values()]
        if any(-1 in shape[1:] for shape in shapes) or any(
            node.op in _DECODERS for node in graph.all_nodes(frozen.graph)
        ):
            raise UserError(error.message, hint=error.hint or _HINT, **error.fields) from error
        return None  # what is done to pixels may have a form in TFLite


def _require_whole(path: Path, frozen: FrozenGraph) -> None:
    """Raises UserError for a graph that decodes a JPEG in part or at a part of its size, which no noise would tell."""
    for node in graph.all_nodes(frozen.graph):
        if node.op == "DecodeAndCropJpeg" or (node.op == "DecodeJpeg" and node.attr["ratio"].i > 1):
            what = "a part" if node.op == "DecodeAndCropJpeg" else f"at 1/{node.attr['ratio'].i} of its size"
            raise UserError(f"{path}: decodes a JPEG file {what}, which the board would do in its own way", hint=_HINT)


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
        raise UserError(
            f"{path}: its network begins with its first convolution, of which it has {len(first)}",
            hint=_HINT,
        )
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
    return tuple(round(float(value), 3) + 0.0 for value in values)  # and no -0.0


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
