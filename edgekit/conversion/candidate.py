"""Candidate: one way to make a model small, from full INT8 outwards, and how it was judged."""

from dataclasses import dataclass

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
INT8_ONLY = ("int8", "int8-clipped")


@dataclass(frozen=True)
class Candidate:
    """`drop` is what it loses of `metric` against float, as a share of 1; `latency_ratio` its median time on this
    computer divided by that of float; `size` in bytes. `failure` says why it cannot be used; then the rest may be None.
    """

    name: str
    size: int | None = None
    metric: str | None = None
    drop: float | None = None
    latency_ratio: float | None = None
    failure: str | None = None

    @property
    def what(self) -> str:
        """In words."""
        return RUNGS[self.name]
