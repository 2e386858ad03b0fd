"""From a target to an encrypted connection with a trusted host key: TCP, jumps, handshake, key check."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import paramiko

from edgekit.errors import UserError
from edgekit.transport.config import SshTarget
from edgekit.transport.errors import Unreachable, printable
from edgekit.transport.hostkeys import HostKey, KnownHosts
from edgekit.transport.proxy import ProxyCommand
from edgekit.transport.watchdog import Meter, Watchdog

_LOG = "edgekit.transport.ssh"
logging.getLogger(_LOG).addHandler(logging.NullHandler())  # Paramiko logs tracebacks of what we report ourselves

_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
_RSA = ("rsa-sha2-512", "rsa-sha2-256")  # how an ssh-rsa key signs today (RFC 8332)


@dataclass(frozen=True)
class Timeouts:
    """Seconds: to connect and shake hands, for one step of authentication, of silence in between."""

    connect: float = 10
    auth: float = 15
    stall: float = 30

    @classmethod
    def from_environment(cls) -> Timeouts:
        """The defaults, all multiplied by `$EDGEKIT_TIMEOUT_SCALE`."""
        text = os.environ.get("EDGEKIT_TIMEOUT_SCALE", "1")
        try:
            scale = float(text)
        except ValueError:
            scale = 0
        if not 0 < scale <= 1000:
            raise UserError(f"EDGEKIT_TIMEOUT_SCALE is {text!r}, expected a number above 0")
        return cls(cls.connect * scale, cls.auth * scale, cls.stall * scale)


@dataclass
class Link:
    """An encrypted connection; `via` are the connections to the hosts it goes through, nearest first."""

    target: SshTarget
    transport: paramiko.Transport
    meter: Meter
    stall: float
    via: list[Link] = field(default_factory=list)
    watchdog: Watchdog = field(init=False)

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(self.target.board, self.meter, self.kill, self.stall)

    def close(self) -> None:
        """End everything; when the board no longer reads, for no longer than it takes to notice."""
        self.watchdog.stop()
        closer = threading.Thread(target=self.transport.close, daemon=True)
        closer.start()
        closer.join(1)
        self.kill()

    def kill(self) -> None:
        """Drop the sockets, the nearest first: closing an inner connection writes to the outer one."""
        for link in [*self.via, self]:
            link.watchdog.stop()
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                link.transport.close()

    def host_key(self) -> HostKey:
        """The key that was shown, judged against the known hosts."""
        key = self.transport.get_remote_server_key()
        shown = HostKey(self.target.board, self.target.key_name, key.get_name(), key.asbytes())
        return KnownHosts.read(self.target.known_hosts).judge(shown)

    def keep_alive(self) -> None:
        """Make a living peer speak at least three times in a stall; Paramiko's keepalive asks for no answer."""
        transport = self.transport

        def ask() -> None:
            message = paramiko.Message()
            message.add_byte(b"\x50")  # SSH_MSG_GLOBAL_REQUEST
            message.add_string("keepalive@openssh.com")
            message.add_boolean(True)
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                transport._send_user_message(message)  # type: ignore[attr-defined]  # global_request() waits for ever

        transport.packetizer.set_keepalive(self.stall / 3, ask)


def dial(target: SshTarget, timeouts: Timeouts, admit: Callable[[Link], None]) -> Link:
    """Connect to `target` through its jumps; neither trusts nor authenticates at the target itself.

    Args:
        admit: trusts and authenticates at a jump host.

    Raises:
        Unreachable: with a field `reason`.
    """
    via: list[Link] = []
    try:
        for jump in target.jumps:
            link = _shake_hands(jump, _stream(jump, via, timeouts), timeouts, [*via])
            via.append(link)
            admit(link)
        return _shake_hands(target, _stream(target, via, timeouts), timeouts, via)
    except BaseException:
        if via:
            via[-1].kill()
        raise


def _stream(target: SshTarget, via: list[Link], timeouts: Timeouts) -> Any:
    if not via:
        return _proxy(target) if target.proxy_command else _tcp(target, timeouts.connect)
    last = via[-1]
    try:
        with last.watchdog.guard(f"asking {last.target.host} for {target.where}", limit=timeouts.connect):
            return last.transport.open_channel(
                "direct-tcpip", (target.host, target.port), ("127.0.0.1", 0), timeout=2 * timeouts.connect
            )
    except paramiko.SSHException as error:
        raise Unreachable(
            f"{last.target.host} cannot or will not connect to {target.where}: {error}",
            reason="refused",
            host=target.host,
            port=target.port,
        ) from error


def _proxy(target: SshTarget) -> ProxyCommand:
    command = target.proxy_command or ""
    try:
        return ProxyCommand(command)
    except OSError as error:
        message = f"ProxyCommand '{command}' of {target.host} cannot be started: {error.strerror or error}"
        raise Unreachable(message, hint="is $SHELL right?", reason="proxy", host=target.host) from error


