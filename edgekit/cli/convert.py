"""`edgekit convert`: a trained model to a board's INT8, compared with float."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import files, options, show
from edgekit.cli.acceptance import Acceptance, Source
from edgekit.cli.figures import FROM_CACHE
from edgekit.conversion import cache
from edgekit.conversion.convert import Made, convert_many, default_log
from edgekit.conversion.record import Files
from edgekit.errors import CheckFailed
from edgekit.profiles import profile


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
    if report is not None:
        files.require_folder(report)
    source = Source(model, declaration, trust_code, calibrate)
    wanted = Acceptance(source, targets, limits, data or calibrate, seed, truth, foreground, report)
    try:
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
                accept=lambda staged: wanted.judge(staged, update),
                progress=update,
                log=default_log(),
            )
    except CheckFailed as failure:
        wanted.refuse(failure)
        if wanted.tried and not json:
            wanted.show()
            show.say(f"{output} is not written, and what was there is as it was")
        raise
    # TensorFlow works in a child; of all children the largest, in KiB on Linux.
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    cost = {"seconds": round(time.monotonic() - begun, 1), "peak_memory_mb": round(peak_mb)}
    if json:
        parts = [
            {**one.plain(), "output": str(each.output), "cached": each.cached}
            for one, each in zip(wanted.tried, made, strict=True)
        ]
        show.data({**parts[0], **cost} if len(parts) == 1 else {"conversions": parts, **cost})
        return
    wanted.show()
    _tell(made, cost)
    for given, one in zip(profile_names, made, strict=True):
        show.next_step("edgekit", "bundle", one.output, "-p", given, "-o", one.output.with_suffix(".ekb"))


def _tell(made: Sequence[Made], cost: dict[str, float]) -> None:
    for one in made:
        show.say(f"wrote {one.output} and {Files.of(one.output).folder}/")
    known = [str(one.output) for one in made if one.cached]
    if known:
        which = "" if len(made) == 1 else f"{', '.join(known)}: "
        show.say(which + FROM_CACHE, style="dim")
    log = default_log()
    if log is not None and len(known) < len(made):
        show.say(f"TensorFlow's own words are in {log}", style="dim")
    show.say(f"{cost['seconds']:.0f} s, peak memory {cost['peak_memory_mb']} MiB", style="dim")
