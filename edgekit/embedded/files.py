"""SFTP on the embedded board: the file system as the user sees it, with the kernel's own words for what fails."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko import sftp
from paramiko.message import Message

from edgekit.embedded.home import BoardHome

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

# As OpenSSH's sftp-server maps them.
_CODES = {
    errno.ENOENT: sftp.SFTP_NO_SUCH_FILE,
    errno.ENOTDIR: sftp.SFTP_NO_SUCH_FILE,
    errno.ELOOP: sftp.SFTP_NO_SUCH_FILE,
    errno.EACCES: sftp.SFTP_PERMISSION_DENIED,
    errno.EPERM: sftp.SFTP_PERMISSION_DENIED,
    errno.EINVAL: sftp.SFTP_BAD_MESSAGE,
    errno.ENAMETOOLONG: sftp.SFTP_BAD_MESSAGE,
}
_EXTENSIONS = (("posix-rename@openssh.com", "1"), ("fsync@openssh.com", "1"))


class Status(int):
    """An SFTP status code that keeps the reason (`No space left on device`), which the code alone loses."""

    reason: str

    @classmethod
    def of(cls, error: OSError) -> Status:
        status = cls(_CODES.get(error.errno or 0, sftp.SFTP_FAILURE))
        status.reason = error.strerror or str(error)
        return status


_SFTPServer: Any = paramiko.SFTPServer  # the stub hides what is extended here


def _status(action: Callable[[], object]) -> int:
    try:
        action()
    except OSError as error:
        return Status.of(error)
    return int(sftp.SFTP_OK)


class FileHandle(paramiko.SFTPHandle):
    """An open file, by descriptor; every write goes straight to the kernel."""

    def __init__(self, descriptor: int, flags: int) -> None:
        super().__init__(flags)
        self._descriptor = descriptor

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def read(self, offset: int, length: int) -> bytes | int:
        try:
            return os.pread(self._descriptor, min(length, 256 << 10), offset)
        except OSError as error:
            return Status.of(error)

    def write(self, offset: int, data: Buffer) -> int:
        def action() -> None:
            view, at = memoryview(data), offset
            while view:
                count = os.pwrite(self._descriptor, view, at)
                view, at = view[count:], at + count

        return _status(action)

    def stat(self) -> paramiko.SFTPAttributes | int:
        try:
            return paramiko.SFTPAttributes.from_stat(os.fstat(self._descriptor))
        except OSError as error:
            return Status.of(error)

    def chattr(self, attr: paramiko.SFTPAttributes) -> int:
        return _status(lambda: _change(self._descriptor, attr))

    def sync(self) -> int:
        return _status(lambda: os.fsync(self._descriptor))


class Files(paramiko.SFTPServerInterface):
    """Paths are the computer's; relative ones start in the board's home."""

    def __init__(self, server: paramiko.ServerInterface, home: BoardHome) -> None:
        super().__init__(server)
        self._home = str(home.home)

    def _path(self, path: str) -> str:
        return os.path.join(self._home, path)

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> paramiko.SFTPHandle | int:
        mode = 0o666 if attr.st_mode is None else stat.S_IMODE(attr.st_mode)
        try:
            return FileHandle(os.open(self._path(path), flags | os.O_CLOEXEC, mode), flags)
        except OSError as error:
            return Status.of(error)

    def list_folder(self, path: str) -> list[paramiko.SFTPAttributes] | int:
        found = []
        try:
            for entry in os.scandir(self._path(path)):
                with contextlib.suppress(FileNotFoundError):
                    found.append(paramiko.SFTPAttributes.from_stat(entry.stat(follow_symlinks=False), entry.name))
        except OSError as error:
            return Status.of(error)
        return found

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        try:
            return paramiko.SFTPAttributes.from_stat(os.stat(self._path(path)))
        except OSError as error:
            return Status.of(error)

    def lstat(self, path: str) -> paramiko.SFTPAttributes | int:
        try:
            return paramiko.SFTPAttributes.from_stat(os.lstat(self._path(path)))
        except OSError as error:
            return Status.of(error)

    def remove(self, path: str) -> int:
        return _status(lambda: os.remove(self._path(path)))

    def rename(self, oldpath: str, newpath: str) -> int:
        def action() -> None:
            if os.path.lexists(self._path(newpath)):
                raise FileExistsError(errno.EEXIST, "File exists")
            os.rename(self._path(oldpath), self._path(newpath))

        return _status(action)

    def posix_rename(self, oldpath: str, newpath: str) -> int:
        return _status(lambda: os.replace(self._path(oldpath), self._path(newpath)))

    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        mode = 0o777 if attr.st_mode is None else stat.S_IMODE(attr.st_mode)
        return _status(lambda: os.mkdir(self._path(path), mode))

    def rmdir(self, path: str) -> int:
        return _status(lambda: os.rmdir(self._path(path)))

    def chattr(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        return _status(lambda: _change(self._path(path), attr))

    def canonicalize(self, path: str) -> str:
        return os.path.realpath(self._path(path))

    def readlink(self, path: str) -> str | int:
        try:
            return os.readlink(self._path(path))
        except OSError as error:
            return Status.of(error)

    def symlink(self, target_path: str, path: str) -> int:
        return _status(lambda: os.symlink(target_path, self._path(path)))


class FileServer(_SFTPServer):  # type: ignore[misc]  # see there
    """Paramiko's SFTP server with OpenSSH's fsync, the extensions announced, and reasons passed on."""

    def finish_subsystem(self) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.sock.send_exit_status(0)  # without it scp calls a copy that worked a failure
        super().finish_subsystem()

    def _send_server_version(self) -> int:
        kind, _ = self._read_packet()
        if kind != sftp.CMD_INIT:
            raise sftp.SFTPError("not an SFTP client")
        message = Message()
        message.add_int(3)
        for name, version in _EXTENSIONS:
            message.add_string(name)
            message.add_string(version)
        self._send_packet(sftp.CMD_VERSION, message)
        return 3

    def _send_status(self, request_number: int, code: int, desc: str | None = None) -> None:
        super()._send_status(request_number, int(code), getattr(code, "reason", desc))

    def _process(self, t: int, request_number: int, msg: Any) -> None:
        if t == sftp.CMD_EXTENDED and msg.get_text() == "fsync@openssh.com":
            handle = self.file_table.get(msg.get_binary())
            code = handle.sync() if isinstance(handle, FileHandle) else sftp.SFTP_FAILURE
            self._send_status(request_number, code)
            return
        msg.rewind()
        msg.get_int()
        super()._process(t, request_number, msg)


def _change(where: int | str, attr: paramiko.SFTPAttributes) -> None:
    """chmod, chown, utime and truncate, by path or descriptor, as far as `attr` says."""
    if attr.st_size is not None:
        os.truncate(where, attr.st_size)
    if attr.st_mode is not None:
        os.chmod(where, stat.S_IMODE(attr.st_mode))
    if attr.st_uid is not None and attr.st_gid is not None:
        os.chown(where, attr.st_uid, attr.st_gid)
    if attr.st_atime is not None and attr.st_mtime is not None:
        os.utime(where, (attr.st_atime, attr.st_mtime))
