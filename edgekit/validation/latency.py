"""HostLatency: how long two models take on this computer, by turns, and whether their difference is more than noise."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit_runtime import quant
from edgekit_runtime.engine import Engine
from numpy.typing import NDArray

from edgekit.profiles import hostfacts

Array = NDArray[Any]
PAIRS = 64  # samples on which both are timed
FEWEST = 20  # pairs, of the last sample again where there are fewer samples
BURST_MS = 2.0  # a model's turn: what the other's threads and caches leave is over by then
MOST = 32  # runs in a turn


@dataclass(frozen=True)
class HostLatency:
    """Medians in ms of single inferences on this computer, the two models taking turns. Says nothing of a board.

    `ratio` is the median of INT8's time divided by float's, turn by turn, and `ratio_low` to `ratio_high` its 95 %
    interval (of order statistics, by the normal approximation of the binomial distribution).
    """

    host: bool
    cpu: str
    num_threads: int
    runs: int
    float_ms: float
    int8_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float

    @property
    def no_faster(self) -> bool:
        """Whether INT8 surely takes as long as float, or longer."""
        return self.ratio_low >= 1


def threads(wanted: int) -> int:
    """As many as this computer has processors for: more than that wait for each other, and times mean nothing."""
    return min(wanted, hostfacts.cores())


class Race:
    """Runs the two engines in turns, each first every second time; the first samples are timed."""

    def __init__(self, reference: Engine, int8: Engine) -> None:
        self._engines = (reference, int8)
        self._ms: tuple[list[float], list[float]] = ([], [])
        self._rows: Sequence[Array] = ()

    def run(self, rows: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Real outputs of both for one sample of real inputs."""
        self._rows = rows
        pairs = len(self._ms[0])
        answers: dict[int, list[Array]] = {}
        for which in (pairs % 2, 1 - pairs % 2):
            engine = self._engines[which]
            stored = [quant.quantize(row, spec) for row, spec in zip(rows, engine.inputs, strict=True)]
            started = time.perf_counter()
            out = engine.infer(stored)
            if pairs < PAIRS:
                self._ms[which].append(_turn(engine, stored, (time.perf_counter() - started) * 1e3))
            answers[which] = [quant.dequantize(value, spec) for value, spec in zip(out, engine.outputs, strict=True)]
        return answers[0], answers[1]

    def latency(self) -> HostLatency:
        """The medians of what was run."""
        while len(self._ms[0]) < FEWEST:
            self.run(self._rows)
        slow, fast = self._ms
        low, ratio, high = interval([one / other for one, other in zip(fast, slow, strict=True)])
        return HostLatency(
            host=True,
            cpu=hostfacts.cpu_name(),
            num_threads=self._engines[0].num_threads,
            runs=len(slow),
            float_ms=statistics.median(slow),
            int8_ms=statistics.median(fast),
            ratio=ratio,
            ratio_low=low,
            ratio_high=high,
        )


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median of at least one value between the ends of its 95 % interval."""
    ordered = sorted(values)
    below = max(0, math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))))
    return ordered[below], statistics.median(ordered), ordered[-1 - below]


def _turn(engine: Engine, stored: Sequence[Array], first_ms: float) -> float:
    """The median time in ms of an inference, of several more in a row where they are short."""
    if first_ms >= BURST_MS:
        return first_ms
    times: list[float] = []
    while len(times) < MOST and sum(times) < BURST_MS:
        started = time.perf_counter()
        engine.infer(stored)
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)
