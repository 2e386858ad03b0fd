"""Finding: something about calibration data or declaration that a person should look at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`name` is one word for programs; `seen` and `proposal` are for people."""

    name: str
    seen: str
    proposal: str

    def __str__(self) -> str:
        return f"{self.seen}: {self.proposal}"
