"""Boxes from a detector's raw heads: decoding and class-wise non-maximum suppression, in NumPy.

The model ends before both, so that boxes and scores keep a scale each, and only boxes that can win are decoded.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edgekit_runtime import batch, quant
from edgekit_runtime.classify import LabelsError
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import UserError
from edgekit_runtime.manifest import Detection, TensorSpec
from edgekit_runtime.npy import DAMAGED
from edgekit_runtime.resize import Scratch

if TYPE_CHECKING:
    from edgekit_runtime.quant import Array, Floats

_FIRST = 1024  # candidates that are looked at before any others are
_BLOCK = 64  # of which so many at once are compared with each other and with what is kept
_STEP = 17  # one anchor in so many tells about where the highest keys begin
_SLACK = 0.01  # of a logit: more than float32 rounds where a sigmoid still tells logits apart
_STEEP = 10.0
MAX_BYTES = 64 << 20
_MASKS = Scratch()


class AnchorsError(UserError):
    """The anchors cannot be read, or do not fit the model."""


@dataclass(frozen=True)
class Detections:
    """What is in one picture, best first: `boxes` (K, 4) float32 as ymin, xmin, ymax, xmax, in shares of the picture's
    height and width; `classes` (K,) int64, ids as in the label map; `scores` (K,) float32 in 0..1.
    """

    boxes: Floats
    classes: Array
    scores: Floats

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Heads:
    """A detector's two outputs, encodings (N, A, 4) and class predictions (N, A, first_column + C), with the anchors
    (A, 4) float32: centre y, centre x, height, width.
    """

    detection: Detection
    anchors: Floats
    boxes: TensorSpec
    scores: TensorSpec

    def find(self, outputs: Sequence[Array]) -> Tuple[Detections, ...]:
        """The detections in each sample of the model's stored outputs."""
        boxes, scores = outputs[self.detection.boxes], outputs[self.detection.scores]
        return tuple(self._find(box, score) for box, score in zip(boxes, scores))

    def _find(self, encodings: Array, predictions: Array) -> Detections:
        wanted = self.detection
        # Sigmoid and dequantisation keep the order, so the stored values sort; a softmax does not.
        mixed = wanted.score_converter == "softmax"
        keys = self._scores(predictions) if mixed else predictions
        least, size = self._least(keys.dtype), _FIRST
        while True:
            anchors, columns = np.divmod(highest(keys, size, least, wanted.first_column), keys.shape[1])
            kinds = columns - wanted.first_column
            scores = keys[anchors, columns] if mixed else self._scores(keys[anchors, columns])
            count = int(np.count_nonzero(scores >= wanted.score_threshold))
            boxes = self._decode(encodings[anchors[:count]], anchors[:count])
            kept = suppress(boxes, kinds[:count], wanted)
            if len(kept) == wanted.max_detections or count < len(scores) or len(scores) < size:
                break
            size *= 8
        clipped = np.clip(boxes[kept], 0.0, 1.0)
        seen = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        kept = kept[seen]
        return Detections(
            clipped[seen], np.array(wanted.class_ids, np.int64)[kinds[kept]], scores[kept].astype(np.float32)
        )

    def _least(self, dtype: Any) -> float:
        """What no key that reaches the threshold is below; a little less than it needs, since float32 rounds."""
        least = self.detection.score_threshold
        if self.detection.score_converter == "softmax":
            return least
        if self.detection.score_converter == "sigmoid":
            least = -math.inf if least <= 0 else math.log(least) - math.log1p(-least) if least < 1 else _STEEP
            least = min(least, _STEEP)
        least -= _SLACK
        if self.scores.scale is not None and self.scores.zero_point is not None:
            limits = np.iinfo(dtype)
            stored = least / self.scores.scale + self.scores.zero_point
            return int(min(max(stored, limits.min), limits.max) // 1)
        return least

    def _scores(self, stored: Array) -> Floats:
        real: Array = quant.dequantize(stored, self.scores)
        if self.detection.score_converter == "sigmoid":
            with np.errstate(over="ignore"):
                real = 1 / (1 + np.exp(-real))
        elif self.detection.score_converter == "softmax":
            powers = np.exp(real - real.max(axis=-1, keepdims=True))
            real = powers / powers.sum(axis=-1, keepdims=True)
        return real

    def _decode(self, stored: Array, anchors: Array) -> Floats:
        real: Floats = quant.dequantize(stored, self.boxes)
        if self.detection.box_order == "xywh":
            real = real[:, [1, 0, 3, 2]]
        return decode(real, self.anchors[anchors], self.detection.box_scales)


def decode(encodings: Floats, anchors: Floats, scales: Sequence[float]) -> Floats:
    """Boxes (K, 4) as ymin, xmin, ymax, xmax from encodings (K, 4) relative to anchors (K, 4).

    The box coder of Faster R-CNN (arXiv:1506.01497, section 3.1.2), its four numbers divided by `scales`.
    """
    relative = encodings / np.asarray(scales, np.float32)
    centre = relative[:, :2] * anchors[:, 2:] + anchors[:, :2]
    with np.errstate(over="ignore"):
        half = np.exp(relative[:, 2:]) * anchors[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def highest(values: Array, count: int, least: float = -math.inf, first: int = 0) -> Array:
    """The flat indices of the `count` highest in columns `first` and later of values (N, C) that are not below `least`,
    highest first; of equals the lower index comes first.
    """
    mask = _reach(values, least, first, "mask")
    if np.count_nonzero(mask) > 4 * count:
        some = values[::_STEP, first:].reshape(-1)
        rank = min(len(some), 2 * count * len(some) // values[:, first:].size + 8)
        fewer = _reach(values, np.partition(some, len(some) - rank)[len(some) - rank], first, "fewer")
        if np.count_nonzero(fewer) >= count:
            mask = fewer
    chosen = np.flatnonzero(mask)
    held = values.reshape(-1)[chosen]
    if count < len(chosen):
        last = np.partition(held, len(held) - count)[len(held) - count]
        above, equal = np.flatnonzero(held > last), np.flatnonzero(held == last)
        part = np.concatenate([above, equal[: count - len(above)]])
        chosen, held = chosen[part], held[part]
    return chosen[np.argsort(-held.astype(np.float64), kind="stable")]


def _reach(values: Array, least: float, first: int, name: str) -> Array:
    # The whole is compared and a column taken out, since NumPy is ten times slower with rows that have gaps.
    mask = _MASKS.get(f"{name} {values.shape}", values.shape, np.bool_)
    np.greater_equal(values, least, out=mask)
    mask[:, :first] = False
    return mask


def suppress(boxes: Floats, kinds: Array, wanted: Detection) -> Array:
    """Greedy non-maximum suppression within each class: the indices that stay, of boxes (K, 4) sorted best first.

    A box goes when its IoU with a better one of its class is above the threshold, or when its class is full.
    """
    kept: List[int] = []
    counts: Dict[int, int] = {}
    areas = _areas(boxes)
    for start in range(0, len(boxes), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(boxes)))
        better = np.concatenate([np.array(kept, np.int64), block])[:, None]
        rivals = _overlaps(boxes[better], areas[better], boxes[block], areas[block]) > wanted.iou_threshold
        rivals &= kinds[better] == kinds[block]
        gone = np.any(rivals[: len(kept)], axis=0)
        rivals = rivals[len(kept) :]
        for number, kind in enumerate(kinds[block].tolist()):
            if gone[number] or counts.get(kind, 0) >= wanted.max_per_class:
                continue
            kept.append(start + number)
            counts[kind] = counts.get(kind, 0) + 1
            if len(kept) == wanted.max_detections:
                return np.array(kept, np.int64)
            gone |= rivals[number]
    return np.array(kept, np.int64)


def iou(box: Floats, boxes: Floats) -> Floats:
    """The IoU (K,) of one box with boxes (K, 4); 0 where one has no area."""
    return _overlaps(box, _areas(box), boxes, _areas(boxes))


def _areas(boxes: Floats) -> Floats:
    areas: Floats = np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(boxes[..., 3] - boxes[..., 1], 0)
    return areas


def _overlaps(one: Floats, area: Any, other: Floats, areas: Floats) -> Floats:
    """The IoU of boxes (..., 4) with others, broadcast."""
    high = np.minimum(one[..., 2], other[..., 2]) - np.maximum(one[..., 0], other[..., 0])
    wide = np.minimum(one[..., 3], other[..., 3]) - np.maximum(one[..., 1], other[..., 1])
    both = np.maximum(high, 0) * np.maximum(wide, 0)
    with np.errstate(invalid="ignore"):  # of boxes without end
        either = area + areas - both
    shares: Floats = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return shares


def heads(
    detection: Detection, anchors: Floats, outputs: Sequence[TensorSpec], labels: Optional[Sequence[str]] = None
) -> Heads:
    """Raises AnchorsError unless anchors and outputs belong together, LabelsError unless each class has a label."""
    if labels is not None and len(labels) != len(detection.class_ids):
        raise LabelsError(
            f"{len(labels)} labels for the {len(detection.class_ids)} classes of a detector",
            hint="one label a line, in the order of the model's classes",
            labels=len(labels),
            classes=len(detection.class_ids),
        )
    if max(detection.boxes, detection.scores) >= len(outputs):
        raise AnchorsError(f"a detector of {len(outputs)} outputs: boxes or scores are missing")
    boxes, scores = outputs[detection.boxes], outputs[detection.scores]
    shapes = [batch.sample_shape(boxes), batch.sample_shape(scores)]
    wanted = (len(anchors), 4)
    fits = shapes[0] == wanted and len(shapes[1]) == 2 and shapes[1][0] == wanted[0]
    if not fits or anchors.shape != wanted or shapes[1][1] != detection.first_column + len(detection.class_ids):
        raise AnchorsError(
            f"{list(anchors.shape)} anchors do not fit the outputs {list(shapes[0])} and {list(shapes[1])}",
            hint="convert the detector again",
        )
    return Heads(detection, anchors, boxes, scores)


def parse_anchors(content: bytes, where: str) -> Floats:
    """Anchors (A, 4) from the bytes of an .npy file of float32. Raises AnchorsError."""
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        anchors = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except DAMAGED as error:
        raise AnchorsError(f"cannot read the anchors '{where}': {error}", where=where) from error
    if not isinstance(anchors, np.ndarray) or anchors.dtype != np.float32 or anchors.shape[1:] != (4,):
        raise AnchorsError(f"'{where}' does not hold anchors (A, 4) float32", where=where)
    return anchors


def label(labels: Optional[Sequence[str]], detection: Detection, kind: int) -> Optional[str]:
    """The name of a class id; None where there is none."""
    if labels is None or kind not in detection.class_ids:
        return None
    return labels[detection.class_ids.index(kind)]
