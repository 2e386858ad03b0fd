"""deploy: the chain from a trained model to a measured release on a board."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgekit_runtime.benchreport import BenchReport

from edgekit import board as boards
from edgekit.board import Board, FirstBoot, PushResult, Status
from edgekit.bundles import bundle, packing
from edgekit.conversion.convert import convert_many
from edgekit.conversion.record import Conversion, Files
from edgekit.datasets.declaration import Declaration
from edgekit.errors import CheckFailed, UserError
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import resolve
from edgekit.validation import validate
from edgekit.validation.metric import Metric
from edgekit.validation.validate import Thresholds, Validation

Progress = Callable[[str, int, int], None]

# With fewer, a single sample weighs more than the profile's budget of a point.
MIN_LABELLED = 100


@dataclass(frozen=True)
class Prepared:
    """What was made on the host: `model` is the INT8 `.tflite`, `bundle` the file that boards get.

    `cached` says that the conversion was taken from the cache.
    """

    model: Path
    bundle: Path
    conversion: Conversion
    validation: Validation
    cached: bool = False


@dataclass(frozen=True)
class Deployment:
    """A release on a board, measured. `float_bench` is the float model's on the same board, if it was asked for.

    On a mounted root file system nothing is measured: `bench` is None, `first_boot` says what activates the release.
    """

    board: str
    release: str
    conversion: Conversion
    validation: Validation
    push: PushResult
    status: Status
    bench: BenchReport | None
    float_bench: BenchReport | None
    first_boot: FirstBoot | None = None


def prepare(
    model: Path,
    *,
    profile: DeviceProfile,
    data: Path,
    output: Path,
    held_out: Path | None = None,
    declaration: Declaration | None = None,
    samples: int = 200,
    seed: int = 0,
    trust_code: bool = False,
    allow_float: bool = False,
    thresholds: Thresholds | None = None,
    truth: Path | None = None,
    foreground: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Convert, validate and bundle into the folder `output`. The runtime is fetched first: a profile without an
    interpreter, or one that is not in the cache and cannot be had, is refused before anything is converted.

    The profile's `max_accuracy_drop` is the limit unless `thresholds` states one, where at least `MIN_LABELLED` samples
    are judged by labels or `truth`, and of fewer where all of the loss's interval is above it. A limit that
    `thresholds` states is a budget: what loses more is repaired (see `convert`, also for `cache`).

    Raises UserError and CheckFailed as its steps do; CheckFailed also when a threshold does not hold.
    """
    resolve.fetch(profile, progress=progress)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be made: {error.strerror or error}", path=str(output)) from error
    target = output / "model.tflite"
    (done,) = convert_many(
        model,
        profiles=[profile],
        data=data,
        output=target,
        declaration=declaration,
        samples=samples,
        seed=seed,
        trust_code=trust_code,
        allow_float=allow_float,
        max_drop=thresholds.max_accuracy_drop if thresholds else None,
        held_out=held_out,
        truth=truth,
        foreground=foreground,
        cache=cache,
        progress=progress,
    )
    record = done.record
    validation = validate.validate_conversion(
        target,
        held_out or data,
        num_threads=profile.num_threads,
        seed=seed + 1,
        truth=truth,
        foreground=foreground,
        progress=progress,
    )
    limits = thresholds or Thresholds()
    if not validation.metrics:  # then the repair has judged it by how near it is to float
        limits = replace(limits, max_accuracy_drop=None)
    if limits.max_accuracy_drop is None and holds(validation.metrics, profile.max_accuracy_drop):
        limits = replace(limits, max_accuracy_drop=profile.max_accuracy_drop)
    validate.check(validation, limits)
    made = packing.pack(target, profile, output / f"{packing.release_name(record.name)}.ekb", progress=progress)
    return Prepared(target, made.path, record, validation, done.cached)


def holds(metrics: Sequence[Metric], limit: float) -> bool:
    """Whether a model with these metrics is held to the profile's limit, a share of 1 that nobody has asked for: with
    `MIN_LABELLED` samples, or where all of the interval of what it loses is beyond.
    """
    if not metrics:
        return False
    judged = metrics[0]
    share = judged.lost / judged.drop if judged.drop else 1.0  # of 1, for decibels
    return judged.n >= MIN_LABELLED or (judged.half is not None and judged.lost - share * judged.half > limit)


def deliver(
    prepared: Prepared,
    board: Board,
    *,
    with_float: bool = True,
    progress: Progress | None = None,
) -> Deployment:
    """Push, activate and measure; on a mounted root file system push, and leave activation to its first boot.

    Raises DeviceError and CheckFailed as its steps do; a board that refuses the release keeps the one it had.
    """
    told = progress or _nobody
    made = bundle.open_bundle(prepared.bundle)
    told("push", 0, 1)
    pushed = boards.push(board, made, progress=partial(told, "push"))
    told("check and activate", 0, 1)
    status = boards.activate(board, pushed.release_id)
    told("check and activate", 1, 1)
    if not board.transport.runs:
        return Deployment(
            board.name,
            pushed.release_id,
            prepared.conversion,
            prepared.validation,
            pushed,
            status,
            None,
            None,
            boards.first_boot(board),
        )
    told("measure", 0, 1 + with_float)
    measured = boards.bench(board)
    told("measure", 1, 1 + with_float)
    reference = None
    if with_float:
        reference = boards.bench_file(
            board, Files.of(prepared.model).float, ("--num-threads", str(measured.num_threads))
        )
    return Deployment(
        board.name, pushed.release_id, prepared.conversion, prepared.validation, pushed, status, measured, reference
    )


def _nobody(_stage: str, _done: int, _total: int) -> None:
    return None


def judge(deployment: Deployment, profile: DeviceProfile) -> None:
    """Hold the figures of the board to the profile's budgets. Raises CheckFailed; the release stays current.

    Latency is the median, and judged only where the times are valid; memory is the process's peak. What was not
    measured is not judged.
    """
    report = deployment.bench
    if report is None:
        return
    failures = []
    limit, median = profile.max_latency_ms, report.latency.median_ms
    if limit is not None and report.validity.valid and median > limit:
        failures.append(f"the median latency is {median:.2f} ms, the profile allows {limit:g} ms")
    peak = report.memory.peak_mem_mb
    if peak is not None and peak > profile.max_ram_mb:
        failures.append(f"the peak memory is {peak:.0f} MiB, the profile allows {profile.max_ram_mb} MiB")
    if failures:
        raise CheckFailed(
            f"{deployment.board}: the release is over the budget of {profile.name}: {'; '.join(failures)}",
            hint=f"edgekit rollback {deployment.board}, or raise the budget in the profile",
            board=deployment.board,
            failures=failures,
        )
