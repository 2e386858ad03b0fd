"""The few protocol buffers that records hold, with the fields that matter here; others are passed over.

From TensorFlow's `core/example/{example,feature}.proto` and `core/framework/{tensor,tensor_shape}.proto` and TensorFlow
Serving's `apis/{prediction_log,predict}.proto`. In a pool of their own: importing TensorFlow's would load TensorFlow.
"""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.datasets.source import Unreadable

Array = NDArray[Any]
# Message -> field -> (number, type); "*" repeats a field, "map" is one from text.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Example": {"features": (1, "Features")},
    "Features": {"feature": (1, "map Feature")},
    "Feature": {"bytes_list": (1, "BytesList"), "float_list": (2, "FloatList"), "int64_list": (3, "Int64List")},
    "BytesList": {"value": (1, "*bytes")},
    "FloatList": {"value": (1, "*float")},
    "Int64List": {"value": (1, "*int64")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictRequest": {"inputs": (2, "map TensorProto")},
    "Dim": {"size": (1, "int64")},
    "TensorShapeProto": {"dim": (2, "*Dim")},
    "TensorProto": {
        "dtype": (1, "int32"),  # an enum; the same on the wire
        "tensor_shape": (2, "TensorShapeProto"),
        "tensor_content": (4, "bytes"),
        "half_val": (13, "*int32"),
        "float_val": (5, "*float"),
        "double_val": (6, "*double"),
        "int_val": (7, "*int32"),
        "string_val": (8, "*bytes"),
        "int64_val": (10, "*int64"),
        "bool_val": (11, "*bool"),
    },
}
# core/framework/types.proto: number -> dtype and the field that holds its values
_DTYPES = {
    1: ("float32", "float_val"),
    2: ("float64", "double_val"),
    3: ("int32", "int_val"),
    4: ("uint8", "int_val"),
    5: ("int16", "int_val"),
    6: ("int8", "int_val"),
    9: ("int64", "int64_val"),
    10: ("bool", "bool_val"),
    19: ("float16", "half_val"),
}
_STRING = 7
MAX_VALUES = 64 * 1024 * 1024


def parse(name: str, content: bytes) -> Any:
    """A message of that name. Raises Unreadable."""
    try:
        return _classes()[name].FromString(content)
    except Exception as error:  # protobuf's DecodeError; the pure Python one raises others, too
        raise Unreadable(f"no {name}: {error}") from error


def feature(value: Any) -> Array | list[bytes]:
    """A Feature's values: float32 or int64 [n], or bytes."""
    if value.HasField("bytes_list"):
        return list(value.bytes_list.value)
    if value.HasField("float_list"):
        return np.array(value.float_list.value, np.float32)
    return np.array(value.int64_list.value, np.int64)


def tensor(value: Any) -> Array | list[bytes]:
    """A TensorProto as an array of its shape; strings as a list. Raises Unreadable."""
    shape = tuple(dim.size for dim in value.tensor_shape.dim)
    count = math.prod(shape)
    if any(size < 0 for size in shape) or count > MAX_VALUES:
        raise Unreadable(f"a tensor of shape {list(shape)}")
    if value.dtype == _STRING:
        if len(value.string_val) != count:
            raise Unreadable(f"a tensor of shape {list(shape)} with {len(value.string_val)} strings")
        return list(value.string_val)
    if value.dtype not in _DTYPES:
        raise Unreadable(f"a tensor of the type {value.dtype}, which no TFLite input has")
    dtype, field = _DTYPES[value.dtype]
    if value.tensor_content:
        if len(value.tensor_content) != count * np.dtype(dtype).itemsize:
            raise Unreadable(f"a tensor of shape {list(shape)} in {len(value.tensor_content)} bytes")
        return np.frombuffer(value.tensor_content, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)
    values = np.array(getattr(value, field))
    if dtype == "float16":
        values = values.astype(np.uint16).view(np.float16)
    # A single value fills the whole shape; more do so with the last one (tensor_util.MakeNdarray).
    if not 0 < len(values) <= count:
        raise Unreadable(f"a tensor of shape {list(shape)} with {len(values)} values")
    return np.pad(values, (0, count - len(values)), mode="edge").astype(dtype).reshape(shape)


@functools.cache
def _classes() -> dict[str, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="edgekit/records.proto", package="edgekit", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for label, (number, kind) in fields.items():
            repeated = kind.startswith(("*", "map "))
            plain = kind.removeprefix("*").removeprefix("map ")
            added = message.field.add(name=label, number=number, label=3 if repeated else 1)
            if plain not in _MESSAGES:
                added.type = getattr(field_type, f"TYPE_{plain.upper()}")
                continue
            added.type, added.type_name = field_type.TYPE_MESSAGE, f".edgekit.{plain}"
            if kind.startswith("map "):
                entry = message.nested_type.add(name=f"{label.title()}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=1, type=field_type.TYPE_STRING)
                entry.field.add(
                    name="value", number=2, label=1, type=field_type.TYPE_MESSAGE, type_name=f".edgekit.{plain}"
                )
                added.type_name = f".edgekit.{name}.{entry.name}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"edgekit.{name}")) for name in _MESSAGES}
