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
# What gives a score no bounds that it had not, and what gives one without bounds.
_LAYOUT = frozenset(
    (
        *("ADD", "AVERAGE_POOL_2D", "DEQUANTIZE", "DIV", "EXPAND_DIMS", "MAX_POOL_2D", "MEAN", "MUL", "QUANTIZE"),
        *("REDUCE_MAX", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE", "SQUEEZE"),
        *("STRIDED_SLICE", "SUB", "SUM", "TRANSPOSE"),
    )
)
_UNBOUNDED = frozenset(
    (
        *("BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "ELU", "FULLY_CONNECTED", "LEAKY_RELU", "PRELU", "TANH"),
        "TRANSPOSE_CONV",
    )
)
# Operators that may clip what they give, by what schema.fbs calls their options.
_CLIPPING = {
    "ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions", "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "FULLY_CONNECTED": "FullyConnectedOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions",
}  # fmt: skip
Region = tuple[tuple[int, int], ...]
MOST_PARTS = 64


@dataclass(frozen=True)
class Operator:
    """`inputs` are those that other operators computed (or the model's own); constants are left out. `clips` says that
    an activation with bounds is a part of it.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    clips: bool = False


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
                _clips(operator, name),
            )
        )
    return tuple(found)


def _clips(operator: Any, name: str) -> bool:
    from ai_edge_litert import schema_py_generated as schema_fb

    table = operator.BuiltinOptions()
    if name not in _CLIPPING or table is None:
        return False
    options = getattr(schema_fb, _CLIPPING[name])()
    options.Init(table.Bytes, table.Pos)
    kinds = schema_fb.ActivationFunctionType
    return options.FusedActivationFunction() not in (kinds.NONE, kinds.TANH)


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


def middle(content: bytes) -> float:
    """From where on the single score of the first output stands for the second of two classes: 0.5, half of a
    probability, or 0 where the score is a logit (no operator behind the last matrix product gives it bounds).
    """
    made = {name: operator for operator in operators(content) for name in operator.outputs}
    left, seen = list(_outputs(content)[:1]), set[str]()
    while left:
        name = left.pop()
        if name in made and name not in seen and not made[name].clips:
            seen.add(name)
            if made[name].name in _UNBOUNDED:
                return 0.0
            left += made[name].inputs if made[name].name in _LAYOUT else ()
    return 0.5


def parts(content: bytes) -> tuple[tuple[Region, ...], ...]:
    """Of each output the regions that were computed apart and joined: (first, end) of every axis but the batch; one
    without axes for an output that has no batch.
    """
    from ai_edge_litert import schema_py_generated as schema_fb

    graph = schema_fb.Model.GetRootAsModel(content, 0).Subgraphs(0)
    made = _joints(content)

    def sizes(tensor: int) -> list[int]:
        return [graph.Tensors(tensor).Shape(axis) for axis in range(graph.Tensors(tensor).ShapeLength())]

    def split(tensor: int) -> list[Region]:
        shape = sizes(tensor)
        whole: Region = tuple((0, size) for size in shape[1:])
        axis, given = made.get(tensor, (0, ()))
        if axis is None:  # reshaped
            inner = split(given[0])
            full = tuple((0, size) for size in sizes(given[0])[1:-1])
            same = whole and sizes(given[0])[-1:] == shape[-1:] and all(part[:-1] == full for part in inner)
            return [(*whole[:-1], part[-1]) for part in inner] if same else [whole]
        at = axis % len(shape) - 1 if shape else -1
        if not given or at < 0:
            return [whole]
        found, first = list[Region](), 0
        for one in given:
            for part in split(one):
                found.append((*part[:at], (first + part[at][0], first + part[at][1]), *part[at + 1 :]))
            first += sizes(one)[at + 1]
        return found

    ends = []
    for index in (graph.Outputs(number) for number in range(graph.OutputsLength())):
        regions = split(index) if sizes(index)[:1] == [1] else [()]
        ends.append(tuple(regions) if len(regions) <= MOST_PARTS else (tuple((0, size) for size in sizes(index)[1:]),))
    return tuple(ends)


def _joints(content: bytes) -> dict[int, tuple[int | None, tuple[int, ...]]]:
    """The tensors that are concatenated of others: by their numbers the axis (None: reshaped) and these others."""
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    found: dict[int, tuple[int | None, tuple[int, ...]]] = {}
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        name = _operator_name(model.OperatorCodes(operator.OpcodeIndex()))
        given = tuple(operator.Inputs(number) for number in range(operator.InputsLength()))
        if name == "RESHAPE":
            found[operator.Outputs(0)] = (None, given[:1])
        elif name == "CONCATENATION":
            options = schema_fb.ConcatenationOptions()
            options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
            found[operator.Outputs(0)] = (options.Axis(), given)
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
