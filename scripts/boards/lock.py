"""One process at a time, by flock on a file that may be deleted by its holder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit_runtime.errors import DeviceError

_WAIT_SECONDS = 1800


class Busy(DeviceError):
    """Another process holds the lock."""


@contextmanager
def locked(
    file: Path,
    *,
    shared: bool = False,
    wait: bool = True,
    say: Callable[[str], None] | None = None,
    unless: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold `file`, alone or shared with others who share it; the kernel lets go when the process ends.

    It is waited for `unless` there is nothing left to do: then the body runs without it.

    Raises:
        Busy: another holds it, and `wait` is off or it took half an hour.
    """
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = _acquire(file, mode, time.monotonic() + (_WAIT_SECONDS if wait else 0), say, unless)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _acquire(
    file: Path, mode: int, deadline: float, say: Callable[[str], None] | None, unless: Callable[[], bool]
) -> int | None:
    told = False
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            if _is_still(file, descriptor):
                return descriptor
        except BlockingIOError as error:
            if unless():
                os.close(descriptor)
                return None
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise Busy(f"another process holds {file}", hint="wait for it to end") from error
            if say and not told:
                say("waiting for another scripts/board to finish")
                told = True
            time.sleep(0.1)
        os.close(descriptor)


def _is_still(file: Path, descriptor: int) -> bool:
    """Whether the open file is the one of that name: its last holder may have deleted it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False
