"""From any source form to a float TFLite model: what `quantize` starts from. Runs in the worker."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from edgekit_runtime import batch
from edgekit_runtime.manifest import DTYPES, Preprocess, TensorSpec

from edgekit import worker
from edgekit.errors import CheckFailed, UserError
from edgekit.models import (
    checkpoint,
    detector,
    flatbuffer,
    graph,
    keras_model,
    picture_input,
    savedmodel,
    savedmodel_v1,
    unroll,
)
from edgekit.models.detector import Detector
from edgekit.models.graph import FrozenGraph
from edgekit.models.operators import codes
from edgekit.models.picture_input import PictureInput
from edgekit.models.savedmodel import Signature
from edgekit.models.session import Session
from edgekit.models.source import COPY_AGAIN, KERAS
from edgekit.runtimes import gate

_SIZES_AT_RUN_TIME = {"SHAPE", "RANGE", "FILL"}
# A loop has no INT8 form, and a fused LSTM begins each sequence with what the last one has left.
_LOOPS = {"WHILE", "UNIDIRECTIONAL_SEQUENCE_LSTM"}
HALF = "it computes in float16 or bfloat16; it was converted as one that computes in float32"
Model = tuple[bytes, tuple[TensorSpec, ...]]


class Lower(Protocol):
    """Makes the float TFLite model for inputs of known sizes; it gives the inputs back: their batch is 1 where an open
    one would cost operators. With `normalise` the model takes pixels, and begins with their mean and std.
    """

    def __call__(self, inputs: tuple[TensorSpec, ...], normalise: Preprocess | None = None) -> Model: ...


@dataclass(frozen=True)
class Opened:
    """A source that was read: its inputs, and `lower`, which makes the float TFLite model of it.

    A detector is cut to what leads from its scaled picture to its raw heads, and other models that decode or loop over
    pictures to what follows; `picture` is the way there, and `original` gives what the whole graph makes of a picture
    of any size, by the part's outputs, where it takes any. `part` is what is left of a graph that was pruned here; that
    of a SavedModel of TensorFlow 2 TensorFlow's own converter prunes. A `fixed` one takes nothing in front of it.
    """

    inputs: tuple[TensorSpec, ...]
    lower: Lower
    notes: tuple[str, ...] = ()
    detector: Detector | None = None
    picture: PictureInput | None = None
    original: Callable[[Any], dict[str, Any]] | None = None
    part: FrozenGraph | None = None
    fixed: bool = False


@dataclass(frozen=True)
class Lowered:
    """A float model for these inputs; `complete` puts TensorFlow's own metadata into it."""

    inputs: tuple[TensorSpec, ...]
    content: bytes
    complete: Callable[[], bytes]

    @property
    def operators(self) -> set[str]:
        return set(flatbuffer.parse(self.content).operators)


def open_source(
    path: Path,
    form: str,
    folder: Path,
    *,
    trust_code: bool,
    whole: bool = False,
    signature: str | None = None,
    size: tuple[int | None, int | None] = (None, None),
) -> Opened:
    """Read the source; `folder` is for files in between, `whole` leaves detectors as they are, `signature` is that of
    a SavedModel, `size` (height, width) that of the pictures for a Keras model that takes any.

    Raises UserError, CheckFailed.
    """
    if signature is not None and form != "saved-model":
        raise UserError(
            f"{path}: the signature '{signature}' is declared, which only a SavedModel has",
            hint="leave signature out of model.toml",
            key="signature",
        )
    if form == "tflite":
        return _tflite(path)
    if form in KERAS:
        model = keras_model.load(path, form, trust_code=trust_code)
        notes = (HALF,) if keras_model.to_float32(path, model) else ()
        try:
            keras_model.export(model, folder / "keras", size)
        except Exception as error:  # Keras and TensorFlow raise whatever the layers do
            if worker.is_full(error):
                raise
            raise UserError(
                f"{path}: Keras cannot export it: {_first_line(error)}",
                hint="declare the size of its pictures (--size), or export it yourself: model.export('saved_model')",
            ) from error
        return replace(_saved_model(path, folder / "keras", folder, savedmodel.read(folder / "keras")), notes=notes)
    if form == "saved-model":
        found = savedmodel.read(path, signature)
        _refuse_code(path, found.code, trust_code=trust_code)
        return _open_saved_model(path, found, folder, whole=whole)
    if form == "graph-def":
        frozen = graph.read(path)
        _refuse_code(path, graph.code_in(frozen.graph), trust_code=trust_code)
        part = graph.pruned(path, frozen.graph, frozen.inputs.values(), frozen.outputs.values(), {})
        return _frozen(path, graph.connected(frozen, part), folder, whole=whole)
    training = checkpoint.read(path)
    _refuse_code(path, graph.code_in(training.meta.graph_def), trust_code=trust_code)
    return _frozen(path, checkpoint.freeze(path, training), folder, whole=whole)


