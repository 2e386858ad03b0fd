"""The worker's side of `convert`: a source in any form to a float and a full INT8 TFLite model.

Everything here runs in a process of its own; TensorFlow is imported inside the functions.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import batch, schema
from edgekit_runtime.manifest import ANCHORS, Calibration, Detection, Preprocess, TensorSpec
from numpy.typing import NDArray

from edgekit import worker
from edgekit.conversion import boxes, integer, measured, samples
from edgekit.conversion.lowering import channels_last, failures
from edgekit.conversion.opening import Opened, open_source
from edgekit.datasets import declaration as declarations
from edgekit.datasets.dataset import RepresentativeDataset, open_dataset
from edgekit.datasets.declaration import Declaration
from edgekit.errors import CheckFailed, UserError
from edgekit.models import flatbuffer, keras_model, ranges
from edgekit.models.detector import BOXES, SCORES, Detector
from edgekit.models.source import KERAS
from edgekit.worker import Progress

Array = NDArray[Any]
FLOAT = "float.tflite"
DECLARED = "declared.tflite"
CALIBRATED = "calibrated.tflite"
RANGES = "ranges.npy"  # of the tensors of FLOAT, for each of the first samples; NaN of one that got corners
INT8 = "int8.tflite"
IN_FLOAT = "operators kept in float: "
_RANDOM = {"RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL"}


@dataclass(frozen=True)
class Encoding:
    """What of a board the INT8 model depends on."""

    input_dtype: str
    output_dtype: str
    dense_per_channel: bool


@dataclass(frozen=True)
class Request:
    """What the parent asks for. `folder` is where the models are written: FLOAT, and `int8_name` for each encoding.

    With `repair` operators may stay in float, and an INT8 model that cannot be made is no error.
    Of a detector ANCHORS and what the original finds (`boxes.ORIGINAL`) stand there, too.
    """

    model: str
    form: str
    trust_code: bool
    declaration: Declaration
    data: str
    samples: int
    seed: int
    encodings: tuple[Encoding, ...]
    allow_float: bool
    folder: str
    repair: bool = False


@dataclass(frozen=True)
class Quantized:
    """What was decided and measured on the way. `failure` is why there is no INT8 model, if a repair was asked for.

    `used` are the SHA-256 of the samples that calibrated, in their order. `inside` is what was declared where mean and
    std became a part of the model; as DECLARED stands the model without.
    """

    task: str
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    input_names: tuple[str, ...]
    calibration: Calibration
    versions: dict[str, str]
    notes: tuple[str, ...]
    detection: Detection | None = None
    failure: str | None = None
    used: tuple[str, ...] = ()
    inside: Preprocess | None = None


@dataclass(frozen=True)
class Prepared:
    """A source and its data, opened, and what they need of each other; `inputs` have every size but the batch.

    `anchors` are those of a declared detector.
    """

    opened: Opened
    declared: Declaration
    data: RepresentativeDataset
    preprocess: Preprocess | None
    inputs: tuple[TensorSpec, ...]
    anchors: Array | None = None

    @property
    def inside(self) -> Preprocess | None:
        """What becomes a part of the model: mean and std that differ by channel, which no single scale can store."""
        given = self.preprocess
        if given is None or len(set(zip(given.mean, given.std, strict=True))) == 1:
            return None
        return given if self.inputs[0].dtype == "float32" and not self.opened.fixed else None

    @property
    def turned(self) -> bool:
        """Whether its pictures are given with the channels last, which the source wants first."""
        return self.preprocess is not None and channels_last(self.opened.inputs) != self.opened.inputs

    @property
    def detects(self) -> bool:
        """Whether it is a detector, recognised or declared."""
        return self.opened.detector is not None or self.declared.detection is not None


def _one_at_a_time(given: tuple[TensorSpec, ...], inputs: tuple[TensorSpec, ...]) -> tuple[str, ...]:
    if inputs[0].shape[:1] != (1,):
        return ()
    why = "an open one would cost operators" if given[0].shape[:1] == (-1,) else "as the source has it"
    return (f"the batch is fixed to 1: {why}",)


def int8_name(number: int) -> str:
    """The file of the model in the encoding of this number."""
    return INT8 if number == 0 else f"int8-{number}.tflite"


def run(request: Request, *, log: Path | None, progress: Progress | None) -> tuple[Quantized, ...]:
    """`quantize` in a process of its own."""
    what = f"converting {request.model}"
    plain = worker.run("convert", schema.plain(request), what=what, log=log, progress=progress)
    return tuple(schema.read(Quantized, item, "conversion") for item in plain["made"])


def work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Convert; returns a plain Quantized for each encoding."""
    made = quantize(schema.read(Request, request, "request"), progress)
    return {"made": [schema.plain(one) for one in made]}


