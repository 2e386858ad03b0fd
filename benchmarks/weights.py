"""What 8-bit weights alone cost: the float model with the weights of its convolutions rounded as INT8 rounds them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The axes over which a scale holds: TFLite's 8-bit specification has one for each output channel.
AXES = {"CONV_2D": (1, 2, 3), "DEPTHWISE_CONV_2D": (0, 1, 2)}
_STEPS = 127  # symmetric


def rounded(content: bytes, kinds: tuple[str, ...] = tuple(AXES)) -> bytes:
    """The model whose convolutions of these kinds have weights of 8 bits, given in float again."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema_fb

    names = {number: name for name, number in vars(schema_fb.BuiltinOperator).items() if isinstance(number, int)}
    model = schema_fb.ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if kind in kinds:
                tensor = graph.tensors[operator.inputs[1]]
                buffer = model.buffers[tensor.buffer]
                weights = np.frombuffer(bytes(buffer.data), np.float32).reshape(tensor.shape)
                buffer.data = np.frombuffer(_rounded(weights, AXES[kind]).tobytes(), np.uint8)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _rounded(weights: NDArray[np.float32], axes: tuple[int, ...]) -> NDArray[Any]:
    scale = np.abs(weights).max(axis=axes, keepdims=True) / _STEPS
    return np.asarray(np.rint(weights / np.where(scale == 0, 1, scale)) * scale, np.float32)
