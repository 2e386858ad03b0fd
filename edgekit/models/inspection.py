"""Inspection: what a model file is, without converting it."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgekit_runtime import schema
from edgekit_runtime.manifest import DTYPES, TensorSpec

from edgekit import worker
from edgekit.errors import CheckFailed, UserError
from edgekit.models import checkpoint, flatbuffer, graph, graph_def, keras_archive, keras_model, savedmodel
from edgekit.models.operators import codes
from edgekit.models.source import EXPORT, FORMS, KERAS, NO_GRAPH, checkpoint_prefix, open_model
from edgekit.runtimes import gate

TIME_LIMIT_S = 300.0

FILES = "it takes files of pictures: to decode, resize and scale them is cut off, and declared instead, by convert"


@dataclass(frozen=True)
class Inspection:
    """A model as found. `code` says what in it would run code when it is loaded; `size` is in bytes.

    For a form that edgekit knows but does not look into, tensors and operators are empty. `convertible` is false where
    `convert` would refuse it as it is.
    """

    name: str
    form: str
    description: str
    sha256: str
    size: int
    signatures: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    parameters: int | None = None
    operators: dict[str, int] = field(default_factory=dict)
    quantization: str | None = None
    code: tuple[str, ...] = ()
    made_with: str | None = None
    notes: tuple[str, ...] = ()
    convertible: bool = True


def inspect(path: Path, *, log: Path | None = None) -> Inspection:
    """Say what `path` is. Nothing of the model is run. Raises UserError for what is no model."""
    model = open_model(path)
    found: dict[str, Any] = {"notes": (EXPORT,)}
    if model.form != NO_GRAPH:
        request = {"path": str(model.path), "form": model.form}
        found = worker.run(
            "inspect", request, what=f"inspecting {path}", log=log, time_limit_s=TIME_LIMIT_S, progress=None
        )
    facts = {
        "name": model.name,
        "form": model.form,
        "description": FORMS[model.form],
        "sha256": model.sha256,
        "size": model.size,
    }
    found["convertible"] = found.get("convertible", bool(found.get("inputs")))
    found["notes"] = [*model.notes, *found.get("notes", ())]
    return schema.read(Inspection, {**facts, **found}, "inspection")


def work(request: dict[str, Any], _progress: worker.Progress) -> dict[str, Any]:
    """The worker's side: the facts that need TensorFlow's formats."""
    path = Path(request["path"])
    form = request["form"]
    look = {"saved-model": _saved_model, "tflite": _tflite, "graph-def": _graph, "tf1-checkpoint": _checkpoint}
    plain: dict[str, Any] = schema.plain(_keras(path, form) if form in KERAS else look[form](path))
    return plain


def _saved_model(path: Path) -> dict[str, Any]:
    found = savedmodel.read(path)
    facts: dict[str, Any] = {
        "signatures": found.signatures,
        "code": tuple(f"operator {name}" for name in found.code),
        "made_with": f"TensorFlow {found.tensorflow}",
        "parameters": _variables(path, str(path / "variables" / "variables")) + found.constants,
        "operators": {"graph nodes": found.nodes},
    }
    try:
        signature = savedmodel.serving_signature(path, found)
    except UserError as error:
        if found.prepares and error.fields.get("dtype") == "string":
            return {**facts, "convertible": True, "notes": (FILES,)}
        return {**facts, "notes": (error.message,)}
    return {**facts, "inputs": signature.inputs, "outputs": signature.outputs}


def _graph(path: Path) -> dict[str, Any]:
    frozen = graph_def.read(path)
    facts = _graph_facts(path, frozen.graph, frozen.inputs, frozen.outputs)
    return {
        **facts,
        "parameters": graph.constants(frozen.graph),
        "notes": (*frozen.notes, *facts.get("notes", ())),
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    found = checkpoint.read(path)
    inputs, outputs = graph.short_names(found.inputs), graph.short_names(found.outputs)
    facts = _graph_facts(path, found.meta.graph_def, inputs, outputs)
    notes = found.notes()
    try:
        checkpoint.require_values(path)
    except UserError as error:
        facts["convertible"] = False
        notes += (error.message,)
    return {
        **facts,
        "parameters": _variables(path, checkpoint_prefix(path), found.trained),
        "made_with": f"TensorFlow {found.meta.meta_info_def.tensorflow_version}",
        "notes": (*notes, *facts.get("notes", ())),
    }


def _graph_facts(path: Path, whole: Any, inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "operators": {"graph nodes": len(graph.all_nodes(whole))},
        "code": tuple(f"operator {name}" for name in graph.code_in(whole)),
    }
    try:
        return {**facts, "inputs": graph.specs(path, whole, inputs), "outputs": graph.specs(path, whole, outputs)}
    except (UserError, CheckFailed) as error:
        return {**facts, "notes": (error.message,)}


def _variables(path: Path, prefix: str, only: Collection[str] = ()) -> int:
    import numpy as np
    import tensorflow as tf

    if not Path(prefix + ".index").is_file():
        return 0
    try:
        listed = tf.compat.v1.train.NewCheckpointReader(prefix).get_variable_to_shape_map().items()
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(f"{path}: the variables cannot be read: {str(error).splitlines()[0]}") from error
    kept = (
        shape
        for name, shape in listed
        if "OPTIMIZER_SLOT" not in name and "optimizer/" not in name and (not only or name in only)
    )
    return sum(int(np.prod(shape)) for shape in kept if shape)


def _keras(path: Path, form: str) -> dict[str, Any]:
    file = keras_model.read(path, form)
    code = keras_archive.code_in(file.config)
    if code:
        return {"code": code, "notes": ("it holds code, so it was not loaded",)}
    model = keras_model.load(path, form, trust_code=False)
    return {
        "inputs": tuple(_keras_spec(path, tensor) for tensor in model.inputs),
        "outputs": tuple(
            _keras_spec(path, tensor, name)
            for name, tensor in zip(keras_model.output_names(model), model.outputs, strict=True)
        ),
        "parameters": int(model.count_params()),
        "operators": keras_model.layers(model),
        "made_with": f"Keras {file.keras}",
    }


def _keras_spec(path: Path, tensor: Any, name: str | None = None) -> TensorSpec:
    dtype = getattr(tensor.dtype, "name", tensor.dtype)  # Keras 3 names it, Keras 2 has TensorFlow's
    if dtype not in DTYPES:
        raise UserError(f"{path}: tensor '{name or tensor.name}' is {dtype}, which TFLite does not take")
    return TensorSpec(name or tensor.name, tuple(-1 if size is None else int(size) for size in tensor.shape), dtype)


def _tflite(path: Path) -> dict[str, Any]:
    found = asdict(flatbuffer.read(path))
    in_float = found.pop("float_operators")
    del found["size"], found["stored_outputs"]
    foreign = gate.foreign(codes(path.read_bytes()))
    found["convertible"] = found["quantization"] == "float" and not foreign
    notes = [f"operators in float: {', '.join(in_float)}"] if found["quantization"] == "mixed" else []
    found["notes"] = notes + [f"no interpreter has its custom operators: {', '.join(foreign)}"] * bool(foreign)
    return found
