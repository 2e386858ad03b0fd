"""BoardFacts of a mounted root file system: read from its files, none of which is run."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence

from edgekit.board.facts import BoardFacts
from edgekit.transport import DirectoryTransport
from edgekit.transport.errors import printable
from edgekit.transport.tree import Tree

_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_LIBC_LIMIT = 8 << 20
# Machine numbers of the ELF specification, as Linux's uname(1) names a board of that kind.
_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_HARD_FLOAT = 0x400  # e_flags of 32-bit Arm (ELF for the Arm Architecture): VFP registers carry arguments
_TOOLS = ("ssh-keygen", "timeout", "systemctl", "busybox", "sudo")


def tree_facts(transport: DirectoryTransport) -> BoardFacts:
    """What the files tell. `cores` and `ram_kb` are 0 and `features` empty: no file knows the board."""
    tree = transport.tree
    elf = _elf(tree, "/bin/sh")
    libc, glibc = _libc(tree, elf)
    place = tree.local(transport.root)
    while not place.is_dir():
        place = place.parent
    disk = os.statvfs(place)
    kernels = tree.names("/lib/modules")
    python = _python(tree)
    return BoardFacts(
        root=str(tree.local(transport.root)),
        hash_tool=next((tool for tool in ("sha256sum", "busybox", "openssl") if _which(tree, tool)), None),
        program=None,
        architecture=_machine(elf),
        kernel=printable(kernels[-1]) if kernels else "-",
        os=_os(tree),
        libc=libc,
        glibc=glibc,
        python=python,
        numpy=None if python is None else _numpy(tree, python),
        cores=0,
        ram_kb=0,
        board=None,
        features=(),
        free_kb=disk.f_bavail * disk.f_frsize // 1024,
        writable=not disk.f_flag & os.ST_RDONLY,
        tools=tuple(tool for tool in _TOOLS if _which(tree, tool)),
        emulated=tree.exists("/etc/edgekit-emulated"),
    )


def _which(tree: Tree, name: str) -> str | None:
    return next((path for folder in _PATH if tree.is_file(path := f"{folder}/{name}")), None)


def _elf(tree: Tree, path: str) -> tuple[int, int, int] | None:
    """Class (1: 32 bits, 2: 64), machine and flags of an ELF file; None when it is none."""
    try:
        head = tree.read(path, 64)
    except OSError:
        return None
    if len(head) < 52 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    order = "<" if head[5] == 1 else ">"
    (machine,) = struct.unpack_from(f"{order}H", head, 18)
    (flags,) = struct.unpack_from(f"{order}I", head, 36 if head[4] == 1 else 48)
    return head[4], machine, flags


def _machine(elf: tuple[int, int, int] | None) -> str:
    if elf is None:
        return "unknown"
    _, machine, flags = elf
    return "arm" if machine == 40 and not flags & _HARD_FLOAT else _MACHINES.get(machine, f"elf{machine}")


def _libc(tree: Tree, elf: tuple[int, int, int] | None) -> tuple[str | None, str | None]:
    """The C library of the tree's own programs, glibc or musl, and glibc's version."""
    for path in _libraries(tree, "libc.so.6"):
        found = _elf(tree, path)
        if found is None or (elf is not None and found[:2] != elf[:2]):
            continue  # of another architecture, which Debian may have beside its own
        told = re.search(rb"GNU C Library [^\n\0]{0,120}? version (\d{1,3}\.\d{1,3})", tree.read(path, _LIBC_LIMIT))
        return "glibc", told[1].decode() if told else None
    musl = any(name.startswith("ld-musl-") for name in tree.names("/lib"))
    return ("musl" if musl else None), None


def _libraries(tree: Tree, name: str) -> Iterator[str]:
    for folder in _LIBRARIES:
        for below in ("", *(f"/{item}" for item in tree.names(folder) if "-linux-" in item)):
            if tree.is_file(path := f"{folder}{below}/{name}"):
                yield path


def _python(tree: Tree) -> str | None:
    """`3.11` of the python3 that comes first in PATH: by what it is a link to, else by its library's folder."""
    path = _which(tree, "python3")
    if path is None:
        return None
    named = re.search(r"/python(3\.\d{1,3})\Z", tree.resolve(path))
    if named:
        return named[1]
    prefix = path.removesuffix("/bin/python3") or "/usr"
    found = re.findall(r"\bpython(3\.\d{1,3})\b", " ".join(tree.names(f"{prefix}/lib")))
    return max(found, key=lambda version: int(version.partition(".")[2]), default=None)


def _numpy(tree: Tree, python: str) -> str | None:
    """The version that this Python finds, `unknown` when it does not say; not a user's own."""
    folders = [
        f"/usr/local/lib/python{python}/dist-packages",
        f"/usr/local/lib/python{python}/site-packages",
        "/usr/lib/python3/dist-packages",
        f"/usr/lib/python{python}/site-packages",
        f"/usr/lib64/python{python}/site-packages",
    ]
    for folder in folders:
        if tree.is_file(f"{folder}/numpy/__init__.py"):
            return _version(tree.names(folder)) or "unknown"
    return None


def _version(names: Sequence[str]) -> str | None:
    pattern = re.compile(r"numpy-([0-9][0-9A-Za-z.+]{0,40}?)(?:-py[0-9.]+)?\.(?:dist|egg)-info")
    return next((found[1] for name in names if (found := pattern.fullmatch(name))), None)


def _os(tree: Tree) -> str | None:
    found = re.search(r"^PRETTY_NAME=(.*)$", tree.text("/etc/os-release"), re.MULTILINE)
    return printable(found[1].strip("\"'"))[:400] if found else None
