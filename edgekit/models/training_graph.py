"""A graph that trained, and where the model in it is: nothing names its inputs and outputs.

TensorFlow is imported inside the functions, which run in the worker.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import UserError
from edgekit.models import graph, inference
from edgekit.models.graph import is_variable, node_name

# "OP NAME" of what changes variables, writes summaries or is a gradient.
_NOT_MODEL = re.compile(
    r"^(Resource)?(Sparse)?(Assign|Apply|Scatter)|^(NoOp|Assert) |^\w*Summary|[ /]gradients(_\d+)?/"
)
# What multiplies by weights: a value that meets them there is an input, and no label.
_WEIGHS = {
    "MatMul", "BatchMatMul", "BatchMatMulV2", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput",
}  # fmt: skip
# How losses and metrics read a prediction: its logarithm, or TensorFlow's own reshaping.
_LOGARITHMS = {"Log", "Log1p"}
_LOSS = re.compile(r"cross_?entropy|xentropy")
_PROBABILITIES = {"Softmax", "Sigmoid"}


@dataclass(frozen=True)
class TrainingGraph:
    """A MetaGraphDef and where its model is: `flags` are boolean placeholders with their value in inference, `done` is
    what was done to it before, for people.
    """

    meta: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    trained: frozenset[str]
    flags: dict[str, bool]
    unused: tuple[str, ...]
    done: tuple[str, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """What was decided, for people."""
        said = [f"its ends were inferred: {', '.join(self.inputs)} to {', '.join(self.outputs)}"]
        said += inference.note(self.flags)
        if self.unused:
            said.append(f"placeholders of the training are left out: {', '.join(self.unused)}")
        return (*said, *self.done)


def find(path: Path, meta: Any) -> TrainingGraph:
    """Find the model in a training graph. Raises UserError when there is none.

    An input is a placeholder that meets a variable before anything that a variable had a part in: labels meet only
    predictions, and no weights ever after. A boolean placeholder is a flag of training. What depends on a label, or has
    lost the batch (a single number), is loss, metric or gradient. An output is what no node takes; where all is taken,
    what labels meet first, without what a loss does to it: its probabilities where they are met, too. The best class
    alone is no output. A node whose trained variables are only some of another's is a leftover.
    """
    order = [node for node in graph.in_order(meta.graph_def) if not _NOT_MODEL.search(f"{node.op} {node.name}")]
    trained = _trained(meta)
    flags = inference.flags(meta.graph_def)
    places = sorted(
        node.name for node in order if node.op in graph.PLACEHOLDERS and not node.input and node.name not in flags
    )
    inputs = _inputs(order, places)
    parts, judged = _parts(order, inputs, set(places) - inputs)
    single = graph.scalars(path, meta.graph_def)
    whole: dict[frozenset[str], list[str]] = {}
    for name, part in parts.items():
        if part & inputs and part & trained and name not in single:
            whole.setdefault(part & trained, []).append(name)
    nodes = {node.name: node for node in order}
    taken = {node_name(name) for node in order for name in node.input}
    outputs: list[str] = []
    for learnt, names in whole.items():
        if not any(learnt < other for other in whole):
            last = [_scores(name, nodes, parts) for name in names if name not in taken]
            met = [_read(name, nodes, parts) for name in names if name in judged]
            outputs += _last(meta.graph_def, last) or _judged(meta.graph_def, met, names, nodes)
    if not outputs:
        raise UserError(
            f"{path}: no model was found in this training graph: its placeholders are {', '.join(places) or 'none'}",
            hint="export a SavedModel from the code that built the graph",
            placeholders=places,
        )
    used = frozenset().union(*(parts[name] for name in outputs))
    return TrainingGraph(
        meta,
        inputs=tuple(name for name in places if name in used),
        outputs=tuple(sorted(set(outputs))),
        trained=frozenset(trained),
        flags=flags,
        unused=tuple(name for name in places if name not in used),
    )


def _trained(meta: Any) -> set[str]:
    from tensorflow.core.framework import variable_pb2

    listed = set()
    for content in meta.collection_def["trainable_variables"].bytes_list.value:
        listed.add(node_name(variable_pb2.VariableDef.FromString(content).variable_name))
    return listed or {node.name for node in meta.graph_def.node if is_variable(node)}


def _scores(name: str, nodes: dict[str, Any], parts: dict[str, frozenset[str]]) -> str:
    """Of a best class the scores that it is the best of; other nodes as they are."""
    while nodes[name].op in ("ArgMax", "Cast", "Identity") and graph.is_of_classes(name, nodes):
        name = _only(name, nodes, parts) or name
    return name


def _read(name: str, nodes: dict[str, Any], parts: dict[str, frozenset[str]]) -> str:
    """The prediction of which a loss or metric has made this: where it has a logarithm or a best class in it and comes
    of probabilities alone, these; of a best class, or of what TensorFlow's own losses have reshaped, the scores.
    """
    left, seen, ends = [name], set[str](), set[str]()
    while left:
        at = left.pop()
        if nodes[at].op in _PROBABILITIES or nodes[at].op in _WEIGHS or is_variable(nodes[at]):
            ends.add(at)
        elif at not in seen and parts.get(at):
            seen.add(at)
            left += [node_name(one) for one in nodes[at].input if one[0] != "^"]
    known = len(ends) == 1 and nodes[min(ends)].op in _PROBABILITIES
    if known and any(nodes[at].op in _LOGARITHMS or nodes[at].op == "ArgMax" for at in seen):
        return min(ends)
    while nodes[name].op == "Reshape" and _LOSS.search(name):
        name = _only(name, nodes, parts) or name
    return _scores(name, nodes, parts)


def _only(name: str, nodes: dict[str, Any], parts: dict[str, frozenset[str]]) -> str | None:
    """The single input that the model has a part in."""
    given = {node_name(one) for one in nodes[name].input if one[0] != "^"}
    if nodes[name].op == "Reshape":
        given = {node_name(nodes[name].input[0])}
    learnt = [one for one in given if parts.get(one)]
    return learnt[0] if len(learnt) == 1 else None


def _last(graph_def: Any, names: list[str]) -> list[str]:
    """Those that no other is computed from."""
    before = {name: graph.ancestors(graph_def, [name]) - {name} for name in set(names)}
    return [name for name in dict.fromkeys(names) if not any(name in above for above in before.values())]


def _judged(graph_def: Any, names: list[str], learnt: list[str], nodes: dict[str, Any]) -> list[str]:
    """Of what labels have met, the only one; or what all of it is made of, the last of those that have `learnt` as
    much, and of that the probabilities, where they are met, too.
    """
    if len(set(names)) < 2:
        return names[:1]
    above = {name: graph.ancestors(graph_def, [name]) for name in set(names)}
    common = set.intersection(*above.values())
    whole = [name for name in learnt if name in common]
    made = [name for name in names if nodes[name].op in _PROBABILITIES and whole and whole[-1] in above[name]]
    return made[:1] or whole[-1:] or names[:1]


def _parts(order: list[Any], inputs: set[str], labels: set[str]) -> tuple[dict[str, frozenset[str]], set[str]]:
    """Of each node that depends on no label, the inputs and variables that it depends on; and which of them meet one
    that does, or a label, as inputs of the same node.
    """
    spoilt, parts, judged = set(labels), dict[str, frozenset[str]](), set[str]()
    for node in order:
        needs = [node_name(name) for name in node.input]
        if node.name in spoilt or any(name in spoilt for name in needs):
            spoilt.add(node.name)
            judged.update(needs)
            continue
        own = frozenset([node.name]) if node.name in inputs or is_variable(node) else frozenset()
        parts[node.name] = own.union(*(parts.get(name, frozenset()) for name in needs))
    return parts, judged - spoilt


def _inputs(order: list[Any], places: list[str]) -> set[str]:
    fed = {name: frozenset([name]) for name in places}
    learnt = {node.name for node in order if is_variable(node)}
    inputs: set[str] = set()
    for node in order:
        needs = [node_name(name) for name in node.input]
        fed[node.name] = fed.get(node.name, frozenset()).union(*(fed.get(name, frozenset()) for name in needs))
        variables = [name for name in needs if name in learnt]
        if variables:
            learnt.add(node.name)
            unfed = [name for name in variables if not fed.get(name)]
            if len(unfed) == len(variables) or (unfed and node.op in _WEIGHS):
                inputs.update(fed[node.name])
    return inputs
