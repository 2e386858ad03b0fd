"""What a conversion and its validation are, for people; and the gates that they are held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit_runtime import schema

from edgekit.cli import show
from edgekit.conversion.candidate import Candidate
from edgekit.conversion.record import Conversion
from edgekit.conversion.rehearsal import NOT_RUN, PASSED, Rehearsal
from edgekit.errors import CheckFailed, EdgekitError
from edgekit.profiles.profile import DeviceProfile
from edgekit.validation import validate as validation
from edgekit.validation.validate import Thresholds, Validation

FROM_CACHE = "from the cache: the same was converted before (--no-cache converts anew)"


def gate(result: Validation, limits: Thresholds) -> None:
    """Raises CheckFailed with the figures in it, so that a program gets one document whatever happens."""
    try:
        validation.check(result, limits)
    except CheckFailed as failure:
        failure.fields["validation"] = schema.plain(result)
        raise


def show_conversion(made: Conversion, facts: DeviceProfile) -> None:
    """What was converted, and how."""
    rows = [("input", show.tensor(spec)) for spec in made.inputs] + [
        ("output", show.tensor(spec)) for spec in made.outputs
    ]
    calibration = made.provenance.calibration
    rows.append(("calibrated with", f"{calibration.samples} samples, seed {calibration.seed}"))
    if made.arena_bytes is not None:
        rows.append(("memory", show.memory(made.arena_bytes, made.model_size)))
    if made.delegation is not None:
        rows.append(("XNNPACK here", str(made.delegation)))
    rows += [
        (one.instead_of or one.runtime if one.xnnpack else "without XNNPACK", _answer(one)) for one in made.rehearsals
    ]
    if calibration.skipped:
        rows.append(("skipped", f"{calibration.skipped} unreadable picture{'s' * (calibration.skipped > 1)}"))
    show.table(f"{made.name}: {made.provenance.source_format} to {_kind(made.kind)} for {facts.name}", ["", ""], rows)
    if len(made.candidates) > 1:
        show_candidates(made.candidates, made.kind)
    for finding in made.findings:
        show.say(str(finding), label="warning:", style="bold yellow")
    for one in made.rehearsals:
        if one.verdict != PASSED:
            show.say(f"{one}; {one.proposal}", label="note:", style="yellow")
    for note in made.notes:
        show.say(note, label="note:", style="yellow")


def _answer(one: Rehearsal) -> str:
    if one.verdict == NOT_RUN:
        return "not tried here"
    if one.instead_of is not None:
        tried = f"{one.verdict} in {one.runtime} instead, the nearest that this computer has"
        return f"{tried}; of {one.instead_of} only the operators and their versions are known"
    if one.batch is None:
        return f"{one.verdict} here"
    return f"{one.verdict} here; {one.batch_refused or f'a batch of {one.batch} answers as {one.batch} single runs do'}"


def show_candidates(candidates: Sequence[Candidate], taken: str) -> None:
    """What was tried, from full INT8 outwards, and what of it was taken."""
    rows = [(f"{one.name} (taken)" if one.name == taken else one.name, *_cost(one), one.outcome) for one in candidates]
    show.table("candidates", _columns(candidates), rows)


def show_refused(failure: EdgekitError) -> None:
    """As talk, what a repair has tried that took nothing, and why not; nothing of any other failure."""
    if "candidates" not in failure.fields:
        return
    candidates = [schema.read(Candidate, one, "candidates") for one in failure.fields["candidates"]]
    rows = [(one.name, *_cost(one), one.outcome) for one in candidates]
    show.table("candidates, none of them taken", _columns(candidates), rows, console=show.talk())


def _columns(candidates: Sequence[Candidate]) -> list[str]:
    metric = next((one.metric for one in reversed(candidates) if one.metric), None)
    return ["", "size", f"loses of {metric}" if metric else "loses", "time / float here", ""]


def _cost(one: Candidate) -> tuple[str, str, str]:
    return (
        show.size(one.size) if one.size is not None else "",
        f"{100 * one.drop:.2f} %" if one.drop is not None else "-",
        f"{one.latency_ratio:.2f}x" if one.latency_ratio is not None else "",
    )


def show_validation(
    result: Validation, *, calibrated: int | None = None, told: Sequence[str] = (), kind: str = "int8"
) -> None:
    """FP32 against INT8, or what a repair has made, side by side; `calibrated` is how many of the samples have
    calibrated it, None where the data are others.

    Notes that were `told` already are not repeated.
    """
    rows: list[tuple[str, Any, Any, Any]] = [
        (
            "size",
            show.size(result.float_size),
            show.size(result.int8_size),
            _shrunk(result.float_size, result.int8_size),
        )
    ]
    rows.extend((metric.name, *metric.shown) for metric in result.metrics)
    latency = result.latency
    slower = "no faster than FP32 here; " if latency.no_faster else ""
    rows.append(
        (
            "latency on this computer",
            f"{latency.float_ms:.3f} ms",
            f"{latency.int8_ms:.3f} ms",
            f"{slower}says nothing of a board",
        )
    )
    data = "samples" if calibrated is None else f"samples, of which {calibrated} have calibrated it"
    small = _kind(kind)
    show.table(f"FP32 against {small}, {result.samples} {data}", ["", "FP32", small, ""], rows)
    if result.top1_agreement is not None:
        top5 = "" if result.top5_agreement is None else f", in the best five: {show.percent(result.top5_agreement)}"
        show.line(f"same best class: {show.percent(result.top1_agreement)}{top5}")
    for distance in result.outputs:
        sqnr = "exact" if distance.sqnr_db is None else f"{distance.sqnr_db:.1f} dB"
        show.line(
            f"output {distance.output}: cosine {distance.cosine:.4f}, SQNR {sqnr}, "
            f"largest difference {distance.max_abs:.4g}"
        )
    for note in result.notes:
        if note not in told:
            show.say(note, label="note:", style="yellow")
    if calibrated is not None:
        show.say(
            "validated on what has calibrated it, too, which flatters INT8: give held-out data with --data",
            label="note:",
            style="yellow",
        )


def _kind(name: str) -> str:
    return "INT8" if name == "int8" else name


def _shrunk(before: int, after: int) -> str:
    return f"{before / after:.1f}x smaller" if after <= before else f"{after / before:.1f}x larger"
