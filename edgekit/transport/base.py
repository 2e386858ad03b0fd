"""The contract between edgekit and a board: run a command, put a file, get a file."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import BinaryIO, ClassVar, Self

from edgekit.errors import DeviceError, EdgekitError, UserError
from edgekit.transport.errors import RemoteCommandError

OUTPUT_LIMIT = 16 << 20
_AGREED = re.compile(r"[^\\!\x00-\x1f\x7f-\U0010ffff]*")
_COMMAND_LIMIT = 120_000  # Linux takes 128 KiB in one argument, and `sh -c` gets the line as one

# Run as words and not as text: the login shell may be any, and a command that a signal ends still has a status. What
# start-up files print ends where the marker is said, in two pieces, as a shell may repeat the line that it was given.
_MARKER = "edgekit-"
_BEGIN = 'echo "$0$1"; echo "$0$1" >&2; '
_PLAIN = _BEGIN + 'shift; "$@"; exit $?'
_CODED = _BEGIN + 'eval "set -- $(printf "$(echo "$2" | tr % "\\134")")"; "$@"; exit $?'


@dataclass(frozen=True, init=False)
class RemotePath:
    """A path on the board, not on this computer; relative ones start in the user's home there.

    Deliberately not `os.PathLike`: `open()` refuses it, and where it is due a local `pathlib.Path` is refused.
    """

    path: str

    def __init__(self, path: str | RemotePath) -> None:
        if not isinstance(path, str | RemotePath):
            raise TypeError(f"a path on the board is a str or a RemotePath, not {type(path).__name__}")
        text = str(path)
        if not text or "\0" in text:
            raise UserError(f"not a path: {text!r}", path=text)
        object.__setattr__(self, "path", text)

    def __truediv__(self, name: str | RemotePath) -> RemotePath:
        tail = str(RemotePath(name))
        if tail.startswith("/"):
            raise UserError(f"{tail!r} is absolute, it cannot be joined to {self.path!r}", path=tail)
        return RemotePath(f"{self.path.rstrip('/')}/{tail}")

    def __str__(self) -> str:
        return self.path

    @property
    def name(self) -> str:
        """The last part."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder it is in (`.` for a bare name)."""
        head, slash, _ = self.path.rstrip("/").rpartition("/")
        return RemotePath(head or ("/" if slash else "."))


@dataclass(frozen=True)
class Completed:
    """How a command ended: exit status (128 + signal when a signal ended it) and its output, in bytes."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as UTF-8."""
        return self.stdout.decode("utf-8", "replace")


@dataclass(frozen=True)
class Server:
    """What answers for the board: how its SSH server calls itself, and whether its SFTP can be used (see `noise`)."""

    software: str
    sftp: bool
    noise: str = ""


def command_line(argv: Sequence[str], tag: str = "") -> bytes:
    """`argv` as one line for the board's login shell: the only place where words are quoted.

    sh and its kin, csh and fish agree on what stands between single quotes, except for backslashes, `!`, line ends and
    what is not ASCII. Words with these travel as `%` and three octal digits. Before the command speaks, `marker(tag)`
    is printed on both its outputs.
    """
    if all(_AGREED.fullmatch(word) for word in argv):
        words = [_PLAIN, _MARKER, tag, *argv]
    else:
        text = " ".join(map(_quoted, argv)).encode("utf-8", "surrogateescape")
        coded = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:03o}" for byte in text)
        words = [_CODED, _MARKER, tag, coded]
    line = " ".join(["sh", "-c", *map(_quoted, words)]).encode()
    if len(line) > _COMMAND_LIMIT:
        raise UserError(f"a command of {len(line)} bytes is too long for the board", limit=_COMMAND_LIMIT)
    return line


def marker(tag: str) -> bytes:
    """What a command prints before anything else; see `command_line`."""
    return f"{_MARKER}{tag}\n".encode()


