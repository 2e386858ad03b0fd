"""TFRecord files and protocol buffers by hand, as bytes on the wire."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.datasets.tfrecord import masked


def framed(content: bytes) -> bytes:
    """One record with its length and both checksums."""
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked(length)) + content + struct.pack("<I", masked(content))


def write(path: Path, records: Iterable[bytes]) -> Path:
    with path.open("wb") as file:
        for content in records:
            file.write(framed(content))
    return path


def varint(value: int) -> bytes:
    digits = b""
    while value > 127:
        digits, value = digits + bytes((value & 127 | 128,)), value >> 7
    return digits + bytes((value,))


def part(field: int, content: bytes) -> bytes:
    """A field of bytes, text or a message (wire type 2)."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def example(features: Mapping[str, bytes | int | np.ndarray]) -> bytes:
    """A tf.train.Example: bytes, a whole number, or floats."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            held = part(1, part(1, value))
        elif isinstance(value, int):
            held = part(3, part(1, varint(value)))
        elif value.dtype.kind == "i":
            held = part(3, part(1, b"".join(varint(int(one)) for one in value.ravel())))
        else:
            held = part(2, part(1, value.astype("<f4").tobytes()))
        entries += part(1, part(1, name.encode()) + part(2, held))
    return part(1, entries)


def tensor(value: np.ndarray | list[bytes], *, content: bool = True) -> bytes:
    """A TensorProto of float32, uint8, int32 or strings; with `content` in one piece, else value by value."""
    shape = (len(value),) if isinstance(value, list) else value.shape
    dims = b"".join(part(2, number(1, size)) for size in shape)
    if isinstance(value, list):
        return number(1, 7) + part(2, dims) + b"".join(part(8, text) for text in value)
    head = number(1, {"f": 1, "u": 4, "i": 3}[value.dtype.kind]) + part(2, dims)
    if content:
        return head + part(4, value.tobytes())
    if value.dtype.kind == "f":
        return head + part(5, value.tobytes())
    return head + part(7, b"".join(varint(int(one)) for one in value.ravel()))


def warmup(inputs: Mapping[str, bytes]) -> bytes:
    """A PredictionLog: log metadata, then a PredictLog's PredictRequest with a model spec and the inputs."""
    spec = part(1, part(1, b"model") + part(3, b"serving_default"))
    request = spec + b"".join(part(2, part(1, name.encode()) + part(2, value)) for name, value in inputs.items())
    return part(1, b"") + part(6, part(1, request))


def jpeg(seed: int, size: tuple[int, int] = (20, 24)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()