def quantize(request: Request, progress: Progress) -> tuple[Quantized, ...]:
    """Write the float model, and from one calibration an INT8 model in each encoding. Raises UserError, CheckFailed."""
    import tensorflow as tf

    progress("load", 0, 1)
    folder = Path(request.folder)
    model = Path(request.model)
    ready = prepare(model, request.form, request.declaration, Path(request.data), folder, trust_code=request.trust_code)
    opened, declared, data, preprocess = ready.opened, ready.declared, ready.data, ready.preprocess
    progress("load", 1, 1)

    progress("float", 0, 1)
    inside = ready.inside
    float_model, inputs = opened.lower(ready.inputs, inside)
    if inside is not None:
        (folder / DECLARED).write_bytes(opened.lower(ready.inputs)[0])
        preprocess = replace(inside, mean=(0.0,) * inside.channels, std=(1.0,) * inside.channels)
    (folder / FLOAT).write_bytes(float_model)
    _require_usable(model, ready, float_model)
    whole = measured.compare(opened.original, folder / FLOAT, data, preprocess, request.seed) if preprocess else ()
    worker.give_back()
    progress("float", 1, 1)
    declared_heads = _declared(model, ready, flatbuffer.parse(float_model).outputs, folder)
    stream = data.stream(inputs, preprocess, count=request.samples, seed=request.seed)
    with failures(model, given=opened.fixed):
        seen = integer.calibrate(float_model, samples.calibrating(stream, preprocess, progress))
    calibrated = _keep(model, seen, preprocess, folder)
    built = [_int8(request, number, calibrated, folder) for number in range(len(request.encodings))]
    progress("quantize", 1, 1)
    if opened.detector is not None:
        np.save(folder / ANCHORS, opened.detector.anchors)
        reals = tuple(replace(spec, dtype="float32") for spec in inputs)
        boxes.write_original(opened.detector, data.stream(reals, preprocess, seed=request.seed), folder, progress)
    versions = _versions(tf, model, request.form)

    def told(number: int, notes: tuple[str, ...], failure: str | None) -> Quantized:
        outputs = flatbuffer.read(folder / (FLOAT if failure else int8_name(number))).outputs
        labels = declared.labels or class_names(data, outputs)
        detection = _detection(opened.detector, outputs) if opened.detector else declared_heads
        return Quantized(
            task="detection" if detection else declared.task or task_of(outputs, labels, preprocess),
            preprocess=preprocess,
            labels=labels,
            input_names=tuple(spec.name for spec in inputs),
            calibration=stream.calibration(),
            versions=versions,
            notes=(*opened.notes, *whole, *notes)
            + (("mean and std are in the model: it takes pixels",) if inside is not None else ())
            + (("its input was turned: it takes channels last, as pictures have them",) if ready.turned else ())
            + _one_at_a_time(opened.inputs, inputs)
            + _repeated(labels)
            + stream.notes(),
            detection=detection,
            failure=failure,
            used=tuple(stream.used),
            inside=inside,
        )

    return tuple(told(number, *one) for number, one in enumerate(built))


