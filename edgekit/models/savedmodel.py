"""Reading `saved_model.pb`: signatures, tensors, and operators that are code or touch files.

TensorFlow is imported inside the functions, which run in the worker.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit_runtime.manifest import DTYPES, TensorSpec

from edgekit.errors import UserError
from edgekit.models import detector, graph, inference, picture_input
from edgekit.models.graph import FrozenGraph
from edgekit.models.source import COPY_AGAIN, SAVED_MODEL, SAVED_MODEL_TEXT

SERVE_TAG = "serve"
SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Signature:
    """One signature: names as the model's users know them. Shapes have -1 for sizes that are not fixed."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Graph:
    """What `saved_model.pb` says about the graph with the tag "serve", or about its only graph.

    `serving` is the signature that is converted and `name` its name: the one that was asked for, the only one, else
    "serving_default".
    `constants` counts the numbers held in the graph itself; `code` names the operators that are code or touch files;
    `version` is 1 for TensorFlow 1's kind, which holds no objects; `suppresses` says that it selects boxes,
    `prepares` that it decodes or loops over pictures, `flagged` that a flag of training is among its inputs.
    """

    version: int
    tags: tuple[str, ...]
    signatures: tuple[str, ...]
    name: str
    serving: Any
    constants: int
    nodes: int
    code: tuple[str, ...]
    tensorflow: str
    suppresses: bool
    prepares: bool
    flagged: bool


def read(path: Path, signature: str | None = None) -> Graph:
    """Parse `path/saved_model.pb`; `signature` is the one that its owner wants. Raises UserError."""
    proto = _parsed(path)
    tags = [sorted(one.meta_info_def.tags) for one in proto.meta_graphs]
    graphs = [one for one in proto.meta_graphs if SERVE_TAG in one.meta_info_def.tags]
    if not graphs and len(proto.meta_graphs) == 1:
        graphs = list(proto.meta_graphs)
    if not graphs:
        raise UserError(f"{path}: holds no graph with the tag '{SERVE_TAG}', only {tags}", tags=tags)
    chosen = graphs[0]
    _require_variables(path, chosen.graph_def)
    public = {name: value for name, value in chosen.signature_def.items() if not name.startswith("__")}
    name = signature or (next(iter(public)) if len(public) == 1 else SIGNATURE)
    return Graph(
        version=2 if chosen.object_graph_def.nodes else 1,
        tags=tuple(sorted(chosen.meta_info_def.tags)),
        signatures=tuple(sorted(public)),
        name=name,
        serving=public.get(name),
        constants=graph.constants(chosen.graph_def),
        nodes=len(graph.all_nodes(chosen.graph_def)),
        code=graph.code_in(chosen.graph_def),
        tensorflow=chosen.meta_info_def.tensorflow_version,
        suppresses=detector.suppresses(chosen.graph_def),
        prepares=picture_input.prepares(chosen.graph_def),
        flagged=name in public and any(map(_is_flag, public[name].inputs.values())),
    )


def _is_flag(info: Any) -> bool:
    """Whether an input is a single truth, which is nothing of a sample: `inference.flags` says what it is."""
    import tensorflow as tf

    return bool(info.dtype == tf.bool.as_datatype_enum and not info.tensor_shape.dim)


def _parsed(path: Path) -> Any:
    import tensorflow as tf

    file = path / (SAVED_MODEL if (path / SAVED_MODEL).is_file() else SAVED_MODEL_TEXT)
    if file.stat().st_size > graph.MAX_BYTES:
        raise UserError(f"{file}: larger than {graph.MAX_BYTES} bytes")
    if not file.stat().st_size:
        raise UserError(f"{file}: the file is empty", hint=COPY_AGAIN)
    try:
        return tf.__internal__.saved_model.parse_saved_model(str(path))
    except OSError as error:
        raise UserError(f"{file}: not a SavedModel: it is cut or damaged ({error})", hint=COPY_AGAIN) from error


