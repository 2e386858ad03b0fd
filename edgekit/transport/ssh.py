"""A board behind SSH."""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, ClassVar

import paramiko

from edgekit.errors import DeviceError
from edgekit.transport.auth import Ask, authenticate
from edgekit.transport.base import Completed, Limits, LocalReader, RemotePath, Server, Transport, command_line, marker
from edgekit.transport.command import Conversation
from edgekit.transport.config import SshTarget
from edgekit.transport.dial import Link, Timeouts, dial
from edgekit.transport.errors import (
    LinkLost,
    NoSpace,
    NotFound,
    OutputTooLarge,
    ReadOnlyTarget,
    TransferFailed,
    printable,
)
from edgekit.transport.hostkeys import HostKey
from edgekit.transport.sftp import NO_SUCH_FILE, Noise, Sftp, SftpError

_SYNC_FACTOR = 10  # flushing to a slow card shows no progress
_GET_LIMITS = 120.0

# For servers without SFTP. $1 path, $2 offset; answers the size.
_CAT = """set -e; LC_ALL=C; export LC_ALL
if [ "$2" -gt 0 ]; then
  [ "$(wc -c <"$1")" -ge "$2" ] || { echo "shorter than $2 bytes" >&2; exit 9; }
  dd if=/dev/null of="$1" bs=1 seek="$2" count=0 2>/dev/null
  cat >>"$1"
else
  cat >"$1"
fi
sync "$1" 2>/dev/null || sync
wc -c <"$1"
"""

# Why can nothing be written to $1? SFTP version 3 has no words for a full or read-only file system.
_WHY = """LC_ALL=C; export LC_ALL; : >>"$1"; d=${1%/*}; [ "$d" != "$1" ] || d=.; df -Pk "${d:-/}" """


