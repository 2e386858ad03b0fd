"""Root file systems as a card holds them: of an emulated board, or made of this computer's sh and C library."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.profiles import hostfacts

UID = 1000
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
backup:x:1001:1001::/home/backup:/usr/sbin/nologin
pi:x:1000:1000:,,,:/home/pi:/bin/sh
"""


@dataclass(frozen=True)
class Card:
    """A folder with a root file system, and what the command line calls it."""

    folder: Path

    @property
    def name(self) -> str:
        return f"dir:{self.folder}"

    @property
    def home(self) -> Path:
        return self.folder / "home/pi"

    @property
    def root(self) -> Path:
        """edgekit's folder there."""
        return self.home / ".local/share/edgekit"

    @property
    def unit(self) -> Path:
        return self.folder / "etc/systemd/system/edgekit-boot.service"

    @property
    def wants(self) -> Path:
        return self.unit.parent / "multi-user.target.wants" / self.unit.name

    def files(self) -> list[str]:
        """Everything there, for a comparison."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))


@contextmanager
def open_folder() -> Iterator[Path]:
    """A new folder that every user may enter; pytest's own are closed to others than root."""
    with tempfile.TemporaryDirectory(prefix="edgekit-card-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def over(tree: Path) -> Iterator[Card]:
    """A card with the root file system `tree`, which stays as it is. Needs root."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    with open_folder() as folder:
        for name in ("upper", "work", "card"):
            (folder / name).mkdir()
        layers = f"lowerdir={tree},upperdir={folder}/upper,workdir={folder}/work"
        card = folder / "card"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", card], check=True)
        os.chown(card / "home/pi", UID, UID)
        try:
            yield Card(card)
        finally:
            subprocess.run(["umount", "-l", card], check=True)


def fill(folder: Path, *, systemd: bool = True) -> Card:
    """Make the root file system of a board with Debian's layout in an empty folder. Needs root."""
    if os.geteuid():
        pytest.skip("files of another user need root")
    for name in ("etc/systemd/system", "home/pi", "root", "tmp", "usr/bin", "usr/lib", "var/lib", "mnt/small"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "lib"):
        (folder / name).symlink_to(f"usr/{name}")
    (folder / "etc/passwd").write_text(PASSWD)
    (folder / "usr/lib/os-release").write_text('PRETTY_NAME="A card for tests"\n')
    (folder / "etc/os-release").symlink_to("../usr/lib/os-release")
    shutil.copy(os.path.realpath("/bin/sh"), folder / "usr/bin/dash")
    (folder / "usr/bin/sh").symlink_to("dash")
    shutil.copy(_c_library(), folder / "usr/lib/libc.so.6")
    (folder / f"usr/bin/python{hostfacts.python()}").touch(mode=0o755)
    (folder / "usr/bin/python3").symlink_to(f"python{hostfacts.python()}")
    modules = folder / "usr/lib/python3/dist-packages"
    (modules / "numpy").mkdir(parents=True)
    (modules / "numpy/__init__.py").touch()
    (modules / "numpy-1.24.2.dist-info").mkdir()
    (folder / "usr/bin/sha256sum").touch(mode=0o755)
    if systemd:
        (folder / "usr/lib/systemd").mkdir()
        (folder / "usr/lib/systemd/systemd").touch(mode=0o755)
    os.chown(folder / "home/pi", UID, UID)
    return Card(folder)


def _c_library() -> str:
    told = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    return next(line.split()[2] for line in told.splitlines() if "libc.so.6" in line)
