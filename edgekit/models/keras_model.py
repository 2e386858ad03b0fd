"""Loading a Keras model and exporting it as a SavedModel with names of its own. Runs in the worker.

Keras 3 cannot load many a Keras 2 file and the other way round, so each file goes to the Keras that wrote it.
"""

import contextlib
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import UserError
from edgekit.models import keras_archive, keras_h5
from edgekit.models.keras_h5 import KerasFile
from edgekit.models.source import COPY_AGAIN

HALF = "it computes in float16 or bfloat16; it was converted as one that computes in float32"
_HALVES = ("float16", "bfloat16")
SUFFIXES = {"keras": ".keras", "keras-h5": ".h5"}


def refuse_code(what: Path, code: tuple[str, ...]) -> None:
    """Raises UserError when `code` is not empty: loading a model must not run what came with it."""
    if code:
        raise UserError(
            f"{what}: loading this model would run code that came with it: {'; '.join(code[:5])}",
            hint="if you trust where it came from, say --trust-code",
            code=list(code),
        )


def read(path: Path, form: str) -> KerasFile:
    """What the file says of its model, as data. Raises UserError."""
    if form == "keras-h5":
        return keras_h5.read(path)
    return KerasFile(keras_archive.read_config(path), keras_archive.version(path))


def load(path: Path, form: str, *, trust_code: bool) -> Any:
    """The model, ready to be called. Raises UserError."""
    file = read(path, form)
    if not trust_code:
        refuse_code(path, keras_archive.code_in(file.config))
    keras = library(file)
    try:
        with _suffixed(path, form) as known:
            model = keras.saving.load_model(known, compile=False, safe_mode=not trust_code)
    except Exception as error:  # Keras raises whatever the layers raise
        reason = " ".join(str(error).split())[:300]
        hint = f"it was saved by Keras {file.keras}"
        if "Could not locate class" in reason or "Unknown layer" in reason:
            hint += "; where its class is known, model.export('saved_model'), and convert this"
        elif isinstance(error, zipfile.BadZipFile | EOFError):
            hint = COPY_AGAIN
        raise UserError(f"{path}: Keras {keras.__version__} cannot load it: {reason}", hint=hint) from error
    if not getattr(model, "inputs", None):
        raise UserError(f"{path}: the model has no inputs: it was saved before it was built")
    return model


@contextlib.contextmanager
def _suffixed(path: Path, form: str) -> Iterator[Path]:
    """The file under a name that ends as its form does: Keras goes by that, not by the content."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        link = Path(folder) / f"model{SUFFIXES[form]}"
        link.symlink_to(path.absolute())
        yield path if path.suffix == link.suffix else link


def library(file: KerasFile) -> Any:
    """The Keras for a file: tf_keras, which is Keras 2, for what that or its ancestors wrote."""
    if file.keras.startswith(("1.", "2.")):
        import tf_keras

        return tf_keras
    import keras

    return keras


def notes(path: Path, form: str, model: Any) -> tuple[str, ...]:
    """What is done to it on its way, for people; it is in float32 then. Raises UserError."""
    said = [HALF] if to_float32(path, model) else []
    if form == "keras" and (always := keras_archive.always_training(read(path, form).config)):
        said.append(
            f"called with training=True when it was built: {', '.join(always)}; as in predict() that is off: dropouts "
            "keep every value, and normalisations take their moving averages"
        )
    return tuple(said)


def to_float32(path: Path, model: Any) -> bool:
    """Let a model of mixed precision compute in float32, as its weights are; whether it was one.

    Raises UserError for weights of half a float32.
    """
    halves = [layer for layer in model._flatten_layers() if str(layer.compute_dtype) in _HALVES]
    if any(str(layer.variable_dtype) in _HALVES and layer.weights for layer in halves):
        raise UserError(
            f"{path}: its weights are in float16 or bfloat16, not only what it computes",
            hint="build it with the policy 'float32', set these weights, and save that",
        )
    for layer in halves:
        if _is_keras_3(model):
            layer.dtype_policy = "float32"
        else:
            layer._set_dtype_policy("float32")
    return bool(halves)


def export(model: Any, folder: Path, size: tuple[int | None, int | None] = (None, None)) -> None:
    """Write the model as a SavedModel whose serving signature has the model's input and output names; pictures of any
    height and width it takes in this `size`, since some layers want to know theirs.
    """
    import tensorflow as tf

    names, outputs, structure = [tensor.name for tensor in model.inputs], output_names(model), _structure(model)
    specs = {
        tensor.name: tf.TensorSpec(_sized(tensor.shape, size), tensor.dtype, name=tensor.name)
        for tensor in model.inputs
    }

    def serve(inputs: dict[str, Any]) -> dict[str, Any]:
        given = [inputs[name] for name in names]
        # As Keras: a model of one input takes it bare, whichever structure it was saved with.
        whole = tf.nest.pack_sequence_as(structure, given) if isinstance(structure, dict) else given
        answers = model(whole if len(given) > 1 else given[0], training=False)
        return dict(zip(outputs, tf.nest.flatten(answers), strict=True))

    if _is_keras_3(model):
        import keras

        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", serve, [specs])
        archive.write_out(str(folder), verbose=False)
    else:
        # Not the model itself: Keras 2 would trace each of its layers, for users that load it again.
        module = tf.Module()
        module.weights = model.weights
        module.serve = tf.function(serve, input_signature=[specs])
        signatures = {"serving_default": module.serve}
        try:
            tf.saved_model.save(module, str(folder), signatures=signatures)
        except AssertionError:  # it has more than weights: a table of words, for example
            tf.saved_model.save(model, str(folder), signatures=signatures)


def _sized(shape: Sequence[int | None], size: tuple[int | None, int | None]) -> list[int | None]:
    known = (None, *size, None) if len(shape) == 4 else (None,) * len(shape)
    return [None, *(mine or given for mine, given in zip(shape[1:], known[1:], strict=True))]


def _structure(model: Any) -> Any:
    """The inputs as the model was saved with them, a dict perhaps; None for a model that was never called."""
    try:
        return model.input
    except (AttributeError, ValueError):
        return None


def _is_keras_3(model: Any) -> bool:
    import keras

    return isinstance(model, keras.Model)


def output_names(model: Any) -> list[str]:
    """The outputs' names in the order of `model.outputs`: the keys of a dict, else the layers' names."""
    if isinstance(getattr(model, "output", None), dict):
        return sorted(model.output)
    named = getattr(model, "output_names", None) or [model.layers[-1].name]
    return [str(name) for name in named]


def layers(model: Any) -> dict[str, int]:
    """How many layers of each class."""
    return dict(sorted(Counter(type(layer).__name__ for layer in model.layers).items()))
