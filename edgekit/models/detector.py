"""Object detectors: where in a frozen graph the raw heads end, and what the graph does before and behind them.

Behind its heads a detector decodes and selects boxes, which no 8-bit scale survives; before its first convolution it
scales (and resizes) pictures. Both are cut off and described: as a `Detection` with anchors, and as mean and std.
Nothing is taken from the names of nodes: what the graph does is measured by running it. Only its outputs need the names
that the Object Detection API gives them. TensorFlow is imported inside the functions, which run in the worker.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import detect
from edgekit_runtime.detect import Detections
from edgekit_runtime.manifest import Detection
from numpy.typing import NDArray

from edgekit.errors import UserError
from edgekit.models import graph
from edgekit.models.graph import FrozenGraph, node_name
from edgekit.models.picture_input import CONVOLUTIONS, PictureInput, first_convolution
from edgekit.models.session import Session

Array = NDArray[Any]

SUPPRESSIONS = frozenset(
    ("NonMaxSuppression", *(f"NonMaxSuppressionV{n}" for n in (2, 3, 4, 5)), "CombinedNonMaxSuppression")
)
OUTPUTS = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
BOXES, SCORES = "box_encodings", "class_predictions"  # the Object Detection API's own names of raw heads
_LAYOUT = ("Reshape", "Squeeze", "ExpandDims", "Identity", "Transpose")
_AS_IT_IS = 'declare task = "raw" to convert it as it is, with the selection of its boxes'
_SEED = 7
_SURE = 30.0  # a logit


@dataclass(frozen=True)
class Detector:
    """`part` leads from the picture to the heads BOXES and SCORES; `detection` has the indices 0 and 1 for these two.

    `anchors` (A, 4) float32: centre y, centre x, height, width.
    """

    part: FrozenGraph
    picture: PictureInput
    detection: Detection
    anchors: Array
    original: "Original"


@dataclass(frozen=True)
class Original:
    """The whole detector in TensorFlow."""

    session: Session
    outputs: Mapping[str, str]
    picture: PictureInput

    def answer(self, pixels: Array) -> Detections:
        """What it finds in one picture: uint8 (height, width, 3), RGB."""
        boxes, classes, scores, count = self.run({self.picture.tensor: self.picture.feed(pixels)})
        found = int(count.reshape(-1)[0])
        return Detections(boxes[0][:found], np.rint(classes[0][:found]).astype(np.int64), scores[0][:found])

    def run(self, feed: Mapping[str, Any]) -> list[Array]:
        """The four outputs, with the tensors in `feed` replaced."""
        return self.session.run([self.outputs[name] for name in OUTPUTS], feed)


def is_detector(frozen: FrozenGraph) -> bool:
    """Whether it selects boxes and has the outputs of the Object Detection API."""
    return set(OUTPUTS) <= frozen.outputs.keys() and suppresses(frozen.graph)


def suppresses(graph_def: Any) -> bool:
    """Whether any of its nodes is a non-maximum suppression."""
    return any(node.op in SUPPRESSIONS for node in graph.all_nodes(graph_def))


def find(path: Path, frozen: FrozenGraph) -> Detector:
    """Measure a detector. Raises UserError for one that selects or decodes in another way than the runtime does."""
    if any(node.op == "CropAndResize" for node in graph.all_nodes(frozen.graph)):
        raise UserError(
            f"{path}: a detector of two stages: what its second stage sees depends on the boxes of its first",
            hint="give a single-stage detector (SSD, RetinaNet, EfficientDet)",
        )
    nodes = {node.name: node for node in frozen.graph.node}
    session = Session(path, frozen.graph)
    picture = PictureInput.measure(path, frozen, session, first_convolution(path, frozen))
    blank = _Blank(path, frozen, session, {picture.tensor: picture.feed(picture.blank())})
    boxes, scores, count, columns = _heads(blank)
    original = Original(session, frozen.outputs, picture)
    anchors, scales = _coder(blank, boxes, count)
    converter = _converter(blank, scores, (count, columns))
    classes = _classes(blank, original, {boxes: (count, 4), scores: (count, columns)}, anchors)
    limits = _limits(path, nodes)
    shape = session.static_shape(frozen.outputs[OUTPUTS[0]]) or []
    padded = shape[1] if len(shape) == 3 and shape[1] > 0 else int(original.run(blank.feed)[0].shape[1])
    detection = Detection(
        boxes=0,
        scores=1,
        score_converter=converter,
        box_scales=scales,
        **classes,
        **limits,
        max_detections=padded or limits["max_per_class"] * len(classes["class_ids"]),
    )
    part = picture.cut(path, replace(frozen, outputs={BOXES: boxes, SCORES: scores}))
    return Detector(part, picture, detection, anchors, original)


@dataclass(frozen=True)
class _Blank:
    """The graph as it answers to a blank picture, with tensors replaced."""

    path: Path
    frozen: FrozenGraph
    session: Session
    feed: Mapping[str, Any]

    def run(self, tensor: str, replaced: Mapping[str, Any]) -> Array | None:
        """None for what cannot be had, such as a tensor inside of a loop."""
        try:
            return self.session.run([tensor], {**self.feed, **replaced})[0]
        except UserError:
            return None

    def behind(self, tensor: str, last: int) -> Iterator[str]:
        """The tensors that follow from it, the nearest first, whose last dimension may be this."""
        reached = {node_name(tensor)}
        for node in graph.in_order(self.frozen.graph):
            if any(node_name(name) in reached for name in node.input) and node.name not in reached:
                reached.add(node.name)
                if self.session.may_end_with(f"{node.name}:0", last):
                    yield f"{node.name}:0"


def _heads(blank: _Blank) -> tuple[str, str, int, int]:
    """Encoded boxes and class predictions as they come out of convolutions, how many boxes, how many columns."""
    nodes = {node.name: node for node in blank.frozen.graph.node}
    suppressions = [node for node in nodes.values() if node.op in SUPPRESSIONS]
    if not suppressions:
        raise UserError(
            f"{blank.path}: its boxes are selected in a function that cannot be looked into", hint=_AS_IT_IS
        )
    whole = blank.frozen.graph
    before = [graph.ancestors(whole, [node.input[which] for node in suppressions]) for which in (0, 1)]
    raw = [f"{name}:0" for name in _raw(blank.frozen) if name in before[0] | before[1]]
    shapes = blank.session.shapes(raw, blank.feed)
    rows = {name: shape for name, shape in shapes.items() if len(shape) == 3 and shape[0] == 1}
    boxes = max(
        (name for name, shape in rows.items() if shape[2] == 4 and node_name(name) in before[0]),
        key=lambda name: rows[name][1],
        default="",
    )
    scores = [
        name
        for name, shape in rows.items()
        if boxes and shape[1] == rows[boxes][1] and node_name(name) in before[1] and not _related(whole, name, boxes)
    ]
    if not scores:
        raise UserError(f"{blank.path}: found no boxes and scores as they come out of convolutions", hint=_AS_IT_IS)
    return boxes, scores[0], rows[boxes][1], rows[scores[0]][2]


def _raw(frozen: FrozenGraph) -> list[str]:
    """Convolutions with their bias, and what only lays out their results anew, in order."""
    nodes = {node.name: node for node in frozen.graph.node}
    raw: dict[str, bool] = {}
    for node in graph.in_order(frozen.graph):
        given = [node_name(name) for name in node.input if name[0] != "^"]
        if node.op in CONVOLUTIONS:
            raw[node.name] = True
        elif node.op in _LAYOUT or node.op == "BiasAdd":
            raw[node.name] = raw.get(given[0], False)
        elif node.op in ("Add", "AddV2"):
            raw[node.name] = any(raw.get(name) for name in given) and any(nodes[name].op == "Const" for name in given)
        elif node.op in ("ConcatV2", "Pack"):
            raw[node.name] = all(raw.get(name) for name in (given[:-1] if node.op == "ConcatV2" else given))
    return [name for name, is_raw in raw.items() if is_raw]


def _coder(blank: _Blank, boxes: str, count: int) -> tuple[Array, tuple[float, float, float, float]]:
    """Anchors and scales: what encodings of zero and of one become. Other encodings then have to become the same."""
    generator = np.random.default_rng(_SEED)
    some = generator.normal(0, 1, (1, count, 4)).astype(np.float32)
    for tensor in blank.behind(boxes, 4):
        answers = [blank.run(tensor, {boxes: given}) for given in (np.zeros_like(some), np.ones_like(some), some)]
        if any(answer is None or answer.size != some.size for answer in answers):
            continue
        zero, one, other = (answer.reshape(-1, 4) for answer in answers if answer is not None)
        sizes = zero[:, 2:] - zero[:, :2]
        if not (sizes > 0).all():
            continue
        anchors = np.concatenate([(zero[:, :2] + zero[:, 2:]) / 2, sizes], axis=1).astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = np.median(((one[:, :2] + one[:, 2:]) / 2 - anchors[:, :2]) / sizes, axis=0)
            grown = np.median(np.log((one[:, 2:] - one[:, :2]) / sizes), axis=0)
            scales = tuple(round(float(value), 4) for value in (*(1 / moved), *(1 / grown)))
        usable = np.isfinite(scales).all() and min(scales) > 0
        if usable and np.allclose(detect.decode(some[0], anchors, scales), other, rtol=1e-3, atol=1e-3):
            return anchors, (scales[0], scales[1], scales[2], scales[3])
    raise UserError(
        f"{blank.path}: its boxes are not coded relative to anchors in the way that the runtime decodes", hint=_AS_IT_IS
    )


def _converter(blank: _Blank, scores: str, shape: tuple[int, int]) -> str:
    logits = np.random.default_rng(_SEED).normal(0, 2, (1, *shape)).astype(np.float32)
    powers = np.exp(logits)
    known = {"sigmoid": 1 / (1 + np.exp(-logits)), "softmax": powers / powers.sum(axis=-1, keepdims=True)}
    for tensor in blank.behind(scores, shape[1]):
        value = blank.run(tensor, {scores: logits})
        for name, wanted in known.items():
            if (
                value is not None
                and value.size == wanted.size
                and np.allclose(value.reshape(wanted.shape), wanted, atol=1e-4)
            ):
                return name
    raise UserError(
        f"{blank.path}: what makes scores of its predictions is neither sigmoid nor softmax", hint=_AS_IT_IS
    )


def _classes(blank: _Blank, original: Original, heads: Mapping[str, tuple[int, int]], anchors: Array) -> dict[str, Any]:
    """Which class each column of the predictions is: one sure box in each column, and what is said of it."""
    (boxes, _), (scores, shape) = heads.items()
    corners = detect.decode(np.zeros_like(anchors), anchors, (1, 1, 1, 1))
    shown = np.clip(corners, 0, 1)
    anchor = int(np.argmax(np.prod(shown[:, 2:] - shown[:, :2], axis=1)))
    kinds: dict[int, int] = {}
    for column in range(shape[1]):
        logits = np.full((1, *shape), -_SURE, np.float32)
        logits[0, anchor, column] = _SURE
        encodings = np.zeros((1, len(anchors), 4), np.float32)
        _, classes, found, _ = original.run({**blank.feed, boxes: encodings, scores: logits})
        if found.size and found[0, 0] > 0.5:
            kinds[column] = int(np.rint(classes[0, 0]))
    if not kinds:
        raise UserError(
            f"{blank.path}: a box that is sure to be of one class is not found again, whichever class", hint=_AS_IT_IS
        )
    if list(kinds) != list(range(min(kinds), shape[1])):
        none = sorted(set(range(shape[1])) - kinds.keys())
        raise UserError(f"{blank.path}: columns of its predictions that are no class: {none}", hint=_AS_IT_IS)
    return {"first_column": min(kinds), "class_ids": tuple(kinds.values())}


def _limits(path: Path, nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The constants of non-maximum suppression, which has to be the same for every class."""
    found = set[tuple[float | None, ...]]()
    for node in nodes.values():
        if node.op in SUPPRESSIONS:
            given = [_constant(nodes, name) for name in node.input[2:]]
            if node.op == "CombinedNonMaxSuppression":
                given.pop(1)
            elif node.op == "NonMaxSuppression":
                given.append(node.attr["iou_threshold"].f)
            found.add(tuple(given))
    limits = [value for value in min(found, key=len, default=()) if value is not None]
    if len(found) != 1 or len(limits) < len(found.pop()):
        raise UserError(f"{path}: its selection of boxes has limits that are not constant", hint=_AS_IT_IS)
    if len(limits) > 3 and limits[3]:
        raise UserError(f"{path}: soft non-maximum suppression, which the runtime does not have", hint=_AS_IT_IS)
    threshold = max(0.0, float(limits[2])) if len(limits) > 2 else 0.0
    return {"max_per_class": int(limits[0]), "iou_threshold": float(limits[1]), "score_threshold": threshold}


def _constant(nodes: Mapping[str, Any], name: str) -> float | None:
    """The number that a node certainly gives, also into a loop; of a minimum the one that is known."""
    import tensorflow as tf

    node = nodes[node_name(name)]
    if node.op == "Const":
        value = tf.make_ndarray(node.attr["value"].tensor)
        return round(float(value.reshape(-1)[0]), 10) if value.size == 1 else None
    if node.op in ("Identity", "Enter", "Cast", "Reshape"):
        return _constant(nodes, node.input[0])
    if node.op == "Minimum":
        known = [value for value in (_constant(nodes, one) for one in node.input[:2]) if value is not None]
        return min(known, default=None)
    return None


def _related(whole: Any, one: str, other: str) -> bool:
    return node_name(one) in graph.ancestors(whole, [other]) or node_name(other) in graph.ancestors(whole, [one])
