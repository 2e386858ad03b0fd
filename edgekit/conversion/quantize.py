"""The worker's side of `convert`: a SavedModel or Keras model to a float and a full INT8 TFLite model.

Everything here runs in a process of its own; TensorFlow is imported inside the functions.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import batch, schema
from edgekit_runtime.manifest import Calibration, Preprocess, TensorSpec
from edgekit_runtime.preprocess import to_real

from edgekit.datasets import declaration as declarations
from edgekit.datasets.arrays import Arrays
from edgekit.datasets.dataset import RepresentativeDataset, Stream, open_dataset
from edgekit.datasets.declaration import Declaration
from edgekit.errors import CheckFailed, UserError
from edgekit.models import flatbuffer, keras_model, savedmodel
from edgekit.models.source import KERAS
from edgekit.worker import Progress

FLOAT = "float.tflite"
INT8 = "int8.tflite"


@dataclass(frozen=True)
class Request:
    """What the parent asks for. `folder` is where the two models are written (FLOAT and INT8)."""

    model: str
    form: str
    trust_code: bool
    declaration: Declaration
    data: str
    samples: int
    seed: int
    input_dtype: str
    output_dtype: str
    allow_float: bool
    dense_per_channel: bool
    folder: str


@dataclass(frozen=True)
class Quantized:
    """What was decided and measured on the way."""

    task: str
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    input_names: tuple[str, ...]
    calibration: Calibration
    versions: dict[str, str]
    notes: tuple[str, ...]


def work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Convert; returns a plain Quantized."""
    plain: dict[str, Any] = schema.plain(quantize(schema.read(Request, request, "request"), progress))
    return plain


def quantize(request: Request, progress: Progress) -> Quantized:
    """Write FLOAT and INT8 into `request.folder`. Raises UserError and CheckFailed."""
    import tensorflow as tf

    progress("load", 0, 1)
    folder = Path(request.folder)
    source, signature = _source(request, folder)
    declared = request.declaration
    data = open_dataset(Path(request.data), declared.labels)
    preprocess = declarations.preprocess(declared, signature.inputs, pictures=data.pixels)
    inputs = _fixed(signature.inputs, data, preprocess)
    loaded = _load(source, Path(request.model))
    progress("load", 1, 1)

    progress("float", 0, 1)
    wrapped, inputs = _float_model(loaded, inputs, folder, Path(request.model))
    progress("float", 1, 1)
    stream = data.stream(inputs, preprocess, count=request.samples, seed=request.seed)
    content = _int8_model(wrapped, request, _calibration(stream, preprocess, progress))
    progress("quantize", 1, 1)
    notes = _float_operators(flatbuffer.parse(content), request)
    content = flatbuffer.named(content)
    (folder / INT8).write_bytes(content)
    outputs = flatbuffer.parse(content).outputs
    labels = declared.labels or _class_names(data, outputs)
    return Quantized(
        task=declared.task or _task(outputs, labels, preprocess),
        preprocess=preprocess,
        labels=labels,
        input_names=tuple(spec.name for spec in inputs),
        calibration=stream.calibration(),
        versions=_versions(tf, Path(request.model), request.form),
        notes=notes + (("the batch is fixed to 1",) if inputs[0].shape[:1] == (1,) else ()) + stream.notes(),
    )


def _source(request: Request, folder: Path) -> tuple[Path, savedmodel.Signature]:
    path = Path(request.model)
    if request.form in KERAS:
        exported = folder / "keras"
        keras_model.export(keras_model.load(path, request.form, trust_code=request.trust_code), exported)
        return exported, savedmodel.serving_signature(path, savedmodel.read(exported))
    graph = savedmodel.read(path)
    if not request.trust_code:
        keras_model.refuse_code(path, tuple(f"operator {name}" for name in graph.code))
    return path, savedmodel.serving_signature(path, graph)


def _load(source: Path, named: Path) -> Any:
    import tensorflow as tf

    try:
        return tf.saved_model.load(str(source))
    except Exception as error:  # TensorFlow raises anything for damaged or foreign models
        raise UserError(
            f"{named}: TensorFlow {tf.__version__} cannot load it: {_first_line(error)}",
            hint="export it again with a current TensorFlow",
        ) from error


def _fixed(
    inputs: Sequence[TensorSpec], data: RepresentativeDataset, preprocess: Preprocess | None
) -> tuple[TensorSpec, ...]:
    """The inputs with every size known but the batch: from the preprocessing, else from the data."""
    fixed = []
    columns = data.source.columns(inputs, pixels=data.pixels) if isinstance(data.source, Arrays) else ()
    for number, spec in enumerate(inputs):
        known = batch.sample_shape(spec)
        if preprocess is not None:
            known = (preprocess.height, preprocess.width, preprocess.channels)[: len(known)]
        elif columns:
            known = tuple(columns[number].shape[1:])
        fixed.append(replace(spec, shape=(*spec.shape[:1], *known) if batch.has_batch(spec) else known))
    return tuple(fixed)


