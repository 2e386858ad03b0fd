"""Metric: what a task is judged by, of float and of INT8 on the same samples, and the interval of what INT8 loses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# A figure of all samples, each of which counts as often as its weight says (1 each: the figure itself).
Statistic = Callable[[Array], float]

PERCENT, SHARE, DECIBELS = "%", "", "dB"
REPLICATIONS = 200
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Metric:
    """`n` samples. `drop` is what INT8 loses, below 0 where it wins; `half` is half of its paired 95 % interval, None
    where the samples do not tell one. `unit` is how people see the values: "%" and "" of shares of 1, or "dB".
    """

    name: str
    unit: str
    n: int
    float_value: float
    int8_value: float
    drop: float
    half: float | None

    @property
    def lost(self) -> float:
        """What INT8 loses as a share of 1: of decibels that of float's."""
        return self.drop / max(1.0, self.float_value) if self.unit == DECIBELS else self.drop

    @property
    def shown(self) -> tuple[str, str, str]:
        """Of float, of INT8, and what INT8 loses, for people."""
        factor, digits, sign, apart = {
            PERCENT: (100, 1, " %", " points"),
            SHARE: (1, 3, "", ""),
            DECIBELS: (1, 2, " dB", " dB"),
        }[self.unit]
        one, other = (f"{factor * value:.{digits}f}{sign}" for value in (self.float_value, self.int8_value))
        half = "" if self.half is None else f" ± {factor * self.half:.{digits}f}"
        loss = round(factor * self.drop, digits) + 0.0  # never -0.0
        return one, other, f"loses {loss:.{digits}f}{half}{apart}, n = {self.n}"


def of_means(name: str, one: Sequence[float], other: Sequence[float], unit: str = PERCENT) -> Metric:
    """Of what is a mean over samples: the interval is 1.96 standard errors of the mean of the paired differences.

    Of hits and misses the standard error is that with half a sample more of each kind of pair, which tells something
    of few samples, too: no difference in two samples is no proof that there is none (A. Agresti, Y. Min, Simple
    improved confidence intervals for comparing matched proportions, Statistics in Medicine 24 (2005)).
    """
    values = np.asarray(one, np.float64), np.asarray(other, np.float64)
    apart = values[0] - values[1]
    n = len(apart)
    if n > 1 and all(np.isin(side, (0, 1)).all() for side in values):
        won, lost, size = (apart > 0).sum() + 0.5, (apart < 0).sum() + 0.5, n + 2
        half: float | None = float(_NORMAL_95 * np.sqrt(won + lost - (won - lost) ** 2 / size) / size)
    else:
        half = float(_NORMAL_95 * apart.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return Metric(name, unit, n, float(values[0].mean()), float(values[1].mean()), float(apart.mean()), half)


def of_statistics(name: str, n: int, one: Statistic, other: Statistic, unit: str = SHARE) -> Metric:
    """Of what is no mean over samples: the interval is 1.96 standard errors by the bootstrap, float and INT8 resampled
    together, with a fixed seed.

    B. Efron, R. J. Tibshirani, An Introduction to the Bootstrap (1993), algorithm 6.1; 200 replications are enough for
    a standard error (section 6.4). A replication that has no value, such as one without a positive, is left out.
    """
    values = one(np.ones(n)), other(np.ones(n))
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), REPLICATIONS).astype(np.float64)
    apart = np.array([one(weights) - other(weights) for weights in draws])
    apart = apart[np.isfinite(apart)]
    half = float(_NORMAL_95 * apart.std(ddof=1)) if n > 1 and len(apart) > 1 else None
    return Metric(name, unit, n, *values, values[0] - values[1], half)


def auc(scores: Sequence[float], positive: Sequence[bool]) -> Statistic:
    """The area under the ROC curve: how often a positive scores above a negative, of equals half (the Mann-Whitney
    statistic; J. A. Hanley, B. J. McNeil, Radiology 143 (1982)). NaN without both kinds.
    """
    _, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    above = np.asarray(positive, bool)

    def of(weights: Array) -> float:
        positives, negatives = (np.bincount(place, weights * chosen) for chosen in (above, ~above))
        pairs = positives.sum() * negatives.sum()
        if not pairs:
            return float("nan")
        return float(positives @ (negatives.cumsum() - negatives / 2) / pairs)

    return of


def mean_iou(both: Array, either: Array, truth: Array) -> Statistic:
    """The mean over the classes that the truth has of intersection over union, each added up over all pictures
    (M. Everingham and others, The PASCAL VOC Challenge, IJCV 111 (2015), section 4.3): pixels (pictures, classes).
    """

    def of(weights: Array) -> float:
        present = weights @ truth > 0
        shares = (weights @ both)[present] / (weights @ either)[present]
        return float(shares.mean()) if len(shares) else float("nan")

    return of


def psnr(one: Array, other: Array, peak: float) -> float:
    """The peak signal-to-noise ratio of one picture in dB; at most 100, which 8 bits do not reach but when equal."""
    error = float(np.square(np.asarray(one, np.float64) - other).mean())
    return min(MOST_DB, 10 * float(np.log10(peak**2 / error))) if error else MOST_DB


MOST_DB = 100.0