def _open_saved_model(path: Path, found: savedmodel.Graph, folder: Path, *, whole: bool) -> Opened:
    as_it_is = found.version == 2 and (whole or not found.suppresses)
    if as_it_is and not found.prepares:
        return _saved_model(path, path, folder, found)
    try:
        frozen = _freeze(path, found)
        if as_it_is and _picture(path, frozen) is None:
            return _saved_model(path, path, folder, found)
    except UserError as refused:
        if found.version == 2 or found.suppresses:
            raise
        # What TensorFlow 1's session cannot freeze TensorFlow 2 may load: conditions that are functions, for example.
        try:
            load(path, path)
        except UserError:
            raise refused from None
        return _saved_model(path, path, folder, found)
    return _frozen(path, frozen, folder, whole=whole)


def _refuse_code(path: Path, operators: Sequence[str], *, trust_code: bool) -> None:
    if not trust_code:
        keras_model.refuse_code(path, tuple(f"operator {name}" for name in operators))


def _freeze(path: Path, found: savedmodel.Graph) -> FrozenGraph:
    if found.prepares:  # it may take files of pictures, which are no numbers
        savedmodel.require_signature(path, found)
    else:
        savedmodel.serving_signature(path, found)
    if found.version == 1:
        return savedmodel_v1.freeze(path, found)
    return replace(savedmodel.freeze(path, load(path, path), found.name), nodes_before=found.nodes)


def _frozen(path: Path, frozen: FrozenGraph, folder: Path, *, whole: bool) -> Opened:
    found = None if whole or not detector.is_detector(frozen) else detector.find(path, frozen)
    picture = found.picture if found else _picture(path, frozen)
    notes = frozen.notes
    if picture is not None and not found:
        frozen, notes = _numbers(path, frozen)
    part = found.part if found else picture.cut(path, frozen) if picture else frozen
    if picture is not None and (found is None or picture.filter is not None):
        notes = (*notes, f"cut off and declared instead: {picture}")
    graph.save(path, part, folder / "frozen")
    opened = _saved_model(path, folder / "frozen", folder, savedmodel.read(folder / "frozen"))
    left = f"of the graph's {part.nodes_before} nodes {len(graph.all_nodes(part.graph))} lead from input to output"
    whole_graph = None if picture is None or picture.filter is None else _original(path, frozen, part, picture)
    return replace(opened, notes=(*notes, left), detector=found, picture=picture, original=whole_graph, part=part)


def _numbers(path: Path, frozen: FrozenGraph) -> tuple[FrozenGraph, tuple[str, ...]]:
    """Without outputs that are no numbers (a key that is passed through, names of classes), and the notes with that."""
    session = Session(path, frozen.graph)
    outputs = {name: tensor for name, tensor in frozen.outputs.items() if session.dtype(tensor) in DTYPES}
    left = sorted(frozen.outputs.keys() - outputs.keys())
    if not outputs:
        raise UserError(
            f"{path}: gives no numbers: {', '.join(left)}", hint="export it with its scores as an output", outputs=left
        )
    notes = frozen.notes + ((f"outputs that are no numbers were left out: {', '.join(left)}",) if left else ())
    return replace(frozen, outputs=outputs, notes=notes), notes


def _original(
    path: Path, frozen: FrozenGraph, part: FrozenGraph, picture: PictureInput
) -> Callable[[Any], dict[str, Any]]:
    session = Session(path, frozen.graph)

    def answer(pixels: Any) -> dict[str, Any]:
        values = session.run(list(part.outputs.values()), {picture.tensor: picture.feed(pixels)})
        return dict(zip(part.outputs, values, strict=True))

    return answer


def _picture(path: Path, frozen: FrozenGraph) -> PictureInput | None:
    """The picture that a graph prepares itself; a detector that is kept whole is not opened at its front either."""
    return None if detector.suppresses(frozen.graph) else picture_input.find(path, frozen)


