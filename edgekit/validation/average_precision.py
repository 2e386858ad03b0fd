"""COCO's average precision of boxes (T.-Y. Lin and others, arXiv:1405.0312; cocodataset.org, "Detection Evaluation").

What pycocotools' COCOeval does for boxes of any area: at most 100 detections of a class in a picture, best first, each
with the free box of most overlap; boxes of crowds hold any number of detections, which then do not count; precision,
made to fall, at 101 recalls; the mean over thresholds and over the classes that the truth has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from edgekit_runtime.detect import Detections
from numpy.typing import NDArray

from edgekit.datasets.annotations import Annotated

Array = NDArray[Any]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100


@dataclass(frozen=True)
class _Class:
    """All detections of one class, best first: picture (D,), and by threshold (T, D) whether they are right and whether
    they count. `wanted` (pictures,) are boxes to be found.
    """

    picture: Array
    right: Array
    counts: Array
    wanted: Array


class AveragePrecision:
    """Of detections in pictures with known boxes. Matching is done once, since it stays within a picture."""

    def __init__(self, truth: Sequence[Annotated], found: Sequence[Detections]) -> None:
        kinds = sorted({int(kind) for one in truth for kind in one.kinds[~one.crowd]})
        self._classes = [_gathered(truth, found, kind) for kind in kinds]

    def by_threshold(self, weights: Array) -> Array:
        """AP at each of THRESHOLDS, pictures counting as often as their weights say; NaN without a box in any."""
        rows = [_precision(one, weights) for one in self._classes if weights @ one.wanted > 0]
        return np.mean(rows, axis=0) if rows else np.full(len(THRESHOLDS), np.nan)

    def ap(self, weights: Array) -> float:
        """The mean over the thresholds 0.50, 0.55 ... 0.95."""
        return float(self.by_threshold(weights).mean())

    def ap50(self, weights: Array) -> float:
        """At an IoU of 0.5 alone."""
        return float(self.by_threshold(weights)[0])


def _gathered(truth: Sequence[Annotated], found: Sequence[Detections], kind: int) -> _Class:
    scores, pictures, right, counts, wanted = [], [], [], [], []
    for number, (one, other) in enumerate(zip(truth, found, strict=True)):
        of_kind = one.kinds == kind
        crowd = one.crowd[of_kind]
        chosen = np.flatnonzero(other.classes == kind)
        best = chosen[np.argsort(-other.scores[chosen], kind="stable")][:MAX_DETECTIONS]
        hits, ignored = match(other.boxes[best], one.boxes[of_kind], crowd)
        scores.append(other.scores[best])
        pictures.append(np.full(len(best), number))
        right.append(hits)
        counts.append(~ignored)
        wanted.append(np.count_nonzero(~crowd))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return _Class(
        np.concatenate(pictures)[order],
        np.concatenate(right, axis=1)[:, order],
        np.concatenate(counts, axis=1)[:, order],
        np.array(wanted, np.float64),
    )


def match(found: Array, wanted: Array, crowd: Array) -> tuple[Array, Array]:
    """By threshold and box that was found (T, D), best first: whether it is right, and whether it is left out."""
    order = np.argsort(crowd, kind="stable")
    crowd = crowd[order]
    shares = overlaps(found, wanted[order], crowd)
    right = np.zeros((len(THRESHOLDS), len(found)), bool)
    ignored = np.zeros_like(right)
    for row, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(crowd), bool)
        for number in range(len(found)):
            most, best = min(threshold, 1 - 1e-10), -1
            for other in range(len(crowd)):
                if taken[other] and not crowd[other]:
                    continue
                if best >= 0 and not crowd[best] and crowd[other]:
                    break
                if shares[number, other] >= most:  # of equals the last, as COCOeval has it
                    most, best = shares[number, other], other
            if best >= 0:
                taken[best] = True
                right[row, number], ignored[row, number] = not crowd[best], crowd[best]
    return right, ignored


def overlaps(found: Array, wanted: Array, crowd: Array) -> Array:
    """IoU (D, G) of boxes as ymin, xmin, ymax, xmax; with a crowd the share of the found box that is in it."""
    one, other = np.asarray(found, np.float64)[:, None], np.asarray(wanted, np.float64)[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    both = np.maximum(sides, 0).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (one, other)]
    either = np.where(crowd, areas[0], areas[0] + areas[1] - both)
    shares: Array = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return shares


def _precision(one: _Class, weights: Array) -> Array:
    """The mean precision at RECALLS, by threshold."""
    counted = weights[one.picture]
    hits = np.cumsum(one.right * counted, axis=1)
    seen = np.cumsum(one.counts * counted, axis=1)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = hits / (weights @ one.wanted)
    padded = np.pad(falling, ((0, 0), (0, 1)))  # a recall that is never reached has the precision 0
    at = [np.searchsorted(row, RECALLS, side="left") for row in recall]
    return np.array([row[places].mean() for row, places in zip(padded, at, strict=True)])