def _require_variables(path: Path, whole: Any) -> None:
    folder = path / "variables"
    needed = any(graph.is_variable(node) for node in graph.all_nodes(whole))
    if needed and not ((folder / "variables.index").is_file() and any(folder.glob("variables.data-*"))):
        raise UserError(
            f"{path}: the values of its variables are missing: {folder} has no variables.index, or no data files",
            hint="copy the whole folder of the SavedModel, not only its .pb file",
        )


def require_signature(path: Path, found: Graph) -> None:
    """Raises UserError that lists what there is instead."""
    if found.serving is None:
        raise UserError(
            f"{path}: has no {'serving ' if found.name == SIGNATURE else ''}signature '{found.name}'; "
            + (f"its signatures are {', '.join(found.signatures)}" if found.signatures else "it has none at all"),
            hint=f'say which in model.toml (--declare): signature = "{found.signatures[0]}"'
            if found.signatures
            else "export it with signatures={'serving_default': ...}",
            signatures=list(found.signatures),
        )


def serving_signature(path: Path, found: Graph) -> Signature:
    """The signature that is converted: see Graph. Raises UserError for one that there is not, or not of numbers."""
    require_signature(path, found)
    inputs = tuple(_spec(path, name, info) for name, info in sorted(found.serving.inputs.items()) if not _is_flag(info))
    outputs = tuple(_spec(path, name, info, given=False) for name, info in sorted(found.serving.outputs.items()))
    if not inputs or not outputs:
        raise UserError(f"{path}: the signature '{found.name}' has {len(inputs)} inputs and {len(outputs)} outputs")
    return Signature(found.name, inputs, outputs)


def _spec(path: Path, name: str, info: Any, *, given: bool = True) -> TensorSpec:
    import tensorflow as tf

    dtype = tf.dtypes.as_dtype(info.dtype).name
    if dtype not in DTYPES:
        raise UserError(
            f"{path}: tensor '{name}' is {dtype}, which TFLite on a board does not take",
            hint="export it with numbers in float32"
            if dtype != "string"
            else "export a signature that takes numbers (for example the decoded picture, not its file)"
            if given
            else "export a signature without this output",
            tensor=name,
            dtype=dtype,
        )
    shape = tf.TensorShape(info.tensor_shape)
    if shape.rank is None:
        raise UserError(
            f"{path}: tensor '{name}' has an unknown number of dimensions",
            hint="export a signature whose inputs and outputs have a shape, as [None, 224, 224, 3]",
            tensor=name,
        )
    return TensorSpec(name, tuple(-1 if size is None else size for size in shape.as_list()), dtype)


def freeze(path: Path, loaded: Any, name: str, *, lower_loops: bool = True) -> FrozenGraph:
    """A signature of a SavedModel of TensorFlow 2 that was loaded, without variables. Raises UserError.

    With `lower_loops` its loops become those of TensorFlow 1.
    """
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,  # has no public name
    )

    signature = loaded.signatures[name]
    try:
        constant = convert_variables_to_constants_v2(signature, lower_control_flow=lower_loops)
    except Exception as error:  # whatever it finds in a graph that it does not expect
        raise UserError(f"{path}: TensorFlow cannot freeze it: {str(error).strip()[:300]}") from error
    given = sorted(signature.structured_input_signature[1])
    inputs = {key: next(one.name for one in constant.inputs if graph.node_name(one.name) == key) for key in given}
    outputs = {
        key: tensor.name for key, tensor in zip(sorted(signature.structured_outputs), constant.outputs, strict=True)
    }
    frozen = constant.graph.as_graph_def()
    nodes = len(frozen.node)
    flags = {name: value for name, value in inference.flags(frozen).items() if name in inputs}
    if flags:
        inputs = {key: tensor for key, tensor in inputs.items() if key not in flags}
        frozen = inference.pruned(path, frozen, inputs.values(), outputs.values(), flags)
    return FrozenGraph(frozen, inputs, outputs, inference.note(flags), nodes_before=nodes)
