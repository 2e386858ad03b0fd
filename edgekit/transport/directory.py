"""A board's root file system, mounted here: `dir:FOLDER`. Nothing of it is run; this computer's tools work on it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from edgekit.errors import DeviceError, UserError
from edgekit.transport import process
from edgekit.transport.base import Completed, Limits, LocalReader, RemotePath, Transport, command_line
from edgekit.transport.errors import (
    NoSpace,
    NotFound,
    OutputTooLarge,
    ReadOnlyTarget,
    TransferFailed,
    printable,
)
from edgekit.transport.image import refuse_image
from edgekit.transport.tree import Account, Tree, open_tree

PREFIX = "dir:"
ROOT = ".local/share/edgekit"  # below the home: where the program on a running board looks
_BLOCK = 1 << 20
_TOOLS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class DirectoryTransport(Transport):
    """See `Transport`. Paths are this computer's; commands are this computer's too, and run as the owner.

    Attributes:
        tree: the root file system.
        account: the user of the tree that everything belongs to, and that commands run as.
        root: edgekit's folder in the board's words, links followed.
    """

    runs: ClassVar[bool] = False

    def __init__(self, name: str, tree: Tree, account: Account) -> None:
        super().__init__(name)
        self.tree = tree
        self.account = account
        self.root = tree.resolve(f"{account.home}/{ROOT}")
        self.sending = "copy"
        self._changed = False
        self._closed = False

    def close(self) -> None:
        """Have everything on the card before anybody is told that it is."""
        self._closed = True
        if self._changed:
            self._changed = False
            if self._execute(["sync", "-f", str(self.tree.root)], None, Limits(600, 3600, 4096), None).status:
                os.sync()

    def _run(
        self,
        argv: Sequence[str],
        stdin: bytes | BinaryIO | None,
        limits: Limits,
        on_stderr: Callable[[str], None] | None,
    ) -> Completed:
        command_line(argv)  # what no board would take is not taken here either
        self._open()
        self._changed = True
        try:
            return self._execute(argv, stdin, limits, on_stderr)
        except (FileNotFoundError, PermissionError) as error:
            text = f"{argv[0]}: not found ({error.strerror})\n"
            return Completed(127, b"", text.encode("utf-8", "surrogateescape"))

    def _execute(
        self,
        argv: Sequence[str],
        stdin: bytes | BinaryIO | None,
        limits: Limits,
        on_stderr: Callable[[str], None] | None,
    ) -> Completed:
        environment = {
            "PATH": _TOOLS,
            "HOME": str(self.tree.local(self.account.home)),
            "EDGEKIT_ROOT": str(self.tree.local(self.root)),
        }
        owner = None if os.geteuid() else self.account
        return process.run(self.name, argv, stdin, limits, on_stderr, environment=environment, owner=owner)

    def _put(
        self, source: BinaryIO, target: RemotePath, size: int, offset: int, progress: Callable[[int], None]
    ) -> None:
        self._open()
        self._changed = True
        reader = LocalReader(source, offset)
        done = offset
        try:
            with self.tree.folder(self._inside(target.parent)) as (folder, _):
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                with os.fdopen(os.open(target.name, flags, 0o600, dir_fd=folder), "r+b", buffering=0) as file:
                    there = os.fstat(file.fileno())
                    if not stat.S_ISREG(there.st_mode):
                        raise OSError(errno.EINVAL, "it is no regular file")
                    if there.st_size < offset:
                        raise OSError(errno.EINVAL, f"it is shorter than {offset} bytes")
                    if os.geteuid() == 0:
                        os.fchown(file.fileno(), self.account.uid, self.account.gid)
                    file.truncate(offset)
                    file.seek(offset)
                    while done < size:
                        block = memoryview(reader.read(min(_BLOCK, size - done)))
                        if not block:
                            raise UserError(f"what is sent ended after {done} of {size} bytes")
                        while block:
                            count = file.write(block)
                            block = block[count:]
                            done += count
                        progress(done)
                    os.fsync(file.fileno())
        except OSError as error:
            raise self._failure(target, error, done) from error

    def _get(self, source: RemotePath, limit: int) -> bytes:
        self._open()
        try:
            content = self.tree.read(self._inside(source), limit + 1)
        except OSError as error:
            raise self._failure(source, error, 0) from error
        if len(content) > limit:
            raise OutputTooLarge(f"{self.name}: {source} is larger than {limit} bytes", what=str(source), limit=limit)
        return content

    def _open(self) -> None:
        if self._closed:
            raise DeviceError(f"{self.name} was closed", board=self.name)

    def _inside(self, path: RemotePath) -> str:
        """A path of this computer in the board's words. Raises TransferFailed for one that is not in the tree."""
        try:
            return "/" + str(Path(str(path)).relative_to(self.tree.root))
        except ValueError:
            raise TransferFailed(f"{self.name}: {path} is not in it", path=str(path), board=self.name) from None

    def _failure(self, path: RemotePath, error: OSError, done: int) -> DeviceError:
        text = printable(error.strerror or str(error))
        where: dict[str, Any] = {"path": str(path), "bytes_done": done, "detail": text, "board": self.name}
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpace(
                f"{self.name}: no space left for {path}",
                hint="remove files there",
                free=None,
                needed=None,
                **where,
            )
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return ReadOnlyTarget(
                f"{self.name}: {path} cannot be written or read: {text}", hint="mount it read-write", **where
            )
        if error.errno == errno.ENOENT:
            return NotFound(f"{self.name}: there is no {path}, or no folder for it", **where)
        return TransferFailed(f"{self.name}: {path} at byte {done}: {text}", **where)


