"""Sessions whose connection is gone are ended, as by a login manager; OpenSSH alone leaves their commands behind.

A process whose output nobody reads any more, because its connection is gone, was cut off, and its whole session ends.
What a session left in the background on purpose writes elsewhere and stays. Terminals are hung up by the kernel.
"""

from __future__ import annotations

import os
import re
import select
import signal
from dataclasses import dataclass
from pathlib import Path

# Linux's tcp_states.h: established, and closed by the client but not by sshd yet.
_OPEN = {"01", "08"}


def end_cut(proc: Path, port: int, warned: frozenset[int] = frozenset()) -> frozenset[int]:
    """Send SIGHUP to each session that was cut, and SIGKILL to those that were warned before; the sessions signalled.

    Args:
        proc: the board's /proc.
        port: where its sshd listens.
    """
    processes = [process for process in map(_read, proc.glob("[0-9]*")) if process]
    alive = _clients(proc, port)
    cut = frozenset(process.session for process in processes if process.client and process.client not in alive)
    for process in processes:
        if process.session in cut:
            _send(process.pid, signal.SIGKILL if process.session in warned else signal.SIGHUP)
    return cut


@dataclass(frozen=True)
class _Process:
    """`client` is the port of the SSH client that it came by, for a process that nobody reads; else None."""

    pid: int
    session: int
    client: int | None


def _read(folder: Path) -> _Process | None:
    """None when it has ended."""
    try:
        session = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[3]
        return _Process(int(folder.name), int(session), _client(folder))
    except OSError:
        return None


def _client(folder: Path) -> int | None:
    if not any(_is_unread(folder / "fd" / stream) for stream in "12"):
        return None
    found = re.search(rb"(?:^|\0)SSH_CONNECTION=\S+ (\d{1,5}) ", (folder / "environ").read_bytes())
    return int(found.group(1)) if found else None


def _is_unread(stream: Path) -> bool:
    """Whether it is a pipe without a reader, which poll(2) calls an error on the side that writes."""
    try:
        if not os.readlink(stream).startswith("pipe:"):
            return False
        descriptor = os.open(stream, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        poll = select.poll()
        poll.register(descriptor, 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))
    finally:
        os.close(descriptor)


def _clients(proc: Path, port: int) -> set[int]:
    """The ports of the clients that are connected."""
    found = set()
    for line in (proc / "net/tcp").read_text("ascii").splitlines()[1:]:
        _, local, remote, state = line.split()[:4]
        if int(local.split(":")[1], 16) == port and state in _OPEN:
            found.add(int(remote.split(":")[1], 16))
    return found


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
