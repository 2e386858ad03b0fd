"""Fences around operators that stay in float, which keep their scales from the operators before them.

TensorFlow's quantizer gives all that a concatenation joins one scale, and a reshape that of what it takes, also where
these stay in float: small scores beside large boxes become zero all the same. What stands between, and stays in float,
too, ends that; when all is quantized it is taken out again.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from edgekit.errors import CheckFailed
from edgekit.models import flatbuffer

MARK = "/edgekit_fence"
_TWICE = 2.0  # by one the quantizer would leave it out itself


def build(calibrated: bytes, nodes: Collection[str]) -> tuple[bytes, set[str]]:
    """The model with a fence before each operator that makes one of the tensors `nodes`, and without the ranges of
    those that only such operators take; and the names of what the fences make.
    """
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.ModelT.InitFromPackedBuf(calibrated, 0)
    graph = model.subgraphs[0]
    names = [(tensor.name or b"").decode() for tensor in graph.tensors]
    kept = [any(names[index] in nodes for index in operator.outputs if index >= 0) for operator in graph.operators]
    others = [operator for operator, stays in zip(graph.operators, kept, strict=True) if not stays]
    before = {int(index) for operator in others for index in operator.outputs} | {int(index) for index in graph.inputs}
    stored = {int(index) for operator in others for index in operator.inputs}
    fences: dict[int, int] = {}
    operators = []
    for operator, stays in zip(graph.operators, kept, strict=True):
        for index in map(int, operator.inputs if stays else ()):
            if index in before and index not in fences and graph.tensors[index].type == schema_fb.TensorType.FLOAT32:
                fences[index] = _tensor(model, f"{names[index]}{MARK}{index}", like=graph.tensors[index])
                operators.append(_product(model, index, fences[index]))
        if stays:
            operator.inputs = [fences.get(int(index), int(index)) for index in operator.inputs]
        operators.append(operator)
        for index in operator.outputs if stays else ():
            if index >= 0 and index not in stored:
                graph.tensors[index].quantization = None
    graph.operators = operators
    return flatbuffer.packed(model, len(calibrated)), {f"{names[index]}{MARK}{index}" for index in fences}


def take_out(content: bytes, count: int) -> bytes:
    """The model without its fences, of which it has `count`. Raises CheckFailed where TensorFlow has changed one."""
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    same = {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in graph.operators
        if len(operator.outputs) == 1
        and MARK in (graph.tensors[operator.outputs[0]].name or b"").decode()
        and _code(model, operator) == schema_fb.BuiltinOperator.MUL
    }
    if len(same) != count:
        raise CheckFailed("TensorFlow has changed what keeps the scales of operators in float apart")
    graph.operators = [one for one in graph.operators if not (len(one.outputs) and int(one.outputs[0]) in same)]
    for operator in graph.operators:
        operator.inputs = [same.get(int(index), int(index)) for index in operator.inputs]
    return flatbuffer.packed(model, len(content)) if same else content


def _code(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _tensor(model: Any, name: str, *, like: Any, value: float | None = None) -> int:
    """The number of a new tensor; with a value a constant."""
    from ai_edge_litert import schema_py_generated as schema_fb

    tensor, graph = schema_fb.TensorT(), model.subgraphs[0]
    tensor.name, tensor.type = name.encode(), schema_fb.TensorType.FLOAT32
    tensor.shape, tensor.shapeSignature = (like.shape, like.shapeSignature) if value is None else ([], None)
    buffer = schema_fb.BufferT()
    buffer.data = None if value is None else np.frombuffer(np.float32(value).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _product(model: Any, given: int, made: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema_fb

    code = schema_fb.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema_fb.BuiltinOperator.MUL
    code.version = 1
    model.operatorCodes.append(code)
    operator = schema_fb.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs = [given, _tensor(model, f"{made}{MARK}", like=None, value=_TWICE)]
    operator.outputs = [made]
    operator.builtinOptionsType = schema_fb.BuiltinOptions.MulOptions
    operator.builtinOptions = schema_fb.MulOptionsT()
    return operator
