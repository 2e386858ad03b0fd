"""The embedded board: an SSH server on loopback that lets in one key and runs what sshd would run."""

from __future__ import annotations

import contextlib
import hmac
import logging
import socket
import threading
import time
from types import TracebackType
from typing import Self

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
)

from edgekit.embedded.files import Files, FileServer
from edgekit.embedded.home import KEY_NAME, USER, BoardHome
from edgekit.embedded.process import Session
from edgekit.transport.enroll import public_blob

_LOG = "edgekit.embedded"
logging.getLogger(_LOG).addHandler(logging.NullHandler())

_LOGIN_GRACE = 30.0  # seconds
_MAX_CONNECTIONS = 64
_TICK = 0.2


class EmbeddedBoard:
    """A running board. Bound to 127.0.0.1; ends with `close`, and takes every process of its sessions along."""

    def __init__(self, home: BoardHome) -> None:
        home.prepare()
        self.home = home
        self._host_key = paramiko.Ed25519Key.from_private_key_file(str(home.host_key))
        self._client = public_blob(home.client_key)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=32)
        self.port = int(self._listener.getsockname()[1])
        self._listener.settimeout(_TICK)
        self._closing = threading.Event()
        self._connections: set[threading.Thread] = set()
        self._acceptor = threading.Thread(target=self._accept, name="edgekit-embedded", daemon=True)
        self._acceptor.start()

    @property
    def client_key(self) -> str:
        """Path of the private key that is let in."""
        return str(self.home.client_key)

    def ssh_config(self, alias: str = KEY_NAME) -> str:
        """A Host block for OpenSSH's ssh, sftp and scp."""
        return (
            f"Host {alias}\n  HostName 127.0.0.1\n  Port {self.port}\n  User {USER}\n"
            f'  HostKeyAlias {KEY_NAME}\n  IdentityFile "{self.home.client_key}"\n  IdentitiesOnly yes\n'
        )

    def close(self) -> None:
        """Stop listening, drop every connection and end every process group."""
        self._closing.set()
        self._acceptor.join()
        self._listener.close()
        for connection in list(self._connections):
            connection.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            self._connections = {thread for thread in self._connections if thread.is_alive()}
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                time.sleep(_TICK)  # out of descriptors, most likely
                continue
            if len(self._connections) >= _MAX_CONNECTIONS:
                connection.close()
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._connections.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = paramiko.Transport(connection)
        transport.set_log_channel(_LOG)
        transport.add_server_key(self._host_key)
        transport.set_subsystem_handler("sftp", FileServer, Files, self.home)
        policy = _Policy(self.home, self._client)
        deadline = time.monotonic() + _LOGIN_GRACE
        channels: list[paramiko.Channel] = []
        try:
            transport.start_server(event=threading.Event(), server=policy)
            while transport.is_active() and not self._closing.is_set():
                channel = transport.accept(_TICK)
                # Paramiko closes a channel that nobody holds.
                channels = [kept for kept in [*channels, channel] if kept is not None and not kept.closed]
                policy.sweep()
                if not transport.is_authenticated() and time.monotonic() > deadline:
                    break
        finally:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                transport.close()
            policy.abandon()


class _Policy(paramiko.ServerInterface):
    """What one client may do: log in with the key, run commands, use SFTP. No forwarding, no terminal."""

    def __init__(self, home: BoardHome, client: bytes) -> None:
        self._home = home
        self._client = client
        self._sessions: list[Session] = []
        self._lock = threading.Lock()

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002  # Paramiko's interface
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        same = hmac.compare_digest(key.asbytes(), self._client)
        return AUTH_SUCCESSFUL if same and username == USER else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002  # Paramiko's interface
        if kind == "session":
            return OPEN_SUCCEEDED
        return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return self._start(channel, ["/bin/sh", "-c", command])

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        return self._start(channel, ["/bin/sh"])

    def sweep(self) -> None:
        """End the processes whose channel was closed over their heads; forget what is over."""
        with self._lock:
            self._sessions = [session for session in self._sessions if not session.over]
            orphans = [session for session in self._sessions if session.channel.closed]
        for session in orphans:
            session.abandon()

    def abandon(self) -> None:
        """The client is gone."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.abandon()
        for session in sessions:
            session.join(3)

    def _start(self, channel: paramiko.Channel, argv: list[str | bytes]) -> bool:
        session = Session(channel, argv, self._home)
        with self._lock:  # a sweep takes one that was not started for one that is over
            session.start()
            self._sessions.append(session)
        return True
