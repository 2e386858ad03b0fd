"""`edgekit convert`: a trained model to a board's INT8, compared with float."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from edgekit_runtime import schema

from edgekit.cli import files, options, show
from edgekit.cli.figures import FROM_CACHE, gate, show_conversion, show_validation
from edgekit.conversion import cache, pruning
from edgekit.conversion.convert import Made, convert_many, default_log, named
from edgekit.conversion.evidence import Evidence, gather
from edgekit.conversion.record import Files
from edgekit.errors import CheckFailed
from edgekit.profiles import profile
from edgekit.profiles.profile import DeviceProfile
from edgekit.reports import conversion_page
from edgekit.validation import validate as validation
from edgekit.validation.validate import Thresholds, Validation


@dataclass(frozen=True)
class Judged:
    """What a model is judged on, and what is right there."""

    data: Path
    seed: int
    truth: Path | None
    foreground: int | None


def convert(
    model: options.Model,
    profile_names: options.ProfileNames,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The .tflite to write, NAME.tflite; its record goes into a folder NAME.edgekit beside it.",
        ),
    ],
    calibrate: options.Calibrate,
    profiles: options.Profiles = None,
    json: show.Json = False,
    declare: options.Declare = None,
    name: options.Name = None,
    task: options.Task = None,
    labels: options.Labels = None,
    trust_code: options.TrustCode = False,
    allow_float: options.AllowFloat = False,
    range_: options.Range = None,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    color: options.Color = None,
    resize: options.Resize = None,
    filter_: options.Filter = None,
    pad: options.Pad = None,
    samples: options.Samples = 200,
    seed: options.Seed = 0,
    data: options.HeldOut = None,
    truth: options.Truth = None,
    foreground: options.Foreground = None,
    min_cosine: options.MinCosine = None,
    min_sqnr: options.MinSqnr = None,
    min_agreement: options.MinAgreement = None,
    max_drop: options.Budget = None,
    no_cache: options.NoCache = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write a page (HTML): what pruning spared, what was tried, examples, error by layer.",
        ),
    ] = None,
) -> None:
    """Convert a trained model to full INT8 TFLite for a board, run it, and compare it with float.

    Example: edgekit convert model.keras -p raspberry-pi-4b -c photos --range -1..1 -o model.tflite
    """
    targets = [profile.find(name, profiles or ()) for name in profile_names]
    limits = options.thresholds(min_cosine, min_sqnr, min_agreement, max_drop)
    declaration = options.declared(
        declare, labels, size, name=name, task=task, range=range_, mean=mean, std=std, color=color,
        resize=resize, filter=filter_, pad=pad,
    )  # fmt: skip
    begun = time.monotonic()
    with show.progress() as update:
        made = convert_many(
            model,
            profiles=targets,
            data=calibrate,
            output=output,
            declaration=declaration,
            samples=samples,
            seed=seed,
            trust_code=trust_code,
            allow_float=allow_float,
            max_drop=limits.max_accuracy_drop,
            held_out=data,
            truth=truth,
            foreground=foreground,
            cache=None if no_cache else cache.default(),
            progress=update,
            log=default_log(),
        )
        judged = Judged(data or calibrate, seed + 1, truth, foreground)
        results = _validated(made, targets, judged, update)
        evidence: list[Evidence] = []
        if report is not None:
            spared = pruning.measure(model, made[0].record, declaration, trust_code=trust_code, progress=update)
            evidence = [
                gather(
                    one.output,
                    one.record,
                    calibration=calibrate,
                    data=judged.data,
                    seed=seed,
                    pruning=spared,
                    progress=update,
                )
                for one in made
            ]
            for page, one, result, found in zip(named(report, targets), made, results, evidence, strict=True):
                files.write(page, conversion_page.render(one.record, result, found))
    # TensorFlow works in a child; of all children the largest, in KiB on Linux.
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    cost = {"seconds": round(time.monotonic() - begun, 1), "peak_memory_mb": round(peak_mb)}
    if not json:
        for target, one, result in zip(targets, made, results, strict=True):
            show_conversion(one.record, target)
            used = one.record.provenance.calibration.samples if data in (None, calibrate) else None
            show_validation(result, calibrated=used, told=one.record.notes, kind=one.record.kind)
        _tell(made, () if report is None else named(report, targets), cost)
    _judge(made, results, limits)
    if json:
        parts = [_plain(one, result) for one, result in zip(made, results, strict=True)]
        for part, found in zip(parts, evidence, strict=False):
            part.update(found.facts())
        show.data({**parts[0], **cost} if len(parts) == 1 else {"conversions": parts, **cost})
        return
    for given, one in zip(profile_names, made, strict=True):
        show.next_step("edgekit", "bundle", one.output, "-p", given, "-o", one.output.with_suffix(".ekb"))


def _validated(
    made: Sequence[Made], targets: Sequence[DeviceProfile], judged: Judged, update: show.ProgressCallback
) -> list[Validation]:
    """Of each; the same model with the same threads is measured once."""
    known: dict[tuple[str, int], Validation] = {}
    for one, target in zip(made, targets, strict=True):
        same = (one.record.model_sha256, target.num_threads)
        if same not in known:
            known[same] = validation.validate_conversion(
                one.output,
                judged.data,
                num_threads=target.num_threads,
                seed=judged.seed,
                truth=judged.truth,
                foreground=judged.foreground,
                progress=update,
            )
    return [known[one.record.model_sha256, target.num_threads] for one, target in zip(made, targets, strict=True)]


def _tell(made: Sequence[Made], pages: Sequence[Path], cost: dict[str, float]) -> None:
    for number, one in enumerate(made):
        page = f", and {pages[number]}" if pages else ""
        show.say(f"wrote {one.output} and {Files.of(one.output).folder}/{page}")
    known = [str(one.output) for one in made if one.cached]
    if known:
        which = "" if len(made) == 1 else f"{', '.join(known)}: "
        show.say(which + FROM_CACHE, style="dim")
    log = default_log()
    if log is not None and len(known) < len(made):
        show.say(f"TensorFlow's own words are in {log}", style="dim")
    show.say(f"{cost['seconds']:.0f} s, peak memory {cost['peak_memory_mb']} MiB", style="dim")


def _judge(made: Sequence[Made], results: Sequence[Validation], limits: Thresholds) -> None:
    """Raises CheckFailed of the first that does not hold; of several it says which."""
    for one, result in zip(made, results, strict=True):
        # What has no labels the repair has judged by how near it is to float.
        held = limits if result.metrics else replace(limits, max_accuracy_drop=None)
        try:
            gate(result, held)
        except CheckFailed as failure:
            if len(made) > 1:
                failure.message = f"{one.record.profile}: {failure.message}"
            raise


def _plain(one: Made, result: Validation) -> dict[str, object]:
    return {
        "conversion": schema.plain(one.record),
        "validation": schema.plain(result),
        "output": str(one.output),
        "cached": one.cached,
    }