def _keep(model: Path, seen: integer.Calibrated, preprocess: Preprocess | None, folder: Path) -> bytes:
    """Leave in the folder what calibration has seen. Raises UserError for what no 8 bits can store."""
    if names := ranges.endless(seen.content):
        raise UserError(
            f"{model}: computes values without end, or that are no numbers, of the calibration data: {names[0]}",
            hint="is the declared range the one that the model was trained on?",
            tensors=list(names),
        )
    (folder / CALIBRATED).write_bytes(seen.content)
    if seen.ranges is not None:
        seen.ranges[: int(samples.widens_first(preprocess))] = np.nan
        np.save(folder / RANGES, seen.ranges)
    return seen.content


def prepare(model: Path, form: str, declared: Declaration, data: Path, folder: Path, *, trust_code: bool) -> Prepared:
    """Open model and data and bring them together; `folder` is for files in between. Raises UserError, CheckFailed."""
    heads = declared.detection
    anchors = None if heads is None else heads.read_anchors()
    opened = open_source(
        model,
        form,
        folder,
        trust_code=trust_code,
        whole=declared.keeps_boxes,
        signature=declared.signature,
        size=(declared.height, declared.width),
    )
    if opened.picture is not None:
        picture = measured.given(declared, opened.picture)
        opened = opened.taking(picture)
        declared = measured.declare(model, declared, picture)
    if opened.detector is not None:
        boxes.require_labels(declared, opened.detector)
    elif heads is not None:
        declared = replace(declared, task="detection")
    elif declared.task == "detection":
        raise UserError(
            f"{model}: declared as a detector, but it does not select boxes",
            hint="declare its heads and anchors in a table [detection] of model.toml",
            key="task",
        )
    dataset = open_dataset(data, None if heads or opened.detector else declared.labels)
    inputs = channels_last(opened.inputs) if dataset.pixels and not opened.fixed else opened.inputs
    preprocess = declarations.preprocess(declared, inputs, pictures=dataset.pixels)
    if (heads or opened.detector) and preprocess is not None and preprocess.resize != "stretch":
        raise UserError(
            f"{model}: a detector whose pictures are made to fit by '{preprocess.resize}': its boxes would be shares "
            "of what the model sees, not of the picture",
            hint="declare resize = 'stretch', or export it so that it stretches its pictures",
            key="resize",
        )
    return Prepared(opened, declared, dataset, preprocess, _fixed(inputs, dataset, preprocess), anchors)


def _require_usable(model: Path, ready: Prepared, float_model: bytes) -> None:
    """Raises UserError for a float model that no INT8 can answer like, and for one declared as what it is not."""
    found = flatbuffer.parse(float_model)
    if chance := sorted(_RANDOM & set(found.operators)):
        raise UserError(
            f"{model}: answers at random, the same input differently each time: {', '.join(chance)}",
            hint="a dropout or noise of its training is still in it: export it for inference (training=False)",
            operators=chance,
        )
    if names := flatbuffer.spoilt(float_model):
        raise UserError(
            f"{model}: its own weights hold values that are not a number: {', '.join(names[:3])}",
            hint="the training has failed: take an earlier checkpoint",
            tensors=list(names),
        )
    given = [spec.name for spec in found.outputs]
    declared = ready.declared
    classifies = declared.task == "classification" or (declared.task is None and declared.labels is not None)
    if classifies and len(given) > 1 and not ready.detects:
        raise UserError(
            f"{model}: declared a classification, which has one output, but it has {len(given)}: {', '.join(given)}",
            hint="declare task = 'raw', or export it with its scores alone",
            key="task",
        )
    (single, *_) = found.outputs
    if classifies and not ready.detects and single.dtype in ("int32", "int64"):
        raise UserError(
            f"{model}: declared a classification, but its output {single.name} is the number of the best class, "
            "without any score to compare",
            hint="declare task = 'raw', or export it with its scores instead",
            key="task",
        )


