"""The framing of TFRecord files: where the records are, and each one's bytes, checked against its checksum.

A record is its length (8 bytes, little endian), the length's masked CRC-32C, the bytes, their masked CRC-32C
(TensorFlow, `core/lib/io/record_writer.h`). Without TensorFlow, since the parent process looks at data, too.
"""

import functools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.datasets.source import Unreadable
from edgekit.errors import UserError

MAX_RECORD_BYTES = 64 * 1024 * 1024
_HEADER = struct.Struct("<QI")
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected (RFC 3720, appendix B.4)
_MASK_DELTA = 0xA282EAD8  # core/lib/hash/crc32c.h
_STRIDE = 64  # bytes that each lane of the checksum does


@dataclass(frozen=True)
class Place:
    """A record of a file: its number from 0, where its bytes begin, and how many they are."""

    number: int
    offset: int
    length: int


def begins_like_one(path: Path) -> bool:
    """Whether the first length of a file matches its checksum."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
    except OSError:
        return False
    return len(header) == _HEADER.size and _length(header) is not None


def places(path: Path) -> list[Place]:
    """All records of a file, found by their lengths; their bytes are not read.

    Raises UserError that names the record from which on the file cannot be read.
    """
    found: list[Place] = []
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            while (at := file.tell()) < size:
                place = _next(path, file, len(found), size)
                found.append(place)
                file.seek(at + _HEADER.size + place.length + 4)
    except OSError as error:
        raise UserError(f"{path}: cannot read it: {error.strerror}", where=str(path)) from error
    return found


def read(path: Path, place: Place) -> bytes:
    """A record's bytes. Raises Unreadable when they are not what was written."""
    if place.length > MAX_RECORD_BYTES:
        raise Unreadable(f"larger than {MAX_RECORD_BYTES} bytes")
    try:
        with path.open("rb") as file:
            file.seek(place.offset)
            content = file.read(place.length)
            stored = file.read(4)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    if len(content) < place.length or stored != struct.pack("<I", masked(content)):
        raise Unreadable("its checksum is wrong")
    return content


def masked(content: bytes) -> int:
    """The CRC-32C as TFRecord stores it."""
    plain = crc32c(content)
    return ((plain >> 15 | plain << 17) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(content: bytes) -> int:
    """CRC-32C. Many stretches at once in NumPy, then put together: the checksum is linear over GF(2)."""
    lanes = len(content) // _STRIDE
    state = 0xFFFFFFFF
    if lanes > 1:
        steps = np.frombuffer(content, np.uint8, lanes * _STRIDE).reshape(lanes, _STRIDE).T
        partial = np.zeros(lanes, np.uint32)
        for step in np.ascontiguousarray(steps):
            partial = _table()[(partial ^ step) & 0xFF] ^ (partial >> 8)
        shift = _shift()
        for lane in partial.tolist():
            moved = shift[0][state & 255] ^ shift[1][state >> 8 & 255] ^ shift[2][state >> 16 & 255]
            state = moved ^ shift[3][state >> 24] ^ lane
        content = content[lanes * _STRIDE :]
    table = _listed()
    for byte in content:
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def _next(path: Path, file: IO[bytes], number: int, size: int) -> Place:
    at = file.tell()
    header = file.read(_HEADER.size)
    length = _length(header) if len(header) == _HEADER.size else None
    if len(header) == _HEADER.size and length is None:
        compressed = at == 0 and header[:2] in (b"\x1f\x8b", b"\x78\x9c", b"\x78\xda")
        raise UserError(
            f"{path}: record {number} (at byte {at}) is damaged: its length does not match its checksum",
            hint="decompress it first, with gunzip for example" if compressed else "copy or write the file again",
            where=str(path),
            record=number,
        )
    if length is None or at + _HEADER.size + length + 4 > size:
        raise UserError(
            f"{path}: cut off in record {number} (at byte {at})",
            hint="copy or write the file again",
            where=str(path),
            record=number,
        )
    return Place(number, at + _HEADER.size, length)


def _length(header: bytes) -> int | None:
    length, checksum = _HEADER.unpack(header)
    return int(length) if checksum == masked(header[:8]) else None


@functools.cache
def _table() -> NDArray[np.uint32]:
    state = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        state = np.where(state & 1, state >> 1 ^ np.uint32(_POLYNOMIAL), state >> 1).astype(np.uint32)
    return state


@functools.cache
def _listed() -> list[int]:
    return [int(value) for value in _table()]


@functools.cache
def _shift() -> Any:
    """What a state becomes behind _STRIDE zero bytes, as the sum of what its four bytes become."""
    state = np.arange(256, dtype=np.uint32)[None] << np.array([[0], [8], [16], [24]], np.uint32)
    for _ in range(_STRIDE):
        state = _table()[state & 0xFF] ^ (state >> 8)
    return state.tolist()
