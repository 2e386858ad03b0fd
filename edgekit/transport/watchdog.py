"""A dead link ends in an error: Paramiko alone waits for ever in several places.

`Channel.exec_command` and `invoke_subsystem` wait on an event without a timeout, a channel opens within an hour, SFTP
answers are awaited for ever, and a packet is written again and again into a full socket. All of them raise once the
connection is closed under them, which is what the watchdog does when an operation makes no progress.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from edgekit.errors import EdgekitError
from edgekit.transport.errors import LinkLost


class Stream(Protocol):
    """What Paramiko needs of a socket; a Channel of another connection is one too."""

    def send(self, data: bytes, /) -> int: ...
    def recv(self, count: int, /) -> bytes: ...
    def close(self) -> None: ...
    def settimeout(self, seconds: float | None, /) -> None: ...


class Meter:
    """A stream that knows when something last came in, and whether it has ended."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._closed = False  # Paramiko reads this name
        self.ended = False
        self.heard_at = time.monotonic()

    def send(self, data: bytes) -> int:
        try:
            return self._stream.send(data)
        except TimeoutError:
            raise
        except (OSError, EOFError):
            self.ended = True
            raise

    def recv(self, count: int) -> bytes:
        try:
            data = self._stream.recv(count)
        except TimeoutError:
            raise
        except (OSError, EOFError):
            self.ended = True
            raise
        self.heard_at = time.monotonic()
        self.ended = self.ended or not data
        return data

    def settimeout(self, seconds: float | None) -> None:
        self._stream.settimeout(seconds)

    def close(self) -> None:
        self._closed = self.ended = True
        self._stream.close()


@dataclass(eq=False)
class Operation:
    """Something going on over the link."""

    doing: str
    limit: float
    moved_at: float = field(default_factory=time.monotonic)
    bytes_done: int = 0
    verdict: str = ""

    def progress(self, bytes_done: int | None = None) -> None:
        """Say that something moved (and how far it has come)."""
        self.moved_at = time.monotonic()
        if bytes_done is not None:
            self.bytes_done = bytes_done


class Watchdog:
    """Closes a connection under operations that stand still.

    Args:
        board: for messages.
        meter: the stream under the connection; keepalives make a living one speak.
        kill: closes the connection without ever blocking.
        stall: seconds of silence, or without progress, that count as dead.
    """

    def __init__(self, board: str, meter: Meter, kill: Callable[[], None], stall: float) -> None:
        self._board = board
        self._meter = meter
        self._kill = kill
        self._stall = stall
        self._operations: list[Operation] = []
        self._wake = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def guard(self, doing: str, *, limit: float | None = None) -> Iterator[Operation]:
        """Watch over the body. Whatever it raises because the connection went away comes out as LinkLost."""
        operation = Operation(doing, self._stall if limit is None else limit)
        self._watch(operation)
        try:
            yield operation
        except EdgekitError:
            if not operation.verdict:
                raise
            raise self._lost(operation) from None
        except Exception as error:
            if not operation.verdict and not self._meter.ended:
                raise
            raise self._lost(operation) from error
        finally:
            with self._wake:
                self._operations.remove(operation)

    def stop(self) -> None:
        """The connection is being closed on purpose."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def _lost(self, operation: Operation) -> LinkLost:
        why = operation.verdict or "the connection broke"
        done = f" after {operation.bytes_done} bytes" if operation.bytes_done else ""
        return LinkLost(
            f"{self._board}: {why} while {operation.doing}{done}",
            hint="check the board's power and network, then do it again: what arrived is kept",
            board=self._board,
            doing=operation.doing,
            bytes_done=operation.bytes_done,
        )

    def _watch(self, operation: Operation) -> None:
        with self._wake:
            if not self._operations:  # the line may have been quiet since the last one: that says nothing
                self._meter.heard_at = max(self._meter.heard_at, operation.moved_at)
            self._operations.append(operation)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="edgekit-watchdog", daemon=True)
                self._thread.start()
            self._wake.notify()

    def _loop(self) -> None:
        while True:
            with self._wake:
                if self._stopped:
                    return
                now = time.monotonic()
                silence = now - self._meter.heard_at
                left = self._stall - silence
                for operation in self._operations:
                    left = min(left, operation.limit - (now - operation.moved_at))
                if not self._operations or left > 0:
                    self._wake.wait(left if self._operations else None)
                    continue
                for operation in self._operations:
                    operation.verdict = (
                        f"no word from the board for {silence:.0f} s"
                        if silence >= self._stall
                        else f"no progress for {now - operation.moved_at:.0f} s"
                    )
                self._stopped = True
            self._kill()
            return
