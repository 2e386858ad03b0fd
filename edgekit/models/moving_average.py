"""Moments of a batch that a graph trains with, and the moving averages that it keeps of them for inference.

A graph that was built to train and nothing else (`is_training=True`, no flag) normalises by its batch. How it updates
a variable, `average = average * share + moment * (1 - share)` in any of its forms, tells which variable inference takes
in the place of which moment.
"""

from typing import Any

from edgekit.models.graph import is_variable, node_name

_NORMALISES = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}
_UPDATES = {"Assign", "AssignSub", "AssignAdd", "AssignVariableOp", "AssignSubVariableOp", "AssignAddVariableOp"}
_LAYOUT = {"Identity", "Squeeze", "Reshape", "Cast", "StopGradient"}
_MIXES = {"Mul", "Add", "AddV2", "Sub", "Neg", "Cast"}


def use(graph: Any) -> tuple[Any, int]:
    """The graph with the averages in the places of the moments, and how many there are."""
    averages = _averages(graph)
    if not averages:
        return graph, 0
    straight = type(graph)()
    straight.CopyFrom(graph)
    for node in straight.node:
        moments = [averages.get(f"{node.name}:{number}") for number in (1, 2)]
        if node.op in _NORMALISES and node.attr["is_training"].b and moments[0] and moments[1]:
            node.attr["is_training"].b = False
            del node.input[3:]
            node.input.extend(moments)
            continue
        for number, name in enumerate(node.input):
            if name[0] != "^" and _tensor(name) in averages:
                node.input[number] = averages[_tensor(name)]
    return straight, len(averages)


def note(count: int) -> tuple[str, ...]:
    """What was done, for people."""
    return (f"moving averages are in the places of moments of a batch ({count}), as in inference",) if count else ()


def _averages(graph: Any) -> dict[str, str]:
    """Moments, as "node:0", and the node that reads the average of each."""
    nodes = {node.name: node for node in graph.node}
    found = {}
    for node in graph.node:
        if node.op in _UPDATES and len(node.input) > 1:
            mixed = _mixed(node.input[1], nodes)
            reads = [name for name in mixed if _variable(name, nodes) == node_name(node.input[0])]
            others = [name for name in mixed if name not in reads]
            if len(reads) == 1 and len(others) == 1:
                (moment,) = others
                if _is_moment(moment, nodes):
                    found[moment] = node_name(reads[0])
    return found


def _is_moment(tensor: str, nodes: dict[str, Any]) -> bool:
    """Whether it is a mean over samples, or given by an operator that normalises."""
    import tensorflow as tf

    node = nodes[node_name(tensor)]
    while node.op in _LAYOUT:
        node = nodes[node_name(node.input[0])]
    if node.op != "Mean":
        return node.op in _NORMALISES
    axes = nodes[node_name(node.input[1])]
    return axes.op == "Const" and 0 in tf.make_ndarray(axes.attr["value"].tensor)


def _mixed(tensor: str, nodes: dict[str, Any]) -> list[str]:
    """What a sum of products is made of, without its constants."""
    left, found = [tensor], dict[str, None]()
    while left:
        name = left.pop()
        node = nodes[node_name(name)]
        if _variable(name, nodes) is None and (node.op in _MIXES or node.op == "Identity"):
            left += [one for one in node.input if one[0] != "^"]
        elif node.op != "Const":
            found[_tensor(name)] = None
    return list(found)


def _variable(tensor: str, nodes: dict[str, Any]) -> str | None:
    """The variable that this is, or reads."""
    node = nodes[node_name(tensor)]
    if node.op in ("Identity", "ReadVariableOp") and is_variable(nodes[node_name(node.input[0])]):
        node = nodes[node_name(node.input[0])]
    return str(node.name) if is_variable(node) else None


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"
