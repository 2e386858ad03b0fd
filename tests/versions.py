"""Models that ask for a version of an operator that no converter has written yet."""

from __future__ import annotations

import flatbuffers


def with_version(content: bytes, operator: str, version: int) -> bytes:
    """The `.tflite`, but with this version of one of its operators."""
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.ModelT.InitFromPackedBuf(content, 0)
    number = getattr(schema_fb.BuiltinOperator, operator)
    (code,) = [one for one in model.operatorCodes if one.builtinCode == number]
    code.version = version
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
