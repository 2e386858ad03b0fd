"""What an unpacked but unconfigured Debian tree still needs before programs run in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from boards.kind import MARKER, UID, USER, BoardKind

# Bound over in every board: see namespace.py.
KEYS = "etc/ssh/board"
SMALL = "mnt/small"
READONLY = "mnt/readonly"

# A session's environment comes from sshd, so the emulated core has to be named here.
_SSHD_CONFIG = """\
HostKey /{keys}/ssh_host_ed25519_key
AuthorizedKeysFile /{keys}/authorized_keys .ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UsePAM no
X11Forwarding no
PrintMotd no
MaxStartups 64
AcceptEnv LANG LC_*
SetEnv QEMU_CPU={cpu}
Subsystem sftp /usr/lib/openssh/sftp-server
"""


def repair(kind: BoardKind, tree: Path) -> None:
    """Mend the unpacked tree in place."""
    _merge_usr(tree)
    _link(kind, tree)
    _accounts(tree)
    _configure(kind, tree)
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


def _accounts(tree: Path) -> None:
    """Debian's own accounts, sshd's and the board user's; '*' admits keys only and is not a lock as '!' would be."""
    master = tree / "usr/share/base-passwd"
    passwd = (master / "passwd.master").read_text("ascii").replace(":*:", ":x:")
    passwd += "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
    passwd += f"{USER}:x:{UID}:{UID}:,,,:/home/{USER}:/bin/bash\n"
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
        "etc/ssh/sshd_config": _SSHD_CONFIG.format(keys=KEYS, cpu=kind.cpu),
    }
    for name, text in texts.items():
        file = tree / name
        file.unlink(missing_ok=True)
        file.write_text(text, "ascii")
    for name in (KEYS, SMALL, READONLY, f"home/{USER}", "var/log", "var/tmp"):
        (tree / name).mkdir(parents=True, exist_ok=True)