def _tflite(path: Path) -> Opened:
    found = flatbuffer.read(path)
    if foreign := gate.foreign(codes(path.read_bytes())):
        raise UserError(
            f"{path}: no interpreter has its custom operators: {', '.join(foreign)}",
            hint="cut them off before the model is made a .tflite, and do their work outside of it",
            operators=list(foreign),
        )
    if found.quantization == "none":
        raise UserError(f"{path}: computes with whole numbers only: there is nothing to quantise", quantization="none")
    if found.quantization != "float":
        raise UserError(
            f"{path}: this TFLite model is quantised already ({found.quantization})",
            hint="give the float model that it was made from",
            quantization=found.quantization,
        )
    free = [spec.name for spec in found.inputs if -1 in batch.sample_shape(spec)]
    if free:
        raise UserError(
            f"{path}: the size of {', '.join(free)} is not fixed",
            hint="give the SavedModel or Keras model that it was made from",
        )
    content = flatbuffer.named(path.read_bytes())
    inputs, content = flatbuffer.parse(content).inputs, flatbuffer.real_inputs(content)

    def lower(inputs: tuple[TensorSpec, ...], normalise: Preprocess | None = None) -> Model:
        assert normalise is None
        return content, _real(inputs, content)

    return Opened(inputs, lower, fixed=True)


def _saved_model(path: Path, source: Path, folder: Path, found: savedmodel.Graph) -> Opened:
    serving = savedmodel.serving_signature(path, found)

    def lower(inputs: tuple[TensorSpec, ...], normalise: Preprocess | None = None) -> Model:
        loaded, signature = load(source, path), serving
        last = channels_last(serving.inputs)
        turned = last != serving.inputs and inputs[0].shape[3] == last[0].shape[3]
        if normalise is not None or turned:
            loaded = load(_wrapped(loaded, serving, inputs, folder / "pixels", normalise, turned=turned), path)
            signature = replace(serving, name=savedmodel.SIGNATURE)
        fixed = tuple(replace(spec, shape=(1, *spec.shape[1:])) if batch.has_batch(spec) else spec for spec in inputs)

        def lowered(inputs: tuple[TensorSpec, ...], name: str) -> Lowered:
            return Lowered(inputs, *_float(path, loaded, signature, inputs, folder / name))

        try:
            found = lowered(inputs, "wrapped")
            # The batch stays open where that costs no operator, so that the Engine may batch; else it is 1.
            if fixed != inputs and _SIZES_AT_RUN_TIME & found.operators:
                found = lowered(fixed, "wrapped-1")
        except UserError as error:
            if not any(operator.startswith("TensorList") for operator in error.fields.get("operators", ())):
                raise
            found = _without_loops(path, loaded, signature, fixed, folder)
        else:
            if _LOOPS & found.operators:
                # TensorFlow's calibrator crashes on a loop that is left; a fused LSTM it calibrates.
                with contextlib.suppress(*(() if "WHILE" in found.operators else (UserError,))):
                    found = _without_loops(path, loaded, signature, fixed, folder)
        names = [spec.name for spec in found.inputs]
        content = flatbuffer.real_inputs(flatbuffer.named(found.complete(), names))
        return content, _real(found.inputs, content)

    return Opened(serving.inputs, lower)


