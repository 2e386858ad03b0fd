"""ProxyCommand: a command of the user's whose standard input and output are the connection."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile

from edgekit.transport.errors import printable

_TAIL = 2000  # bytes of its standard error worth repeating
_PATIENCE = 2.0  # seconds in which a command ends when its streams have


class ProxyCommand:
    """A stream to a command that runs as ssh_config(5) says: by the user's shell, in whose place `exec` puts it."""

    def __init__(self, command: str) -> None:
        """Raises: OSError when the shell cannot be started."""
        self.command = command
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the stream
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {command}"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._stderr.fileno(),
                )
            except BaseException:
                self._socket.close()
                self._stderr.close()
                raise

    def send(self, data: bytes, /) -> int:
        return self._socket.send(data)

    def recv(self, count: int, /) -> bytes:
        return self._socket.recv(count)

    def settimeout(self, seconds: float | None, /) -> None:
        self._socket.settimeout(seconds)

    def close(self) -> None:
        """End the command; it is given a moment to do so by itself."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGHUP)  # as OpenSSH does
        self._ended()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """How it ended and the end of its standard error, for an error message."""
        self._ended()
        status = self._process.poll()
        size = os.fstat(self._stderr.fileno()).st_size
        said = printable(os.pread(self._stderr.fileno(), _TAIL, max(0, size - _TAIL))).strip()
        ended = "runs, but is no SSH server" if status is None else f"ended with status {status}"
        return f"ProxyCommand '{self.command}' {ended}" + (f": {said}" if said else "")

    def _ended(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