def open_directory(board: str) -> DirectoryTransport:
    """The root file system that `dir:FOLDER` names; changes nothing there.

    Raises UserError: an image, no root file system, a folder that is not for this user, or a link in edgekit's folder.
    """
    text = board.removeprefix(PREFIX)
    if not text:
        raise UserError("dir: names no folder", hint="say dir:FOLDER, where the card's root partition is mounted")
    folder = Path(text).expanduser()
    refuse_image(board, folder)
    tree = open_tree(folder)
    account = tree.account()
    transport = DirectoryTransport(board, tree, account)
    if os.geteuid() not in (0, account.uid):
        raise UserError(
            f"{board} belongs to its user {account.name} (uid {account.uid})",
            hint="run edgekit as root: sudo edgekit ...",
            board=board,
        )
    _require_plain(transport)
    _require_way(transport)
    return transport


def _require_plain(transport: DirectoryTransport) -> None:
    """Nothing but folders and files: a link could lead a command out of the tree."""
    top = transport.tree.local(transport.root)
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files]:
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise UserError(
                    f"{transport.name}: {os.path.join(folder, name)} is neither a file nor a folder",
                    hint="edgekit puts nothing of that kind there; look at it, then remove it",
                    path=os.path.join(folder, name),
                )


def _require_way(transport: DirectoryTransport) -> None:
    """The owner may come from this computer's root to the tree: commands run as that user."""
    account = transport.account
    home = str(transport.tree.local(account.home))
    owner = os.stat(home).st_uid
    if owner != account.uid:
        raise UserError(
            f"{transport.name}: the home of {account.name} (uid {account.uid}) belongs to uid {owner}",
            hint=f"is it the right card? Then, as root: chown {account.uid}:{account.gid} {home}",
            board=transport.name,
            path=home,
        )
    done = transport._execute(["sh", "-c", 'cd "$1"', "sh", home], None, Limits(60, 60, 4096), None)
    if done.status:
        raise UserError(
            f"{transport.name}: uid {account.uid}, whose releases they are, cannot get to {home}",
            hint="mount it where everybody may go, as in /mnt/card; that user must own the home",
            board=transport.name,
            path=home,
        )
