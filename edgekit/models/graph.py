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
    imported = _imported(path, graph).graph
    found = []
    for name, tensor in tensors.items():
        value = imported.get_tensor_by_name(tensor)
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
    operations = _imported(path, graph).graph.get_operations()
    return {operation.name for operation in operations if operation.outputs and operation.outputs[0].shape.rank == 0}


def save(path: Path, frozen: FrozenGraph, folder: Path) -> None:
    """Write the SavedModel of a frozen graph; `path` names it in errors. Raises UserError."""
    import tensorflow as tf

    function = _imported(path, frozen.graph)
    tensors = {name: function.graph.get_tensor_by_name(tensor) for name, tensor in frozen.inputs.items()}
    pruned = function.prune(
        list(tensors.values()),
        {name: function.graph.get_tensor_by_name(tensor) for name, tensor in frozen.outputs.items()},
    )

    def serve(**given: Any) -> Any:
        return pruned(*(given[name] for name in tensors))

    signature = tf.function(serve).get_concrete_function(
        **{name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in tensors.items()}
    )
    module = tf.Module()
    module.serve = signature
    tf.saved_model.save(module, str(folder), signatures={"serving_default": signature})


def pruned(path: Path, graph: Any, inputs: Iterable[str], outputs: Iterable[str], known: Mapping[str, bool]) -> Any:
    """The part of `graph` that leads from the tensors `inputs` to `outputs`, without what only training needs.

    `path` names it in errors. `known` are boolean nodes that have one value in inference: of each `tf.cond` that asks
    them one branch is left.
    """
    import tensorflow as tf

    utilities = tf.compat.v1.graph_util
    nodes = sorted({node_name(name) for name in outputs})
    part = utilities.extract_sub_graph(_without_branches(graph, known), nodes)
    there = {node.name for node in part.node}
    inputs = [name for name in inputs if node_name(name) in there]  # others lead to no output
    part = utilities.extract_sub_graph(_with_placeholders(path, part, inputs), nodes)
    left = utilities.remove_training_nodes(part, protected_nodes=nodes)
    left.library.CopyFrom(part.library)  # which TensorFlow leaves out
    return left


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


def _imported(path: Path, graph: Any) -> Any:
    import tensorflow as tf

    try:
        return tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
    except Exception as error:  # operators that this TensorFlow does not know, and whatever else it finds
        raise CheckFailed(
            f"{path}: TensorFlow {tf.__version__} cannot load its graph: {str(error).strip().splitlines()[0][:300]}"
        ) from error


def _with_placeholders(path: Path, graph: Any, inputs: Iterable[str]) -> Any:
    """The graph cut open at these tensors, each the first output of its node."""
    from tensorflow.core.framework import graph_pb2, node_def_pb2

    ready = {node.name for node in graph.node if node.op == "Placeholder"}
    wanted = [name for name in inputs if node_name(name) not in ready]
    if not wanted:
        return graph
    imported = _imported(path, graph).graph
    places = {}
    for name in wanted:
        tensor = imported.get_tensor_by_name(name)
        place = node_def_pb2.NodeDef(name=node_name(name), op="Placeholder")
        place.attr["dtype"].type = tensor.dtype.as_datatype_enum
        place.attr["shape"].shape.CopyFrom(tensor.shape.as_proto())
        places[place.name] = place
    cut = graph_pb2.GraphDef(versions=graph.versions, library=graph.library)
    cut.node.extend(places.get(node.name, node) for node in graph.node)
    return cut


def _without_branches(graph: Any, known: Mapping[str, bool]) -> Any:
    """`tf.cond` of TensorFlow 1 is Switch and Merge. Where the condition is known, both become Identity."""
    import tensorflow as tf
    from tensorflow.core.framework import graph_pb2

    truth, dead = _fates(graph, known)
    straight = graph_pb2.GraphDef(versions=graph.versions, library=graph.library)
    # To wait for these is to wait for nothing: assertions are for training, and what is certain has happened.
    idle = {node.name for node in graph.node if node.op in ("Assert", "NoOp")} | truth.keys()
    decided = {node.name for node in graph.node if node.op == "Switch" and node_name(node.input[1]) in truth}
    for node in graph.node:
        if node.name in dead:
            continue
        kept = straight.node.add()
        kept.CopyFrom(node)
        live = [name for name in node.input if _is_live(name, dead) and not (name[0] == "^" and name[1:] in idle)]
        if node.name in known:
            kept.op = "Const"
            kept.attr.clear()
            kept.attr["dtype"].type = tf.bool.as_datatype_enum
            kept.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(known[node.name]))
        elif node.name in decided or (node.op == "Merge" and len(live) == 1):
            kept.op = "Identity"
            kept.attr.pop("N", None)
            live = live[:1]
        del kept.input[:]
        kept.input.extend(node_name(name) if node_name(name) in decided and name[0] != "^" else name for name in live)
    return straight


def _fates(graph: Any, known: Mapping[str, bool]) -> tuple[dict[str, bool], set[str]]:
    """The boolean nodes whose value is certain, and what is never computed: nodes, and single outputs as "node:1".

    A node is dead when one of its inputs is; a Merge when all are.
    """
    import tensorflow as tf

    truth, dead = dict(known), set[str]()
    for node in in_order(graph):
        given = [name for name in node.input if name[0] != "^"]
        lost = [name for name in node.input if not _is_live(name, dead)]
        if lost and (node.op != "Merge" or len(lost) == len(node.input)):
            dead.add(node.name)
        elif node.op == "Switch" and node_name(given[1]) in truth:
            dead.add(f"{node.name}:0" if truth[node_name(given[1])] else f"{node.name}:1")
            if given[0] in truth:
                truth[node.name] = truth[f"{node.name}:1"] = truth[given[0]]
        elif node.op in ("Identity", "LogicalNot") and given[0] in truth:
            truth[node.name] = truth[given[0]] != (node.op == "LogicalNot")
        elif node.op == "Const" and node.attr["dtype"].type == tf.bool.as_datatype_enum:
            value = tf.make_ndarray(node.attr["value"].tensor)
            if value.size == 1:
                truth[node.name] = bool(value.item())
    return truth, dead


def _is_live(name: str, dead: set[str]) -> bool:
    return node_name(name) not in dead and (name if ":" in name else f"{name}:0") not in dead
