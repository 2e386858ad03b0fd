"""A disk image where a mounted folder is due: which partition holds the root, and the commands that mount it."""

from __future__ import annotations

import os
import shlex
import stat
import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgekit.errors import UserError

MOUNT_POINT = "/mnt/card"
_ENTRIES = 128  # partitions looked at; GPT's usual table has as many
_EXTENDED = (0x05, 0x0F, 0x85)
# Root partitions by their type in GPT (UAPI Group, Discoverable Partitions Specification) and by usual labels.
_ROOT_TYPES = {
    uuid.UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"),  # arm64
    uuid.UUID("69dad710-2ce4-4e3c-b16c-21a1d49abed3"),  # arm
    uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),  # x86-64
}
_ROOT_LABELS = ("rootfs", "root", "writable", "cloudimg-rootfs", "app")
# Where each file system signs, counted from its start. Those that hard links and a boot unit can be written to.
_SIGNATURES = (
    ("ext4", 1024 + 56, b"\x53\xef"),
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("xfs", 0, b"XFSB"),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
)
_PACKED = {
    b"\xfd7zXZ\0": "xz --decompress --keep",
    b"\x1f\x8b": "gunzip --keep",
    b"\x28\xb5\x2f\xfd": "unzstd --keep",
    b"BZh": "bunzip2 --keep",
    b"PK\x03\x04": "unzip",
}


@dataclass(frozen=True)
class Partition:
    """A part of an image: `start` and `size` in bytes, `system` the file system found there or None."""

    number: int
    start: int
    size: int
    system: str | None
    label: str
    is_root: bool


def refuse_image(board: str, path: Path) -> None:
    """Returns for a folder and for nothing. Raises UserError that says how to mount an image, a device or a file."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise UserError(f"{board} is no folder", hint=f"mount the card and say dir:{MOUNT_POINT}", path=str(path))
        with path.open("rb") as file:
            _refuse(board, path, file)
    except FileNotFoundError as error:
        raise UserError(f"{board}: there is no such folder", path=str(path)) from error
    except OSError as error:
        raise UserError(f"{board} cannot be read: {error.strerror or error}", path=str(path)) from error


def _refuse(board: str, path: Path, file: BinaryIO) -> None:
    for magic, unpack in _PACKED.items():
        if _at(file, 0, len(magic)) == magic:
            command = f"{unpack} {shlex.quote(str(path))}"
            raise UserError(f"{board} is a packed image", hint=f"unpack it first: {command}", path=str(path))
    found = list(partitions(file))
    root = choose(found)
    if root is None:
        raise UserError(
            f"{board} is no folder, and no disk image with a Linux root partition",
            hint=f"fdisk -l {shlex.quote(str(path))} shows its partitions; mount the root one in a folder",
            path=str(path),
        )
    before = [
        _as_root("mkdir", "-p", MOUNT_POINT),
        _as_root("mount", "-o", _options(root), str(path.resolve()), MOUNT_POINT),
    ]
    after = [_as_root("umount", MOUNT_POINT)]
    others = [f"{item.number} ({item.system})" for item in found if item.system and item != root]
    raise UserError(
        f"{board} is a disk image, and its root file system has to be mounted first"
        + (f"; partition {root.number} is it ({root.system})" if root.number else f" ({root.system})")
        + (f", there are also: {', '.join(others)}" if others else "")
        + ("" if os.path.exists("/dev/loop-control") else "; this computer has no loop devices: modprobe loop"),
        hint="\n".join(["", *before, f"edgekit ... dir:{MOUNT_POINT}", *after]),
        path=str(path),
        partition=root.number,
        offset=root.start,
        before=before,
        board=f"dir:{MOUNT_POINT}",
        after=after,
    )


def _options(root: Partition) -> str:
    return f"loop,offset={root.start},sizelimit={root.size}" if root.number else "loop"


def _as_root(*words: str) -> str:
    return shlex.join(words if os.geteuid() == 0 else ("sudo", *words))


def choose(found: Sequence[Partition]) -> Partition | None:
    """The root: marked so in the partition table, else by its label, else the largest of the Linux file systems."""
    linux = [item for item in found if item.system]
    return max(linux, key=lambda item: (item.is_root, item.label.lower() in _ROOT_LABELS, item.size), default=None)


def partitions(file: BinaryIO) -> Iterator[Partition]:
    """The parts of an image, from GPT or MBR; an image that is one file system is number 0. Strict about its bounds."""
    length = file.seek(0, os.SEEK_END)
    whole = _system(file, 0)
    if whole:
        yield Partition(0, 0, length, whole, _label(file, 0), False)
        return
    for sector in (512, 4096):
        if _at(file, sector, 8) == b"EFI PART":
            yield from _bounded(file, length, _gpt(file, sector))
            return
    if _at(file, 510, 2) == b"\x55\xaa":
        yield from _bounded(file, length, _mbr(file))


def _bounded(file: BinaryIO, length: int, found: Iterator[tuple[int, int, int, bool]]) -> Iterator[Partition]:
    for number, start, size, is_root in found:
        if 0 < start < length and size > 0:
            yield Partition(
                number, start, min(size, length - start), _system(file, start), _label(file, start), is_root
            )


def _gpt(file: BinaryIO, sector: int) -> Iterator[tuple[int, int, int, bool]]:
    table, count, size = struct.unpack("<QII", _at(file, sector + 72, 16))
    for number in range(min(count, _ENTRIES) if 128 <= size <= 4096 else 0):
        entry = _at(file, table * sector + number * size, 48)
        kind = uuid.UUID(bytes_le=entry[:16])
        first, last = struct.unpack("<QQ", entry[32:48])
        if kind.int and last >= first:
            yield number + 1, first * sector, (last - first + 1) * sector, kind in _ROOT_TYPES


def _mbr(file: BinaryIO) -> Iterator[tuple[int, int, int, bool]]:
    for number in range(4):
        kind, start, count = _mbr_entry(file, 0, number)
        if kind in _EXTENDED:
            yield from _logical(file, start)
        elif kind:
            yield number + 1, start * 512, count * 512, False


def _logical(file: BinaryIO, extended: int) -> Iterator[tuple[int, int, int, bool]]:
    here = extended
    for number in range(5, 5 + 16):
        kind, start, count = _mbr_entry(file, here * 512, 0)
        if _at(file, here * 512 + 510, 2) != b"\x55\xaa":
            return
        if kind:
            yield number, (here + start) * 512, count * 512, False
        kind, following, _ = _mbr_entry(file, here * 512, 1)
        if kind not in _EXTENDED:
            return
        here = extended + following


def _mbr_entry(file: BinaryIO, base: int, number: int) -> tuple[int, int, int]:
    entry = _at(file, base + 446 + 16 * number, 16)
    return entry[4], *struct.unpack("<II", entry[8:16])


def _system(file: BinaryIO, start: int) -> str | None:
    return next((name for name, place, magic in _SIGNATURES if _at(file, start + place, len(magic)) == magic), None)


def _label(file: BinaryIO, start: int) -> str:
    """The volume name of an ext4 file system; empty for others."""
    if _system(file, start) != "ext4":
        return ""
    return _at(file, start + 1024 + 120, 16).rstrip(b"\0").decode("ascii", "replace")


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    """`count` bytes, zeros where the file has ended (or a table points beyond any file)."""
    if place > 1 << 62:
        return bytes(count)
    file.seek(place)
    return file.read(count).ljust(count, b"\0")