class SshTransport(Transport):
    """See `Transport`. Files go by SFTP where the server has it, else through `cat`: see `sending` and `noise`."""

    foreign: ClassVar[tuple[type[BaseException], ...]] = (*Transport.foreign, paramiko.SSHException, SftpError)

    def __init__(self, link: Link, *, on_close: Callable[[], None] | None = None) -> None:
        super().__init__(link.target.board)
        self._link = link
        self._on_close = on_close
        self._sftp: Sftp | None = None
        self._one_file = threading.Lock()  # answers of an SFTP conversation have one reader

    def _server(self) -> Server:
        with self._one_file:
            sftp = self._open_sftp() is not None
        return Server(printable(self._link.transport.remote_version), sftp, self.noise)

    def close(self) -> None:
        self._link.close()
        after, self._on_close = self._on_close, None
        if after is not None:
            after()

    def _run(
        self,
        argv: Sequence[str],
        stdin: bytes | BinaryIO | None,
        limits: Limits,
        on_stderr: Callable[[str], None] | None,
    ) -> Completed:
        return self._converse(argv, stdin, limits, on_stderr)

    def _converse(
        self,
        argv: Sequence[str],
        stdin: bytes | BinaryIO | None,
        limits: Limits,
        on_stderr: Callable[[str], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Completed:
        tag = secrets.token_hex(8)
        line = command_line(argv, tag)
        with self._link.watchdog.guard(f"starting {argv[0]}"):
            channel = self._begin(line)
        with self._link.watchdog.guard(f"running {argv[0]}", limit=math.inf) as operation:
            try:
                talk = Conversation(channel, stdin, limits, on_stderr, operation, marker=marker(tag), progress=progress)
                done = talk.finish(self.name, list(argv))
            finally:
                channel.close()
            if done.status < 0:
                if self._link.meter.ended:
                    raise EOFError("the connection ended")
                raise DeviceError(
                    f"{self.name}: {argv[0]} ended without a status: the board's SSH server dropped it",
                    board=self.name,
                    argv=list(argv),
                )
        return done

    def _put(
        self, source: BinaryIO, target: RemotePath, size: int, offset: int, progress: Callable[[int], None]
    ) -> None:
        with self._one_file:
            sftp = self._open_sftp()
            if sftp is None:
                self._put_cat(source, target, size, offset, progress)
            else:
                self._put_sftp(sftp, source, target, size=size, offset=offset, progress=progress)

    def _put_sftp(
        self,
        sftp: Sftp,
        source: BinaryIO,
        target: RemotePath,
        *,
        size: int,
        offset: int,
        progress: Callable[[int], None],
    ) -> None:
        reader = LocalReader(source, offset)
        confirmed = offset

        def moved(count: int) -> None:
            nonlocal confirmed
            confirmed = count
            operation.progress(count)
            progress(count)

        try:
            with self._link.watchdog.guard(f"sending {target}") as operation:
                handle = sftp.open_for_writing(str(target), truncate=offset == 0)
                if offset:
                    if sftp.size(handle) < offset:
                        raise SftpError(-1, f"shorter than {offset} bytes")
                    sftp.truncate(handle, offset)
                sftp.write(handle, reader, offset, size, moved)
            with self._link.watchdog.guard(f"syncing {target}", limit=_SYNC_FACTOR * self._link.stall):
                sftp.sync(handle)
                arrived = sftp.size(handle)
                sftp.close_handle(handle)
        except BaseException as error:
            self._drop_sftp()
            if isinstance(error, SftpError | EOFError):
                raise self._explain(target, error, size - confirmed, confirmed) from error
            raise
        _same_size(self.name, target, arrived, size)

    def _put_cat(
        self, source: BinaryIO, target: RemotePath, size: int, offset: int, progress: Callable[[int], None]
    ) -> None:
        limits = Limits(_SYNC_FACTOR * self._link.stall, math.inf, 4096)
        argv = ["sh", "-c", _CAT, "sh", str(target), str(offset)]
        part = _Part(LocalReader(source, offset), size - offset)
        done = self._converse(argv, part, limits, progress=lambda count: progress(offset + count))  # type: ignore[arg-type]  # only read() is used
        if done.status:
            error = SftpError(-1, done.stderr.decode("utf-8", "replace").strip())
            raise self._explain(target, error, size - offset, offset)
        words = done.stdout.split()
        _same_size(self.name, target, int(words[-1]) if words and words[-1].isdigit() else -1, size)

    def _get(self, source: RemotePath, limit: int) -> bytes:
        with self._one_file:
            sftp = self._open_sftp()
            content = self._get_cat(source, limit) if sftp is None else self._get_sftp(sftp, source, limit)
        if len(content) > limit:
            raise self._too_large(source, limit)
        return content

    def _get_sftp(self, sftp: Sftp, source: RemotePath, limit: int) -> bytes:
        try:
            with self._link.watchdog.guard(f"fetching {source}") as operation:
                handle = sftp.open_for_reading(str(source))
                content = sftp.read(handle, limit, operation.progress)
                sftp.close_handle(handle)
        except BaseException as error:
            self._drop_sftp()
            if isinstance(error, SftpError | EOFError):
                raise self._failure(source, error, 0) from error
            raise
        return content

    def _get_cat(self, source: RemotePath, limit: int) -> bytes:
        argv = ["sh", "-c", 'LC_ALL=C; export LC_ALL; exec cat <"$1"', "sh", str(source)]
        try:
            done = self._converse(argv, None, Limits(_GET_LIMITS, math.inf, limit))
        except OutputTooLarge as error:
            raise self._too_large(source, limit) from error
        if done.status:
            raise self._failure(source, SftpError(-1, done.stderr.decode("utf-8", "replace").strip()), 0)
        return done.stdout

    def _too_large(self, path: RemotePath, limit: int) -> OutputTooLarge:
        return OutputTooLarge(f"{self.name}: {path} is larger than {limit} bytes", what=str(path), limit=limit)

    def _begin(self, line: bytes) -> paramiko.Channel:
        """A session that has taken `line`. Dropbear 2022.83 ends one that has not, when the child of another ends."""
        for left in (2, 1, 0):
            try:
                channel = self._open()
                channel.exec_command(line)
                return channel
            except paramiko.ChannelException:
                raise
            except paramiko.SSHException:
                if not left or not self._link.transport.is_active():
                    raise
        raise AssertionError

    def _open(self) -> paramiko.Channel:
        return self._link.transport.open_session(timeout=4 * self._link.stall)

    def _open_sftp(self) -> Sftp | None:
        """The one rung of a ladder that is probed: SFTP, or None for `cat`."""
        if self.sending == "cat":
            return None
        if self._sftp is None:
            with self._link.watchdog.guard("starting SFTP"):
                channel = self._open()
                try:
                    channel.invoke_subsystem("sftp")
                    self._sftp = Sftp(channel)
                except (paramiko.SSHException, EOFError, SftpError) as error:
                    if self._link.meter.ended:
                        raise
                    channel.close()
                    self.sending, self.noise = "cat", printable(error.text) if isinstance(error, Noise) else ""
                    return None
            self.sending = "sftp"
        return self._sftp

    def _drop_sftp(self) -> None:
        sftp, self._sftp = self._sftp, None
        if sftp is not None and not self._link.meter.ended:
            with self._link.watchdog.guard("closing SFTP"):
                sftp.close()

    def _explain(self, path: RemotePath, error: Exception, needed: int, confirmed: int) -> DeviceError:
        failure = self._failure(path, error, confirmed)
        if type(failure) is not TransferFailed or self._link.meter.ended:
            return failure
        why = self._run(["sh", "-c", _WHY, "sh", str(path)], None, Limits(60, 60, 4096), None)
        clearer = self._failure(path, SftpError(-1, why.stderr.decode("utf-8", "replace").strip()), confirmed)
        if type(clearer) is not TransferFailed:
            return clearer
        columns = why.stdout.decode("ascii", "replace").splitlines()[-1:]
        free = columns[0].split()[3:4] if columns else []
        if free and free[0].isdigit() and int(free[0]) * 1024 < needed:
            return self._no_space(path, confirmed, str(error), int(free[0]) * 1024, needed)
        return failure

    def _failure(self, path: RemotePath, error: Exception, confirmed: int) -> DeviceError:
        text = printable(str(error))
        if self._link.meter.ended:
            return LinkLost(
                f"{self.name}: the connection broke at {path} after {confirmed} bytes",
                board=self.name,
                doing=f"transferring {path}",
                bytes_done=confirmed,
            )
        if "No space left" in text or "quota exceeded" in text:
            return self._no_space(path, confirmed, text, None, None)
        where: dict[str, Any] = {"path": str(path), "bytes_done": confirmed, "detail": text, "board": self.name}
        if "Read-only" in text or "Permission denied" in text or "Operation not permitted" in text:
            return ReadOnlyTarget(
                f"{self.name}: {path} cannot be written or read: {text}",
                hint="mount the file system read-write, or use a folder that the user owns",
                **where,
            )
        missing = isinstance(error, SftpError) and error.code == NO_SUCH_FILE
        if missing or "No such file" in text or "nonexistent" in text:
            return NotFound(f"{self.name}: there is no {path}, or no folder for it", **where)
        return TransferFailed(f"{self.name}: {path} at byte {confirmed}: {text}", **where)

    def _no_space(
        self, path: RemotePath, confirmed: int, text: str, free: int | None, needed: int | None
    ) -> DeviceError:
        left = "" if free is None else f": {free} bytes free, {needed} needed"
        return NoSpace(
            f"{self.name}: no space left for {path}{left}",
            hint="remove old releases (edgekit-board gc) or other files on the board",
            path=str(path),
            bytes_done=confirmed,
            detail=text,
            free=free,
            needed=needed,
            board=self.name,
        )


def _same_size(board: str, path: RemotePath, arrived: int, size: int) -> None:
    if arrived != size:
        raise TransferFailed(
            f"{board}: {path} is {arrived} bytes there, {size} were sent", path=str(path), bytes_done=arrived, detail=""
        )


class _Part:
    """`size` bytes of a file, for a command to read."""

    def __init__(self, reader: LocalReader, size: int) -> None:
        self._reader = reader
        self._left = size

    def read(self, count: int) -> bytes:
        data = self._reader.read(min(count, self._left))
        self._left -= len(data)
        return data


def open_ssh(
    target: SshTarget,
    *,
    ask: Ask | None = None,
    timeouts: Timeouts | None = None,
    on_close: Callable[[], None] | None = None,
    password_only: bool = False,
) -> SshTransport:
    """Connect, insist on a trusted host key at every hop, and log in.

    Raises:
        Unreachable, UnknownHostKey, ChangedHostKey, RevokedHostKey, AuthenticationFailed, LinkLost.
    """
    bounds = timeouts or Timeouts.from_environment()

    def admit(link: Link) -> None:
        link.host_key().require_trust()
        authenticate(link, bounds, ask, password_only=password_only and link.target is target)
        link.keep_alive()

    link = dial(target, bounds, admit)
    try:
        admit(link)
    except BaseException:
        link.kill()
        raise
    return SshTransport(link, on_close=on_close)


def fetch_host_key(target: SshTarget, *, ask: Ask | None = None, timeouts: Timeouts | None = None) -> HostKey:
    """The key that the board shows, judged, without logging in there (jump hosts are logged in to)."""
    bounds = timeouts or Timeouts.from_environment()

    def admit(link: Link) -> None:
        link.host_key().require_trust()
        authenticate(link, bounds, ask)
        link.keep_alive()

    link = dial(target, bounds, admit)
    try:
        return link.host_key()
    finally:
        link.kill()
