"""Acceptance: what a converted model must pass before it is written, on which data, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit_runtime import schema

from edgekit.cli import files, show
from edgekit.cli.figures import gate, show_conversion, show_validation
from edgekit.conversion import pruning
from edgekit.conversion.convert import Made, named
from edgekit.conversion.evidence import Evidence, gather
from edgekit.datasets.declaration import Declaration
from edgekit.errors import CheckFailed
from edgekit.profiles.profile import DeviceProfile
from edgekit.reports import conversion_page
from edgekit.validation import validate as validation
from edgekit.validation.validate import Thresholds, Validation
from edgekit.worker import Progress


@dataclass(frozen=True)
class Source:
    """The model as it was given, for what a report says of it."""

    model: Path
    declaration: Declaration
    trust_code: bool
    calibration: Path


@dataclass(frozen=True)
class Tried:
    """A model that was converted for a board, compared with float."""

    made: Made
    target: DeviceProfile
    result: Validation
    evidence: Evidence | None

    def plain(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "conversion": schema.plain(self.made.record),
            "validation": schema.plain(self.result),
            **({} if self.evidence is None else self.evidence.facts()),
        }


@dataclass
class Acceptance:
    """`data`, `seed`, `truth` and `foreground` are what a model is judged on, `report` is where its page goes.

    `tried` is there as soon as models were compared, also when one of them does not pass.
    """

    source: Source
    targets: Sequence[DeviceProfile]
    limits: Thresholds
    data: Path
    seed: int
    truth: Path | None
    foreground: int | None
    report: Path | None
    tried: list[Tried] = field(default_factory=list)

    @property
    def pages(self) -> tuple[Path, ...]:
        """The reports' files."""
        return () if self.report is None else named(self.report, self.targets)

    def judge(self, staged: Sequence[Made], update: Progress) -> None:
        """Compare each with float, write its page, and raise CheckFailed of the first that does not hold."""
        results = self._validated(staged, update)
        evidence: list[Evidence | None] = [None] * len(staged)
        if self.report is not None:
            evidence = self._evidence(staged, update)
        self.tried += [Tried(*each) for each in zip(staged, self.targets, results, evidence, strict=True)]
        for page, one in zip(self.pages, self.tried, strict=False):
            if one.evidence is not None:
                files.write(page, conversion_page.render(one.made.record, one.result, one.evidence))
        for one in self.tried:
            # What has no labels the repair has judged by how near it is to float.
            held = self.limits if one.result.metrics else replace(self.limits, max_accuracy_drop=None)
            try:
                gate(one.result, held)
            except CheckFailed as failure:
                if self.limits.max_accuracy_drop is not None:
                    failure.hint = (
                        "a repair is held to --max-drop alone: make that smaller, or the other thresholds less"
                    )
                if len(staged) > 1:
                    failure.message = f"{one.made.record.profile}: {failure.message}"
                raise

    def refuse(self, failure: CheckFailed) -> None:
        """Write the page of a repair that has found nothing; of any other failure there is none."""
        if self.report is not None and "candidates" in failure.fields:
            files.write(self.report, conversion_page.refused(self.source.model.name, failure))
            show.say(f"wrote {self.report}")

    def show(self) -> None:
        """What was tried, for people."""
        for one in self.tried:
            record = one.made.record
            show_conversion(record, one.target)
            calibrated = record.provenance.calibration.samples if self.data == self.source.calibration else None
            show_validation(one.result, calibrated=calibrated, told=record.notes, kind=record.kind)
        for page in self.pages if self.tried else ():
            show.say(f"wrote {page}")

    def _validated(self, staged: Sequence[Made], update: Progress) -> list[Validation]:
        """Of each; the same model with the same threads is measured once."""
        known: dict[tuple[str, int], Validation] = {}
        for one, target in zip(staged, self.targets, strict=True):
            same = (one.record.model_sha256, target.num_threads)
            if same not in known:
                known[same] = validation.validate_conversion(
                    one.output,
                    self.data,
                    num_threads=target.num_threads,
                    seed=self.seed + 1,
                    truth=self.truth,
                    foreground=self.foreground,
                    progress=update,
                )
        return [
            known[one.record.model_sha256, target.num_threads] for one, target in zip(staged, self.targets, strict=True)
        ]

    def _evidence(self, staged: Sequence[Made], update: Progress) -> list[Evidence | None]:
        given = self.source
        spared = pruning.measure(
            given.model, staged[0].record, given.declaration, trust_code=given.trust_code, progress=update
        )
        return [
            gather(
                one.output,
                one.record,
                calibration=given.calibration,
                data=self.data,
                seed=self.seed,
                pruning=spared,
                progress=update,
            )
            for one in staged
        ]
