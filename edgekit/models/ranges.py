"""The ranges of a `.tflite`'s tensors: what calibration has written, and what 8 bits can store."""

import math
import struct
from collections.abc import Mapping

import numpy as np

from edgekit.models import flatbuffer

_MOST = 3e38  # the largest float32 is 3.4e38: what TensorFlow begins a range with, and never narrowed by NaN


def written(float_model: bytes, ranges: Mapping[int, tuple[float, float]]) -> bytes:
    """The model with these ranges of the tensors of its only subgraph, by number, as its calibration; one that is empty
    is not written.
    """
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.ModelT.InitFromPackedBuf(float_model, 0)
    for index, (low, high) in ranges.items():
        if low <= high:
            found = schema_fb.QuantizationParametersT()
            found.min, found.max = np.array([low], np.float32), np.array([high], np.float32)
            model.subgraphs[0].tensors[index].quantization = found
    return flatbuffer.packed(model, len(float_model))


def clipped(calibrated: bytes, ranges: Mapping[str, tuple[float, float]]) -> bytes:
    """The model with the range of each named tensor made no wider than this. The bytes are changed in place."""
    from ai_edge_litert import schema_py_generated as schema_fb

    changed = bytearray(calibrated)
    graph = schema_fb.Model.GetRootAsModel(calibrated, 0).Subgraphs(0)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        range_, found = tensor.Quantization(), ranges.get((tensor.Name() or b"").decode())
        if range_ is None or found is None or range_.MinLength() != 1 or range_.MaxLength() != 1:
            continue
        if found[0] == found[1]:  # zero throughout: its range is no more than something that can be stored
            continue
        # schema.fbs: QuantizationParameters begins with the vectors min and max
        for field, value in ((4, max(found[0], range_.Min(0))), (6, min(found[1], range_.Max(0)))):
            table = range_._tab  # the generated reader offers no other way to the position
            struct.pack_into("<f", changed, table.Vector(table.Offset(field)), value)
    return bytes(changed)


def endless(calibrated: bytes) -> tuple[str, ...]:
    """The tensors whose values in calibration were infinite, or no numbers."""
    from ai_edge_litert import schema_py_generated as schema_fb

    graph = schema_fb.Model.GetRootAsModel(calibrated, 0).Subgraphs(0)
    found = []
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        range_ = tensor.Quantization()
        if range_ is not None and range_.MinLength() and range_.MaxLength():
            ends = [range_.Min(number) for number in range(range_.MinLength())]
            ends += [range_.Max(number) for number in range(range_.MaxLength())]
            if not all(math.isfinite(end) and abs(end) < _MOST for end in ends):
                found.append((tensor.Name() or b"").decode())
    return tuple(found)


def stored_ranges(content: bytes) -> dict[str, tuple[float, float]]:
    """Between which real values each tensor of 8 or 16 bits with one scale can store, by its name."""
    from ai_edge_litert import schema_py_generated as schema_fb

    limits = {schema_fb.TensorType.INT8: (-128, 127), schema_fb.TensorType.UINT8: (0, 255)}
    limits[schema_fb.TensorType.INT16] = (-32768, 32767)
    graph = schema_fb.Model.GetRootAsModel(content, 0).Subgraphs(0)
    found = {}
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        range_ = tensor.Quantization()
        if range_ is not None and range_.ScaleLength() == 1 and tensor.Type() in limits:
            scale, zero = float(range_.Scale(0)), int(range_.ZeroPoint(0))
            low, high = limits[tensor.Type()]
            found[(tensor.Name() or b"").decode()] = ((low - zero) * scale, (high - zero) * scale)
    return found
