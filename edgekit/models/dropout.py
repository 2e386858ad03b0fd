"""What is left of `tf.nn.dropout` in a graph of TensorFlow 1, where inference keeps every value.

The three forms that it has had: `x / keep * floor(keep + noise)`, `x * scale * cast(noise >= rate)`, and
`where(noise >= rate, x * scale, 0)`.
"""

from typing import Any

from edgekit.models import graph as graphs
from edgekit.models.graph import node_name

_NOISE = {"RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2"}
_SPREAD = {"Mul", "Add", "AddV2", "Sub", "Identity"}  # noise of another range
_MASK = {"Floor", "GreaterEqual", "Greater", "Less", "LessEqual"}
_RATE = {*_SPREAD, "RealDiv", "Cast", "Reciprocal", "Inv"}  # how the scale is computed
_SCALED = {"Mul", "RealDiv", "Div"}


def remove(graph: Any) -> tuple[Any, int]:
    """The graph with its dropouts made Identity, and how many there were. One in a branch of a `tf.cond` stays: it goes
    with its branch.
    """
    nodes = {node.name: node for node in graph.node}
    kept = type(graph)()
    kept.CopyFrom(graph)
    masks, rates = _masks(graph)
    left: list[str] = []
    for node in kept.node:
        found = _dropped(node, nodes, masks, rates)
        if found is None:
            continue
        left += [node_name(name) for name in node.input]
        dtype = node.attr["T"].type
        node.op = "Identity"
        node.attr.clear()
        node.attr["T"].type = dtype
        del node.input[:]
        node.input.append(found)
    count = sum(node.op == "Identity" and nodes[node.name].op != "Identity" for node in kept.node)
    return (_without_idle(kept, left), count) if count else (graph, 0)


def note(count: int) -> tuple[str, ...]:
    """What was done, for people."""
    return (f"its dropouts ({count}) are of the training and were removed",) if count else ()


def _masks(graph: Any) -> tuple[set[str], set[str]]:
    """The nodes that say which values are kept, and those that are a single number for all values."""
    noise, masks, rates = set[str](), set[str](), set[str]()
    for node in graphs.in_order(graph):
        needs = [node_name(name) for name in node.input if name[0] != "^"]
        others = [name for name in needs if name not in noise | masks]
        known = all(name in rates for name in others)
        spread = known and noise.intersection(needs)
        same = node.op in ("Cast", "Identity") and masks.intersection(needs)
        if _is_number(node) or (node.op in _RATE and needs and known and len(others) == len(needs)):
            rates.add(node.name)
        elif node.op in _NOISE or (node.op in _SPREAD and spread):
            noise.add(node.name)
        elif same or (node.op in _MASK and spread):
            masks.add(node.name)
    return masks, rates


def _is_number(node: Any) -> bool:
    """Whether it is a constant or a placeholder of one number; a placeholder may leave its shape open."""
    name = "value" if node.op == "Const" else "shape"
    if node.op not in ("Const", *graphs.PLACEHOLDERS) or name not in node.attr:  # to ask for one would make it
        return node.op in graphs.PLACEHOLDERS
    shape = node.attr[name].tensor.tensor_shape if name == "value" else node.attr[name].shape
    return all(side.size == 1 for side in shape.dim)


def _is_zero(node: Any) -> bool:
    import tensorflow as tf

    return node.op == "Const" and not tf.make_ndarray(node.attr["value"].tensor).any()


def _dropped(node: Any, nodes: dict[str, Any], masks: set[str], rates: set[str]) -> str | None:
    """The input of the dropout that ends here."""
    given = [name for name in node.input if name[0] != "^"]
    if node.op == "Mul" and len(given) == 2:
        of_mask = [node_name(name) in masks for name in given]
        if sum(of_mask) != 1:
            return None
        scaled = given[of_mask.index(False)]
    elif node.op in ("Select", "SelectV2") and node_name(given[0]) in masks and _is_zero(nodes[node_name(given[2])]):
        scaled = given[1]
    else:
        return None
    inner = nodes[node_name(scaled)]
    values = [name for name in inner.input if name[0] != "^"]
    if inner.op not in _SCALED or len(values) != 2:
        return None
    sides = [name for name in values if node_name(name) not in rates]
    if len(sides) != 1 or (inner.op != "Mul" and sides[0] != values[0]):
        return None
    return None if nodes[node_name(sides[0])].op == "Switch" else sides[0]


def _without_idle(graph: Any, names: list[str]) -> Any:
    """The graph without those of these nodes that nothing takes any more, nor what led only there."""
    nodes = {node.name: node for node in graph.node}
    takers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            takers[node_name(name)] = takers.get(node_name(name), 0) + 1
    gone = set[str]()
    while names:
        name = names.pop()
        if name not in gone and not takers.get(name):
            gone.add(name)
            for need in map(node_name, nodes[name].input):
                takers[need] -= 1
                names.append(need)
    kept = type(graph)(versions=graph.versions, library=graph.library)
    kept.node.extend(node for node in graph.node if node.name not in gone)
    return kept
