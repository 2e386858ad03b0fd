"""Commands about a model on this computer: inspect, calibration, convert, validate, bundle."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from edgekit_runtime import schema

from edgekit.bundles import packing
from edgekit.cli import calibration, files, inspect, options, show
from edgekit.cli.help import Command
from edgekit.conversion.candidate import Candidate
from edgekit.conversion.convert import convert as convert_model
from edgekit.conversion.convert import default_log
from edgekit.conversion.layers import LayerReport, measure
from edgekit.conversion.layers import Request as LayerRequest
from edgekit.conversion.record import Conversion, Files
from edgekit.errors import CheckFailed
from edgekit.profiles import profile
from edgekit.profiles.profile import DeviceProfile
from edgekit.reports import conversion_page
from edgekit.validation import validate as validation
from edgekit.validation.validate import Thresholds, Validation

Converted = Annotated[Path, typer.Argument(metavar="MODEL.tflite", help="What 'edgekit convert' made.")]


def add_to(root: typer.Typer) -> None:
    for command in (inspect.inspect, calibration.calibration, convert, validate, bundle):
        root.command(cls=Command, rich_help_panel="Models")(command)


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


def validate(
    int8: Converted,
    data: Annotated[Path, typer.Option("--data", "-d", metavar="DATA", help="Held-out data, with labels or without.")],
    float_model: Annotated[
        Path | None,
        typer.Option("--float", metavar="FILE", help="The float .tflite; default: the one of the conversion."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", metavar="N", min=1, help="At most this many samples; default: all.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Chooses the samples.")] = 0,
    num_threads: Annotated[
        int, typer.Option("--num-threads", metavar="N", min=1, help="Threads of the interpreter.")
    ] = 1,
    json: show.Json = False,
    min_cosine: options.MinCosine = None,
    min_sqnr: options.MinSqnr = None,
    min_agreement: options.MinAgreement = None,
    max_drop: options.MaxDrop = None,
) -> None:
    """Compare INT8 with float on the same inputs, both through the Engine that ships.

    Example: edgekit validate model.tflite -d held-out --max-drop 1%
    """
    limits = options.thresholds(min_cosine, min_sqnr, min_agreement, max_drop)
    with show.progress() as update:
        if float_model is None:
            result = validation.validate_conversion(
                int8, data, num_threads=num_threads, samples=samples, seed=seed, progress=update
            )
        else:
            record = Conversion.load(int8) if Files.of(int8).record.is_file() else None
            result = validation.validate(
                float_model,
                int8,
                data,
                preprocess=record.preprocess if record else None,
                labels=record.labels if record else None,
                task=record.task if record else "raw",
                num_threads=num_threads,
                samples=samples,
                seed=seed,
                progress=update,
            )
    if not json:
        show_validation(result, held_out=True)
    gate(result, limits)
    if json:
        show.data(result)
        return
    show.next_step("edgekit", "bundle", int8, "-p", "PROFILE", "-o", int8.with_suffix(".ekb"))


def bundle(
    model: Converted,
    profile_name: options.ProfileName,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .ekb to write.")],
    counter: Annotated[
        int, typer.Option("--counter", metavar="N", min=0, help="The release's number, kept in it; count it up.")
    ] = 0,
    profiles: options.Profiles = None,
    json: show.Json = False,
) -> None:
    """Put a converted model and all that its board needs into one file: the same inputs give the same bytes.

    In it: the model, its manifest, golden samples, labels, the interpreter and, where the profile says so, NumPy.
    """
    facts = profile.find(profile_name, profiles or ())
    with show.progress() as update:
        made = packing.pack(model, facts, output, counter=counter, progress=update)
    release = made.release
    size = output.stat().st_size
    if json:
        show.data(
            {
                "bundle": str(output),
                "release": release.id,
                "name": release.name,
                "profile": release.profile,
                "bytes": size,
                "members": [schema.plain(member) for member in release.members],
            }
        )
        return
    own = [member for member in release.members if not member.name.startswith("runtime/")]
    rows = [(member.name, show.size(member.size), member.sha256[:12]) for member in own]
    rest = [member for member in release.members if member.name.startswith("runtime/")]
    rows.append((f"runtime/ ({len(rest)} files)", show.size(sum(member.size for member in rest)), ""))
    show.table(
        f"release {show.short(release.id)} ({release.name} for {release.profile})", ["member", "size", "sha256"], rows
    )
    show.say(f"wrote {output} ({show.size(size)})")
    show.next_step("edgekit", "push", output, "BOARD")


def _layers(model: Path, data: Path, made: Conversion, seed: int, update: show.ProgressCallback) -> LayerReport:
    with tempfile.TemporaryDirectory() as folder:
        float_model = str(Files.of(model).float)
        return measure(LayerRequest(float_model, str(model), str(data), made.preprocess, seed, folder), progress=update)


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
    if calibration.skipped:
        rows.append(("skipped", f"{calibration.skipped} unreadable picture{'s' * (calibration.skipped > 1)}"))
    show.table(f"{made.name}: {made.provenance.source_format} to {_kind(made.kind)} for {facts.name}", ["", ""], rows)
    if len(made.candidates) > 1:
        show_candidates(made.candidates, made.kind)
    for finding in made.findings:
        show.say(str(finding), label="warning:", style="bold yellow")
    for note in made.notes:
        show.say(note, label="note:", style="yellow")


def show_candidates(candidates: Sequence[Candidate], taken: str) -> None:
    """What was tried, from full INT8 outwards, and what of it was taken."""
    rows = [
        (
            f"{one.name} (taken)" if one.name == taken else one.name,
            show.size(one.size) if one.size is not None else "",
            f"{100 * one.drop:.2f} %" if one.drop is not None else "-",
            f"{one.latency_ratio:.2f}x" if one.latency_ratio is not None else "",
            one.failure or one.what,
        )
        for one in candidates
    ]
    metric = next((one.metric for one in reversed(candidates) if one.metric), "")
    show.table("candidates", ["", "size", f"loses of {metric}", "time / float here", ""], rows)


def show_validation(result: Validation, *, held_out: bool, told: Sequence[str] = (), kind: str = "int8") -> None:
    """FP32 against INT8, or what a repair has made, side by side; `held_out` says that the data are not those of the
    calibration.

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
    if result.accuracy is not None:
        scores = result.accuracy
        rows.append(
            ("top-1 accuracy", show.percent(scores.float_top1), show.percent(scores.int8_top1), f"n = {scores.samples}")
        )
        if scores.float_top5 is not None:
            rows.append(("top-5 accuracy", show.percent(scores.float_top5), show.percent(scores.int8_top5), ""))
    latency = result.latency
    rows.append(
        (
            "latency on this computer",
            f"{latency.float_ms:.3f} ms",
            f"{latency.int8_ms:.3f} ms",
            "says nothing of a board",
        )
    )
    data = "samples" if held_out else "calibration samples, none held out"
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
    if not held_out:
        show.say(
            "validated on the calibration data, which flatters INT8: give held-out data with --data",
            label="note:",
            style="yellow",
        )


def _kind(name: str) -> str:
    return "INT8" if name == "int8" else name


def _shrunk(before: int, after: int) -> str:
    return f"{before / after:.1f}x smaller" if after <= before else f"{after / before:.1f}x larger"
