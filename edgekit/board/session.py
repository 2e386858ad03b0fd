"""Board: a connection, a root folder, and the program there that owns the state."""

from __future__ import annotations

import getpass
import hashlib
import io
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from edgekit.board import errors
from edgekit.board.answers import first_words, lines_of
from edgekit.transport import Completed, RemotePath, Transport

PROGRAM = "edgekit-board"
_HOLDER_LIMIT = 100
_LOCK_SECONDS = 600.0


class Board:
    """A board that edgekit can give orders to. `root` is edgekit's folder there.

    `ask` runs the program without leaving anything on the board, `call` the installed one, which it brings first when
    it is missing or another.
    """

    def __init__(self, transport: Transport, root: RemotePath, *, installed: bool) -> None:
        self.transport = transport
        self.root = root
        self._installed = installed

    @property
    def name(self) -> str:
        """The board as the user typed it."""
        return self.transport.name

    def ask(self, command: str, *, timeout: float = 60) -> list[tuple[str, str]]:
        """Run a command that changes nothing; its `key value` lines. Raises the errors of `errors.explain`."""
        done = self.transport.run(
            ["sh", "-s", command], stdin=program(), env={"EDGEKIT_ROOT": str(self.root)}, timeout=timeout
        )
        return self._answer(done)

    def call(
        self,
        *words: str,
        stdin: bytes | None = None,
        timeout: float = _LOCK_SECONDS,
        on_stderr: Callable[[str], None] | None = None,
    ) -> list[tuple[str, str]]:
        """Run a command of the installed program; its `key value` lines. Raises the errors of `errors.explain`."""
        return self._answer(self.start(words, stdin=stdin, timeout=timeout, on_stderr=on_stderr))

    def start(
        self,
        words: Sequence[str],
        *,
        stdin: bytes | BinaryIO | None = None,
        timeout: float = _LOCK_SECONDS,
        on_stderr: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run a command of the installed program, whatever its status. `timeout` counts seconds of silence."""
        self.install()
        argv = ["sh", str(self.root / "bin" / PROGRAM), *words]
        env = {"EDGEKIT_ROOT": str(self.root), "EDGEKIT_HOLDER": holder()}
        return self.transport.run(argv, stdin=stdin, env=env, timeout=timeout, on_stderr=on_stderr)

    def install(self) -> None:
        """Bring the program and the folders, unless they are there."""
        if self._installed:
            return
        content = program()
        digest = hashlib.sha256(content).hexdigest()
        env = {"EDGEKIT_ROOT": str(self.root), "EDGEKIT_HOLDER": holder()}
        self._answer(self.transport.run(["sh", "-s", "init"], stdin=content, env=env))
        # Each session sends a part of its own: two may come to a new board at once.
        tag = secrets.token_hex(8)
        part = self.root / "bin" / f"{PROGRAM}.{tag}"
        self.transport.put(io.BytesIO(content), part, size=len(content))
        self._answer(self.transport.run(["sh", "-s", "install", digest, tag], stdin=content, env=env))
        self._installed = True

    def _answer(self, done: Completed) -> list[tuple[str, str]]:
        lines = lines_of(done.text)
        if done.status:
            raise errors.explain(self.name, done.status, done.stderr.decode("utf-8", "replace"), dict(lines))
        return lines


def open_board(transport: Transport) -> Board:
    """Find edgekit's folder on the board; changes nothing there. Raises DeviceError."""
    content = program()
    done = transport.run(["sh", "-s", "probe"], stdin=content)
    found = first_words(done.text)
    if done.status or "root" not in found:
        raise errors.explain(transport.name, done.status, done.stderr.decode("utf-8", "replace"), found)
    installed = found.get("program") == hashlib.sha256(content).hexdigest()
    return Board(transport, RemotePath(found["root"]), installed=installed)


def program() -> bytes:
    """The POSIX sh program that runs on the board."""
    return Path(__file__).with_name(PROGRAM).read_bytes()


def holder() -> str:
    """Who is at work, as other users of the board are told."""
    try:
        text = f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):
        text = socket.gethostname()
    plain = "".join(letter for letter in text if " " <= letter <= "~")
    return plain[:_HOLDER_LIMIT] or "unnamed"
