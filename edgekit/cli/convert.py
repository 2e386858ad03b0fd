"""`edgekit convert`: a trained model to a board's INT8, compared with float."""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from edgekit_runtime import schema

from edgekit.cli import files, options, show
from edgekit.cli.figures import gate, show_conversion, show_validation
from edgekit.conversion.convert import convert as convert_model
from edgekit.conversion.convert import default_log
from edgekit.conversion.layers import LayerReport, measure
from edgekit.conversion.layers import Request as LayerRequest
from edgekit.conversion.record import Conversion, Files
from edgekit.profiles import profile
from edgekit.reports import conversion_page
from edgekit.validation import validate as validation


def convert(
    model: options.Model,
    profile_name: options.ProfileName,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The .tflite to write; its record goes into a folder NAME.edgekit beside it.",
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
    min_cosine: options.MinCosine = None,
    min_sqnr: options.MinSqnr = None,
    min_agreement: options.MinAgreement = None,
    max_drop: options.Budget = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write a page (HTML) with error by layer and what was tried."),
    ] = None,
) -> None:
    """Convert a trained model to full INT8 TFLite for a board, run it, and compare it with float.

    Example: edgekit convert model.keras -p raspberry-pi-4b -c photos --range -1..1 -o model.tflite
    """
    facts = profile.find(profile_name, profiles or ())
    limits = options.thresholds(min_cosine, min_sqnr, min_agreement, max_drop)
    declaration = options.declared(
        declare, labels, size, name=name, task=task, range=range_, mean=mean, std=std, color=color,
        resize=resize, filter=filter_, pad=pad,
    )  # fmt: skip
    log = default_log()
    begun = time.monotonic()
    with show.progress() as update:
        made = convert_model(
            model,
            profile=facts,
            data=calibrate,
            output=output,
            declaration=declaration,
            samples=samples,
            seed=seed,
            trust_code=trust_code,
            allow_float=allow_float,
            max_drop=limits.max_accuracy_drop,
            held_out=data,
            progress=update,
            log=log,
        )
        result = validation.validate_conversion(
            output, data or calibrate, num_threads=facts.num_threads, seed=seed + 1, progress=update
        )
        if report is not None:
            layers = _layers(output, calibrate, made, seed, update)
            files.write(report, conversion_page.render(made, result, layers).encode("utf-8"))
    seconds = time.monotonic() - begun
    # TensorFlow works in a child; of all children this is the largest, in KiB on Linux.
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    if result.accuracy is None:
        limits = replace(limits, max_accuracy_drop=None)  # the repair has judged it by how near it is to float
    if not json:
        show_conversion(made, facts)
        show_validation(result, held_out=data not in (None, calibrate), told=made.notes, kind=made.kind)
        show.say(f"wrote {output} and {Files.of(output).folder}/" + (f", and {report}" if report else ""))
        if log is not None:
            show.say(f"TensorFlow's own words are in {log}", style="dim")
        show.say(f"{seconds:.0f} s, peak memory {peak_mb:.0f} MiB", style="dim")
    gate(result, limits)
    if json:
        show.data(
            {
                "conversion": schema.plain(made),
                "validation": schema.plain(result),
                "output": str(output),
                "seconds": round(seconds, 1),
                "peak_memory_mb": round(peak_mb),
            }
        )
        return
    show.next_step("edgekit", "bundle", output, "-p", profile_name, "-o", output.with_suffix(".ekb"))


def _layers(model: Path, data: Path, made: Conversion, seed: int, update: show.ProgressCallback) -> LayerReport:
    with tempfile.TemporaryDirectory() as folder:
        float_model = str(Files.of(model).float)
        return measure(LayerRequest(float_model, str(model), str(data), made.preprocess, seed, folder), progress=update)
