"""What an unpacked but unconfigured Debian tree still needs before programs run in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from boards.kind import MARKER, UID, USER, BoardKind
from boards.servers import KEYS, SERVERS

# Bound over in every board: see namespace.py.
SMALL = "mnt/small"
READONLY = "mnt/readonly"


def repair(kind: BoardKind, tree: Path) -> None:
    """Mend the unpacked tree in place."""
    _merge_usr(tree)
    if kind.busybox:
        _install_busybox(tree)
    _link(kind, tree)
    _accounts(kind, tree)
    _configure(kind, tree)
    SERVERS[kind.server].configure(kind, tree)
    for folder in ("usr/share/doc", "usr/share/locale", "usr/share/man", "etc/apt", "var/cache/apt"):
        shutil.rmtree(tree / folder, ignore_errors=True)
    (tree / MARKER).write_text(f"{kind.marker}\n", "ascii")


def _merge_usr(tree: Path) -> None:
    for name in ("bin", "sbin", "lib"):
        old, new = tree / name, tree / "usr" / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, new, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
            old.symlink_to(f"usr/{name}")


def _install_busybox(tree: Path) -> None:
    """Every tool that BusyBox has is BusyBox's, and there is no other shell."""
    program = (tree / "usr/bin/busybox").read_bytes()
    # Its names are one table in it; this machine's BusyBox, built otherwise, has some more.
    done = subprocess.run(["busybox", "--list"], capture_output=True, text=True, timeout=60, check=True)
    applets = {name for name in done.stdout.split() if f"\0{name}\0".encode() in program} - {"busybox"}
    for name in applets | {"bash", "dash", "rbash"}:
        for folder in ("usr/bin", "usr/sbin"):
            (tree / folder / name).unlink(missing_ok=True)
    for name in applets:
        (tree / "usr/bin" / name).symlink_to("busybox")


def _link(kind: BoardKind, tree: Path) -> None:
    """What maintainer scripts and update-alternatives would link."""
    libraries = f"usr/lib/{kind.triplet}"
    links = {
        "usr/bin/sh": "dash",
        "usr/bin/awk": "mawk",
        "usr/bin/which": "which.debianutils",
        "usr/bin/python3": f"python{kind.python}",
        f"{libraries}/libblas.so.3": "blas/libblas.so.3",
        f"{libraries}/liblapack.so.3": "lapack/liblapack.so.3",
    }
    for name, target in links.items():
        if not os.path.lexists(tree / name):
            (tree / name).symlink_to(target)


def _accounts(kind: BoardKind, tree: Path) -> None:
    """Debian's own accounts, sshd's and the board user's; '*' admits keys only and is not a lock as '!' would be."""
    master = tree / "usr/share/base-passwd"
    passwd = (master / "passwd.master").read_text("ascii").replace(":*:", ":x:")
    passwd += "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
    passwd += f"{USER}:x:{UID}:{UID}:,,,:/home/{USER}:{SERVERS[kind.server].shell}\n"
    group = (master / "group.master").read_text("ascii").replace(":*:", ":x:") + f"{USER}:x:{UID}:\n"
    names = [line.split(":")[0] for line in passwd.splitlines()]
    shadow = "".join(f"{name}:*:19700:0:99999:7:::\n" for name in names)
    for name, text, mode in (("passwd", passwd, 0o644), ("group", group, 0o644), ("shadow", shadow, 0o640)):
        file = tree / "etc" / name
        file.write_text(text, "ascii")
        file.chmod(mode)


def _configure(kind: BoardKind, tree: Path) -> None:
    host = f"edgekit-{kind.name}"
    texts = {
        "etc/hostname": f"{host}\n",
        "etc/hosts": f"127.0.0.1 localhost {host}\n::1 localhost\n",
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
        "etc/fstab": "",
        "etc/resolv.conf": "",
    }
    for name, text in texts.items():
        file = tree / name
        file.unlink(missing_ok=True)
        file.write_text(text, "ascii")
    for name in (KEYS, SMALL, READONLY, f"home/{USER}", "var/log", "var/tmp"):
        (tree / name).mkdir(parents=True, exist_ok=True)
