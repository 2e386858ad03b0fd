"""By how much a float `.tflite` scales its input before anything else: a normalisation that is part of the model."""

from typing import Any

import numpy as np

from edgekit.models import flatbuffer

_SCALING = {"MUL", "DIV", "ADD", "SUB"}
_PASSING = {"CAST", "RESHAPE", "EXPAND_DIMS", "SQUEEZE"}


def input_scale(content: bytes) -> float | None:
    """The factor of the multiplications and divisions by constants that its only input goes through first.

    1.0 when it goes through none; None for several inputs. Of several channels the mean.
    """
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    if graph.InputsLength() != 1:
        return None
    name_of = {value: name for name, value in vars(schema_fb.BuiltinOperator).items() if isinstance(value, int)}
    users: dict[int, list[Any]] = {}
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        for place in range(operator.InputsLength()):
            users.setdefault(operator.Inputs(place), []).append(operator)
    at, factor = graph.Inputs(0), 1.0
    while len(users.get(at, ())) == 1:
        (operator,) = users[at]
        code = model.OperatorCodes(operator.OpcodeIndex())
        name = name_of.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
        if name in _SCALING:
            others = [operator.Inputs(place) for place in range(operator.InputsLength())]
            constant = _constant(model, graph, next((one for one in others if one != at), at))
            if constant is None or (name == "DIV" and (others[0] != at or not constant.all())):
                break
            if name in ("MUL", "DIV"):
                factor *= float(np.mean(constant if name == "MUL" else 1 / constant))
        elif name not in _PASSING:
            break
        at = operator.Outputs(0)
    return abs(factor)


def _constant(model: Any, graph: Any, index: int) -> Any:
    """A float32 tensor's values, or None where they are computed."""
    tensor = graph.Tensors(index)
    buffer = flatbuffer.constant(model, tensor)
    if tensor.Type() != 0 or buffer is None:  # schema.fbs: TensorType.FLOAT32
        return None
    return np.frombuffer(buffer.DataAsNumpy().tobytes(), "<f4")
