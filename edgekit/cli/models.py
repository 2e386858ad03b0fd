"""Commands about a model on this computer: inspect, calibration, convert, validate, bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgekit_runtime import schema

from edgekit.bundles import packing
from edgekit.cli import calibration, inspect, options, show
from edgekit.cli.convert import convert
from edgekit.cli.figures import gate, show_validation
from edgekit.cli.help import Command
from edgekit.conversion.record import Conversion, Files
from edgekit.profiles import profile
from edgekit.validation import validate as validation

Converted = Annotated[Path, typer.Argument(metavar="MODEL.tflite", help="What 'edgekit convert' made.")]


def add_to(root: typer.Typer) -> None:
    for command in (inspect.inspect, calibration.calibration, convert, validate, bundle):
        root.command(cls=Command, rich_help_panel="Models")(command)


def validate(
    int8: Converted,
    data: Annotated[Path, typer.Option("--data", "-d", metavar="DATA", help="Held-out data, with labels or without.")],
    float_model: Annotated[
        Path | None,
        typer.Option("--float", metavar="FILE", help="The float .tflite; default: the one of the conversion."),
    ] = None,
    truth: options.Truth = None,
    foreground: options.Foreground = None,
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
                int8,
                data,
                num_threads=num_threads,
                samples=samples,
                seed=seed,
                truth=truth,
                foreground=foreground,
                progress=update,
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
                truth=truth,
                foreground=foreground,
                detector=(record.detection, Files.of(int8).anchors) if record and record.detection else None,
                progress=update,
            )
    if not json:
        show_validation(result)
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
