"""SFTP version 3 (draft-ietf-secsh-filexfer-02) over a channel: as much as put and get need, pipelined.

Paramiko's own client does one request at a time unless pipelined, and then forgets the answers to the last writes, so
that a full disk goes unnoticed; it also keeps the server's words to itself.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable

import paramiko

from edgekit.transport.base import LocalReader

_INIT, _VERSION, _OPEN, _CLOSE, _READ, _WRITE, _FSTAT, _FSETSTAT = 1, 2, 3, 4, 5, 6, 8, 10
_STATUS, _HANDLE, _DATA, _ATTRS, _EXTENDED = 101, 102, 103, 105, 200
_OK, _EOF, NO_SUCH_FILE, PERMISSION_DENIED = 0, 1, 2, 3
_FLAG_READ, _FLAG_WRITE, _FLAG_CREATE, _FLAG_TRUNCATE = 0x01, 0x02, 0x08, 0x10
_ATTR_SIZE = 0x01
_ATTRS_NONE = struct.pack(">I", 0)

# With its header a block fits one SSH packet of 32 KiB; 64 of them fill OpenSSH's window of 2 MiB.
BLOCK = 32_256
DEPTH = 64
_PACKET_LIMIT = 256 << 10
_NOISE_LIMIT = 60


class SftpError(Exception):
    """The server's answer was not what was asked for."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text or f"SFTP status {code}")
        self.code = code


class Noise(SftpError):
    """Something else came before an SFTP server's first answer: `text` is its beginning."""

    def __init__(self, came: bytes) -> None:
        self.text = next(iter(came[:_NOISE_LIMIT].decode("utf-8", "replace").splitlines()), "")
        super().__init__(-1, f"what came is not SFTP: {self.text}")


