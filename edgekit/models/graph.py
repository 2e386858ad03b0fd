"""Graphs of TensorFlow 1: what goes in and comes out, what of them inference needs, and a SavedModel of that.

TensorFlow is imported inside the functions, which run in the worker.
"""

import keyword
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit_runtime.manifest import DTYPES, TensorSpec

from edgekit.errors import CheckFailed, UserError

MAX_BYTES = 2 * 1024**3  # a protocol buffer cannot be larger
PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


# Operators that call Python, or read and write files that the graph names. The savers' own (SaveV2, RestoreV2, ...)
# are in every SavedModel and run only on its own variables.
CODE_OPERATORS = frozenset(
    (
        "PyFunc",
        "PyFuncStateless",
        "EagerPyFunc",
        "ReadFile",
        "WriteFile",
        "MatchingFiles",
        "ImmutableConst",
        "LoadDataset",
        "SaveDataset",
        "SaveDatasetV2",
        "SnapshotDataset",
        "SnapshotDatasetV2",
        "TextLineDataset",
        "TFRecordDataset",
        "TFRecordDatasetV2",
        "FixedLengthRecordDataset",
        "FixedLengthRecordDatasetV2",
        "SqlDataset",
        "WholeFileReader",
        "WholeFileReaderV2",
        "TextLineReader",
        "TextLineReaderV2",
        "TFRecordReader",
        "TFRecordReaderV2",
        "FixedLengthRecordReader",
        "FixedLengthRecordReaderV2",
        "DatasetToTFRecord",
        "CreateSummaryFileWriter",
        "CreateSummaryDbWriter",
        "PrintV2",
        "DebugIdentityV2",
        "DebugIdentityV3",
        "GeneratorDataset",
        "RpcCall",
        "RpcClient",
        "RpcServer",
    )
)


@dataclass(frozen=True)
class FrozenGraph:
    """A GraphDef without variables. `inputs` and `outputs` are names as users know them, to tensors ("node:0").

    `nodes_before` is how many nodes the graph had that it was cut from.
    """

    graph: Any
    inputs: dict[str, str]
    outputs: dict[str, str]
    notes: tuple[str, ...] = ()
    nodes_before: int = 0


