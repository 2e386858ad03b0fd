"""A frozen graph's file (`.pb`): the ends of it, which nothing names.

TensorFlow is imported inside the functions, which run in the worker.
"""

import re
from pathlib import Path
from typing import Any

from edgekit.errors import UserError
from edgekit.models import dropout, inference
from edgekit.models.graph import (
    MAX_BYTES,
    PLACEHOLDERS,
    FrozenGraph,
    all_nodes,
    ancestors,
    imported,
    in_order,
    is_of_classes,
    is_variable,
    node_name,
    short_names,
)
from edgekit.models.source import COPY_AGAIN

# What watches a graph and gives nothing of it: summaries show an output, assertions test what nothing else takes.
_WATCHES = re.compile(r"NoOp|Print|\w*Summary(V2)?")
_GUARD = re.compile(r"(^|/)AssertGuard(/|$)")


def read(path: Path) -> FrozenGraph:
    """A frozen graph file; its inputs are the placeholders, its outputs what no node takes. Raises UserError."""
    from tensorflow.core.framework import graph_pb2

    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES} bytes")
    graph = graph_pb2.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError: importing it needs another dependency's name
        raise UserError(
            f"{path}: not a frozen graph: it is cut or damaged ({error})",
            hint=COPY_AGAIN,
        ) from error
    variables = sorted(node.name for node in graph.node if is_variable(node))
    if variables:
        raise UserError(
            f"{path}: not frozen: the values of {len(variables)} variables, such as '{variables[0]}', are not in it",
            hint="give the checkpoint that belongs to it, or freeze it",
        )
    nodes = len(all_nodes(graph))
    graph, dropouts = dropout.remove(graph)
    flags = inference.flags(graph)
    graph = inference.settled(graph, flags) if flags else graph
    ends = _ends(graph)
    if flags:  # what was left of the conditions that they had
        ends = [name for name in ends if any(node.op in PLACEHOLDERS for node in _above(graph, name))] or ends
    feeds = [node.name for node in graph.node if node.op in PLACEHOLDERS]
    if not feeds or not set(ends) - set(feeds):
        raise UserError(f"{path}: has {len(feeds)} inputs (placeholders) and {len(ends)} outputs")
    outputs, chosen = _scored(path, graph, [name for name in ends if name not in feeds])
    # They are written last: a file that was cut between two nodes has none. Some old tools have left them out, too.
    whole = graph.HasField("versions")
    notes = (*inference.note(flags), *dropout.note(dropouts), *chosen)
    notes += () if whole else ("the graph does not end as TensorFlow ends its files: is it the whole file?",)
    return FrozenGraph(graph, short_names(feeds), short_names(outputs), notes, nodes_before=nodes)


def _scored(path: Path, graph: Any, outputs: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """The outputs, but for the number of a sample's best class its scores, which tell what INT8 costs, and notes of
    that. A map of classes, as of a segmentation, stays.
    """
    nodes = {node.name: node for node in graph.node}
    found, notes = [], []
    for name in outputs:
        of, whole = name, None
        if is_of_classes(name, nodes):
            whole = imported(path, graph).graph.get_tensor_by_name(f"{name}:0").shape.rank
        while whole == 1 and is_of_classes(of, nodes):
            of = node_name(nodes[of].input[0])
        found.append(of)
        notes += [f"of its best class, {name}, the scores are taken: {of}"] if of != name else []
    return list(dict.fromkeys(found)), tuple(notes)


def _above(graph: Any, name: str) -> list[Any]:
    known = ancestors(graph, [name])
    return [node for node in graph.node if node.name in known]


def _ends(graph: Any) -> list[str]:
    """The nodes that no other takes, but for what watches the graph, and for what is made for assertions alone."""
    takers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(node_name(name), set()).add(node.name)
    watching = {node.name for node in graph.node if _WATCHES.fullmatch(node.op)}
    guards = {node.name for node in graph.node if node.op == "Assert" or _GUARD.search(node.name)}

    def left() -> list[str]:
        aside = watching | guards | {node.name for node in graph.node if node.op in ("Const", "Exit")}
        nodes = [node.name for node in graph.node if node.name not in aside]
        return [name for name in nodes if takers.get(name, set()) <= watching | guards]

    bare = left()
    for node in reversed(in_order(graph)):
        if node.name in takers and takers[node.name] <= guards and node.op not in PLACEHOLDERS:
            guards.add(node.name)
    return left() or bare
