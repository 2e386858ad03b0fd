"""Commands about a model on this computer: inspect, convert, validate, bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from edgekit_runtime import schema

from edgekit.bundles import packing
from edgekit.cli import options, show
from edgekit.conversion.convert import convert as convert_model
from edgekit.conversion.record import Conversion, Files
from edgekit.models import inspection
from edgekit.profiles import profile
from edgekit.profiles.profile import DeviceProfile
from edgekit.validation import validate as validation

Converted = Annotated[Path, typer.Argument(metavar="MODEL.tflite", help="What 'edgekit convert' made.")]


def add_to(root: typer.Typer) -> None:
    for command in (inspect, convert, validate, bundle):
        root.command(rich_help_panel="Models")(command)


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Any model file or folder.")], json: show.Json = False
) -> None:
    """Say what a model is, without converting or running it."""
    found = inspection.inspect(model)
    if json:
        show.data(found)
        return
    rows: list[tuple[str, Any]] = [
        ("form", found.description),
        ("made with", found.made_with),
        ("size", show.size(found.size)),
        ("parameters", f"{found.parameters:,}" if found.parameters is not None else None),
        ("quantisation", found.quantization),
        ("signatures", ", ".join(found.signatures) or None),
        ("runs code", ", ".join(found.code) or None),
        ("sha256", found.sha256),
    ]
    rows += [("input", _tensor(spec)) for spec in found.inputs]
    rows += [("output", _tensor(spec)) for spec in found.outputs]
    rows.append(("operators", ", ".join(f"{count} {name}" for name, count in found.operators.items()) or None))
    show.table(found.name, ["", ""], [row for row in rows if row[1] is not None])
    for note in found.notes:
        show.say(note)
    if found.form in ("saved-model", "keras"):
        show.next_step(f"edgekit convert {model} -p PROFILE -c DATA -o {found.name}.tflite")


def convert(
    model: options.Model,
    profile_name: options.ProfileName,
    calibrate: options.Calibrate,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .tflite to write.")],
    data: options.HeldOut = None,
    declare: options.Declare = None,
    name: options.Name = None,
    task: options.Task = None,
    labels: options.Labels = None,
    range_: Annotated[str | None, typer.Option("--range", help="Value range: -1..1, 0..1 or 0..255.")] = None,
    mean: options.Mean = None,
    std: options.Std = None,
    color: options.Color = None,
    resize: options.Resize = None,
    filter_: Annotated[str | None, typer.Option("--filter", help="nearest, bilinear, bicubic or area.")] = None,
    samples: options.Samples = 200,
    seed: options.Seed = 0,
    trust_code: options.TrustCode = False,
    allow_float: options.AllowFloat = False,
    min_cosine: options.MinCosine = None,
    min_sqnr: options.MinSqnr = None,
    min_agreement: options.MinAgreement = None,
    max_drop: options.MaxDrop = None,
    profiles: options.Profiles = None,
    json: show.Json = False,
) -> None:
    """Convert a trained model to full INT8 TFLite for a board, run it, and compare it with float."""
    facts = profile.find(profile_name, profiles or ())
    limits = options.thresholds(min_cosine, min_sqnr, min_agreement, max_drop)
    declaration = options.declared(
        declare,
        labels,
        name=name,
        task=task,
        range=range_,
        mean=mean,
        std=std,
        color=color,
        resize=resize,
        filter=filter_,
    )
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
            progress=update,
        )
        result = validation.validate_conversion(
            output, data or calibrate, num_threads=facts.num_threads, seed=seed + 1, progress=update
        )
    if json:
        show.data({"conversion": schema.plain(made), "validation": schema.plain(result), "output": str(output)})
    else:
        show_conversion(made, facts)
        show_validation(result)
        if data is None:
            show.say("[dim]validated on the calibration data; --data gives held-out samples[/dim]")
    validation.check(result, limits)
    show.say(f"wrote {output} and {Files.of(output).folder}/")
    show.next_step(f"edgekit bundle {output} -p {profile_name} -o {output.with_suffix('.ekb')}")


def validate(
    int8: Converted,
    data: Annotated[Path, typer.Option("--data", "-d", metavar="DATA", help="Held-out data, with labels or without.")],
    float_model: Annotated[
        Path | None,
        typer.Option("--float", metavar="FILE", help="The float .tflite; default: the one of the conversion."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="At most this many samples; default: all.")] = None,
    seed: options.Seed = 0,
    num_threads: Annotated[int, typer.Option(min=1, help="Threads of the interpreter.")] = 1,
    min_cosine: options.MinCosine = None,
    min_sqnr: options.MinSqnr = None,
    min_agreement: options.MinAgreement = None,
    max_drop: options.MaxDrop = None,
    json: show.Json = False,
) -> None:
    """Compare INT8 with float on the same inputs, both through the Engine that ships."""
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
    if json:
        show.data(result)
    else:
        show_validation(result)
    validation.check(result, limits)


def bundle(
    model: Converted,
    profile_name: options.ProfileName,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .ekb to write.")],
    counter: Annotated[int, typer.Option(min=0, help="Stands in the release; a board refuses a lower one later.")] = 0,
    profiles: options.Profiles = None,
    json: show.Json = False,
) -> None:
    """Put a converted model, its manifest, golden samples and the board's runtime into one deterministic file."""
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
    show.next_step(f"edgekit push {output} BOARD")


def show_conversion(made: Conversion, facts: DeviceProfile) -> None:
    """What was converted, and how."""
    rows = [("input", _tensor(spec)) for spec in made.inputs] + [("output", _tensor(spec)) for spec in made.outputs]
    calibration = made.provenance.calibration
    rows.append(("calibrated with", f"{calibration.samples} samples, seed {calibration.seed}"))
    if calibration.skipped:
        rows.append(("skipped", f"{calibration.skipped} unreadable pictures"))
    show.table(f"{made.name}: {made.provenance.source_format} to INT8 for {facts.name}", ["", ""], rows)
    for note in made.notes:
        show.say(note)


def show_validation(result: validation.Validation) -> None:
    """FP32 against INT8, side by side."""
    rows: list[tuple[str, Any, Any, Any]] = [
        (
            "size",
            show.size(result.float_size),
            show.size(result.int8_size),
            f"{result.float_size / result.int8_size:.1f}x smaller",
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
            f"{latency.float_ms / latency.int8_ms:.1f}x faster, says nothing of a board",
        )
    )
    show.table(f"FP32 against INT8, {result.samples} samples", ["", "FP32", "INT8", ""], rows)
    if result.top1_agreement is not None:
        same = f"same best class: {show.percent(result.top1_agreement)}"
        top5 = "" if result.top5_agreement is None else f", in the best five: {show.percent(result.top5_agreement)}"
        show.out().print(same + top5)
    for distance in result.outputs:
        sqnr = "exact" if distance.sqnr_db is None else f"{distance.sqnr_db:.1f} dB"
        show.out().print(
            f"output {distance.output}: cosine {distance.cosine:.4f}, SQNR {sqnr}, "
            f"largest difference {distance.max_abs:.4g}",
            markup=False,
        )
    for note in result.notes:
        show.say(note)


def _tensor(spec: Any) -> str:
    shape = "x".join("?" if size == -1 else str(size) for size in spec.shape)
    text = f"{spec.name}  {spec.dtype} [{shape}]"
    return text if spec.scale is None else f"{text}  real = (stored - {spec.zero_point}) x {spec.scale:.6g}"
