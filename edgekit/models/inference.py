"""What of a graph inference needs: its flags of training are settled, and only what leads from input to output is left.

TensorFlow is imported inside the functions, which run in the worker.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekit.models.graph import PLACEHOLDERS, imported, in_order, node_name

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_TRUE, _FALSE = ("infer", "eval", "test", "predict"), ("train", "learn", "drop", "augment", "update")


def flags(graph: Any) -> dict[str, bool]:
    """The placeholders of a single truth, with their value in inference: by their names, or else what they are without
    a feed. One of several truths is a mask, and an input.
    """
    import tensorflow as tf

    nodes = {node.name: node for node in graph.node}
    found = {}
    for name in sorted(nodes):
        node = nodes[name]
        if node.op not in PLACEHOLDERS or node.attr["dtype"].type != tf.bool.as_datatype_enum:
            continue
        if "shape" not in node.attr or not node.attr["shape"].shape.dim:
            default = nodes.get(node_name(node.input[0])) if node.input else None
            usual = (
                default is not None and default.op == "Const" and bool(tf.make_ndarray(default.attr["value"].tensor))
            )
            found[name] = _value(name, usual=usual)
    return found


def _value(name: str, *, usual: bool) -> bool:
    """What a flag is in inference: by the words of its own name, else by those of its scope; `usual` without any."""
    for part in reversed(name.split("/")):
        words = [word.lower() for word in _WORDS.findall(part)]
        for value, known in ((False, _FALSE), (True, _TRUE)):
            if any(word.startswith(known) for word in words):
                return value
    return usual


def note(found: Mapping[str, bool]) -> tuple[str, ...]:
    """What was decided, for people."""
    return tuple(f"the placeholder {name} is {str(value).lower()} in inference" for name, value in found.items())


def pruned(path: Path, graph: Any, inputs: Iterable[str], outputs: Iterable[str], known: Mapping[str, bool]) -> Any:
    """The part of `graph` that leads from the tensors `inputs` to `outputs`, without what only training needs.

    `path` names it in errors. `known` are boolean nodes that have one value in inference: of each `tf.cond` that asks
    them one branch is left.
    """
    import tensorflow as tf

    utilities = tf.compat.v1.graph_util
    nodes = sorted({node_name(name) for name in outputs})
    part = utilities.extract_sub_graph(settled(graph, known), nodes)
    there = {node.name for node in part.node}
    inputs = [name for name in inputs if node_name(name) in there]  # others lead to no output
    part = utilities.extract_sub_graph(_with_placeholders(path, part, inputs), nodes)
    left = utilities.remove_training_nodes(part, protected_nodes=nodes)
    left.library.CopyFrom(part.library)  # which TensorFlow leaves out
    left.versions.CopyFrom(part.versions)  # and without which a placeholder of no dimensions is one of any
    return left


def settled(graph: Any, known: Mapping[str, bool]) -> Any:
    """The graph with these boolean nodes as constants, and of each `tf.cond` that asks them one branch."""
    return _without_branches(decided(graph, known), known)


def decided(graph: Any, known: Mapping[str, bool]) -> Any:
    """The graph with each `tf.cond` of TensorFlow 2, whose branches are functions, as a call of the one that is taken
    with these boolean nodes `known`; the other may have what cannot be frozen.
    """
    truth, _ = _fates(graph, known)
    straight = type(graph)()
    straight.CopyFrom(graph)
    for node in straight.node:
        if node.op in ("If", "StatelessIf") and node_name(node.input[0]) in truth:
            taken = node.attr["then_branch" if truth[node_name(node.input[0])] else "else_branch"].func.name
            node.op = "StatefulPartitionedCall"
            for key in set(node.attr) - {"Tin", "Tout"}:
                del node.attr[key]
            node.attr["f"].func.name = taken
            del node.input[0]
    return straight


def _with_placeholders(path: Path, graph: Any, inputs: Iterable[str]) -> Any:
    """The graph cut open at these tensors, each the first output of its node."""
    from tensorflow.core.framework import graph_pb2, node_def_pb2

    ready = {node.name for node in graph.node if node.op == "Placeholder"}
    wanted = [name for name in inputs if node_name(name) not in ready]
    if not wanted:
        return graph
    whole = imported(path, graph).graph
    places = {}
    for name in wanted:
        tensor = whole.get_tensor_by_name(name)
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
    # To wait for these is to wait for nothing: assertions and updates are for training, what is certain has happened.
    idle = {node.name for node in graph.node if node.op in ("Assert", "NoOp") or node.op.startswith("Assign")}
    idle |= truth.keys()
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
            live = []
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
