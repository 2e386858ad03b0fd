"""A TCP relay on loopback that can freeze, cut, slow down and delay: a bad network for tests."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self


class TcpProxy:
    """Relays to `target`.

    Args:
        freeze_after: bytes relayed towards the target after which nothing moves any more, in any direction.
        cut_after: bytes relayed towards the target after which the connection is reset.
        delay: seconds that each piece waits on its way.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        freeze_after: int | None = None,
        cut_after: int | None = None,
        delay: float = 0,
    ) -> None:
        self.target = target
        self.freeze_after = freeze_after
        self.cut_after = cut_after
        self.delay = delay
        self.sent = 0
        self.frozen = threading.Event()
        self._closing = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def freeze(self) -> None:
        """From now on bytes are taken from nobody and given to nobody; connections stay open."""
        self.frozen.set()

    def thaw(self) -> None:
        self.frozen.clear()

    def cut(self) -> None:
        """Reset every connection."""
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self.target, 5)
            except OSError:
                if self._closing.is_set():
                    return
                continue
            far.settimeout(None)
            self._sockets += [near, far]
            threading.Thread(target=self._relay, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._relay, args=(far, near, False), daemon=True).start()

    def _pieces(self, data: bytes) -> tuple[bytes, ...]:
        """What still moves, and what a freeze holds back."""
        left = len(data) if self.freeze_after is None else max(0, self.freeze_after - self.sent)
        return (data[:left], data[left:]) if 0 < left < len(data) else (data,)

    def _relay(self, source: socket.socket, sink: socket.socket, outward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16 << 10):
                if self.delay:
                    time.sleep(self.delay)
                for piece in self._pieces(data) if outward else (data,):
                    while self.frozen.is_set() and not self._closing.is_set():
                        time.sleep(0.02)
                    if outward:
                        self.sent += len(piece)
                        if self.freeze_after is not None and self.sent >= self.freeze_after:
                            self.freeze()  # before it is sent: its answer must not slip through
                    sink.sendall(piece)
                    if outward and self.cut_after is not None and self.sent >= self.cut_after:
                        self.cut()
                        return
            sink.shutdown(socket.SHUT_WR)
