"""Declaration: what only the model's owner knows, declared once, in `model.toml` or on the command line.

The name, the signature, the task, the labels, and how a picture becomes the model's input. The keys are explained in
docs/manifest.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from edgekit_runtime import schema
from edgekit_runtime.manifest import COLORS, FILTERS, RESIZES, TASKS, Preprocess, TensorSpec

from edgekit.datasets.heads import DeclaredHeads
from edgekit.errors import UserError
from edgekit.profiles.profile import read_toml

# Pixel values 0..255 to each range, as (mean, std) of real = (pixel - mean) / std.
RANGES = {"-1..1": (127.5, 127.5), "0..1": (0.0, 255.0), "0..255": (0.0, 1.0)}
MAX_LABELS = 100_000
_PICTURE_KEYS = ("width", "height", "color", "range", "mean", "std", "resize", "filter", "pad")
_CHOICES = {"task": TASKS, "color": tuple(COLORS), "range": tuple(RANGES), "resize": RESIZES, "filter": FILTERS}

_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,128}")


@dataclass(frozen=True)
class Declaration:
    """Every key may be left out. `mean` and `std` are in pixel units (0..255), one value or one per channel.

    `range` and `mean` with `std` exclude each other. `width` and `height` default to the model's own input.
    """

    name: str | None = None
    signature: str | None = None
    task: str | None = None
    labels: tuple[str, ...] | None = None
    width: int | None = None
    height: int | None = None
    color: str | None = None
    range: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: str | None = None
    filter: str | None = None
    pad: int | None = None
    detection: DeclaredHeads | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r} is not a name: no '/', no sign that is not printed, no '.' in front")
        for key, allowed in _CHOICES.items():
            value = getattr(self, key)
            if value is not None and value not in allowed:
                raise ValueError(f"{key} '{value}' is not one of {', '.join(allowed)}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together")
        if self.range is not None and self.mean is not None:
            raise ValueError("range and mean/std exclude each other")
        if self.std is not None and all(abs(value) < 1 for value in self.std):
            raise ValueError("mean and std are in pixel units (0 to 255): multiply values of a 0..1 scale by 255")
        if self.detection is not None and self.task not in (None, "detection"):
            raise ValueError(f"[detection] and the task '{self.task}' exclude each other")
        if self.labels is not None and len(self.labels) > MAX_LABELS:
            raise ValueError(f"more than {MAX_LABELS} labels")

    @property
    def keeps_boxes(self) -> bool:
        """Whether a model that selects boxes is left as it is: it was declared as something else, or with its heads."""
        return self.task not in (None, "detection") or self.detection is not None

    @property
    def describes_pictures(self) -> bool:
        """Whether anything about pictures is declared."""
        return any(getattr(self, key) is not None for key in _PICTURE_KEYS)


def load(path: Path) -> Declaration:
    """Read a `model.toml`. `labels` is a list, or the name of a file with one label a line, beside it; so are anchors.

    Raises UserError that names the file, the key and the nearest known key.
    """
    data = read_toml(path, "model declaration")
    if isinstance(data.get("labels"), str):
        data["labels"] = read_labels(path.parent / str(data["labels"]))
    heads = data.get("detection")
    if isinstance(heads, dict) and isinstance(heads.get("anchors"), str):
        data["detection"] = {**heads, "anchors": str(path.parent / heads["anchors"])}
    for key in ("mean", "std"):
        if isinstance(data.get(key), (int, float)):
            data[key] = [data[key]]
    return schema.read(Declaration, data, str(path))


def declare(**values: object) -> Declaration:
    """A Declaration from command-line values; None stands for what is not given. Raises UserError."""
    return schema.read(Declaration, {key: value for key, value in values.items() if value is not None}, "options")


def merge(base: Declaration, over: Declaration) -> Declaration:
    """`base` with every key that `over` states; a range replaces mean and std, and the reverse."""
    changes = {field.name: getattr(over, field.name) for field in fields(over)}
    changes = {key: value for key, value in changes.items() if value is not None}
    if "range" in changes:
        base = replace(base, mean=None, std=None)
    if "mean" in changes:
        base = replace(base, range=None)
    return replace(base, **changes)


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line; blank lines at the end do not count. Or the items of a `.pbtxt`, a label map, from id 1 on.

    Raises UserError.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the labels: {error}", where=str(path)) from error
    lines = _label_map(text) if path.suffix == ".pbtxt" else text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"{path}: holds no label", hint="write one label a line", where=str(path))
    return tuple(line.strip() for line in lines)


def _label_map(text: str) -> list[str]:
    """The items of the Object Detection API's StringIntLabelMap as text, by their ids; id 0 is the background."""
    names = {}
    for item in re.findall(r"\bitem\s*:?\s*\{([^{}]*)\}", text):
        number = re.search(r"\bid\s*:\s*(\d+)", item)
        words = dict(re.findall(r"\b(name|display_name)\s*:\s*[\"']([^\"']*)[\"']", item))
        if number and words and 0 < int(number[1]) <= MAX_LABELS:
            names[int(number[1])] = words.get("display_name") or words.get("name", "")
    return [names.get(number, f"class {number}") for number in range(1, max(names, default=0) + 1)]


