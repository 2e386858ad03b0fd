"""A root file system that is mounted in a folder of this computer: foreign input, whose links never lead out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.errors import UserError

_LINKS = 40  # as Linux
_PASSWD_LIMIT = 1 << 20
_USERS = range(1000, 60000)  # ordinary users, as login.defs(5) has it
_NO_LOGIN = ("nologin", "false", "sync", "halt", "shutdown")


@dataclass(frozen=True)
class Account:
    """A user of the tree, by its own /etc/passwd; `home` in the board's words."""

    name: str
    uid: int
    gid: int
    home: str


class Tree:
    """The tree below `root`. Paths are absolute and in the board's words: `/etc/passwd` is the tree's."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def resolve(self, path: str) -> str:
        """`path` with every link in it followed as the board would; what is not there (yet) stays as it is.

        Raises UserError for links that go round in circles.
        """
        left = list(PurePosixPath(path).parts[::-1])
        found: list[str] = []
        links = 0
        while left:
            part = left.pop()
            if part in ("/", "//", "."):
                continue
            if part == "..":
                del found[-1:]
                continue
            here = self.root.joinpath(*found, part)
            try:
                target = PurePosixPath(os.readlink(here))
            except OSError:  # no link, not there, or not ours to see
                target = None
            if target is None:
                found.append(part)
                continue
            links += 1
            if links > _LINKS:
                raise UserError(f"{self.root}: the links at {path} go round in circles", path=path)
            if target.is_absolute():
                found = []
            left += target.parts[::-1]
        return "/" + "/".join(found)

    def local(self, path: str) -> Path:
        """Where this computer sees `path`, links followed inside of the tree."""
        return self.root / self.resolve(path).lstrip("/")

    def exists(self, path: str) -> bool:
        """Whether something is there."""
        return os.path.lexists(self.local(path))

    def is_folder(self, path: str) -> bool:
        """Whether a folder is there."""
        return stat.S_ISDIR(self._mode(path))

    def is_file(self, path: str) -> bool:
        """Whether a regular file is there."""
        return stat.S_ISREG(self._mode(path))

    def names(self, path: str) -> list[str]:
        """What is in a folder, sorted; empty when it is none."""
        try:
            return sorted(os.listdir(self.local(path)))
        except OSError:
            return []

    def read(self, path: str, limit: int) -> bytes:
        """The first `limit` bytes of a regular file. Raises OSError."""
        with self.folder(self.resolve(path).rpartition("/")[0]) as (parent, _):
            name = self.resolve(path).rpartition("/")[2]
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            with os.fdopen(file, "rb") as source:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise OSError(f"{path} is no regular file")
                return source.read(limit)

    def text(self, path: str, limit: int = _PASSWD_LIMIT) -> str:
        """`read` as text; empty when it cannot be read."""
        try:
            return self.read(path, limit).decode("utf-8", "replace")
        except OSError:
            return ""

    @contextmanager
    def folder(self, path: str) -> Iterator[tuple[int, str]]:
        """A folder, opened step by step so that none of them can be a link: its descriptor, and its resolved path.

        Raises OSError.
        """
        resolved = self.resolve(path or "/")
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        current = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in resolved.split("/"):
                if part:
                    inner = os.open(part, flags, dir_fd=current)
                    os.close(current)
                    current = inner
            yield current, resolved
        finally:
            os.close(current)

    def account(self) -> Account:
        """Whose releases they are: the first ordinary user with a home and a login shell, else root.

        Raises UserError when /etc/passwd names neither, or the home is not in the tree.
        """
        found = sorted(_accounts(self.text("/etc/passwd")), key=lambda item: item.uid)
        chosen = next((item for item in found if item.uid in _USERS), None)
        chosen = chosen or next((item for item in found if item.uid == 0), None)
        if chosen is None:
            raise UserError(f"{self.root}: its /etc/passwd has no user who can log in", path=str(self.root))
        if not self.is_folder(chosen.home):
            raise UserError(
                f"{self.root}: the home of {chosen.name}, {chosen.home}, is not there",
                hint="is it on another partition? Mount that one too, at its place below this folder",
                path=str(self.root),
                home=chosen.home,
            )
        return chosen

    def _mode(self, path: str) -> int:
        try:
            return self.local(path).lstat().st_mode
        except OSError:
            return 0


def open_tree(folder: Path) -> Tree:
    """The root file system mounted at `folder`. Raises UserError that says what is there instead."""
    try:
        root = folder.resolve(strict=True)
        names = set(os.listdir(root))
    except OSError as error:
        raise _no(folder, f"cannot be read: {error.strerror or error}") from error
    if root.samefile("/"):
        raise _no(folder, "is this computer's own root", "mount the card in a folder, or give a board's SSH address")
    tree = Tree(root)
    if tree.is_file("/etc/passwd") and (tree.is_folder("/usr") or tree.is_folder("/bin")):
        return tree
    raise _no(folder, *_instead(names))


def _instead(names: set[str]) -> Sequence[str]:
    lower = {name.lower() for name in names}
    if not lower - {"lost+found"}:
        return ("is empty", "is the card mounted there? lsblk -f lists partitions, sudo mount /dev/PARTITION FOLDER")
    if lower & {"system volume information", "$recycle.bin", "windows", "pagefile.sys"}:
        return ("is a Windows partition and no root file system", "mount the card's Linux partition")
    if lower & {"cmdline.txt", "config.txt", "extlinux", "efi", "boot.scr"}:
        return ("is a boot partition and no root file system", "mount the card's other partition, the one with /etc")
    return (
        "is no root file system: it has no /etc/passwd, or neither /usr nor /bin",
        "mount the card's root partition",
    )


def _no(folder: Path, what: str, hint: str | None = None) -> UserError:
    return UserError(f"dir:{folder} {what}", hint=hint, path=str(folder))


def _accounts(text: str) -> Iterator[Account]:
    """The lines of passwd(5) that make sense and may log in."""
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) != 7 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts[2:4]):
            continue
        name, _, uid, gid, _, home, shell = parts
        plain = home.isprintable() and PurePosixPath(home).is_absolute() and ".." not in PurePosixPath(home).parts
        if plain and home != "/" and name and shell.rpartition("/")[2] not in _NO_LOGIN:
            yield Account(name, int(uid), int(gid), home)
