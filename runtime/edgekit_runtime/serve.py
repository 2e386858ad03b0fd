"""A small daemon: the REST application on a Unix socket or on loopback, through waitress.

It listens first, warms up in a thread (state LOADING), then serves. SIGTERM or SIGINT drains: new predictions get
503, those under way are answered, and the process ends; a second signal ends it at once.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from edgekit_runtime.batcher import Batcher, Parameters
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import DeviceError, UserError
from edgekit_runtime.rest import Service

if TYPE_CHECKING:
    from types import FrameType

    from edgekit_runtime.engine import Engine

THREADS = 4
CONNECTIONS = 100
DRAIN_SECONDS = 10.0
MAX_REQUEST_BYTES = 32 << 20
# Of a request that is too large at most this much more is read, so that the refusal can be JSON.
_EXCESS = 1 << 20


@dataclass(frozen=True)
class Address:
    """A Unix socket's path, or a host and port (0 for a free one)."""

    path: Optional[Path] = None
    host: str = "127.0.0.1"
    port: int = 8501
    allow_remote: bool = False


def serve(
    name: str,
    open_engine: Callable[[], Engine],
    address: Address,
    *,
    batching: Optional[Parameters] = None,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    listening: Callable[[str], None] = lambda _where: None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal ends it; to be called in the main thread.

    With `batching` requests that come together run together, if the engine's batch was proven. `listening` is called
    with the address, `ready` when the model is AVAILABLE. Raises UserError for an address that cannot be had or is
    not loopback, DeviceError without waitress, and whatever `open_engine` raises.
    """
    create_server = _waitress()
    service = Service(name, max_request_bytes=max_request_bytes)
    listener = _listen(address)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    channels: Dict[int, Any] = {}
    server = create_server(
        service,
        map=channels,
        sockets=[listener],
        threads=_threads(batching),
        ident="edgekit-runtime",
        max_request_body_size=max_request_bytes + _EXCESS,
        connection_limit=CONNECTIONS,
        channel_timeout=30,
        clear_untrusted_proxy_headers=True,
    )
    life = _Life(service, channels)
    listening(_where(listener))
    warm_up = threading.Thread(target=life.load, args=(open_engine, batching, ready), name="warm-up", daemon=True)
    previous = {number: signal.signal(number, life.on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        warm_up.start()
        server.run()
    except SystemExit:  # a signal before the server's loop began
        pass
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        server.close()
        listener.close()
        if address.path is not None and address.path.is_socket():
            address.path.unlink()
    if life.failure is not None:
        raise life.failure


class _Life:
    """Loading and draining of one served model."""

    def __init__(self, service: Service, channels: Dict[int, Any]) -> None:
        self.failure: Optional[BaseException] = None
        self._service = service
        self._channels = channels
        self._signals = 0

    def load(
        self, open_engine: Callable[[], Engine], batching: Optional[Parameters], ready: Callable[[], None]
    ) -> None:
        try:
            engine = open_engine()
            together = batching is not None or engine.batch_size > 1  # by plan or manifest
            self._service.ready(engine, Batcher(engine, batching).infer if together else None)
            ready()
        except Exception as error:  # raised again by serve(), in the main thread
            self.failure = error
            self._signals += 1
            _end()

    def on_signal(self, _number: int, _frame: "Optional[FrameType]") -> None:
        self._signals += 1
        if self._signals > 1:
            raise SystemExit
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        self._service.drain()
        until = time.monotonic() + DRAIN_SECONDS
        self._service.wait_idle(DRAIN_SECONDS)
        while time.monotonic() < until and self._unsent():
            time.sleep(0.01)
        _end()

    def _unsent(self) -> List[Any]:
        """Connections with a request in hand or with bytes of an answer to send."""
        return [
            item
            for item in list(self._channels.values())
            if getattr(item, "requests", None) or getattr(item, "total_outbufs_len", 0)
        ]


def _threads(batching: Optional[Parameters]) -> int:
    """Each request waits in a thread for its batch: as many as the queue holds, those that run, and one to refuse."""
    if batching is None:
        return THREADS
    batches = max(1, batching.max_enqueued_batches) + (batching.num_batch_threads or os.cpu_count() or 1)
    return min(CONNECTIONS, max(THREADS, batches * (batching.max_batch_size or THREADS) + 1))


def _end() -> None:
    """Wake the main thread's loop: only a signal does that from another thread."""
    os.kill(os.getpid(), signal.SIGTERM)


def _listen(address: Address) -> socket.socket:
    try:
        if address.path is not None:
            return _listen_unix(address.path)
        if not address.allow_remote and not _is_loopback(address.host):
            raise UserError(
                f"'{address.host}' is not a loopback address: anyone on that network could use the model",
                hint="serve on 127.0.0.1 or a Unix socket, or say --allow-remote",
                host=address.host,
            )
        family, kind, proto, _, where = socket.getaddrinfo(address.host, address.port, 0, socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _bound(listener, where)
    except OSError as error:
        place = address.path or f"{address.host}:{address.port}"
        raise UserError(f"cannot listen on {place}: {error.strerror or error}", address=str(place)) from error


def _listen_unix(path: Path) -> socket.socket:
    if len(os.fsencode(str(path))) > 107:
        raise UserError(f"the path of a Unix socket has at most 107 bytes: '{path}'", path=str(path))
    if os.path.lexists(str(path)):
        if not stat.S_ISSOCK(os.lstat(str(path)).st_mode):
            raise UserError(f"'{path}' exists and is no socket", path=str(path))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(2)
            if probe.connect_ex(str(path)) == 0:
                raise UserError(f"another server listens on '{path}'", path=str(path))
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        return _bound(listener, str(path))
    finally:
        os.umask(mask)


def _bound(listener: socket.socket, where: Any) -> socket.socket:
    try:
        listener.bind(where)
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _where(listener: socket.socket) -> str:
    name = listener.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def _waitress() -> Callable[..., Any]:
    try:
        from waitress.server import create_server
    except ImportError as error:
        raise DeviceError(
            "serve needs waitress, which is not here", hint="pip install 'edgekit-runtime[serve]', or bundle with it"
        ) from error
    found: Callable[..., Any] = create_server
    return found