class Transport(ABC):
    """A connection to one board. Whatever the library below raises comes out as a `DeviceError`.

    Attributes:
        name: the board as the user typed it.
        runs: whether the board's own programs can be run.
        sending: how files travel: `sftp`, `cat` or `copy`; empty until the first has.
        noise: how that begins which a start-up file of the board prints, where it spoils SFTP.
    """

    runs: ClassVar[bool] = True
    foreign: ClassVar[tuple[type[BaseException], ...]] = (OSError, EOFError)

    def __init__(self, name: str) -> None:
        self.name = name
        self.sending = ""
        self.noise = ""

    def run(
        self,
        argv: Sequence[str | RemotePath],
        *,
        stdin: bytes | BinaryIO | None = None,
        timeout: float = 60,
        deadline: float | None = None,
        env: Mapping[str, str] | None = None,
        limit: int = OUTPUT_LIMIT,
        on_stderr: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run `argv` in the user's home on the board and wait for its end.

        Args:
            timeout: seconds without a byte moving in any direction.
            deadline: seconds altogether; 20 times `timeout` unless given.
            limit: bytes of standard output taken; of standard error the last 256 KiB are kept.
            on_stderr: called with each line of standard error, as it comes, control characters replaced.

        Returns:
            The result, whatever its status.

        Raises:
            DeviceError: LinkLost, CommandTimeout, OutputTooLarge and their kin.
        """
        words = _words(argv, env)
        limits = Limits(timeout, deadline if deadline is not None else 20 * timeout, limit)
        with _Foreign(self, f"running {words[0]}"):
            return self._run(words, stdin, limits, on_stderr)

    def check(
        self,
        argv: Sequence[str | RemotePath],
        *,
        stdin: bytes | BinaryIO | None = None,
        timeout: float = 60,
        deadline: float | None = None,
        env: Mapping[str, str] | None = None,
        limit: int = OUTPUT_LIMIT,
        on_stderr: Callable[[str], None] | None = None,
    ) -> Completed:
        """`run` for a command that must succeed.

        Raises:
            RemoteCommandError: the status is not zero.
        """
        done = self.run(
            argv, stdin=stdin, timeout=timeout, deadline=deadline, env=env, limit=limit, on_stderr=on_stderr
        )
        if done.status:
            raise RemoteCommandError(self.name, [str(word) for word in argv], done.status, done.stderr)
        return done

    def put(
        self,
        source: BinaryIO,
        target: RemotePath,
        *,
        size: int,
        offset: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write `source[offset:size]` to `target` from byte `offset` on, so that `target` is `size` bytes long.

        What `target` holds before `offset` stays (it must be there); anything after is replaced. The content is
        synced when the server can. Nothing is renamed and nothing is hashed here.

        Args:
            source: a seekable binary file on this computer.
            progress: called with the bytes of `target` that the board has confirmed, `offset` included.

        Raises:
            NoSpace, ReadOnlyTarget, NotFound, TransferFailed, LinkLost: the part that arrived stays.
        """
        path = _remote(target)
        if not 0 <= offset <= size:
            raise ValueError(f"offset {offset} outside 0..{size}")
        with _Foreign(self, f"sending {path}"):
            self._put(source, path, size, offset, progress or _ignore)

    def get(self, source: RemotePath, *, limit: int) -> bytes:
        """The content of a file on the board, at most `limit` bytes.

        Raises:
            NotFound, OutputTooLarge, TransferFailed, LinkLost.
        """
        path = _remote(source)
        with _Foreign(self, f"fetching {path}"):
            return self._get(path, limit)

    def server(self) -> Server | None:
        """Who is at the other end of the connection; None where nobody is. Raises DeviceError."""
        with _Foreign(self, "asking for SFTP"):
            return self._server()

    def _server(self) -> Server | None:
        return None

    @abstractmethod
    def close(self) -> None:
        """End the connection; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _run(
        self,
        argv: Sequence[str],
        stdin: bytes | BinaryIO | None,
        limits: Limits,
        on_stderr: Callable[[str], None] | None,
    ) -> Completed: ...

    @abstractmethod
    def _put(
        self, source: BinaryIO, target: RemotePath, size: int, offset: int, progress: Callable[[int], None]
    ) -> None: ...

    @abstractmethod
    def _get(self, source: RemotePath, limit: int) -> bytes: ...


@dataclass(frozen=True)
class Limits:
    """Bounds of one command: `timeout` and `deadline` in seconds, `output` in bytes."""

    timeout: float
    deadline: float
    output: int


class LocalReader:
    """Reads the file that is being sent; its failures are this computer's and not the board's."""

    def __init__(self, source: BinaryIO, offset: int | None = None) -> None:
        self._source = source
        try:
            if offset is not None:
                source.seek(offset)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read what is to be sent: {error}") from error

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; empty at the end."""
        try:
            return self._source.read(count)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read what is to be sent: {error}") from error


class _Foreign:
    """Turns what the library below raises into a DeviceError."""

    def __init__(self, transport: Transport, doing: str) -> None:
        self._transport = transport
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, self._transport.foreign) and not isinstance(error, EdgekitError):
            name = self._transport.name
            raise DeviceError(
                f"{name}: {self._doing} failed: {error or type(error).__name__}", board=name, doing=self._doing
            ) from error


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\"'\"'") + "'"


def _words(argv: Sequence[str | RemotePath], env: Mapping[str, str] | None) -> list[str]:
    if isinstance(argv, str | bytes):
        raise TypeError("a command is a sequence of words, not one text")
    words = [f"{key}={value}" for key, value in (env or {}).items()]
    if any(not key.isidentifier() for key in env or {}):
        raise ValueError("the name of an environment variable is an identifier")
    words = ["env", *words] if words else []
    for word in argv:
        if isinstance(word, PurePath):
            raise TypeError(f"{word} is a path of this computer; a RemotePath or str is due")
        if not isinstance(word, str | RemotePath):
            raise TypeError(f"a word of a command is a str, not {type(word).__name__}")
        if "\0" in str(word):
            raise UserError("a word of a command cannot hold a NUL", word=str(word))
        words.append(str(word))
    if not argv:
        raise ValueError("an empty command")
    return words


def _remote(path: RemotePath) -> RemotePath:
    if not isinstance(path, RemotePath):
        raise TypeError(f"a RemotePath is due, not {type(path).__name__}")
    return path


def _ignore(_: int) -> None:
    return None
