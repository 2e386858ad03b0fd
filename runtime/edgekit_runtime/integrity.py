"""Whether a model file is the one that was promised."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Iterator, List, Optional, Tuple

from edgekit_runtime.errors import CheckFailed, UserError

if TYPE_CHECKING:
    from io import FileIO
    from os import PathLike
    from typing import Union

    Location = Union[str, PathLike[str]]

_BLOCK_BYTES = 1 << 16


class ModelError(UserError):
    """The file is not a TFLite model, or not one that this runtime can run."""


class HashMismatch(CheckFailed):
    """The model file is not the one that was promised."""


def verify(model: Location, sha256: Optional[str] = None, crc32: Optional[int] = None) -> str:
    """The file's SHA-256. With both sums given the CRC-32 is compared alone, and `sha256` believed.

    Refuses what is no TFLite file before an interpreter sees it: some crash on cut bytes. Raises ModelError, or
    HashMismatch when the file is not the one of `sha256` and `crc32`.
    """
    try:
        with open(model, "rb", buffering=0) as file:
            head = file.read(8)
            sums: List[Tuple[str, Optional[str], str]] = []
            if crc32 is not None:
                sums.append(("CRC-32", f"{crc32:08x}", _crc32(file)))
            if crc32 is None or sha256 is None:
                sums.append(("SHA-256", sha256, _sha256(file)))
    except OSError as error:
        raise ModelError(f"cannot read the model '{model}': {error.strerror}", model=str(model)) from error
    for kind, wanted, found in sums:
        if wanted is not None and found != wanted:
            raise HashMismatch(
                f"the model '{model}' has {kind} {found[:12]}, expected {wanted[:12]}",
                hint="the file was altered or cut short: push the bundle again",
                expected=wanted,
                actual=found,
            )
    if head[4:8] != b"TFL3":
        raise ModelError(f"'{model}' is not a TFLite model (no TFL3 mark)", model=str(model))
    return sha256 if sha256 is not None else sums[-1][2]


def _crc32(file: FileIO) -> str:
    found = 0
    for block in _blocks(file):
        found = zlib.crc32(block, found)
    return f"{found:08x}"


def _sha256(file: FileIO) -> str:
    import hashlib  # with OpenSSL behind it: 3 ms and 3.5 MiB, which a start from a release spares

    digest = hashlib.sha256()
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: FileIO) -> Iterator[memoryview]:
    """The whole file, in one buffer again and again."""
    file.seek(0)
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    for size in iter(lambda: file.readinto(buffer), 0):
        yield buffer[:size]
