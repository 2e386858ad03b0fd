"""The least and largest values that calibration has written into a `.tflite`."""

import struct
from collections.abc import Mapping


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
        # schema.fbs: QuantizationParameters begins with the vectors min and max
        for field, value in ((4, max(found[0], range_.Min(0))), (6, min(found[1], range_.Max(0)))):
            table = range_._tab  # the generated reader offers no other way to the position
            struct.pack_into("<f", changed, table.Vector(table.Offset(field)), value)
    return bytes(changed)