def _tcp(target: SshTarget, timeout: float) -> socket.socket:
    deadline = time.monotonic() + timeout
    last: OSError = TimeoutError()
    addresses = _look_up(target, timeout)
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left / (len(addresses) - number))  # one that is silent leaves time for the others
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            last = error
    raise _unreachable(target, last, timeout) from last


def _look_up(target: SshTarget, timeout: float) -> list[Any]:
    """getaddrinfo has no timeout of its own."""
    answer: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            family = _FAMILIES.get(target.family, socket.AF_UNSPEC)
            answer.put(list(socket.getaddrinfo(target.host, target.port, family, socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            answer.put(error if isinstance(error, OSError) else OSError(str(error)))

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answer.get(timeout=timeout)
    except queue.Empty:
        found = TimeoutError("the name server does not answer")
    if isinstance(found, OSError):
        raise Unreachable(
            f"no address for {target.host}: {found.strerror or found}",
            hint="check the spelling, the network's name server, or use an IP address",
            reason="dns",
            host=target.host,
        ) from found
    return found


def _unreachable(target: SshTarget, error: OSError, timeout: float) -> Unreachable:
    facts: dict[str, Any] = {"host": target.host, "port": target.port}
    if isinstance(error, TimeoutError):
        return Unreachable(
            f"{target.where} does not answer ({timeout:g} s)",
            hint="is the board on, on this network, and not behind a firewall?",
            reason="timeout",
            **facts,
        )
    if error.errno == errno.ECONNREFUSED:
        return Unreachable(
            f"{target.where} refuses the connection: no SSH server listens there",
            hint="start the SSH server on the board, or give its port: user@host:port",
            reason="refused",
            **facts,
        )
    return Unreachable(
        f"no route to {target.where}: {error.strerror or error}",
        hint="check the cable, the network and the address",
        reason="no-route",
        **facts,
    )


def _shake_hands(target: SshTarget, stream: Any, timeouts: Timeouts, via: list[Link]) -> Link:
    meter = Meter(stream)
    try:
        transport = paramiko.Transport(cast(Any, meter))
    except BaseException:
        meter.close()
        raise
    link = Link(target, transport, meter, timeouts.stall, via)
    transport.set_log_channel(_LOG)
    # Whoever waits here, and the watchdog, are to be first: paramiko's own ends look like a server that hangs up.
    transport.banner_timeout = transport.handshake_timeout = 4 * timeouts.connect
    transport.auth_timeout = 4 * timeouts.auth
    transport.clear_to_send_timeout = 4 * timeouts.stall
    _prefer_known_types(transport, target)
    done = threading.Event()
    transport.start_client(event=done)
    done.wait(timeouts.connect)
    if not done.is_set() or not transport.is_active():
        failure = _no_handshake(target, transport, not done.is_set(), timeouts.connect)
        if isinstance(stream, ProxyCommand) and not transport.remote_version:
            failure = Unreachable(
                f"no SSH server answers for {target.host}: {stream.last_words()}",
                hint="run it as the ssh config has it; what it says there is in this message",
                reason="proxy",
                host=target.host,
                port=target.port,
            )
        transport.packetizer.complete_handshake()  # its timer would keep this process for as long
        link.kill()
        raise failure
    return link


def _no_handshake(target: SshTarget, transport: paramiko.Transport, silent: bool, seconds: float) -> Unreachable:
    error = transport.get_exception()
    facts: dict[str, Any] = {"host": target.host, "port": target.port}
    if silent or "timed out" in str(error):
        message = f"{target.where} takes the connection, but says nothing ({seconds:g} s)"
        return Unreachable(message, hint="the board may be overloaded or half up", reason="timeout", **facts)
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        message = f"{target.where} speaks only an SSH too old to be safe: {printable(str(error))}"
        return Unreachable(message, hint="update the board's SSH server", reason="outdated", **facts)
    if not transport.remote_version:
        message = f"{target.where} ended the connection without an SSH greeting"
        return Unreachable(
            message, hint="not an SSH server, or one with too many connections", reason="not-ssh", **facts
        )
    message = f"{target.where} broke off the SSH handshake" + (f": {printable(str(error))}" if str(error or "") else "")
    return Unreachable(message, hint="see the SSH server's log on the board", reason="closed", **facts)


def _prefer_known_types(transport: paramiko.Transport, target: SshTarget) -> None:
    known = KnownHosts.read(target.known_hosts).types(target.key_name)
    wanted = [name for kind in known for name in (_RSA if kind == "ssh-rsa" else (kind,))]
    options = transport.get_security_options()
    offered = list(options.key_types)
    options.key_types = [name for name in wanted if name in offered] + [n for n in offered if n not in wanted]
