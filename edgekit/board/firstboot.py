"""The first boot of a mounted root file system: the unit that will check and activate there what was staged here."""

from __future__ import annotations

import errno
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass

from edgekit.board.errors import NotRunning
from edgekit.board.session import PROGRAM, Board
from edgekit.errors import UserError
from edgekit.transport import DirectoryTransport, NoSpace, ReadOnlyTarget
from edgekit.transport.directory import ROOT
from edgekit.transport.tree import Account, Tree

UNIT = "edgekit-boot.service"
_UNITS = "/etc/systemd/system"
_SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
_SECONDS = 600  # more than the check's own 300: the program is to say itself what happened

# systemd.service(5). User by number, the home from it: an image's user may be renamed at its first boot. Targets wait
# for what they want unless it has no default dependencies, and the boot is not to wait for a check.
_TEXT = """\
# Written by edgekit: activates the release that was left to the next boot.
[Unit]
Description=Check and activate the release that edgekit left to this boot
DefaultDependencies=no
Requires=sysinit.target
After=sysinit.target local-fs.target
Conflicts=shutdown.target
Before=shutdown.target
{mounts}
[Service]
Type=oneshot
User={uid}
Environment="EDGEKIT_HOLDER=the boot"
ExecStart=/bin/sh -c 'exec /bin/sh "$$HOME/{program}" boot'
TimeoutStartSec={seconds}
Nice=10

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class FirstBoot:
    """What activates a pending release at the next boot of the root file system mounted in `folder`.

    `root` is edgekit's folder in the board's words, `user` its owner. `unit` is None where the system has no systemd:
    then something of its own has to run `command` as that user at each boot.
    """

    folder: str
    user: str
    uid: int
    root: str
    unit: str | None
    command: str


def first_boot(board: Board) -> FirstBoot:
    """What the next boot of a mounted root file system does; changes nothing."""
    link = directory(board)
    has_systemd = any(link.tree.is_file(path) for path in _SYSTEMD)
    command = f"sh {link.account.home}/{ROOT}/bin/{PROGRAM} boot"
    unit = UNIT if has_systemd else None
    return FirstBoot(str(link.tree.root), link.account.name, link.account.uid, link.root, unit, command)


def install_unit(board: Board) -> FirstBoot:
    """Write the boot unit and enable it, where the system has systemd; doing it again changes nothing.

    Raises ReadOnlyTarget, NoSpace, UserError.
    """
    link = directory(board)
    planned = first_boot(board)
    if planned.unit is None:
        return planned
    if os.geteuid():
        raise UserError(
            f"{board.name}: the boot unit belongs to root",
            hint="run edgekit as root: sudo edgekit ...",
            board=board.name,
        )
    path = f"{_UNITS}/{UNIT}"
    try:
        _write(link.tree, path, unit_text(link.account).encode())
        _enable(link.tree, path)
    except OSError as error:
        kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else ReadOnlyTarget
        raise kind(
            f"{board.name}: {path} cannot be written: {error.strerror or error}",
            hint="mount it read-write",
            board=board.name,
            path=path,
        ) from error
    return planned


def unit_text(account: Account) -> str:
    """The unit for the releases of that user."""
    plain = re.fullmatch(r"/[A-Za-z0-9_./-]+", account.home)
    mounts = f"RequiresMountsFor={account.home}\n" if plain else ""
    return _TEXT.format(mounts=mounts, uid=account.uid, program=f"{ROOT}/bin/{PROGRAM}", seconds=_SECONDS)


def directory(board: Board) -> DirectoryTransport:
    """The mounted root file system behind a board. Raises TypeError for a board that runs."""
    if not isinstance(board.transport, DirectoryTransport):
        raise TypeError(f"{board.name} is no folder")
    return board.transport


def require_running(board: Board, doing: str) -> None:
    """Raises NotRunning when the board is a mounted root file system, of which nothing can be run."""
    if not board.transport.runs:
        raise NotRunning(
            f"{board.name}: a mounted root file system cannot {doing}: nothing of it is run here",
            hint="start the board with it, then name the board by its SSH address",
            board=board.name,
        )


def _write(tree: Tree, path: str, content: bytes) -> None:
    """A file of root's that is there whole or not at all, in a folder that is made if need be."""
    parent, _, name = path.rpartition("/")
    with tree.folder(_made(tree, parent)) as (folder, _):
        with suppress(OSError):
            if tree.read(path, len(content) + 1) == content:
                return
        part = f"{name}.{secrets.token_hex(8)}"
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
        try:
            with os.fdopen(file, "wb") as target:
                target.write(content)
                target.flush()
                os.fchmod(file, 0o644)
                os.fsync(file)
            os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(part, dir_fd=folder)
            raise
        os.fsync(folder)


def _enable(tree: Tree, path: str) -> None:
    """What `systemctl enable` does."""
    with tree.folder(_made(tree, f"{_UNITS}/multi-user.target.wants")) as (folder, _):
        with suppress(FileExistsError):
            os.symlink(path, UNIT, dir_fd=folder)
        os.fsync(folder)


def _made(tree: Tree, path: str) -> str:
    """The folder, links resolved; each part that is missing is made, for everybody to read."""
    resolved = tree.resolve(path)
    done = ""
    for part in resolved.strip("/").split("/"):
        with tree.folder(done) as (folder, _), suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=folder)
            with tree.folder(f"{done}/{part}") as (made, _):
                os.fchmod(made, 0o755)  # whatever the umask
        done += f"/{part}"
    return resolved