def channels_last(inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The inputs of a model of pictures [N, channels, height, width] as [N, height, width, channels]; others as they
    are. Opened.lower takes either.
    """
    shape = inputs[0].shape if len(inputs) == 1 else ()
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[3] in (1, 3):
        return inputs
    return (replace(inputs[0], shape=(shape[0], *shape[2:], shape[1])),)


def _real(inputs: tuple[TensorSpec, ...], content: bytes) -> tuple[TensorSpec, ...]:
    return tuple(
        replace(spec, dtype=own.dtype) for spec, own in zip(inputs, flatbuffer.parse(content).inputs, strict=True)
    )


def _without_loops(
    path: Path, loaded: Any, signature: Signature, inputs: tuple[TensorSpec, ...], folder: Path
) -> Lowered:
    """With its loops written out. Raises UserError where that cannot be."""
    unroll.save(path, savedmodel.freeze(path, loaded, signature.name, lower_loops=False), inputs, folder / "unrolled")
    flat = replace(signature, name=savedmodel.SIGNATURE)
    return Lowered(inputs, *_float(path, load(folder / "unrolled", path), flat, inputs, folder / "wrapped-flat"))


def load(source: Path, named: Path) -> Any:
    """A SavedModel in TensorFlow; `named` is its name in errors. Raises UserError."""
    import tensorflow as tf

    try:
        return tf.saved_model.load(str(source))
    except (tf.errors.DataLossError, IndexError) as error:  # its reader's OUT_OF_RANGE becomes an IndexError
        raise UserError(f"{named}: the values of its variables are cut or damaged", hint=COPY_AGAIN) from error
    except Exception as error:  # TensorFlow raises anything for damaged or foreign models
        raise UserError(
            f"{named}: TensorFlow {tf.__version__} cannot load it: {_first_line(error)}",
            hint="export it again with a current TensorFlow",
        ) from error


def _float(
    path: Path, loaded: Any, signature: Signature, inputs: Sequence[TensorSpec], folder: Path
) -> tuple[bytes, Callable[[], bytes]]:
    """The float model, and what puts TensorFlow's own metadata into it.

    As `TFLiteConverter.from_saved_model(folder).convert()`, which loads the model twice more: to see whether the
    signature is there, and for stack traces that no model of ours holds. The functions are internal to TensorFlow,
    whose version is pinned.
    """
    from tensorflow.lite.python import conversion_metadata_schema_py_generated as metadata
    from tensorflow.lite.python import lite

    _wrapped(loaded, signature, inputs, folder)
    tags = {savedmodel.SERVE_TAG}
    with failures(path):
        lite.TFLiteConverterBase._set_original_model_type(metadata.ModelType.TF_SAVED_MODEL)
        converter = lite.TFLiteSavedModelConverterV2(str(folder), tags, [savedmodel.SIGNATURE])
        graph, _, _ = converter._load_saved_model(str(folder), tags)
        content: bytes = converter._convert_from_saved_model(graph)
    return content, lambda: bytes(converter._convert_and_export_metrics(lambda _: content))


def without_data(folder: Path, *, half: bool) -> bytes:
    """What `lower` has put into `folder`, with weights of 8 bits, or of 16 (`half`), and activations in float.

    Raises what TensorFlow raises, UserError for a source that was a `.tflite`.
    """
    import tensorflow as tf

    found = [folder / name for name in ("wrapped-flat", "wrapped-1", "wrapped") if (folder / name).is_dir()]
    if not found:
        raise UserError("made from a .tflite: the model that it came from would be needed")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(found[0]), signature_keys=[savedmodel.SIGNATURE])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if half:
        converter.target_spec.supported_types = [tf.float16]
    content: bytes = converter.convert()
    return content


def _wrapped(
    loaded: Any,
    signature: Signature,
    inputs: Sequence[TensorSpec],
    folder: Path,
    normalise: Preprocess | None = None,
    *,
    turned: bool = False,
) -> Path:
    """The serving signature with these input shapes, as a SavedModel of its own; with `normalise` behind pixels, and
    `turned` to get channels last.
    """
    import tensorflow as tf

    serving = loaded.signatures[signature.name]
    module = tf.Module()
    module.loaded = loaded
    specs = {
        spec.name: tf.TensorSpec([None if size == -1 else size for size in spec.shape], spec.dtype, name=spec.name)
        for spec in inputs
    }

    def serve(**given: Any) -> Any:
        if normalise is not None:
            given = {name: _normalised(pixels, normalise) for name, pixels in given.items()}
        if turned:
            given = {name: tf.transpose(pixels, [0, 3, 1, 2]) for name, pixels in given.items()}
        return serving(**given)

    function = tf.function(serve).get_concrete_function(**specs)
    tf.saved_model.save(module, str(folder), signatures={savedmodel.SIGNATURE: function})
    return folder


def _normalised(pixels: Any, preprocess: Preprocess) -> Any:
    """`to_real` as a convolution of single pixels, which XNNPACK does in a fraction of the time of MUL and ADD."""
    import tensorflow as tf

    mean, std = (np.asarray(value, np.float32) for value in (preprocess.mean, preprocess.std))
    return tf.nn.bias_add(tf.nn.conv2d(pixels, np.diag(1 / std)[None, None], 1, "VALID"), -mean / std)


@contextlib.contextmanager
def failures(named: Path) -> Iterator[None]:
    """TensorFlow's refusals as ours; all that it says is text."""
    try:
        yield
    except (UserError, CheckFailed):
        raise
    except Exception as error:  # ConverterError, RuntimeError, ValueError
        raise _conversion_failure(named, str(error)) from error


def _conversion_failure(named: Path, text: str) -> UserError | CheckFailed:
    found = re.findall(r"(?:TF Select|Custom) ops: ([\w, ]+)", text)
    found += re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", text)
    found += re.findall(r"'tf\.(TensorList\w+)' op requires", text)
    found += re.findall(r"Quantization (?:to \S+ )?not (?:yet )?supported for op: '?(\w+)", text)
    operators = sorted({name.strip() for group in found for name in group.split(",") if name.strip()})
    if operators and re.search(r"xb?f16>", text):
        return UserError(
            f"{named}: computes in float16 or bfloat16, which TFLite has no operators for: {', '.join(operators)}",
            hint="give the Keras file, which is converted in float32, or export it with the policy 'float32'",
            operators=operators,
        )
    if operators:
        return UserError(
            f"{named}: no INT8 TFLite operator does the work of: {', '.join(operators)}",
            hint="change these in the model before it is exported, or cut them off and do them outside of it",
            operators=operators,
        )
    return CheckFailed(f"{named}: TensorFlow could not convert it: {_first_line(text)}")


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