def specs(path: Path, graph: Any, tensors: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    """The named tensors' shapes and dtypes, as TensorFlow infers them. Raises UserError."""
    whole = imported(path, graph).graph
    found = []
    for name, tensor in tensors.items():
        value = whole.get_tensor_by_name(tensor)
        if value.dtype.name not in DTYPES:
            raise UserError(
                f"{path}: tensor '{name}' is {value.dtype.name}, which TFLite on a board does not take", tensor=name
            )
        if value.shape.rank is None:
            raise UserError(f"{path}: tensor '{name}' has an unknown number of dimensions", tensor=name)
        found.append(
            TensorSpec(name, tuple(-1 if size is None else size for size in value.shape.as_list()), value.dtype.name)
        )
    return tuple(found)


def scalars(path: Path, graph: Any) -> set[str]:
    """The nodes that give a single number, as far as TensorFlow can tell."""
    operations = imported(path, graph).graph.get_operations()
    return {operation.name for operation in operations if operation.outputs and operation.outputs[0].shape.rank == 0}


def save(path: Path, frozen: FrozenGraph, folder: Path) -> None:
    """Write the SavedModel of a frozen graph; `path` names it in errors. Raises UserError."""
    import tensorflow as tf

    function = imported(path, frozen.graph)
    tensors = {name: function.graph.get_tensor_by_name(tensor) for name, tensor in frozen.inputs.items()}
    ends = {name: function.graph.get_tensor_by_name(tensor) for name, tensor in frozen.outputs.items()}
    try:
        pruned = function.prune(list(tensors.values()), ends)
    except Exception as error:  # UnliftableError, which TensorFlow keeps to itself
        raise UserError(
            f"{path}: its outputs ({', '.join(ends)}) cannot be had from its inputs ({', '.join(tensors)}) alone",
            hint="export a SavedModel from the code that built the graph",
            words=str(error).strip()[:300],
        ) from error

    def serve(**given: Any) -> Any:
        return pruned(*(given[name] for name in tensors))

    signature = tf.function(serve).get_concrete_function(
        **{name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in tensors.items()}
    )
    module = tf.Module()
    module.serve = signature
    tf.saved_model.save(module, str(folder), signatures={"serving_default": signature})


def all_nodes(graph: Any) -> list[Any]:
    """The nodes of a GraphDef and of the functions in it."""
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def code_in(graph: Any) -> tuple[str, ...]:
    """The operators in it that are code or touch files."""
    return tuple(sorted({node.op for node in all_nodes(graph)} & CODE_OPERATORS))


def constants(graph: Any) -> int:
    """How many numbers it holds in constants of more than one real number: its weights, when it is frozen."""
    import tensorflow as tf

    total = 0
    for node in all_nodes(graph):
        if node.op == "Const" and tf.dtypes.as_dtype(node.attr["value"].tensor.dtype).is_floating:
            size = tf.TensorShape(node.attr["value"].tensor.tensor_shape).num_elements() or 0
            total += size if size > 1 else 0
    return total


def node_name(tensor: str) -> str:
    """The node of an input as a NodeDef names it: "node", "node:1" or "^node"."""
    return tensor.removeprefix("^").partition(":")[0]


def is_variable(node: Any) -> bool:
    """Whether a NodeDef holds a variable, of either kind that TensorFlow has had."""
    return node.op in ("Variable", "VariableV2", "VarHandleOp")


def is_of_classes(name: str, nodes: Mapping[str, Any]) -> bool:
    """Whether a node is an ArgMax, perhaps in another dtype."""
    while nodes[name].op in ("Cast", "Identity"):
        name = node_name(nodes[name].input[0])
    return bool(nodes[name].op == "ArgMax")


def in_order(graph: Any) -> list[Any]:
    """The nodes, each after all that it takes but for what a loop brings around."""
    nodes = {node.name: node for node in graph.node}
    here = nodes.keys() - {node.name for node in graph.node if node.op == "NextIteration"}
    waiting = {node.name: {node_name(name) for name in node.input} & here for node in graph.node}
    takers: dict[str, list[str]] = {}
    for name, needs in waiting.items():
        for need in needs:
            takers.setdefault(need, []).append(name)
    ready = [name for name, needs in waiting.items() if not needs]
    order = []
    while ready:
        name = ready.pop()
        order.append(nodes.pop(name))
        for taker in takers.get(name, ()):
            waiting[taker].discard(name)
            if not waiting[taker]:
                ready.append(taker)
    return order + list(nodes.values())


def ancestors(graph: Any, tensors: Iterable[str]) -> set[str]:
    """The nodes of these tensors, and all that they are computed from."""
    nodes = {node.name: node for node in graph.node}
    found, left = set[str](), [node_name(name) for name in tensors]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [node_name(one) for one in nodes[name].input if one[0] != "^"]
    return found


def short_names(nodes: Iterable[str]) -> dict[str, str]:
    """Nodes as {name: tensor}: the last part of each, where no two have it in common."""
    nodes = list(nodes)
    last = Counter(parameter(name.rpartition("/")[2]) for name in nodes)
    short = {name: parameter(name.rpartition("/")[2]) for name in nodes}
    return {(end if last[end] == 1 else parameter(name)): f"{name}:0" for name, end in short.items()}


def parameter(name: str) -> str:
    """The name as one that a parameter of a function may have, which is what TensorFlow makes of inputs."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{plain}" if plain[:1].isdigit() else f"{plain}_" if keyword.iskeyword(plain) else plain


def connected(frozen: FrozenGraph, part: Any) -> FrozenGraph:
    """`part`, with those of the inputs that lead to an output."""
    there = {node.name for node in part.node}
    used = {name: tensor for name, tensor in frozen.inputs.items() if node_name(tensor) in there}
    return replace(frozen, graph=part, inputs=used)


def imported(path: Path, graph: Any) -> Any:
    """The graph as a function of TensorFlow's. Raises CheckFailed where it cannot be loaded."""
    import tensorflow as tf

    try:
        return tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
    except Exception as error:  # operators that this TensorFlow does not know, and whatever else it finds
        raise CheckFailed(
            f"{path}: TensorFlow {tf.__version__} cannot load its graph: {str(error).strip().splitlines()[0][:300]}"
        ) from error
