"""Boxes from a detector's raw heads: decoding and class-wise non-maximum suppression, in NumPy.

The model ends before both, so that boxes and scores keep a scale each, and only boxes that can win are decoded.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from edgekit_runtime import batch, quant
from edgekit_runtime.classify import LabelsError
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import UserError
from edgekit_runtime.manifest import Detection, TensorSpec
from edgekit_runtime.npy import DAMAGED
from edgekit_runtime.ranking import descending
from edgekit_runtime.resize import Scratch

if TYPE_CHECKING:
    from edgekit_runtime.quant import Array, Floats

_TILE = 64  # candidates that are compared at once with each other, and with as many of those that are kept
_SLACK = 0.01  # of a logit: more than float32 rounds where a sigmoid still tells logits apart
_STEEP = 10.0
MAX_BYTES = 64 << 20
_WORK = Scratch()
Candidates = Tuple["Floats", "Array", "Floats"]  # boxes (K, 4), classes (K,) counted from 0, scores (K,)


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
        boxes, kinds, scores = suppress(self._candidates(encodings, predictions), self.detection)
        clipped = np.clip(boxes, 0.0, 1.0)
        seen = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        classes = np.array(self.detection.class_ids, np.int64)[kinds[seen]]
        return Detections(clipped[seen], classes, scores[seen].astype(np.float32))

    def _candidates(self, encodings: Array, predictions: Array) -> Iterator[Candidates]:
        """What reaches the threshold, best first, as far as it is asked for."""
        wanted = self.detection
        # Sigmoid and dequantisation keep the order, so the stored values sort; a softmax does not.
        mixed = wanted.score_converter == "softmax"
        keys = self._softmax(predictions) if mixed else predictions
        for chosen in descending(keys, self._least(keys.dtype), wanted.first_column):
            anchors, columns = np.divmod(chosen, keys.shape[1])
            scores = keys[anchors, columns] if mixed else self._scores(keys[anchors, columns])
            count = int(np.count_nonzero(scores >= wanted.score_threshold))
            boxes = self._decode(encodings[anchors[:count]], anchors[:count])
            yield boxes, columns[:count] - wanted.first_column, scores[:count]
            if count < len(scores):
                return

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
        return real

    def _softmax(self, stored: Array) -> Floats:
        """The scores (A, C) of all, until the next call in this thread."""
        real: Floats = _WORK.get(f"softmax {stored.shape}", stored.shape, np.float32)
        beside: Floats = _WORK.get(f"beside {stored.shape}", stored.shape, np.float32)
        column: Floats = _WORK.get(f"column {len(stored)}", (len(stored), 1), np.float32)
        quant.dequantize(stored, self.scores, real)
        # Beside each other, since NumPy broadcasts through buffers that it makes at each call.
        beside[...] = np.max(real, axis=-1, keepdims=True, out=column)
        real -= beside
        np.exp(real, out=real)
        beside[...] = np.sum(real, axis=-1, keepdims=True, out=column)
        real /= beside
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


def suppress(candidates: Iterable[Candidates], wanted: Detection) -> Candidates:
    """Greedy non-maximum suppression within each class: what stays of the candidates, which come best first, at most
    64 at once.

    A box goes when its IoU with a better one of its class is above the threshold, or when its class is full.
    """
    boxes = _WORK.get(f"boxes {wanted.max_detections}", (wanted.max_detections, 4), np.float32)
    kinds = _WORK.get(f"kinds {wanted.max_detections}", (wanted.max_detections,), np.int64)
    scores: List[Floats] = []
    counts: Dict[int, int] = {}
    count = 0
    for block, block_kinds, block_scores in candidates:
        gone = np.zeros(len(block), np.bool_)
        for start in range(0, count, _TILE):
            part = slice(start, min(start + _TILE, count))
            gone |= _rivals(boxes[part], kinds[part], block, block_kinds, wanted).any(axis=0)
        rivals = _rivals(block, block_kinds, block, block_kinds, wanted)
        for number, kind in enumerate(block_kinds.tolist()):
            if gone[number] or counts.get(kind, 0) >= wanted.max_per_class:
                continue
            boxes[count], kinds[count] = block[number], kind
            scores.append(block_scores[number])
            counts[kind] = counts.get(kind, 0) + 1
            count += 1
            if count == wanted.max_detections:
                return boxes.copy(), kinds.copy(), np.array(scores, np.float32)
            gone |= rivals[number]
    return boxes[:count].copy(), kinds[:count].copy(), np.array(scores, np.float32)


def _rivals(one: Floats, one_kinds: Array, other: Floats, other_kinds: Array, wanted: Detection) -> Array:
    count, others = len(one), len(other)
    work: Floats = _WORK.get("overlaps", (4, _TILE * _TILE), np.float32)[:, : count * others]
    work = work.reshape(4, count, others)
    rivals: Array = _overlaps(one, other, work) > wanted.iou_threshold
    rivals &= np.equal(*_pairs(one_kinds, other_kinds, work[2], work[3]))
    return rivals


def iou(box: Floats, boxes: Floats) -> Floats:
    """The IoU (K,) of one box with boxes (K, 4); 0 where one has no area."""
    work = np.empty((4, 1, len(boxes)), np.result_type(box, boxes, np.float32))
    shares: Floats = _overlaps(box[None], boxes, work)[0]
    return shares


def _areas(boxes: Floats) -> Floats:
    areas: Floats = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    return areas


def _overlaps(one: Floats, other: Floats, work: Floats) -> Floats:
    """The IoU (K, N) of boxes (K, 4) with boxes (N, 4); what is large lies in `work` (4, K, N)."""
    both, wide, left, right = work
    for axis, side in enumerate((both, wide)):
        np.minimum(*_pairs(one[:, 2 + axis], other[:, 2 + axis], left, right), out=side)
        np.subtract(side, np.maximum(*_pairs(one[:, axis], other[:, axis], left, right), out=left), out=side)
        np.maximum(side, 0, out=side)
    both *= wide
    either = np.add(*_pairs(_areas(one), _areas(other), left, right), out=left)
    with np.errstate(invalid="ignore"):  # of boxes without end
        either -= both
    wide[...] = 0
    shares: Floats = np.divide(both, either, out=wide, where=either > 0)
    return shares


def _pairs(one: Array, other: Array, left: Floats, right: Floats) -> Tuple[Floats, Floats]:
    """Every value (K,) beside every other (N,), for the same reason."""
    left[...] = one[:, None]
    right[...] = other
    return left, right


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
