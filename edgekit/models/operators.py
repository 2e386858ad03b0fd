"""The operators of a `.tflite` in their order, with the names of the tensors between them."""

import functools
from dataclasses import dataclass
from typing import Any

from edgekit.models import flatbuffer

_FORMING = frozenset(
    (
        *("SOFTMAX", "LOGISTIC", "TANH", "LOG_SOFTMAX", "RELU", "RELU6", "MUL", "ADD", "SUB", "DIV"),
        *("CONCATENATION", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "PACK", "STRIDED_SLICE", "SLICE"),
        *("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
    )
)


@dataclass(frozen=True)
class Operator:
    """`inputs` are those that other operators computed (or the model's own); constants are left out."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class OperatorCode:
    """An operator that a model uses, and the version that it needs; `custom` ones are not TFLite's own."""

    name: str
    version: int
    custom: bool


def codes(content: bytes) -> tuple[OperatorCode, ...]:
    """What an interpreter has to have, used in any subgraph or not: it asks for all of them."""
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.Model.GetRootAsModel(content, 0)
    found = (model.OperatorCodes(index) for index in range(model.OperatorCodesLength()))
    return tuple(OperatorCode(_operator_name(code), code.Version(), bool(code.CustomCode())) for code in found)


def operators(content: bytes) -> tuple[Operator, ...]:
    """Of the first subgraph."""
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    found = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        name = _operator_name(model.OperatorCodes(operator.OpcodeIndex()))
        given = [operator.Inputs(number) for number in range(operator.InputsLength())]
        made = [operator.Outputs(number) for number in range(operator.OutputsLength())]
        found.append(
            Operator(
                name,
                tuple(_name(graph, one) for one in given if one >= 0 and not _constant(model, graph, one)),
                tuple(_name(graph, one) for one in made if one >= 0),
            )
        )
    return tuple(found)


def forming_outputs(content: bytes) -> set[str]:
    """The tensors behind the last convolutions and matrix products: activations, concatenations and layouts.

    In float each part of a concatenated output keeps the scale that it has behind its own convolution.
    """
    made = {name: operator for operator in operators(content) for name in operator.outputs}
    left, found = list(_outputs(content)), set[str]()
    while left:
        name = left.pop()
        if name in made and name not in found and made[name].name in _FORMING:
            found.add(name)
            left += made[name].inputs
    return found


def _outputs(content: bytes) -> tuple[str, ...]:
    from ai_edge_litert import schema_py_generated as schema_fb

    graph = schema_fb.Model.GetRootAsModel(content, 0).Subgraphs(0)
    return tuple(_name(graph, graph.Outputs(index)) for index in range(graph.OutputsLength()))


def _operator_name(code: Any) -> str:
    custom = code.CustomCode()
    if custom:
        return str(custom.decode())
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    return _builtin().get(number, f"operator {number}")


@functools.cache
def _builtin() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema_fb

    return {number: name for name, number in vars(schema_fb.BuiltinOperator).items() if isinstance(number, int)}


def _name(graph: Any, index: int) -> str:
    name: bytes = graph.Tensors(index).Name() or b""
    return name.decode()


def _constant(model: Any, graph: Any, index: int) -> bool:
    return flatbuffer.constant(model, graph.Tensors(index)) is not None
