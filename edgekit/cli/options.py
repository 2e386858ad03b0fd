"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.datasets import declaration
from edgekit.validation import validate

BoardName = Annotated[
    str, typer.Argument(metavar="BOARD", help="user@host, user@host:port, an ssh alias, or 'embedded'.")
]
SshConfig = Annotated[
    Path | None,
    typer.Option("--ssh-config", metavar="FILE", help="Use this ssh config instead of ~/.ssh/config."),
]
Profiles = Annotated[
    list[Path] | None,
    typer.Option("--profiles", metavar="DIR", help="Look for profiles here first (may be repeated)."),
]
ProfileName = Annotated[
    str, typer.Option("--profile", "-p", metavar="PROFILE", help="The board's profile: a name, or a .toml file.")
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A SavedModel folder or a .keras file.")]
Calibrate = Annotated[
    Path,
    typer.Option("--calibrate", "-c", metavar="DATA", help="Real inputs: a folder of pictures, .csv, .npy or .npz."),
]
HeldOut = Annotated[
    Path | None,
    typer.Option(
        "--data", "-d", metavar="DATA", help="Held-out data to validate with; default: the calibration data again."
    ),
]
Samples = Annotated[int, typer.Option(min=1, help="How many samples calibrate.")]
Seed = Annotated[int, typer.Option(help="Chooses the samples.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Load a model that holds code (Lambda layers and the like).")
]
AllowFloat = Annotated[
    bool, typer.Option("--allow-float", help="Keep operators in float that have no INT8 form, instead of refusing.")
]
MinCosine = Annotated[float | None, typer.Option(help="Fail when an output's cosine to float is below this.")]
MinSqnr = Annotated[float | None, typer.Option("--min-sqnr", help="Fail when an output's SQNR is below this (dB).")]
MinAgreement = Annotated[
    float | None, typer.Option(help="Fail when the best class agrees with float less often than this share of 1.")
]
MaxDrop = Annotated[
    str | None, typer.Option(metavar="SHARE", help="Fail when top-1 accuracy falls by more than this (0.01 or 1%).")
]

Declare = Annotated[
    Path | None,
    typer.Option("--declare", metavar="FILE", help="A model.toml: name, task, labels, preprocessing."),
]
Name = Annotated[str | None, typer.Option(help="The release's name; default: the model's file name.")]
Task = Annotated[str | None, typer.Option(help="classification or raw.")]
Labels = Annotated[Path | None, typer.Option(metavar="FILE", help="Label names, one a line.")]
Range = Annotated[str | None, typer.Option(help="Value range that the model was trained on: -1..1, 0..1 or 0..255.")]
Mean = Annotated[list[float] | None, typer.Option(help="Mean in pixel units; once, or once a channel.")]
Std = Annotated[list[float] | None, typer.Option(help="Standard deviation in pixel units; once, or once a channel.")]
Color = Annotated[str | None, typer.Option(help="RGB, BGR or GRAY.")]
Resize = Annotated[str | None, typer.Option(help="stretch, letterbox or crop.")]
Filter = Annotated[str | None, typer.Option(help="nearest, bilinear, bicubic or area.")]


def declared(file: Path | None, labels: Path | None, **values: Any) -> declaration.Declaration:
    """What `model.toml` states, with what the command line states over it."""
    base = declaration.load(file) if file else declaration.Declaration()
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if value}
    if labels:
        given["labels"] = declaration.read_labels(labels)
    return declaration.merge(base, declaration.declare(**given))


def thresholds(
    cosine: float | None, sqnr: float | None, agreement: float | None, drop: str | None
) -> validate.Thresholds:
    return validate.Thresholds(cosine, sqnr, agreement, None if drop is None else share(drop))


def share(text: str) -> float:
    """`1%` or `0.01` as a share of 1. Raises a usage error."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is no share such as 0.01 or 1%") from error
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"'{text}' is not between 0 and 1")
    return value