def preprocess(declaration: Declaration, inputs: Sequence[TensorSpec], *, pictures: bool) -> Preprocess | None:
    """How a picture becomes the model's input; None for a model that takes no pictures.

    `pictures` says that the data are pixels, so that the value range must be declared: it is never guessed.
    Raises UserError when the declaration and the model's inputs do not fit.
    """
    if not pictures and not declaration.describes_pictures:
        return None
    height, width, channels = _picture_size(inputs)
    if inputs[0].dtype == "uint8":
        declaration = _as_pixels(declaration)
    if declaration.range is None and declaration.mean is None:
        raise UserError(
            "the data are pixels, but the value range that the model was trained on is not declared",
            hint="give --range -1..1, 0..1 or 0..255, or --mean and --std (or the same keys in model.toml)",
            key="range",
        )
    color = declaration.color or ("GRAY" if channels == 1 else "RGB")
    if COLORS[color] != channels:
        raise UserError(f"color {color} has {COLORS[color]} channels, the model's input has {channels}", key="color")
    wanted = (declaration.height or height, declaration.width or width)
    if any(size not in (-1, want) for size, want in zip((height, width), wanted, strict=True)):
        raise UserError(
            f"declared size {wanted[1]}x{wanted[0]}, but the model's input is {width}x{height}",
            hint="leave width and height out",
            key="width",
        )
    if -1 in wanted:
        raise UserError("the model's input has no fixed size", hint="declare width and height", key="width")
    mean, std = _scale(declaration, channels)
    try:
        return Preprocess(
            width=wanted[1],
            height=wanted[0],
            color=color,
            mean=mean,
            std=std,
            resize=declaration.resize or "stretch",
            filter=declaration.filter or "bilinear",
            pad=declaration.pad or 0,
        )
    except ValueError as error:
        raise UserError(f"preprocessing: {error}") from error


def _as_pixels(declaration: Declaration) -> Declaration:
    """Of a model that scales by itself: it takes 0 to 255."""
    if declaration.mean is not None or declaration.range not in (None, "0..255"):
        raise UserError(
            "the model's input is uint8: it takes pixels as they are, from 0 to 255",
            hint="leave range, mean and std out",
            key="range",
        )
    return replace(declaration, range="0..255")


def _picture_size(inputs: Sequence[TensorSpec]) -> tuple[int, int, int]:
    shape = inputs[0].shape if inputs else ()
    if len(inputs) == 1 and len(shape) == 4 and shape[3] in (1, 3):
        if shape[0] not in (-1, 1):
            raise UserError(
                f"the model takes {shape[0]} pictures at once, never one",
                hint="export it with an open batch, as [None, height, width, channels]",
                shape=list(shape),
            )
        return shape[1], shape[2], shape[3]
    if len(inputs) == 1 and len(shape) == 3 and shape[0] not in (-1, 1) and shape[2] in (1, 3):
        return shape[0], shape[1], shape[2]  # one picture, without a batch
    if len(inputs) == 1 and len(shape) == 3:
        return shape[1], shape[2], 1
    got = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in inputs)
    raise UserError(
        f"pictures need a model with one input of shape [N, height, width, 1 or 3] or [N, height, width], not {got}",
        hint="give the model's real inputs as .npy or .npz, and leave the picture keys out",
    )


def _scale(declaration: Declaration, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if declaration.range is not None:
        mean, std = RANGES[declaration.range]
        return (mean,) * channels, (std,) * channels
    assert declaration.mean is not None  # mypy: __post_init__ holds one of the two
    assert declaration.std is not None
    return tuple(values * channels if len(values) == 1 else values for values in (declaration.mean, declaration.std))  # type: ignore[return-value]  # a pair by construction
