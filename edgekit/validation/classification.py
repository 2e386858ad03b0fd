"""Classification: top-1 and top-5 accuracy; of two classes the area under the ROC curve, too."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.datasets.dataset import RepresentativeDataset, Sample
from edgekit.errors import UserError
from edgekit.validation import metric
from edgekit.validation.metric import Metric

Array = NDArray[Any]
TOP = 5
FEWEST = 50  # labelled samples: of fewer good answers may be right by chance
# Standard errors, and Cohen's kappa: within these of none, answers and labels have nothing in common.
CLEARLY, BY_CHANCE = 3.0, 0.3
SURELY = 2.0  # standard errors, for a gate
LOGIT = "its single score is no probability but a logit: from 0 on it stands for the second class"


class Classification:
    """Of samples with class numbers, for a model of `scores` scores; one score stands for two classes, from `middle`
    on for the second.
    """

    def __init__(self, data: RepresentativeDataset, scores: int, middle: float) -> None:
        self.notes: list[str] = [LOGIT] if scores == 1 and middle == 0 else []
        self._middle = middle
        self._classes = max(2, scores)
        self._data = data
        self._best: tuple[list[list[int]], list[list[int]]] = ([], [])
        self._margins: tuple[list[float], list[float]] = ([], [])
        self._labels: list[int] = []
        self._fits = not data.classes or len(data.classes) == self._classes
        if not self._fits:
            self.notes.append(
                f"no accuracy: the data have {len(data.classes)} classes, the model {self._classes}",
            )

    def add(self, sample: Sample, wanted: list[Array], got: list[Array]) -> None:
        if not self._fits or sample.label is None:
            return
        self._labels.append(sample.label)
        for bests, margins, out in zip(self._best, self._margins, (wanted, got), strict=True):
            bests.append(best(out[0], self._middle))
            if self._classes == 2:
                flat = out[0].ravel()
                margins.append(float(flat[-1] - flat[0] if flat.size > 1 else flat[0]))

    def metrics(self) -> tuple[Metric, ...]:
        if not self._labels:
            return ()
        strange = sorted({label for label in self._labels if not 0 <= label < self._classes})
        if strange:
            raise UserError(
                f"labels that the model's {self._classes} classes do not have: {', '.join(map(str, strange[:5]))}",
                truth=str(self._data.path),
            )
        hits = self._hits("top-1 accuracy", 1)
        if self._guesses():
            self.notes.append(
                f"no accuracy: float itself is right in {hits.float_value:.1%} of {hits.n} samples, not clearly more "
                "than by chance: are they scaled as the model was trained, and the labels in the order of its outputs?"
            )
            return ()
        found = [hits]
        if self._classes > TOP:
            found.append(self._hits("top-5 accuracy", TOP))
        if self._classes == 2 and len(set(self._labels)) == 2:
            second = [label == 1 for label in self._labels]
            one, other = (metric.auc(margins, second) for margins in self._margins)
            found.append(metric.of_statistics("AUC", len(second), one, other))
        return tuple(found)

    def _guesses(self) -> bool:
        """Whether float's answers have to do with the labels by chance only: of two classes its scores, of which none
        may reach the second.
        """
        if len(self._labels) < FEWEST:
            return False
        counts = [self._labels.count(label) for label in (0, 1)]
        if self._classes == 2 and all(counts):
            ranked = metric.auc(self._margins[0], [label == 1 for label in self._labels])(np.ones(len(self._labels)))
            # Of ranks that are dealt out (Mann and Whitney).
            return abs(ranked - 0.5) < SURELY * math.sqrt((sum(counts) + 1) / (12 * math.prod(counts)))
        return by_chance(np.array([first for first, *_ in self._best[0]]), self._labels, SURELY)

    def _hits(self, name: str, count: int) -> Metric:
        one, other = (
            [label in ranked[:count] for label, ranked in zip(self._labels, ranks, strict=True)] for ranks in self._best
        )
        return metric.of_means(name, one, other)


def by_chance(best: Array, labels: Sequence[int | None], clearly: float = CLEARLY) -> bool:
    """Whether the best classes are right no more often than if they were dealt out anew, by so many standard errors.
    One label tells nothing.
    """
    right = np.array(labels, int)
    known = np.unique(right)
    if len(known) < 2:
        return False
    hits = float((best == right).mean())
    chance = float(sum((best == label).mean() * (right == label).mean() for label in known))
    spread = math.sqrt(chance * (1 - chance) / len(right))
    return hits <= chance + clearly * spread and hits - chance < BY_CHANCE * (1 - chance)


def best(scores: Array, middle: float) -> list[int]:
    """The five best classes, best first; of equals the lower. Of one score the class that it stands for: above `middle`
    the second.
    """
    flat = scores.ravel()
    if flat.size == 1:
        return [int(flat[0] > middle)]
    return [int(index) for index in np.argsort(-flat, kind="stable")[:TOP]]
