"""One command over one channel: input, output, errors and status, all at once."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

import paramiko

from edgekit.transport.base import Completed, Limits, LocalReader
from edgekit.transport.errors import CommandNotRun, CommandTimeout, OutputTooLarge, printable
from edgekit.transport.watchdog import Operation

_BLOCK = 64 << 10
_STDERR_KEPT = 256 << 10
_TICK = 0.05  # seconds; how long a full window may keep output waiting


class Conversation:
    """Drives a channel on which a command was started, to its end.

    Raises (from `finish`):
        CommandTimeout, CommandNotRun, OutputTooLarge: the channel is closed, the connection stays.
    """

    def __init__(
        self,
        channel: paramiko.Channel,
        stdin: bytes | BinaryIO | None,
        limits: Limits,
        on_stderr: Callable[[str], None] | None,
        operation: Operation,
        *,
        marker: bytes,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._channel = channel
        self._source = LocalReader(io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin) if stdin else None
        self._progress = progress
        self._limits = limits
        self._operation = operation
        self._noise = _Noise(marker)
        self._stdout = bytearray()
        self._stderr = _Stderr(on_stderr, _Noise(marker))
        self._block = memoryview(b"")
        self.sent = 0

    def finish(self, board: str, words: list[str]) -> Completed:
        started = moved = time.monotonic()
        arrival = _Arrival()
        for buffer in (self._channel.in_buffer, self._channel.in_stderr_buffer):
            buffer.set_event(arrival)  # type: ignore[arg-type]  # set() and clear() are what it calls
        if self._source is None:
            self._channel.shutdown_write()
        while True:
            arrival.forget()
            over = bool(self._channel.eof_received or self._channel.closed)
            active = self._drain(board, words)
            if over and self._channel.exit_status_ready():
                break
            active = self._feed() or active
            now = time.monotonic()
            moved = now if active else moved
            if now - moved > self._limits.timeout or now - started > self._limits.deadline:
                raise _timeout(board, words, now - moved, now - started)
            if not active:
                self._wait(arrival, over)
        self._stderr.end()
        if self._noise.held is not None and self._channel.exit_status >= 0:
            raise _not_run(board, words, self._channel.exit_status, self._noise, self._stderr.noise)
        return Completed(self._channel.exit_status, bytes(self._stdout), bytes(self._stderr.kept))

    def _drain(self, board: str, words: list[str]) -> bool:
        active = False
        while self._channel.recv_ready():
            active = True
            self._stdout += self._noise.after(self._channel.recv(_BLOCK))
            if len(self._stdout) > self._limits.output:
                raise OutputTooLarge(
                    f"{board}: {words[0]} printed more than {self._limits.output} bytes",
                    what=words[0],
                    limit=self._limits.output,
                )
        while self._channel.recv_stderr_ready():
            active = True
            self._stderr.take(self._channel.recv_stderr(_BLOCK))
        if active:
            self._operation.progress()
        return active

    def _feed(self) -> bool:
        """Send some input; a command that no longer reads is left to say why in its status."""
        if self._source is None:
            return False
        if not self._block:
            self._block = memoryview(self._source.read(16 * _BLOCK))
            if not self._block:
                self._source = None
                self._channel.shutdown_write()
                return True
        self._channel.settimeout(_TICK)
        try:
            count = self._channel.send(self._block)  # type: ignore[arg-type]  # the stub knows no views
        except TimeoutError:
            return False
        except OSError:
            count = 0
        finally:
            self._channel.settimeout(None)
        if not count:
            self._source = None
            return False
        self._block = self._block[count:]
        self.sent += count
        self._operation.progress(self.sent)
        if self._progress is not None:
            self._progress(self.sent)
        return True

    def _wait(self, arrival: _Arrival, over: bool) -> None:
        if over:
            self._channel.status_event.wait(4 * _TICK)
        elif self._source is None:
            arrival.wait(4 * _TICK)


class _Arrival:
    """Told by the channel's buffers that something is in them.

    Not `Channel.fileno()`: what arrives while a channel is closed is written to the closed pipe behind it, which ends
    the whole connection.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self.set = self._event.set
        self.wait = self._event.wait
        self.forget = self._event.clear

    def clear(self) -> None:
        """One buffer is empty: the other need not be."""


class _Noise:
    """What a login shell's start-up files print before the command begins. `held` is its end, None once it is over."""

    def __init__(self, marker: bytes) -> None:
        self._marker = marker
        self.held: bytes | None = b""

    def after(self, data: bytes) -> bytes:
        """What of `data` is the command's own."""
        if self.held is None:
            return data
        before, found, rest = (self.held + data).partition(self._marker)
        self.held = None if found else before[-_STDERR_KEPT:]
        return rest


class _Stderr:
    """Keeps the end of standard error and passes on its lines."""

    def __init__(self, on_line: Callable[[str], None] | None, noise: _Noise) -> None:
        self.noise = noise
        self.kept = bytearray()
        self._on_line = on_line
        self._line = b""

    def take(self, data: bytes) -> None:
        data = self.noise.after(data)
        self.kept += data
        if len(self.kept) > _STDERR_KEPT:
            del self.kept[:-_STDERR_KEPT]
        if self._on_line is not None:
            *lines, rest = (self._line + data).split(b"\n")
            self._line = rest[-_STDERR_KEPT:]
            for line in lines:
                self._on_line(printable(line))

    def end(self) -> None:
        if self._on_line is not None and self._line:
            self._on_line(printable(self._line))


def _not_run(board: str, words: list[str], status: int, *noise: _Noise) -> CommandNotRun:
    said = " ".join(printable(end.held or b"").strip()[-500:] for end in noise).strip()
    return CommandNotRun(
        f"{board}: the login shell ended with status {status} and did not run {words[0]}"
        + (f": {said}" if said else ""),
        hint="see what the user's shell and its start-up files on the board do when there is no terminal",
        argv=words,
        status=status,
    )


def _timeout(board: str, words: list[str], quiet: float, total: float) -> CommandTimeout:
    return CommandTimeout(
        f"{board}: {words[0]} gave no sign for {quiet:.0f} s ({total:.0f} s altogether); it was given up",
        hint="the board itself answers; see there what the command waits for",
        argv=words,
        seconds=round(total, 1),
    )
