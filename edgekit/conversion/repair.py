"""repair: candidates from full INT8 outwards, until one loses no more than the budget and is not slower than float.

Each is built, run and judged in processes of their own: a candidate that crashes its interpreter is one that failed.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit_runtime import schema
from edgekit_runtime.manifest import ANCHORS

from edgekit import worker
from edgekit.conversion import layers, prove, quantize, rungs
from edgekit.conversion.candidate import INT8_ONLY, RUNGS, Candidate, percent
from edgekit.errors import CheckFailed, UserError
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import gate
from edgekit.runtimes.table import Wheel
from edgekit.validation import validate
from edgekit.validation.validate import Validation

MAX_SAMPLES = 256
LIMIT_S = 600.0
USELESS = 0.5  # a loss that nobody would ship
_BLAMED = re.compile(r"\((\w+)\) failed to (?:prepare|invoke)|(\w+) of version \d+, where it has")


@dataclass(frozen=True)
class Budget:
    """What a model may lose (`max_drop`, a share of 1) on which data with which truth (see `validate`), and for which
    board.

    `rehearse` raises CheckFailed for a candidate that the board's interpreter would not take.
    """

    max_drop: float
    data: Path
    profile: DeviceProfile
    interpreter: Wheel
    rehearse: Callable[[quantize.Quantized, prove.Proof, Path], object]
    truth: Path | None = None
    foreground: int | None = None


@dataclass(frozen=True)
class Repaired:
    """`taken` is in the place of the INT8 model; `candidates` are all that were tried, in order."""

    made: quantize.Quantized
    proof: prove.Proof
    taken: Candidate
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class _Tried:
    judged: Candidate
    path: Path
    proof: prove.Proof | None
    notes: tuple[str, ...]


def repair(
    request: quantize.Request,
    made: quantize.Quantized,
    budget: Budget,
    *,
    log: Path | None,
    progress: worker.Progress | None,
) -> Repaired:
    """Climb the ladder. Raises CheckFailed with all candidates when none is good enough."""
    climb = _Climb(request, made, budget, log, progress)
    tried: list[_Tried] = []
    for name in RUNGS:
        if budget.profile.int8_only and name not in INT8_ONLY:
            break
        tried.append(climb.step(name, tried))
        if climb.fits(tried[-1]) and not tried[-1].judged.slow:
            return climb.taken(tried[-1], tried)
    fitting = [one for one in tried if climb.fits(one)]
    if fitting:
        return climb.taken(min(fitting, key=lambda one: one.judged.latency_ratio or 0.0), tried)
    raise _none_fits(request.model, [one.judged for one in tried], budget)


def _none_fits(model: str, candidates: Sequence[Candidate], budget: Budget) -> CheckFailed:
    best = min((one for one in candidates if one.drop is not None), key=lambda one: one.drop or 0.0, default=None)
    if best is not None and best.drop is not None:
        why = f"the best is {best.name}, which loses {best.drop:.2%} of {best.metric}"
        ways = [f"--max-drop {math.ceil(best.drop * 1e4) / 100:g}% takes {best.name}"]
        if best.drop > USELESS and not budget.profile.int8_only:
            ways = ["none of them answers like it at all: are the data, in their range, what it was trained on?"]
    elif candidates and all(gate.TOO_LARGE in (one.failure or "") for one in candidates):
        why = f"none of them fits: {candidates[-1].failure}"
        ways = [gate.SMALLER]
    else:
        why = "none of them runs"
        ways = ["change in the model what stops them, or take a profile with a newer interpreter"]
    if budget.profile.int8_only:
        why += ", and the profile takes INT8 only"
        ways.insert(0, "drop int8_only from the profile, so that what INT8 spoils may stay in float")
    return CheckFailed(
        f"{model}: no candidate loses at most {percent(budget.max_drop)}: {why}",
        hint="; or ".join(ways),
        candidates=[schema.plain(one.judged(budget.max_drop, None)) for one in candidates],
        max_drop=budget.max_drop,
    )


@dataclass(frozen=True)
class _Climb:
    request: quantize.Request
    made: quantize.Quantized
    budget: Budget
    log: Path | None
    progress: worker.Progress | None

    @property
    def folder(self) -> Path:
        return Path(self.request.folder)

    def step(self, name: str, tried: Sequence[_Tried]) -> _Tried:
        path = self.folder / (quantize.INT8 if name == "int8" else f"{name}.tflite")
        try:
            notes = self._built(name, path, tried)
        except (UserError, CheckFailed) as error:
            return _Tried(Candidate(name, failure=error.message), path, None, ())
        judged, proof = self._judged(name, path)
        return _Tried(judged, path, proof, notes)

    def fits(self, one: _Tried) -> bool:
        return one.judged.drop is not None and one.judged.drop <= self.budget.max_drop

    def taken(self, one: _Tried, tried: Sequence[_Tried]) -> Repaired:
        assert one.proof is not None  # mypy: what was judged has run
        if one.path.name != quantize.INT8:
            os.replace(one.path, self.folder / quantize.INT8)
        taken = one.judged
        place = "of those within the fastest" if taken.slow else "the first candidate within"
        reason = f"{taken.what}: loses {taken.drop:.2%} of {taken.metric}, {place} {percent(self.budget.max_drop)}"
        if taken.latency_ratio is not None and (taken.latency_low or 0.0) >= 1:
            reason += f"; no faster than float on this computer ({taken.latency_ratio:.2f} of its time)"
        usual = [note for note in self.made.notes if taken.name == "int8" or not note.startswith(quantize.IN_FLOAT)]
        notes = (*usual, *one.notes, reason)
        candidates = tuple(each.judged.judged(self.budget.max_drop, taken.name) for each in tried)
        return Repaired(replace(self.made, notes=notes), one.proof, taken, candidates)

    def _built(self, name: str, path: Path, tried: Sequence[_Tried]) -> tuple[str, ...]:
        if name == "int8":
            if self.made.failure is not None:
                raise CheckFailed(self.made.failure)
            return ()
        ran = [one for one in tried if one.judged.drop is not None]
        if name in ("int8-clipped", "float-tenth"):
            self._layers(min(ran, key=lambda one: one.judged.drop or 0.0, default=None))
        drops = {one.judged.name: one.judged.drop for one in ran if one.judged.drop is not None}
        clip = drops.get("int8-clipped", 1.0) < drops.get("int8", 1.0)
        wanted = rungs.Request(
            rung=name,
            conversion=self.request,
            made=self.made,
            denied=_blamed(tried),
            clip=clip or name == "int8-clipped",
            output=str(path),
        )
        what = f"building {name} of {self.request.model}"
        plain = worker.run(
            "rung", schema.plain(wanted), what=what, log=self.log, progress=self.progress, time_limit_s=LIMIT_S
        )
        return tuple(plain["notes"])

    def _layers(self, best: _Tried | None) -> None:
        wanted = layers.Request(
            float=str(self.folder / quantize.FLOAT),
            int8=str(best.path) if best else None,
            data=self.request.data,
            preprocess=self.made.preprocess,
            seed=self.request.seed,
            folder=str(self.folder),
        )
        layers.measure(wanted, log=self.log, progress=self.progress)

    def _judged(self, name: str, path: Path) -> tuple[Candidate, prove.Proof | None]:
        """A candidate that some samples accept has to pass with all of them, as the model will."""
        size = path.stat().st_size
        try:
            gate.require(path, self.budget.profile, self.budget.interpreter)
            proof = prove.run(self.request, self.made, path, log=self.log, progress=self.progress)
            self.budget.rehearse(self.made, proof, path)
        except (UserError, CheckFailed) as error:
            return Candidate(name, size, failure=error.message), None
        try:
            found = self._compared(path, MAX_SAMPLES)
            metric, drop = _lost(found, proof)
            if drop <= self.budget.max_drop and found.samples == MAX_SAMPLES:
                found = replace(self._compared(path, None), latency=found.latency)
                metric, drop = _lost(found, proof)
        except CheckFailed as error:  # what is wrong with the data or the truth is wrong for every candidate
            return Candidate(name, size, failure=error.message), None
        took = found.latency
        return Candidate(name, size, metric, drop, took.ratio, latency_low=took.ratio_low), proof

    def _compared(self, path: Path, samples: int | None) -> Validation:
        return validate.validate(
            self.folder / quantize.FLOAT,
            path,
            self.budget.data,
            preprocess=self.made.preprocess,
            labels=self.made.labels,
            task=self.made.task,
            num_threads=self.budget.profile.num_threads,
            samples=samples,
            seed=self.request.seed + 1,
            truth=self.budget.truth,
            foreground=self.budget.foreground,
            detector=(self.made.detection, self.folder / ANCHORS) if self.made.detection else None,
            progress=self.progress,
            log=self.log,
            time_limit_s=None if samples is None else LIMIT_S,
        )


def _lost(found: Validation, proof: prove.Proof) -> tuple[str, float]:
    if proof.lost is not None and not found.metrics:
        return "the original's boxes", proof.lost
    return validate.loss(found)


def _blamed(tried: Sequence[_Tried]) -> tuple[str, ...]:
    """The operators that the interpreter has stopped at, or whose INT8 version it does not have."""
    failures = [one.judged.failure or "" for one in tried]
    return tuple(dict.fromkeys(match[1] or match[2] for text in failures for match in _BLAMED.finditer(text)))