class Sftp:
    """One SFTP conversation. After an error answers may still be under way: close it and open another."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._received = bytearray()
        self._number = 0
        channel.sendall(struct.pack(">IBI", 5, _INIT, 3))
        try:
            kind, body = self._packet()
        except (SftpError, EOFError) as error:
            raise (Noise(bytes(self._received)) if self._received else error) from error
        if kind != _VERSION or len(body) < 4:
            raise SftpError(-1, "not an SFTP server")
        strings = _strings(body[4:])
        self.extensions = dict(zip(strings[::2], strings[1::2], strict=False))

    def close(self) -> None:
        self._channel.close()

    def open_for_writing(self, path: str, *, truncate: bool) -> bytes:
        flags = _FLAG_WRITE | _FLAG_CREATE | (_FLAG_TRUNCATE if truncate else 0)
        return self._open(path, flags)

    def open_for_reading(self, path: str) -> bytes:
        return self._open(path, _FLAG_READ)

    def close_handle(self, handle: bytes) -> None:
        self._call(_STATUS, _CLOSE, _string(handle))

    def size(self, handle: bytes) -> int:
        """Bytes in an open file."""
        body = self._call(_ATTRS, _FSTAT, _string(handle))
        flags, size = struct.unpack_from(">IQ", body) if len(body) >= 12 else (0, 0)
        if not flags & _ATTR_SIZE:
            raise SftpError(-1, "the server does not tell the size")
        return int(size)

    def truncate(self, handle: bytes, size: int) -> None:
        self._call(_STATUS, _FSETSTAT, _string(handle) + struct.pack(">IQ", _ATTR_SIZE, size))

    def sync(self, handle: bytes) -> bool:
        """fsync, where the server has OpenSSH's extension; says whether it did."""
        if b"fsync@openssh.com" not in self.extensions:
            return False
        self._call(_STATUS, _EXTENDED, _string(b"fsync@openssh.com") + _string(handle))
        return True

    def write(self, handle: bytes, source: LocalReader, offset: int, size: int, moved: Callable[[int], None]) -> None:
        """Write `source` to `offset..size`; `moved` hears how far the server has confirmed."""
        waiting: dict[int, int] = {}
        position = confirmed = offset
        while position < size or waiting:
            while position < size and len(waiting) < DEPTH:
                data = source.read(min(BLOCK, size - position))
                if not data:
                    raise SftpError(-1, f"the file on this computer ends at {position} of {size} bytes")
                body = _string(handle) + struct.pack(">QI", position, len(data))
                waiting[self._send(_WRITE, body, data)] = len(data)
                position += len(data)
                if self._channel.recv_ready():
                    break
            number, kind, answer = self._answer()
            _expect(_STATUS, kind, answer)
            confirmed += waiting.pop(number)
            moved(confirmed)

    def read(self, handle: bytes, limit: int, moved: Callable[[int], None]) -> bytes:
        """The whole file, as long as it has no more than `limit` bytes; then `limit` + 1 of them."""
        content = bytearray()
        waiting: deque[tuple[int, int]] = deque()
        position = 0
        depth = min(DEPTH, self.size(handle) // BLOCK + 2)  # files of /proc say that they are empty
        while True:
            while len(waiting) < depth and position <= limit:
                waiting.append((self._ask(handle, position), position))
                position += BLOCK
            if not waiting:
                return bytes(content[: limit + 1])
            expected, start = waiting.popleft()
            number, kind, body = self._answer()
            if number != expected:
                raise SftpError(-1, "answers came out of order")
            if kind == _STATUS and len(body) >= 4 and struct.unpack_from(">I", body)[0] == _EOF:
                self._drain(len(waiting))
                return bytes(content)
            data = _strings(_expect(_DATA, kind, body))[0]
            content += data
            moved(len(content))
            if len(data) < BLOCK:  # a short answer: what was asked beyond it starts in the wrong place
                self._drain(len(waiting))
                waiting.clear()
                position = start + len(data)

    def _drain(self, count: int) -> None:
        for _ in range(count):
            self._answer()

    def _ask(self, handle: bytes, position: int) -> int:
        return self._send(_READ, _string(handle) + struct.pack(">QI", position, BLOCK))

    def _open(self, path: str, flags: int) -> bytes:
        name = _string(path.encode("utf-8", "surrogateescape"))
        return _strings(self._call(_HANDLE, _OPEN, name + struct.pack(">I", flags) + _ATTRS_NONE))[0]

    def _call(self, expected: int, kind: int, body: bytes) -> bytes:
        number = self._send(kind, body)
        got, answer_kind, answer = self._answer()
        if got != number:
            raise SftpError(-1, "an answer to another question")
        return _expect(expected, answer_kind, answer)

    def _send(self, kind: int, body: bytes, data: bytes = b"") -> int:
        self._number = (self._number + 1) & 0xFFFFFFFF
        length = 5 + len(body) + len(data)
        self._channel.sendall(struct.pack(">IBI", length, kind, self._number) + body + data)
        return self._number

    def _answer(self) -> tuple[int, int, bytes]:
        kind, body = self._packet()
        if len(body) < 4:
            raise SftpError(-1, "a packet too short")
        return struct.unpack_from(">I", body)[0], kind, body[4:]

    def _packet(self) -> tuple[int, bytes]:
        self._fill(4)
        length = struct.unpack_from(">I", self._received)[0]
        if not 1 <= length <= _PACKET_LIMIT:
            raise SftpError(-1, "what came is not SFTP")
        self._fill(4 + length)
        packet = bytes(self._received[4 : 4 + length])
        del self._received[: 4 + length]
        return packet[0], packet[1:]

    def _fill(self, count: int) -> None:
        while len(self._received) < count:
            data = self._channel.recv(64 << 10)
            if not data:
                raise EOFError("the SFTP server ended")
            self._received += data


def _expect(expected: int, kind: int, body: bytes) -> bytes:
    if kind == _STATUS and len(body) >= 4:
        code = struct.unpack_from(">I", body)[0]
        if code != _OK or expected != _STATUS:
            words = _strings(body[4:])
            raise SftpError(code, words[0].decode("utf-8", "replace") if words else "")
    if kind != expected:
        raise SftpError(-1, f"an answer of kind {kind}, expected {expected}")
    return body


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _strings(body: bytes) -> list[bytes]:
    found = []
    while len(body) >= 4:
        length = struct.unpack_from(">I", body)[0]
        if length > len(body) - 4:
            raise SftpError(-1, "a text longer than its packet")
        found.append(body[4 : 4 + length])
        body = body[4 + length :]
    return found
