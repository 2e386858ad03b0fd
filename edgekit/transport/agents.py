"""Keys that an SSH agent holds."""

from __future__ import annotations

import socket

import paramiko
from paramiko.agent import AgentSSH

_SECONDS = 10  # to list the keys; to sign, an agent may first ask a person


class _Agent(AgentSSH):
    """The agent behind a socket; Paramiko's own looks only where `$SSH_AUTH_SOCK` says."""

    def __init__(self, path: str) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(_SECONDS)
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]  # the stubs leave it out
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise


def keys(path: str) -> list[paramiko.AgentKey]:
    """The keys of the agent at socket `path`; none when none answers, which is not an error."""
    try:
        return list(_Agent(path).get_keys())
    except (paramiko.SSHException, OSError, EOFError, ValueError):
        return []
