"""A detector's boxes against those of the original in TensorFlow, on pictures of the calibration data.

The worker that holds TensorFlow writes down what the original finds; the one that runs the converted models compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import detect, quant
from edgekit_runtime.detect import Detections
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Detection, Preprocess
from numpy.typing import NDArray

from edgekit.datasets.dataset import Stream
from edgekit.datasets.declaration import Declaration
from edgekit.errors import CheckFailed, UserError
from edgekit.models.detector import Detector
from edgekit.worker import Progress

ORIGINAL = "original.npz"
PICTURES = 32
MIN_SCORE = 0.3
MIN_IOU = 0.5  # of boxes that count as the same
FLOAT_IOU = 0.99
_ROUNDING = 1e-3
_ENOUGH = 100  # predictions to tell logits from shares


@dataclass(frozen=True)
class Match:
    """How many boxes were wanted, found again in the same class, and the mean IoU of those."""

    wanted: int
    found: int
    iou: float

    def __str__(self) -> str:
        return f"{self.found} in the same class" + (f" (mean IoU {self.iou:.3f})" if self.found else "")


def require_labels(declared: Declaration, detector: Detector) -> None:
    """Raises UserError for another number of labels than the detector has classes."""
    if declared.labels is not None and len(declared.labels) != len(detector.detection.class_ids):
        raise UserError(
            f"{len(declared.labels)} labels for a detector of {len(detector.detection.class_ids)} classes",
            hint="one label a line, in the order of the label map's ids, without the background",
            key="labels",
        )


def write_original(detector: Detector, stream: Stream, folder: Path, progress: Progress) -> None:
    """What the original finds in the first PICTURES pictures of `stream`."""
    assert stream.preprocess is not None  # mypy: a detector takes pictures
    total = min(PICTURES, stream.wanted)
    held: dict[str, Any] = {}
    for number, sample in enumerate(islice(stream, PICTURES)):
        progress("original", number, total)
        found = detector.original.answer(pixels(sample.inputs[0], stream.preprocess))
        for field in fields(Detections):
            held[f"{field.name}_{number}"] = getattr(found, field.name)
    progress("original", total, total)
    np.savez(folder / ORIGINAL, **held)


def compare(
    folder: Path, stream: Stream, reference: Engine, int8: Engine, progress: Progress
) -> tuple[str, float | None]:
    """Both models on the pictures that the original has seen; of a declared detector the float model is the original.
    Returns what INT8 costs, in words, and which share of the boxes it does not find (None when there were none).

    Raises CheckFailed when the float model does not find what the original found: then the cut was wrong.
    """
    original = _read_original(folder)
    who, count = "float" if original is None else "the original", len(original or ()) or min(PICTURES, stream.wanted)
    seen: list[tuple[Detections, Detections]] = []
    for number, sample in enumerate(islice(stream, count)):
        progress("compare", number, count)
        seen.append((_answer(reference, sample.inputs), _answer(int8, sample.inputs)))
    progress("compare", count, count)
    wanted = original or [pair[0] for pair in seen]
    by_float, by_int8 = (match(wanted, [pair[which] for pair in seen]) for which in (0, 1))
    if by_float.found < by_float.wanted or (by_float.found and by_float.iou < FLOAT_IOU):
        raise CheckFailed(
            f"the float model without its selection of boxes does not find what the original finds: "
            f"of {by_float.wanted} boxes {by_float}",
            hint='declare task = "raw" to convert the detector as it is',
        )
    if not by_float.wanted:
        words = f"in {count} pictures {who} finds no box (score {MIN_SCORE} or more): nothing could be compared"
        return words, None
    words = (
        f"of {by_float.wanted} boxes of {who} (score {MIN_SCORE} or more, {count} pictures) INT8 finds {by_int8}"
        f"{'' if original is None else f'; float {by_float}'}"
    )
    return words, 1 - by_int8.found / by_int8.wanted


def check_scores(detection: Detection, predictions: NDArray[Any]) -> None:
    """Raises UserError for predictions that tell that they become scores in another way than was declared."""
    shares = bool(predictions.min(initial=0) >= -_ROUNDING and predictions.max(initial=0) <= 1 + _ROUNDING)
    if predictions.size < _ENOUGH or shares == (detection.score_converter == "identity"):
        return
    seen = "all between 0 and 1" if shares else f"between {predictions.min():.3g} and {predictions.max():.3g}"
    raise UserError(
        f"the detector's scores are {seen}, but score_converter is '{detection.score_converter}'",
        hint="declare 'identity' for scores as they are, 'sigmoid' or 'softmax' for logits",
        key="score_converter",
    )


def match(wanted: Sequence[Detections], found: Sequence[Detections]) -> Match:
    """Each box with a score of MIN_SCORE or more and its nearest of the same class that no better one has taken."""
    overlaps: list[float] = []
    total = 0
    for one, other in zip(wanted, found, strict=True):
        sure = one.scores >= MIN_SCORE
        free = np.ones(len(other), bool)
        for box, kind in zip(one.boxes[sure], one.classes[sure], strict=True):
            total += 1
            shares = np.where(free & (other.classes == kind), detect.iou(box, other.boxes), 0)
            if len(shares) and shares.max() >= MIN_IOU:
                overlaps.append(float(shares.max()))
                free[shares.argmax()] = False
    return Match(total, len(overlaps), float(np.mean(overlaps)) if overlaps else 0.0)


def _read_original(folder: Path) -> list[Detections] | None:
    if not (folder / ORIGINAL).is_file():
        return None
    with np.load(folder / ORIGINAL) as held:
        count = sum(name.startswith("scores_") for name in held)
        return [Detections(held[f"boxes_{n}"], held[f"classes_{n}"], held[f"scores_{n}"]) for n in range(count)]


def _answer(engine: Engine, inputs: Sequence[NDArray[Any]]) -> Detections:
    stored = [quant.quantize(value[None], spec) for value, spec in zip(inputs, engine.inputs, strict=True)]
    (found,) = engine.detections(engine.infer(stored))
    return found


def pixels(real: NDArray[Any], spec: Preprocess) -> NDArray[Any]:
    """The picture that became `real`, in RGB."""
    pixels: NDArray[Any] = np.rint(real * np.asarray(spec.std) + np.asarray(spec.mean)).astype(np.uint8)
    return pixels[..., ::-1] if spec.color == "BGR" else pixels
