"""From a SavedModel to a float TFLite model for inputs of known sizes. Runs in the worker."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from edgekit_runtime import batch
from edgekit_runtime.manifest import Preprocess, TensorSpec

from edgekit.errors import CheckFailed, UserError
from edgekit.models import flatbuffer, savedmodel, unroll
from edgekit.models.savedmodel import Signature
from edgekit.models.source import COPY_AGAIN

_SIZES_AT_RUN_TIME = {"SHAPE", "RANGE", "FILL"}
# A loop has no INT8 form, and a fused LSTM begins each sequence with what the last one has left.
_LOOPS = {"WHILE", "UNIDIRECTIONAL_SEQUENCE_LSTM"}
Model = tuple[bytes, tuple[TensorSpec, ...]]


class Lower(Protocol):
    """Makes the float TFLite model for inputs of known sizes; it gives the inputs back: their batch is 1 where an open
    one would cost operators. With `normalise` the model takes pixels, and begins with their mean and std.
    """

    def __call__(self, inputs: tuple[TensorSpec, ...], normalise: Preprocess | None = None) -> Model: ...


@dataclass(frozen=True)
class Lowered:
    """A float model for these inputs; `complete` puts TensorFlow's own metadata into it."""

    inputs: tuple[TensorSpec, ...]
    content: bytes
    complete: Callable[[], bytes]

    @property
    def operators(self) -> set[str]:
        return set(flatbuffer.parse(self.content).operators)


def of_saved_model(path: Path, source: Path, folder: Path, serving: Signature) -> Lower:
    """What lowers a signature of the SavedModel `source`: files in between lie in `folder`, errors name `path`.

    It raises UserError, CheckFailed.
    """

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
        return content, real_dtypes(found.inputs, content)

    return lower


def channels_last(inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The inputs of a model of pictures [N, channels, height, width] as [N, height, width, channels]; others as they
    are. Lower takes either.
    """
    shape = inputs[0].shape if len(inputs) == 1 else ()
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[3] in (1, 3):
        return inputs
    return (replace(inputs[0], shape=(shape[0], *shape[2:], shape[1])),)


def real_dtypes(inputs: tuple[TensorSpec, ...], content: bytes) -> tuple[TensorSpec, ...]:
    """The inputs with the types that the model has."""
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
            f"{named}: TensorFlow {tf.__version__} cannot load it: {first_line(error)}",
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
def failures(named: Path, *, given: bool = False) -> Iterator[None]:
    """TensorFlow's refusals as ours; all that it says is text. A model `given` as TFLite is itself at fault."""
    try:
        yield
    except (UserError, CheckFailed):
        raise
    except Exception as error:  # ConverterError, RuntimeError, ValueError
        failure = _conversion_failure(named, str(error))
        if given and isinstance(failure, CheckFailed):
            raise UserError(
                f"{named}: no interpreter can run it: {first_line(error)}",
                hint="give the model that it was made from, or convert that to TFLite again",
            ) from error
        raise failure from error


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
    return CheckFailed(f"{named}: TensorFlow could not convert it: {first_line(text)}")


def first_line(error: object) -> str:
    """The first of what TensorFlow says, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
