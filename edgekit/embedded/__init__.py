"""A board of edgekit's own: an SSH server on loopback, for trying things and for tests. Figures are the host's."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from edgekit.embedded.home import KEY_NAME, USER, BoardHome
from edgekit.embedded.server import EmbeddedBoard
from edgekit.errors import UserError
from edgekit.transport.config import SshTarget, own_known_hosts

__all__ = ["BoardHome", "EmbeddedBoard", "Loan", "borrow", "serve"]


@dataclass(frozen=True)
class Loan:
    """How to reach the embedded board, and what to call when done with it."""

    target: SshTarget
    close: Callable[[], None]


def borrow(home: BoardHome | None = None) -> Loan:
    """The board that `edgekit embedded` runs, else one in this process for as long as the loan.

    Raises:
        UserError: its root folder cannot be written.
    """
    where = home or BoardHome.default()
    port = _running(where)
    if port is not None:
        return Loan(_target(where, port), lambda: None)
    board = EmbeddedBoard(where)
    return Loan(_target(where, board.port), board.close)


@contextmanager
def serve(home: BoardHome | None = None) -> Iterator[EmbeddedBoard]:
    """Run the board and let `connect("embedded")` of other processes find it.

    Raises:
        UserError: one runs already, or its root folder cannot be written.
    """
    where = home or BoardHome.default()
    where.prepare()
    with _claim(where.state) as record:
        with EmbeddedBoard(where) as board:
            record.seek(0)
            record.truncate()
            record.write(json.dumps({"pid": os.getpid(), "port": board.port}).encode())
            record.flush()
            yield board
        where.state.unlink(missing_ok=True)


def wait_for_signal() -> int:
    """Block until SIGINT or SIGTERM; gives its number. For the main thread only."""
    came: list[int] = []
    over = threading.Event()

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        over.set()

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not over.wait(0.5):
            continue
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    return came[0]


@contextmanager
def _claim(state: Path) -> Iterator[BinaryIO]:
    # The lock and not the process number says that a board runs: numbers are used again, locks die with their holder.
    with open(state, "a+b") as record:
        try:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                "an embedded board is running already", hint="use it: BOARD is embedded", path=str(state)
            ) from error
        yield record


def _running(home: BoardHome) -> int | None:
    try:
        with open(home.state, "rb") as record:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(record, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None  # nobody holds it
            port = json.loads(record.read(4096)).get("port")
    except (OSError, ValueError, AttributeError):
        return None
    return port if isinstance(port, int) and 0 < port < 65536 else None


def _target(home: BoardHome, port: int) -> SshTarget:
    return SshTarget(
        board="embedded",
        host="127.0.0.1",
        port=port,
        user=USER,
        key_name=KEY_NAME,
        known_hosts=(own_known_hosts(), Path.home() / ".ssh" / "known_hosts"),
        identities=(home.client_key,),
        identities_only=True,
    )
