"""Loading a Keras 3 model and exporting it as a SavedModel with names of its own. Runs in the worker."""

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from edgekit.errors import UserError
from edgekit.models import keras_archive


def refuse_code(what: Path, code: tuple[str, ...]) -> None:
    """Raises UserError when `code` is not empty: loading a model must not run what came with it."""
    if code:
        raise UserError(
            f"{what}: loading this model would run code that came with it: {'; '.join(code[:5])}",
            hint="if you trust where it came from, say --trust-code",
            code=list(code),
        )


def load(path: Path, *, trust_code: bool) -> Any:
    """The model, ready to be called. Raises UserError."""
    config = keras_archive.read_config(path)
    if not trust_code:
        refuse_code(path, keras_archive.code_in(config))
    import keras

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=not trust_code)
    except Exception as error:  # Keras raises whatever the layers raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path}: Keras {keras.__version__} cannot load it: {reason}", hint=f"it was saved by Keras {version(path)}"
        ) from error
    if not getattr(model, "inputs", None):
        raise UserError(f"{path}: the model has no inputs: it was saved before it was built")
    return model


def export(model: Any, folder: Path) -> None:
    """Write the model as a SavedModel whose serving signature has the model's input and output names."""
    import keras
    import tensorflow as tf

    names, outputs = [tensor.name for tensor in model.inputs], output_names(model)
    specs = {
        tensor.name: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=tensor.name) for tensor in model.inputs
    }

    def serve(inputs: dict[str, Any]) -> dict[str, Any]:
        given = [inputs[name] for name in names]
        # As Keras: a model of one input takes it bare, whichever structure it was saved with.
        answers = model(given if len(given) > 1 else given[0], training=False)
        return dict(zip(outputs, tf.nest.flatten(answers), strict=True))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, [specs])
    archive.write_out(str(folder), verbose=False)


def output_names(model: Any) -> list[str]:
    """The outputs' names in the order of `model.outputs`: the keys of a dict, else the layers' names."""
    if isinstance(getattr(model, "output", None), dict):
        return sorted(model.output)
    named = getattr(model, "output_names", None) or [model.layers[-1].name]
    return [str(name) for name in named]


def layers(model: Any) -> dict[str, int]:
    """How many layers of each class."""
    return dict(sorted(Counter(type(layer).__name__ for layer in model.layers).items()))


def version(path: Path) -> str:
    """The Keras that wrote the archive."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("metadata.json") as member:
            return str(json.loads(member.read(65536)).get("keras_version", "of unknown version"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, AttributeError):
        return "of unknown version"
