"""The manifest: what a model wants and gives, and how it was made. A JSON member of every release.

The host writes it, the Engine reads it, both with this schema.
"""

import os
from typing import TYPE_CHECKING, Dict, Optional, Tuple

from edgekit_runtime import schema
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import UserError

if TYPE_CHECKING:
    from edgekit_runtime.integrity import Location

SCHEMA = 1
TASKS = ("classification", "detection", "segmentation", "restoration", "anomaly", "raw")
COLORS = {"RGB": 3, "BGR": 3, "GRAY": 1}
RESIZES = ("stretch", "letterbox", "crop")
FILTERS = ("nearest", "linear", "bilinear", "bicubic", "area")
SCORE_CONVERTERS = ("sigmoid", "softmax", "identity")
BOX_ORDERS = ("yxhw", "xywh")
DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "bool")

MANIFEST = "manifest.json"
MODEL = "model.tflite"
LABELS = "labels.txt"
GOLDEN = "golden.npy"
ANCHORS = "anchors.npy"
RUNTIME = "runtime"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output tensor. `shape` has the batch first; -1 stands for a size that is not fixed.

    `real = (stored - zero_point) * scale` when both are set (TFLite's 8-bit quantisation specification, per tensor).
    """

    name: str
    shape: Tuple[int, ...]
    dtype: str
    scale: Optional[float] = None
    zero_point: Optional[int] = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype '{self.dtype}' is not one of {', '.join(DTYPES)}")
        if any(size < -1 or size == 0 for size in self.shape):
            raise ValueError(f"shape {list(self.shape)} is not possible")
        if (self.scale is None) != (self.zero_point is None):
            raise ValueError("scale and zero_point belong together")
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"scale {self.scale} is not above 0")


@dataclass(frozen=True)
class Preprocess:
    """From a picture to the model's real-valued input, declared once for calibration, validation and the board.

    `real = (pixel - mean) / std` for each channel, pixels being 0..255. `mean` and `std` have one value per channel.
    `crop` keeps the aspect and cuts the centre; `letterbox` keeps it and pads with `pad` (a pixel value).
    """

    width: int
    height: int
    color: str = "RGB"
    mean: Tuple[float, ...] = (0.0, 0.0, 0.0)
    std: Tuple[float, ...] = (1.0, 1.0, 1.0)
    resize: str = "stretch"
    filter: str = "bilinear"
    pad: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.width <= 8192 and 0 < self.height <= 8192):
            raise ValueError(f"size {self.width}x{self.height} is out of range (1 to 8192)")
        for key, value, allowed in (
            ("color", self.color, tuple(COLORS)),
            ("resize", self.resize, RESIZES),
            ("filter", self.filter, FILTERS),
        ):
            if value not in allowed:
                raise ValueError(f"{key} '{value}' is not one of {', '.join(allowed)}")
        channels = COLORS[self.color]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mean and std need {channels} values for {self.color}")
        if any(value == 0 for value in self.std):
            raise ValueError("std must not be 0")
        if not 0 <= self.pad <= 255:
            raise ValueError(f"pad {self.pad} is not a pixel value (0 to 255)")

    @property
    def channels(self) -> int:
        return COLORS[self.color]


@dataclass(frozen=True)
class Detection:
    """From a detector's raw heads to boxes. `boxes` and `scores` are the indices of the two outputs.

    Boxes are encoded relative to the anchors of the member `anchors.npy`, divided by `box_scales` (y, x, height,
    width); `box_order` is that of the encodings. The classes begin at `first_column` of the scores (1 where column 0 is
    the background); `class_ids` are their ids in the label map. `max_per_class` and `max_detections` limit what
    non-maximum suppression keeps.
    """

    boxes: int
    scores: int
    score_converter: str
    first_column: int
    class_ids: Tuple[int, ...]
    box_scales: Tuple[float, float, float, float]
    score_threshold: float
    iou_threshold: float
    max_per_class: int
    max_detections: int
    box_order: str = BOX_ORDERS[0]

    def __post_init__(self) -> None:
        if self.score_converter not in SCORE_CONVERTERS:
            raise ValueError(f"score_converter '{self.score_converter}' is not one of {', '.join(SCORE_CONVERTERS)}")
        if self.box_order not in BOX_ORDERS:
            raise ValueError(f"box_order '{self.box_order}' is not one of {', '.join(BOX_ORDERS)}")
        if self.boxes == self.scores or min(self.boxes, self.scores, self.first_column) < 0:
            raise ValueError("boxes and scores are two outputs")
        if not all(scale > 0 for scale in self.box_scales):
            raise ValueError("box_scales are above 0")
        if not (0 <= self.score_threshold <= 1 and 0 <= self.iou_threshold <= 1):
            raise ValueError("score_threshold and iou_threshold are between 0 and 1")
        if min(self.max_per_class, self.max_detections) < 1:
            raise ValueError("max_per_class and max_detections are at least 1")


@dataclass(frozen=True)
class Distance:
    """How far one output is from the float reference, over all samples.

    `max_abs` and `mean_abs` in real units; `cosine` in -1..1; `sqnr_db` in dB (None when there is no error at all).
    """

    output: str
    max_abs: float
    mean_abs: float
    cosine: float
    sqnr_db: Optional[float]


@dataclass(frozen=True)
class Golden:
    """Real inputs that travel in the release, and what they must come out as.

    The member `golden.npy` holds the inputs in the model's own stored dtype, then the outputs as float32 from the float
    model, one array after the other; the first axis is the sample. `distance` is the host INT8's from these outputs.
    """

    count: int
    distance: Tuple[Distance, ...]


@dataclass(frozen=True)
class Calibration:
    """Which real inputs set the ranges: `digest` is the SHA-256 over the ordered SHA-256 of the samples used."""

    samples: int
    seed: int
    digest: str
    skipped: int = 0


@dataclass(frozen=True)
class Provenance:
    """How the model file was made: names and versions, no path and no time, so that same inputs give same bytes."""

    source: str
    source_format: str
    source_sha256: str
    versions: Dict[str, str]
    calibration: Calibration


@dataclass(frozen=True)
class Manifest:
    """Everything the Engine needs to know about a release, and where the release came from.

    A check of the release compares the model's SHA-256; each start its CRC-32, where it is stated, against damage.
    """

    name: str
    task: str
    profile: str
    model_sha256: str
    model_size: int
    inputs: Tuple[TensorSpec, ...]
    outputs: Tuple[TensorSpec, ...]
    preprocess: Optional[Preprocess]
    labels: Optional[str]
    runtime: str
    num_threads: int
    provenance: Provenance
    golden: Optional[Golden]
    max_batch_size: int = 1
    isa: Tuple[str, ...] = ()
    max_ram_mb: Optional[int] = None
    numpy: Optional[str] = None
    detection: Optional[Detection] = None
    model_crc32: Optional[int] = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"manifest of schema {self.schema}; this runtime reads {SCHEMA}")
        if self.task not in TASKS:
            raise ValueError(f"task '{self.task}' is not one of {', '.join(TASKS)}")
        if self.task == "classification" and len(self.outputs) != 1:
            raise ValueError(f"a classification model has one output, not {len(self.outputs)}")
        if (self.task == "detection") != (self.detection is not None):
            raise ValueError("the task 'detection' and the key 'detection' belong together")
        if not self.inputs or not self.outputs:
            raise ValueError("a model has at least one input and one output")
        if self.labels not in (None, LABELS):
            raise ValueError(f"labels are the member '{LABELS}' or null")
        if self.num_threads < 1 or self.max_batch_size < 1:
            raise ValueError("num_threads and max_batch_size are at least 1")


def dumps(manifest: Manifest) -> str:
    """The manifest as stable JSON text."""
    return schema.dump_json(manifest)


def loads(text: "str | bytes", where: str = MANIFEST) -> Manifest:
    """Read a manifest. Raises schema.SchemaError."""
    return schema.load_json(Manifest, text, where)


def read(directory: "Location") -> Manifest:
    """The manifest of a release directory. Raises UserError (SchemaError when it is not a manifest)."""
    return loads(*member(directory, MANIFEST))


def member(directory: "Location", name: str) -> Tuple[bytes, str]:
    """The bytes of a member of a release directory, and its path. Raises UserError."""
    path = os.path.join(directory, name)
    try:
        with open(path, "rb") as file:
            return file.read(), path
    except OSError as error:
        raise UserError(
            f"cannot read '{path}': {error.strerror}",
            hint="a release is a directory, as `edgekit push` makes it; open a .tflite by Engine.load"
            if os.path.isfile(directory)
            else "is this a release directory?",
            path=path,
        ) from error
