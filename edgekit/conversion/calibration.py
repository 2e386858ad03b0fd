"""CalibrationRecord: which samples set the ranges, and what was found about them. A member of every release.

Their SHA-256 and no names: so it can be shown later that a sample was among them, and nothing else is given away.
"""

from dataclasses import dataclass

SCHEMA = 1
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class CalibrationRecord:
    """`samples` are the SHA-256 of each sample (of the picture's file, or of its arrays) in the order of their use;
    the SHA-256 of all of these, one behind the other, is the manifest's `digest`. `findings` are the doctor's, by name.
    """

    samples: tuple[str, ...]
    seed: int
    count: int
    skipped: int
    findings: tuple[str, ...] = ()
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"calibration record of schema {self.schema}; this edgekit reads {SCHEMA}")
        if self.count != len(self.samples):
            raise ValueError(f"{self.count} samples, but {len(self.samples)} are listed")
