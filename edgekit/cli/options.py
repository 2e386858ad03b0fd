"""Options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from edgekit_runtime.manifest import COLORS, FILTERS, RESIZES

from edgekit.cli import complete
from edgekit.datasets import declaration
from edgekit.errors import UserError
from edgekit.validation import validate

# Panels of the help, in the order in which the options of a command mention them.
MODEL = "Model"
PREPROCESSING = "Preprocessing (how a picture becomes the model's input)"
CALIBRATION = "Calibration"
VALIDATION = "Validation"
GATES = "Gates (exit code 1 when one does not hold)"

BoardName = Annotated[
    str,
    typer.Argument(
        metavar="BOARD",
        help="user@host, user@host:port, an ssh alias, 'embedded', or dir:FOLDER (a mounted root file system).",
        autocompletion=complete.boards,
    ),
]
BoardNames = Annotated[
    list[str],
    typer.Argument(
        metavar="BOARD...",
        help="user@host, user@host:port, an ssh alias, 'embedded', or dir:FOLDER; several are deployed to at once.",
        autocompletion=complete.boards,
    ),
]
SshConfig = Annotated[
    Path | None,
    typer.Option("--ssh-config", metavar="FILE", help="Use this ssh config instead of ~/.ssh/config."),
]
Profiles = Annotated[
    list[Path] | None,
    typer.Option("--profiles", metavar="DIR", help="Look for profiles in this folder first (may be repeated)."),
]
ProfileName = Annotated[
    str,
    typer.Option(
        "--profile",
        "-p",
        metavar="PROFILE",
        help="The board's profile: a name of 'edgekit profiles list', or a .toml file.",
        autocompletion=complete.profiles,
    ),
]
ProfileNames = Annotated[
    list[str],
    typer.Option(
        "--profile",
        "-p",
        metavar="PROFILE",
        help="The board's profile: a name of 'edgekit profiles list', or a .toml file. May be repeated: the model is "
        "then calibrated once, and each profile has files of its own, NAME.PROFILE.tflite.",
        autocompletion=complete.profiles,
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        envvar="EDGEKIT_NO_CACHE",
        help="Convert anew, though the same was converted before, and keep nothing for the next time.",
    ),
]
Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="Any form of a trained model, such as a SavedModel folder or a .keras file."),
]

Declare = Annotated[
    Path | None,
    typer.Option(
        "--declare",
        metavar="FILE",
        help="A model.toml that states name, task, labels and preprocessing; options given here come before it.",
        rich_help_panel=MODEL,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", metavar="NAME", help="The release's name; default: the model file's name.", rich_help_panel=MODEL
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="|".join(declaration.TASKS),
        help="What the outputs mean; default: classification with labels or for pictures with one score a class.",
        autocompletion=complete.choices(*declaration.TASKS),
        rich_help_panel=MODEL,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="Label names, one a line, or a label_map.pbtxt; default: the class folders.",
        rich_help_panel=MODEL,
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Load a model that holds code (Lambda layers and the like).", rich_help_panel=MODEL
    ),
]
AllowFloat = Annotated[
    bool,
    typer.Option(
        "--allow-float",
        help="Keep operators that have no INT8 form in float, instead of refusing the model.",
        rich_help_panel=MODEL,
    ),
]

Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WIDTHxHEIGHT",
        help="Size in pixels; default: the model's own input.",
        rich_help_panel=PREPROCESSING,
    ),
]
Color = Annotated[
    str | None,
    typer.Option(
        "--color",
        metavar="|".join(COLORS),
        help="Colour order; default: RGB, or GRAY for one channel.",
        autocompletion=complete.choices(*COLORS),
        rich_help_panel=PREPROCESSING,
    ),
]
Range = Annotated[
    str | None,
    typer.Option(
        "--range",
        metavar="|".join(declaration.RANGES),
        help="The values that the model was trained on; never guessed.",
        autocompletion=complete.choices(*declaration.RANGES),
        rich_help_panel=PREPROCESSING,
    ),
]
Mean = Annotated[
    list[float] | None,
    typer.Option(
        "--mean",
        metavar="VALUE",
        help="Instead of --range: the mean, in pixel units (0 to 255); once, or once a channel.",
        rich_help_panel=PREPROCESSING,
    ),
]
Std = Annotated[
    list[float] | None,
    typer.Option(
        "--std",
        metavar="VALUE",
        help="With --mean: the standard deviation, in pixel units; once, or once a channel.",
        rich_help_panel=PREPROCESSING,
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="|".join(RESIZES),
        help="How another shape is made to fit; default: stretch.",
        autocompletion=complete.choices(*RESIZES),
        rich_help_panel=PREPROCESSING,
    ),
]
Filter = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="|".join(FILTERS),
        help="How pixels are interpolated; default: bilinear.",
        autocompletion=complete.choices(*FILTERS),
        rich_help_panel=PREPROCESSING,
    ),
]
Pad = Annotated[
    int | None,
    typer.Option(
        "--pad",
        metavar="VALUE",
        min=0,
        max=255,
        help="Pixel value of letterbox bars; default: 0.",
        rich_help_panel=PREPROCESSING,
    ),
]

Calibrate = Annotated[
    Path,
    typer.Option(
        "--calibrate",
        "-c",
        metavar="DATA",
        help="Real inputs that set the ranges: a folder of pictures, .csv, .npy, .npz, TFRecord files, "
        "or FILE.py:FUNCTION.",
        rich_help_panel=CALIBRATION,
    ),
]
Samples = Annotated[
    int,
    typer.Option("--samples", metavar="N", min=1, help="At most this many samples.", rich_help_panel=CALIBRATION),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", help="Chooses the samples; the same seed, the same file.", rich_help_panel=CALIBRATION
    ),
]

HeldOut = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        metavar="DATA",
        help="Held-out data, with labels or without; without -d the calibration data is used again.",
        rich_help_panel=VALIDATION,
    ),
]
Truth = Annotated[
    Path | None,
    typer.Option(
        "--truth",
        metavar="PATH",
        help="What is right for that data: a folder of masks or pictures of the same names, a .npy, COCO's instances "
        ".json, or a folder of YOLO's .txt.",
        rich_help_panel=VALIDATION,
    ),
]
Foreground = Annotated[
    int | None,
    typer.Option(
        "--foreground",
        metavar="VALUE",
        min=0,
        max=255,
        help="Of masks for a model of two classes: the value of the foreground, all others being background; default: "
        "1, or 255 in masks of 0 and 255.",
        rich_help_panel=VALIDATION,
    ),
]
MinCosine = Annotated[
    float | None,
    typer.Option(
        "--min-cosine", metavar="VALUE", help="Least cosine of each output to float's.", rich_help_panel=GATES
    ),
]
MinSqnr = Annotated[
    float | None,
    typer.Option(
        "--min-sqnr",
        metavar="DB",
        help="Least signal-to-quantisation-noise ratio of each output.",
        rich_help_panel=GATES,
    ),
]
MinAgreement = Annotated[
    str | None,
    typer.Option(
        "--min-agreement",
        metavar="SHARE",
        help="Least share of samples with the same best class (0.99 or 99%).",
        rich_help_panel=GATES,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--max-drop",
        metavar="SHARE",
        help="Most that it may lose of its task's metric, or without labels and truth of its agreement with float "
        "(0.01 or 1%); a model that loses more is repaired.",
        rich_help_panel=GATES,
    ),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        "--max-drop",
        metavar="SHARE",
        help="Most that the task's metric may lose (0.01 or 1%); needs labels or truth.",
        rich_help_panel=GATES,
    ),
]


def declared(file: Path | None, labels: Path | None, size: str | None, **values: Any) -> declaration.Declaration:
    """What `model.toml` states, with what the command line states over it."""
    base = declaration.load(file) if file else declaration.Declaration()
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
        if value is not None and value != []
    }
    if labels:
        given["labels"] = declaration.read_labels(labels)
    if size:
        given["width"], given["height"] = _size(size)
    return declaration.merge(base, declaration.declare(**given))


def thresholds(
    cosine: float | None, sqnr: float | None, agreement: str | None, drop: str | None
) -> validate.Thresholds:
    return validate.Thresholds(cosine, sqnr, share(agreement, "--min-agreement"), share(drop, "--max-drop"))


def share(text: str | None, option: str) -> float | None:
    """`1%` or `0.01` as a share of 1. Raises UserError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%?)", text.strip())
    value = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    if not 0 <= value <= 1:
        raise UserError(f"{option}: '{text}' is no share", hint="say 0.01, or 1%", option=option)
    return value


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.lower())
    if not found:
        raise UserError(f"--size: '{text}' is no size", hint="say WIDTHxHEIGHT, for example 224x224", option="--size")
    return int(found[1]), int(found[2])
