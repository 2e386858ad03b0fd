"""What the float and the converted model answer to the same samples, for a person to look at.

Of a classifier which classes are taken for which, and the samples on which the two differ; of a detector boxes on
pictures; of a model that gives a picture of one channel both pictures. In one pass, in a worker.
"""

import base64
import heapq
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import batch, detect, quant, schema
from edgekit_runtime.detect import Detections
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Detection, Preprocess
from numpy.typing import NDArray

from edgekit import worker
from edgekit.conversion import boxes
from edgekit.datasets.dataset import RepresentativeDataset, Sample, Stream, open_dataset
from edgekit.worker import Progress

Array = NDArray[Any]
SAMPLES = 1000  # of a classifier
LOOKED_AT = 32  # pictures of other models, the worst of which are shown
SHOWN = 8
DISAGREEMENTS = 24
CLASSES = 12
MAX_BOXES = 20
SIDE = 240
LIMIT_S = 600.0


@dataclass(frozen=True)
class Request:
    """Both models and the data; `anchors` is the file of a detector's."""

    float: str
    int8: str
    data: str
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    task: str
    seed: int
    detection: Detection | None = None
    anchors: str | None = None


@dataclass(frozen=True)
class Confusion:
    """`float[i][j]` of the samples of `classes[i]` float takes for `classes[j]`; the last column counts all other
    answers. `left_out` classes are less confused than these.
    """

    classes: tuple[str, ...]
    float: tuple[tuple[int, ...], ...]
    int8: tuple[tuple[int, ...], ...]
    left_out: int


@dataclass(frozen=True)
class Answer:
    """A classifier's best class and what the model gives for it."""

    label: str
    score: float


@dataclass(frozen=True)
class Disagreement:
    """A sample with two best classes, and the right one where it is known. `picture` names one of the Examples."""

    sample: str
    float: Answer
    int8: Answer
    truth: str | None
    picture: str | None


@dataclass(frozen=True)
class Box:
    """`corners` are ymin, xmin, ymax, xmax in shares of the picture."""

    label: str
    score: float
    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class Found:
    """The boxes in one picture, of a score of 0.3 or more; `lost` of float's have no like in INT8's, and `added` the
    reverse.
    """

    sample: str
    float: tuple[Box, ...]
    int8: tuple[Box, ...]
    lost: int
    added: int
    picture: str


@dataclass(frozen=True)
class Mask:
    """Both answers to one picture; `difference` is the mean of the absolute one, as a share of float's range."""

    sample: str
    difference: float
    picture: str
    float: str
    int8: str


@dataclass(frozen=True)
class Examples:
    """Of `samples` the two have different best classes in `disagreed`; the first of these, or the worst of `samples`
    pictures, are here. `pictures` holds JPEG files in Base64.
    """

    samples: int
    confusion: Confusion | None = None
    disagreed: int = 0
    disagreements: tuple[Disagreement, ...] = ()
    found: tuple[Found, ...] = ()
    masks: tuple[Mask, ...] = ()
    pictures: dict[str, str] = field(default_factory=dict)


def look(request: Request, *, log: Path | None = None, progress: Progress | None = None) -> Examples:
    """Run both models on the data, in a process of its own. Raises CheckFailed when one of them does not run."""
    what = "looking at examples"
    plain = worker.run("examples", schema.plain(request), what=what, log=log, progress=progress, time_limit_s=LIMIT_S)
    return schema.read(Examples, plain, "examples")


