"""Candidate: one way to make a model small, from full INT8 outwards, and how it was judged."""

import math
from dataclasses import dataclass, replace

# From the fastest on most boards to the one that changes least: the first that keeps the budget is taken.
RUNGS = {
    "int8": "INT8 for every operator that has such a form",
    "int8-clipped": "INT8, with ranges that hold 99.99 % of the values",
    "float-outputs": "INT8, but for the operators that form the outputs",
    "float-tenth": "INT8, but for the tenth of the operators that add the most error",
    "float-half": "INT8, but for the half of the operators that adds the most error",
    "int16x8": "16-bit activations, 8-bit weights",
    "dynamic-range": "8-bit weights, activations in float",
    "float16": "16-bit weights, activations in float",
}
WITHOUT_INT8 = ("int16x8", "dynamic-range", "float16")  # activations
INT8_ONLY = ("int8", "int8-clipped")
SLOW = 4.0  # times float's time on this computer: kernels that nobody has made fast. Taken only when nothing else fits


def percent(share: float) -> str:
    """With two digits behind the point, or as many as it has."""
    short = f"{share:.2%}"
    return short if math.isclose(float(short[:-1]), 100 * share) else f"{100 * share:.4g}%"


@dataclass(frozen=True)
class Candidate:
    """`drop` is what it loses of `metric` against float, as a share of 1; `latency_ratio` its time on this computer
    divided by float's, `latency_low` the lower end of the ratio's 95 % interval; `size` in bytes. `failure` says why it
    cannot be used; then the rest may be None. `passed_over` says why one that runs was not taken.
    """

    name: str
    size: int | None = None
    metric: str | None = None
    drop: float | None = None
    latency_ratio: float | None = None
    failure: str | None = None
    latency_low: float | None = None
    passed_over: str | None = None

    @property
    def what(self) -> str:
        """In words."""
        return RUNGS[self.name]

    @property
    def slow(self) -> bool:
        """Whether it surely takes more than SLOW times float's time here."""
        return (self.latency_low or 0.0) > SLOW

    @property
    def outcome(self) -> str:
        """In words: why it was not taken, if it was not, and what it is."""
        return self.failure or ": ".join(filter(None, (self.passed_over, self.what)))

    def judged(self, max_drop: float, taken: str | None) -> "Candidate":
        """With the reason why it was passed over for the one that was `taken`, if any was."""
        if self.name == taken or self.drop is None:
            return self
        budget = percent(max_drop).replace("%", " %")
        slow = f"within {budget}, but {self.latency_ratio or 0.0:.1f} times float's time here"
        return replace(self, passed_over=f"above {budget}" if self.drop > max_drop else slow)