def _int8(request: Request, number: int, calibrated: bytes, folder: Path) -> tuple[tuple[str, ...], str | None]:
    """Write the INT8 model; returns notes, and why there is none if that is for a repair to mend."""
    encoding = request.encodings[number]
    try:
        with failures(Path(request.model)):
            content = integer.quantize(
                calibrated,
                input_dtype=encoding.input_dtype,
                output_dtype=encoding.output_dtype,
                dense_per_channel=encoding.dense_per_channel,
            )
    except (UserError, CheckFailed) as error:
        if not request.repair:
            raise
        return (), error.message
    notes = _float_operators(flatbuffer.parse(content), request)
    (folder / int8_name(number)).write_bytes(flatbuffer.named(content))
    return notes, None


def _declared(model: Path, ready: Prepared, outputs: Sequence[TensorSpec], folder: Path) -> Detection | None:
    """Of a declared detector; its outputs are checked before anything else is done."""
    if ready.declared.detection is None or ready.anchors is None:
        return None
    np.save(folder / ANCHORS, ready.anchors)
    return ready.declared.detection.detection(model, outputs, ready.anchors, ready.declared.labels)


def _detection(found: Detector, outputs: Sequence[TensorSpec]) -> Detection:
    names = [spec.name for spec in outputs]
    return replace(found.detection, boxes=names.index(BOXES), scores=names.index(SCORES))


def _fixed(
    inputs: Sequence[TensorSpec], data: RepresentativeDataset, preprocess: Preprocess | None
) -> tuple[TensorSpec, ...]:
    """The inputs with every size known but the batch: from the preprocessing, else from the data."""
    fixed = []
    shapes = () if data.pixels else data.source.shapes(inputs)
    for number, spec in enumerate(inputs):
        known = batch.sample_shape(spec)
        if preprocess is not None:
            known = (preprocess.height, preprocess.width, preprocess.channels)[: len(known)]
        elif shapes:
            known = shapes[number]
        fixed.append(replace(spec, shape=(*spec.shape[:1], *known) if batch.has_batch(spec) else known))
    return tuple(fixed)


def _float_operators(found: flatbuffer.TFLite, request: Request) -> tuple[str, ...]:
    if not found.float_operators:
        return ()
    names = ", ".join(found.float_operators)
    if not (request.allow_float or request.repair):
        raise UserError(
            f"{request.model}: not INT8 throughout: the converter left these operators in float: {names}",
            hint="say --allow-float to accept that, or --max-drop 1% for a repair that keeps in float what it must",
            operators=list(found.float_operators),
        )
    return (IN_FLOAT + names,)


def class_names(data: RepresentativeDataset, outputs: Sequence[TensorSpec]) -> tuple[str, ...] | None:
    size = int(np.prod(batch.sample_shape(outputs[0])))
    return data.classes if len(outputs) == 1 and len(data.classes) == size else None


def task_of(outputs: Sequence[TensorSpec], labels: Sequence[str] | None, preprocess: Preprocess | None) -> str:
    if labels is not None:
        return "classification"
    one = len(outputs) == 1 and len(outputs[0].shape) == 2 and outputs[0].shape[1] > 1
    return "classification" if one and preprocess is not None else "raw"


def _repeated(labels: Sequence[str] | None) -> tuple[str, ...]:
    """ImageNet has two cranes and two maillots: worth knowing, and no mistake."""
    twice = sorted(name for name, count in Counter(labels or ()).items() if count > 1)
    return (f"labels that stand for more than one class: {', '.join(twice)}",) if twice else ()


def _versions(tf: Any, path: Path, form: str) -> dict[str, str]:
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__}
    if form in KERAS:
        versions["keras"] = keras_model.library(keras_model.read(path, form)).__version__
    return versions
