"""What a queue or an iterator, an input pipeline of TensorFlow 1, feeds to a training graph, as placeholders."""

from typing import Any

from edgekit.models.graph import node_name

_ITERATORS = {"IteratorGetNext", "IteratorGetNextSync"}
# Queues by the version of the operator that takes from them, and whether it puts a batch in front of a sample.
_DEQUEUES = {
    f"QueueDequeue{many}{version}": bool(many) for many in ("", "Many", "UpTo") for version in ("", "V2")
}  # fmt: skip


def cut(graph: Any) -> Any:
    """The graph with a placeholder for each value that a queue or an iterator gives; the same graph where none does."""
    feeds = {node.name: _shapes(node, graph) for node in graph.node if node.op in _ITERATORS or node.op in _DEQUEUES}
    if not feeds:
        return graph
    left = type(graph)(versions=graph.versions, library=graph.library)
    used: dict[str, tuple[str, int]] = {}
    for node in graph.node:
        if node.name in feeds:
            continue
        kept = left.node.add()
        kept.CopyFrom(node)
        del kept.input[:]
        for name in node.input:
            if node_name(name) not in feeds:
                kept.input.append(name)
            elif name[0] != "^":
                number = int(name.partition(":")[2] or 0)
                place = f"{node_name(name)}_{number}"
                used[place] = (node_name(name), number)
                kept.input.append(place)
    for place, (name, number) in used.items():
        dtype, shape = feeds[name][number]
        made = left.node.add(name=place, op="Placeholder")
        made.attr["dtype"].type = dtype
        made.attr["shape"].shape.CopyFrom(shape)
    return left


def _shapes(node: Any, graph: Any) -> list[tuple[int, Any]]:
    """The dtype (as TensorFlow numbers it) and the shape of each value."""
    from tensorflow.core.framework import tensor_shape_pb2

    if node.op in _ITERATORS:
        return list(zip(node.attr["output_types"].list.type, node.attr["output_shapes"].list.shape, strict=True))
    queue = next((one for one in graph.node if one.name == node_name(node.input[0])), None)
    dtypes = list(node.attr["component_types"].list.type)
    known = list(queue.attr["shapes"].list.shape) if queue is not None and "shapes" in queue.attr else []
    if len(known) != len(dtypes):
        return [(dtype, tensor_shape_pb2.TensorShapeProto(unknown_rank=True)) for dtype in dtypes]
    shapes = []
    for one in known:
        shape = tensor_shape_pb2.TensorShapeProto()
        if _DEQUEUES[node.op]:
            shape.dim.add(size=-1)
        shape.dim.extend(one.dim)
        shapes.append(shape)
    return list(zip(dtypes, shapes, strict=True))
