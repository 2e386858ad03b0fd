"""What can go wrong between this computer and a board; every one is the board's or the link's (exit code 3)."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import DeviceError

_TAIL = 2000  # characters of standard error worth repeating in a message


def printable(data: bytes | str) -> str:
    """What a board said, safe to show: a terminal obeys control characters, whoever sent them."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in text)


class Unreachable(DeviceError):
    """No SSH conversation could be started.

    Field `reason`: dns, refused, no-route, timeout, not-ssh, outdated, closed, proxy.
    """


class LinkLost(DeviceError):
    """The connection broke or fell silent while something was going on. Fields `doing`, `bytes_done`."""


class CommandTimeout(DeviceError):
    """The board answers, but a command showed no progress, or ran past its deadline. Fields `argv`, `seconds`."""


class CommandNotRun(DeviceError):
    """The user's login shell there ended without running the command. Fields `argv`, `status`."""


class OutputTooLarge(DeviceError):
    """A command or a file on the board gave more than was allowed. Fields `what`, `limit`."""


class RemoteCommandError(DeviceError):
    """A command that had to succeed did not. Fields `argv`, `status`, `stderr`."""

    def __init__(self, board: str, argv: Sequence[str], status: int, stderr: bytes) -> None:
        tail = printable(stderr).strip()[-_TAIL:]
        self.argv = list(argv)
        self.status = status
        self.stderr = tail
        super().__init__(
            f"{board}: {' '.join(self.argv[:4])} ended with status {status}" + (f": {tail}" if tail else ""),
            board=board,
            argv=self.argv,
            status=status,
            stderr=tail,
        )


class TransferFailed(DeviceError):
    """The board refused or lost a file. Fields `path`, `bytes_done`, `detail`."""


class NoSpace(TransferFailed):
    """The file system of the target is full. Fields `path`, `free` and `needed` in bytes, where known."""


class ReadOnlyTarget(TransferFailed):
    """The target is on a read-only file system, or the user may not write there. Field `path`."""


class NotFound(TransferFailed):
    """The path, or the folder it is in, does not exist on the board. Field `path`."""


class HostKeyError(DeviceError):
    """The board's host key is not one to talk to."""


class UnknownHostKey(HostKeyError):
    """Nobody has trusted this key yet. Fields `board`, `key_type`, `fingerprint`."""

    def __init__(self, board: str, key_type: str, fingerprint: str) -> None:
        super().__init__(
            f"the host key of {board} is not known: {key_type} {fingerprint}",
            hint=f"compare the fingerprint with the board's, then: edgekit trust {board}",
            board=board,
            key_type=key_type,
            fingerprint=fingerprint,
        )


class ChangedHostKey(HostKeyError):
    """Another key was trusted for this board. Fields `fingerprint` (now), `known` (trusted), `where`."""

    def __init__(self, board: str, key_type: str, fingerprint: str, known: Sequence[str], where: str) -> None:
        super().__init__(
            f"the host key of {board} has changed: it shows {key_type} {fingerprint}, "
            f"trusted is {', '.join(known)} ({where})",
            hint=f"a reflashed board or an attack: if you know which, edgekit trust --reflashed {board}",
            board=board,
            key_type=key_type,
            fingerprint=fingerprint,
            known=list(known),
            where=where,
        )


class RevokedHostKey(HostKeyError):
    """The key is marked @revoked. Fields `fingerprint`, `where`."""

    def __init__(self, board: str, key_type: str, fingerprint: str, where: str) -> None:
        super().__init__(
            f"the host key of {board} is revoked: {key_type} {fingerprint} ({where})",
            hint="give the board a new host key",
            board=board,
            key_type=key_type,
            fingerprint=fingerprint,
            where=where,
        )


class AuthenticationFailed(DeviceError):
    """The board does not let this user in. Fields `user`, `host`, `tried`, `offered`; never a secret."""

    def __init__(
        self,
        board: str,
        user: str,
        host: str,
        *,
        tried: Sequence[str],
        offered: Sequence[str],
        locked: Path | None = None,
        **fields: Any,
    ) -> None:
        if locked is None:
            hint = f"edgekit trust {board} --install-key puts your public key on the board"
        else:
            add = shlex.join(["ssh-add", str(locked)])
            hint = f"open the key: {add}, or run this in a terminal, or name a program that asks in SSH_ASKPASS"
        methods = [printable(method) for method in offered]
        what = "; ".join(tried) if tried else "no key was there to try"
        super().__init__(
            f"{host} does not accept {user} (tried: {what}; the board offers: {', '.join(methods) or 'nothing'})",
            hint=hint,
            board=board,
            user=user,
            host=host,
            tried=list(tried),
            offered=methods,
            **fields,
        )