def _float_model(
    loaded: Any, inputs: tuple[TensorSpec, ...], folder: Path, named: Path
) -> tuple[Path, tuple[TensorSpec, ...]]:
    """Write FLOAT. The batch stays open where that costs no operator, so that the Engine may batch; else it is 1."""
    wrapped = _wrapped(loaded, inputs, folder / "wrapped")
    content = _converted(_converter(wrapped), named)
    sizes_at_run_time = {"SHAPE", "RANGE", "FILL"} & set(flatbuffer.parse(content).operators)
    if sizes_at_run_time and any(spec.shape[:1] == (-1,) for spec in inputs):
        inputs = tuple(replace(spec, shape=(1, *spec.shape[1:])) if spec.shape else spec for spec in inputs)
        wrapped = _wrapped(loaded, inputs, folder / "wrapped-1")
        content = _converted(_converter(wrapped), named)
    (folder / FLOAT).write_bytes(flatbuffer.named(content))
    return wrapped, inputs


def _wrapped(loaded: Any, inputs: Sequence[TensorSpec], folder: Path) -> Path:
    """The serving signature with these input shapes, as a SavedModel of its own."""
    import tensorflow as tf

    serving = loaded.signatures[savedmodel.SIGNATURE]
    module = tf.Module()
    module.loaded = loaded
    specs = {
        spec.name: tf.TensorSpec([None if size == -1 else size for size in spec.shape], spec.dtype, name=spec.name)
        for spec in inputs
    }

    def serve(**given: Any) -> Any:
        return serving(**given)

    function = tf.function(serve).get_concrete_function(**specs)
    tf.saved_model.save(module, str(folder), signatures={savedmodel.SIGNATURE: function})
    return folder


def _converter(wrapped: Path) -> Any:
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_saved_model(str(wrapped), signature_keys=[savedmodel.SIGNATURE])


def _int8_model(wrapped: Path, request: Request, samples: Callable[[], Iterator[dict[str, Any]]]) -> bytes:
    import tensorflow as tf

    converter = _converter(wrapped)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter._experimental_disable_per_channel_quantization_for_dense_layers = not request.dense_per_channel
    converter.inference_input_type = tf.dtypes.as_dtype(request.input_dtype)
    converter.inference_output_type = tf.dtypes.as_dtype(request.output_dtype)
    return _converted(converter, Path(request.model))


def _calibration(
    stream: Stream, preprocess: Preprocess | None, progress: Progress
) -> Callable[[], Iterator[dict[str, Any]]]:
    def samples() -> Iterator[dict[str, Any]]:
        for number, sample in enumerate(stream):
            progress("calibrate", number, stream.wanted)
            values = sample.inputs
            if number == 0 and preprocess is not None:
                values = (_full_range(values[0], preprocess),)
            yield {
                spec.name: value[None] if batch.has_batch(spec) else value
                for spec, value in zip(stream.inputs, values, strict=True)
            }
        progress("calibrate", stream.wanted, stream.wanted)
        progress("quantize", 0, 1)

    return samples


def _full_range(picture: Any, preprocess: Preprocess) -> Any:
    """One black and one white corner pixel in one picture: the input's range is that of pixels, not of a sample.

    Then (for one mean and std) a step of the stored input is exactly one pixel value.
    """
    if len(set(preprocess.mean)) > 1 or len(set(preprocess.std)) > 1:
        return picture
    black, white = to_real(np.array([[0], [255]], np.uint8).repeat(preprocess.channels, 1), preprocess)
    changed = picture.copy()
    changed[0, 0], changed[-1, -1] = (black, white) if picture.ndim == 3 else (black[0], white[0])
    return changed


def _converted(converter: Any, named: Path) -> bytes:
    try:
        content: bytes = converter.convert()
    except (UserError, CheckFailed):
        raise
    except Exception as error:  # ConverterError, RuntimeError, ValueError: all that TensorFlow says is text
        raise _conversion_failure(named, str(error)) from error
    return content


def _conversion_failure(named: Path, text: str) -> UserError | CheckFailed:
    found = re.findall(r"(?:TF Select|Custom) ops: ([\w, ]+)", text)
    found += re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", text)
    found += re.findall(r"Quantization (?:to \S+ )?not (?:yet )?supported for op: '?(\w+)", text)
    operators = sorted({name.strip() for group in found for name in group.split(",") if name.strip()})
    if operators:
        return UserError(
            f"{named}: no INT8 TFLite operator does the work of: {', '.join(operators)}",
            hint="change these in the model before it is exported, or cut them off and do them outside of it",
            operators=operators,
        )
    return CheckFailed(f"{named}: TensorFlow could not convert it: {_first_line(text)}")


def _float_operators(found: flatbuffer.TFLite, request: Request) -> tuple[str, ...]:
    if not found.float_operators:
        return ()
    names = ", ".join(found.float_operators)
    if not request.allow_float:
        raise UserError(
            f"{request.model}: not INT8 throughout: the converter left these operators in float: {names}",
            hint="say --allow-float to accept that",
            operators=list(found.float_operators),
        )
    return (f"operators kept in float: {names}",)


def _class_names(data: RepresentativeDataset, outputs: Sequence[TensorSpec]) -> tuple[str, ...] | None:
    size = int(np.prod(batch.sample_shape(outputs[0])))
    return data.classes if len(outputs) == 1 and len(data.classes) == size else None


def _task(outputs: Sequence[TensorSpec], labels: Sequence[str] | None, preprocess: Preprocess | None) -> str:
    if labels is not None:
        return "classification"
    one = len(outputs) == 1 and len(outputs[0].shape) == 2 and outputs[0].shape[1] > 1
    return "classification" if one and preprocess is not None else "raw"


def _versions(tf: Any, path: Path, form: str) -> dict[str, str]:
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__}
    if form in KERAS:
        versions["keras"] = keras_model.library(keras_model.read(path, form)).__version__
    return versions


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
