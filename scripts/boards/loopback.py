"""Where a board answers: a port of this computer's own."""

from __future__ import annotations

import socket
import subprocess
import time

from edgekit_runtime.errors import DeviceError

from boards.state import HOST


def free_port(wish: int | None) -> int:
    """The wished port if nobody has it, else any that is free."""
    for port in (wish or 0, 0):
        try:
            with socket.create_server((HOST, port)) as listener:
                return int(listener.getsockname()[1])
        except OSError:
            continue
    raise DeviceError("no free port on loopback")


def answers(process: subprocess.Popen[bytes], port: int, seconds: float) -> bool:
    """Wait for an SSH server there; False when the process ends first: another may have taken the port in between."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection((HOST, port), 5) as connection:
                if connection.recv(4) == b"SSH-" and process.poll() is None:
                    return True
        except OSError:
            pass
        time.sleep(0.02)
    process.kill()
    process.wait()
    return False
