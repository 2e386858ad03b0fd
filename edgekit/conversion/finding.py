"""Finding: something about calibration data or declaration that a person should look at."""

from dataclasses import dataclass

# What makes a model answer nonsense, or its figures untrue; the others cost some accuracy at most.
SERIOUS = frozenset({"range", "color-order", "double-normalisation", "constant-input", "labels", "leakage"})


@dataclass(frozen=True)
class Finding:
    """`name` is one word for programs; `seen` and `proposal` are for people."""

    name: str
    seen: str
    proposal: str

    def __str__(self) -> str:
        return f"{self.seen}: {self.proposal}"

    @property
    def serious(self) -> bool:
        """Whether it is better not to go on."""
        return self.name in SERIOUS
