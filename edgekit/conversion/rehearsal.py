"""Rehearsal: what an interpreter said of a converted model before a board sees it."""

from dataclasses import dataclass

PASSED, DIFFERS, NOT_RUN = "passed", "differs", "not-run"


@dataclass(frozen=True)
class Rehearsal:
    """What one interpreter said of a model. `verdict` is "passed", "not-prepared", "not-invoked", "not-finite",
    "differs" (from float by more than a board allows), "crashed", "timed-out" or "not-run".

    `batch` is the largest batch up to 4 whose results are those of single runs, `batch_refused` why it is less.
    `instead_of` is the board's interpreter where this computer has none of it, and `runtime` the nearest newer one.
    """

    runtime: str
    xnnpack: bool
    verdict: str
    reason: str | None = None
    proposal: str | None = None
    batch: int | None = None
    batch_refused: str | None = None
    instead_of: str | None = None

    def __str__(self) -> str:
        how = self.runtime if self.xnnpack else f"{self.runtime} without XNNPACK"
        return f"{how}: {self.verdict}" + (f": {self.reason}" if self.reason else "")
