"""Run, put and get on a board. Paramiko is imported when a connection is made, not before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import UserError
from edgekit.transport.address import EMBEDDED, Address, parse_address
from edgekit.transport.base import Completed, RemotePath, Server, Transport
from edgekit.transport.directory import PREFIX as DIRECTORY
from edgekit.transport.directory import DirectoryTransport, open_directory
from edgekit.transport.errors import (
    AuthenticationFailed,
    ChangedHostKey,
    CommandNotRun,
    CommandTimeout,
    HostKeyError,
    LinkLost,
    NoSpace,
    NotFound,
    OutputTooLarge,
    ReadOnlyTarget,
    RemoteCommandError,
    RevokedHostKey,
    TransferFailed,
    UnknownHostKey,
    Unreachable,
)
from edgekit.transport.hostkeys import HostKey

if TYPE_CHECKING:
    from edgekit.transport.dial import Timeouts

__all__ = [
    "DIRECTORY",
    "EMBEDDED",
    "Address",
    "AuthenticationFailed",
    "ChangedHostKey",
    "CommandNotRun",
    "CommandTimeout",
    "Completed",
    "DirectoryTransport",
    "HostKey",
    "HostKeyError",
    "LinkLost",
    "NoSpace",
    "NotFound",
    "OutputTooLarge",
    "ReadOnlyTarget",
    "RemoteCommandError",
    "RemotePath",
    "RevokedHostKey",
    "Server",
    "TransferFailed",
    "Transport",
    "UnknownHostKey",
    "Unreachable",
    "connect",
    "host_key",
    "install_key",
    "parse_address",
    "recorded",
    "remember",
]


def connect(
    board: str,
    *,
    ask: Callable[[str], str] | None = None,
    config: Path | None = None,
    timeouts: Timeouts | None = None,
) -> Transport:
    """Connect to BOARD and log in; `embedded` is started in this process unless one runs already.

    `dir:FOLDER` is a root file system that is mounted there; see `DirectoryTransport`.

    Args:
        ask: shows a prompt and gives the passphrase or password typed; None: nobody is asked.
        config: ssh config instead of `$EDGEKIT_SSH_CONFIG` or `~/.ssh/config`.

    Raises:
        UserError: BOARD or the ssh config is wrong.
        DeviceError: Unreachable, UnknownHostKey, ChangedHostKey, RevokedHostKey, AuthenticationFailed, LinkLost.
    """
    if board.startswith(DIRECTORY):
        return open_directory(board)
    from edgekit.transport.ssh import open_ssh

    if board != EMBEDDED:
        from edgekit.transport.config import resolve

        return open_ssh(resolve(board, config), ask=ask, timeouts=timeouts)
    from edgekit.embedded import borrow

    loan = borrow()
    try:
        return open_ssh(loan.target, timeouts=timeouts, on_close=loan.close)
    except BaseException:
        loan.close()
        raise


def host_key(
    board: str,
    *,
    ask: Callable[[str], str] | None = None,
    config: Path | None = None,
    timeouts: Timeouts | None = None,
) -> HostKey:
    """The host key that BOARD shows now, and whether it is known; nobody logs in there.

    Raises:
        UserError, DeviceError: as `connect`, about reaching the board.
    """
    _require_ssh(board)
    from edgekit.transport.ssh import fetch_host_key

    if board != EMBEDDED:
        from edgekit.transport.config import resolve

        return fetch_host_key(resolve(board, config), ask=ask, timeouts=timeouts)
    from edgekit.embedded import borrow

    loan = borrow()
    try:
        return fetch_host_key(loan.target, timeouts=timeouts)
    finally:
        loan.close()


def remember(key: HostKey, *, replace: bool = False) -> Path:
    """Trust `key` from now on; gives the file that it was written to.

    Args:
        replace: also when another key is trusted for this board.

    Raises:
        ChangedHostKey: another key is trusted and `replace` is false.
        RevokedHostKey: never again.
    """
    from edgekit.transport.config import own_known_hosts
    from edgekit.transport.hostkeys import remember as write

    return write(key, own_known_hosts(), replace=replace)


def recorded(key: HostKey) -> tuple[str, ...]:
    """The names under which edgekit's own file holds the keys trusted for this board; `remember` replaces them all.

    Raises:
        UserError: a line of that file is about other boards too.
    """
    from edgekit.transport.config import own_known_hosts
    from edgekit.transport.hostkeys import recorded as read

    return read(key, own_known_hosts())


def install_key(
    board: str,
    *,
    ask: Callable[[str], str],
    config: Path | None = None,
    timeouts: Timeouts | None = None,
) -> Path:
    """Put the user's public key on BOARD with a password; gives the public key's file. Doing it twice is harmless.

    Raises:
        UserError: BOARD is `embedded`, which has its own key.
        DeviceError: as `connect`.
    """
    _require_ssh(board)
    if board == EMBEDDED:
        raise UserError("the embedded board has a key of its own", board=board)
    from edgekit.transport.config import resolve
    from edgekit.transport.enroll import install

    return install(resolve(board, config), ask=ask, timeouts=timeouts)


def _require_ssh(board: str) -> None:
    if board.startswith(DIRECTORY):
        raise UserError(f"{board} is a folder of this computer: there is no key to trust", board=board)