def work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Look; returns a plain Examples."""
    asked = schema.read(Request, request, "request")
    data = open_dataset(Path(asked.data), None if asked.detection else asked.labels)
    pair = _Pair(asked)
    # How many may be unreadable was judged by the validation.
    stream = data.stream(pair.inputs, asked.preprocess, count=SAMPLES, seed=asked.seed, skip_limit=1)
    if asked.task == "classification":
        found = _classes(pair, stream, _names(pair, data), progress)
    elif asked.detection is not None:
        found = _boxes(pair, stream, progress)
    else:
        found = _masks(pair, stream, progress)
    plain: dict[str, Any] = schema.plain(found)
    return plain


class _Pair:
    """The two engines."""

    def __init__(self, asked: Request) -> None:
        self.asked = asked
        self.float, self.int8 = self._engine(asked.float), self._engine(asked.int8)
        self.inputs = self.float.inputs

    def _engine(self, model: str) -> Engine:
        detector = None
        if self.asked.detection is not None and self.asked.anchors is not None:
            anchors = Path(self.asked.anchors).read_bytes()
            detector = (self.asked.detection, detect.parse_anchors(anchors, self.asked.anchors))
        return Engine.load(
            Path(model),
            preprocess=self.asked.preprocess,
            labels=self.asked.labels,
            task=self.asked.task,
            detector=detector,
        )

    def real(self, sample: Sample, output: int) -> tuple[Array, Array]:
        """What the two give for one sample at one output."""
        rows = [value[None] for value in sample.inputs]
        return self.float.infer_real(rows)[output][0], self.int8.infer_real(rows)[output][0]

    def detections(self, sample: Sample) -> tuple[Detections, Detections]:
        """What the two find in one picture, as far as it is sure."""
        one, other = (_sure(engine, sample) for engine in (self.float, self.int8))
        return one, other

    def picture(self, sample: Sample) -> str | None:
        """The sample as the model sees it; None for one that is no picture."""
        if self.asked.preprocess is None:
            return None
        value = sample.inputs[0]
        return _jpeg(boxes.pixels(value if value.ndim == 3 else value[..., None], self.asked.preprocess))


def _sure(engine: Engine, sample: Sample) -> Detections:
    rows = [quant.quantize(value[None], spec) for value, spec in zip(sample.inputs, engine.inputs, strict=True)]
    (found,) = engine.detections(engine.infer(rows))
    sure = found.scores >= boxes.MIN_SCORE
    return Detections(found.boxes[sure], found.classes[sure], found.scores[sure])


def _names(pair: _Pair, data: RepresentativeDataset) -> tuple[str, ...]:
    count = int(np.prod(batch.sample_shape(pair.float.outputs[0])))
    given = pair.asked.labels or (data.classes if len(data.classes) == count else ())
    return given or tuple(f"class {number}" for number in range(count))


def _classes(pair: _Pair, stream: Stream, names: Sequence[str], progress: Progress) -> Examples:
    usable = not stream.dataset.classes or len(stream.dataset.classes) == len(names)
    pairs: tuple[Counter[tuple[int, int]], ...] = (Counter(), Counter())
    shown: list[Disagreement] = []
    pictures: dict[str, str] = {}
    disagreed = 0
    for number, sample in enumerate(stream):
        progress("examples", number, stream.wanted)
        values = [value.reshape(-1) for value in pair.real(sample, 0)]
        best = [int(value.argmax()) for value in values]
        known = usable and sample.label is not None and 0 <= sample.label < len(names)
        if known:
            for counter, answer in zip(pairs, best, strict=True):
                counter[sample.label or 0, answer] += 1
        if best[0] == best[1]:
            continue
        disagreed += 1
        if len(shown) < DISAGREEMENTS:
            key = _keep(pictures, pair.picture(sample))
            answers = [Answer(names[kind], float(value[kind])) for kind, value in zip(best, values, strict=True)]
            truth = names[sample.label or 0] if known else None
            shown.append(Disagreement(sample.name, answers[0], answers[1], truth, key))
    progress("examples", stream.wanted, stream.wanted)
    return Examples(len(stream.used), _confusion(pairs, names), disagreed, tuple(shown), pictures=pictures)


def _confusion(pairs: Sequence[Counter[tuple[int, int]]], names: Sequence[str]) -> Confusion | None:
    """Of many classes those that are most often taken for another one, or another one for them."""
    if not pairs[0]:
        return None
    wrong = Counter[int]()
    for counter in pairs:
        for (truth, answer), count in counter.items():
            wrong.update({truth: count * (truth != answer)})
            wrong.update({answer: count * (truth != answer)})
    kinds = sorted(range(len(names)), key=lambda kind: (-wrong[kind], kind))[:CLASSES]
    kinds.sort()

    def rows(counter: Counter[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
        totals = Counter[int]()
        for (truth, _), count in counter.items():
            totals[truth] += count
        cells = [tuple(counter[truth, answer] for answer in kinds) for truth in kinds]
        return tuple((*row, totals[truth] - sum(row)) for truth, row in zip(kinds, cells, strict=True))

    return Confusion(
        tuple(names[kind] for kind in kinds), rows(pairs[0]), rows(pairs[1]), max(0, len(names) - len(kinds))
    )


def _boxes(pair: _Pair, stream: Stream, progress: Progress) -> Examples:
    worst: list[tuple[tuple[int, int, int], Sample, Detections, Detections]] = []
    total = min(LOOKED_AT, stream.wanted)
    for number, sample in enumerate(islice(stream, LOOKED_AT)):
        progress("examples", number, total)
        one, other = pair.detections(sample)
        if len(one) or len(other):
            apart = len(one) + len(other) - 2 * boxes.match([one], [other]).found
            _push(worst, ((apart, len(one), -number), sample, one, other))
    progress("examples", total, total)
    pictures: dict[str, str] = {}
    shown = []
    for _, sample, one, other in sorted(worst, key=lambda row: row[0], reverse=True):
        found = boxes.match([one], [other]).found
        key = _keep(pictures, pair.picture(sample)) or ""
        labelled = [_labelled(engine, boxes) for engine, boxes in ((pair.float, one), (pair.int8, other))]
        shown.append(Found(sample.name, labelled[0], labelled[1], len(one) - found, len(other) - found, key))
    return Examples(len(stream.used), found=tuple(shown), pictures=pictures)


def _labelled(engine: Engine, found: Detections) -> tuple[Box, ...]:
    names = engine.class_names(found)
    rows = zip(names, found.classes, found.scores, found.boxes, strict=True)
    return tuple(
        Box(name or f"class {kind}", float(score), tuple(float(value) for value in box))  # type: ignore[arg-type]  # four
        for name, kind, score, box in islice(rows, MAX_BOXES)
    )


def _masks(pair: _Pair, stream: Stream, progress: Progress) -> Examples:
    """Of the first output that is a picture of one channel; nothing where there is none, or no picture goes in."""
    shapes = [batch.sample_shape(spec) for spec in pair.float.outputs]
    outputs = [n for n, shape in enumerate(shapes) if len(shape) in (2, 3) and shape[2:] in ((), (1,)) and shape[1] > 7]
    if pair.asked.preprocess is None or not outputs:
        return Examples(0)
    worst: list[tuple[tuple[float, int], Sample, Array, Array]] = []
    total = min(LOOKED_AT, stream.wanted)
    for number, sample in enumerate(islice(stream, LOOKED_AT)):
        progress("examples", number, total)
        one, other = pair.real(sample, outputs[0])
        difference = float(np.abs(one - other).mean() / (np.ptp(one) or 1.0))
        _push(worst, ((difference, -number), sample, one, other))
    progress("examples", total, total)
    pictures: dict[str, str] = {}
    shown = []
    for (difference, _), sample, one, other in sorted(worst, key=lambda row: row[0], reverse=True):
        low, span = float(one.min()), float(np.ptp(one)) or 1.0
        grey = [
            np.clip((mask.reshape(mask.shape[:2]) - low) / span * 255, 0, 255).astype(np.uint8) for mask in (one, other)
        ]
        keys = [_keep(pictures, picture) or "" for picture in (pair.picture(sample), *map(_jpeg, grey))]
        shown.append(Mask(sample.name, difference, *keys))
    return Examples(len(stream.used), masks=tuple(shown), pictures=pictures)


def _push(worst: list[Any], row: Any) -> None:
    """Keep the SHOWN largest; the first item of a row is unique."""
    (heapq.heappushpop if len(worst) >= SHOWN else heapq.heappush)(worst, row)


def _keep(pictures: dict[str, str], picture: str | None) -> str | None:
    if picture is None:
        return None
    key = str(len(pictures))
    pictures[key] = picture
    return key


def _jpeg(pixels: Array) -> str:
    """uint8 (H, W), (H, W, 1) or (H, W, 3), made no larger than SIDE."""
    from PIL import Image

    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[2:] == (1,) else np.ascontiguousarray(pixels))
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
