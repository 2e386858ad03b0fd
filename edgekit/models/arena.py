"""How much memory a `.tflite` needs for the tensors of one sample."""

from typing import Any

from edgekit.models import flatbuffer

# TensorType's names in schema.fbs to bytes; types of less than a byte are counted as one.
_BYTES = {"FLOAT32": 4, "FLOAT16": 2, "INT32": 4, "UINT32": 4, "INT64": 8, "UINT64": 8, "FLOAT64": 8, "INT16": 2}
_BYTES |= {"UINT16": 2, "COMPLEX64": 8, "COMPLEX128": 16, "BFLOAT16": 2}


def peak_bytes(content: bytes) -> int:
    """The most bytes of tensors that are alive at once, over the operators of the first subgraph in their order.

    As in TFLite's arena_planner.cc, inputs and variables (state) keep their places throughout, all others from the
    operator that makes them to the last that reads them. Open sizes count as 1. An interpreter takes more: kernels want
    scratch memory beside it, and XNNPACK keeps its own copy of the weights. docs/profiles.md has what was measured.
    """
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    kinds = {number: name for name, number in vars(schema_fb.TensorType).items() if isinstance(number, int)}
    count = graph.OperatorsLength()
    kept = {graph.Inputs(i) for i in range(graph.InputsLength())}
    kept |= {i for i in range(graph.TensorsLength()) if graph.Tensors(i).IsVariable()}
    alive: dict[int, tuple[int, int]] = {index: (0, count) for index in kept if index >= 0}
    for number in range(count):
        operator = graph.Operators(number)
        indices = [operator.Inputs(i) for i in range(operator.InputsLength())]
        indices += [operator.Outputs(i) for i in range(operator.OutputsLength())]
        for index in indices:
            if index >= 0 and not _is_constant(model, graph, index):
                first, last = alive.get(index, (number, number))
                alive[index] = (first, max(last, number))
    for end in (graph.Outputs(i) for i in range(graph.OutputsLength())):
        if end in alive:
            alive[end] = (alive[end][0], count)
    changes = [0] * (count + 2)
    for index, (first, last) in alive.items():
        size = _size(graph.Tensors(index), kinds)
        changes[first] += size
        changes[last + 1] -= size
    peak = now = 0
    for change in changes:
        now += change
        peak = max(peak, now)
    return peak


def _is_constant(model: Any, graph: Any, index: int) -> bool:
    return flatbuffer.constant(model, graph.Tensors(index)) is not None


def _size(tensor: Any, kinds: dict[int, str]) -> int:
    size = _BYTES.get(kinds[tensor.Type()], 1)
    for axis in range(tensor.ShapeLength()):
        size *= abs(tensor.Shape(axis))  # an open size may be written as -1
    return size
