"""A command on the embedded board: `sh -c`, three separate streams, a status, and an end with the connection."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import IO

import paramiko

from edgekit.embedded.home import BoardHome

_BLOCK = 32 << 10
_GRACE = 2.0  # seconds between asking a process group to end and ending it


class Session:
    """Runs `argv` at the far end of `channel`."""

    def __init__(self, channel: paramiko.Channel, argv: Sequence[str | bytes], home: BoardHome) -> None:
        self.channel = channel
        self._argv = argv
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._abandoned = False
        self._thread = threading.Thread(target=self._serve, name="edgekit-embedded-session", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """The other side went away: end the whole process group."""
        with self._lock:
            if self._abandoned:
                return
            self._abandoned = True
            process = self._process
        if process is not None:
            threading.Thread(target=_end_group, args=(process,), daemon=True).start()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _serve(self) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            try:
                self.channel.send_exit_status(self._status())
            finally:
                self.channel.close()

    def _status(self) -> int:
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=self._home.home,
                env=self._home.environment(),
                start_new_session=True,
            )
        except OSError as error:
            self.channel.sendall_stderr(f"edgekit embedded board: {error}\n".encode())
            return 127
        with self._lock:
            self._process = process
            abandoned = self._abandoned
        if abandoned:
            _end_group(process)
        threading.Thread(target=self._pump_in, args=(process.stdin,), daemon=True).start()
        readers = [
            threading.Thread(target=_pump_out, args=(process.stdout, self.channel.sendall), daemon=True),
            threading.Thread(target=_pump_out, args=(process.stderr, self.channel.sendall_stderr), daemon=True),
        ]
        for reader in readers:
            reader.start()
        code = process.wait()
        for reader in readers:
            reader.join()  # as sshd: a session lasts as long as anyone holds its output
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.shutdown_write()
        return 128 - code if code < 0 else code

    def _pump_in(self, stdin: IO[bytes] | None) -> None:
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError, EOFError, paramiko.SSHException), stdin:
            while data := self.channel.recv(_BLOCK):
                view = memoryview(data)
                while view:
                    view = view[os.write(stdin.fileno(), view) :]


def _pump_out(stream: IO[bytes] | None, send: Callable[[bytes], None]) -> None:
    assert stream is not None
    with stream:
        try:
            while data := os.read(stream.fileno(), _BLOCK):
                send(data)
        except (OSError, EOFError, paramiko.SSHException):
            return  # nobody listens any more: the process gets SIGPIPE


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """The group has the process's number: it was started as a session leader."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        os.killpg(process.pid, signal.SIGKILL)
