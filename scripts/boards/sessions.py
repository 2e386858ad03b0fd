"""Sessions that lose their connection are ended, as by a login manager; OpenSSH alone leaves their commands behind.

A command is the leader of its session and the child of a session's sshd (sshd -> privileged -> user's -> command).
When it is alive but no longer that sshd's child, the connection was cut. What a finished command left in the background
on purpose is not touched.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Sessions:
    """The commands under one sshd, seen through the board's /proc."""

    sshd: int
    proc: Path
    commands: dict[int, int] = field(default_factory=dict)
    hung_up: set[int] = field(default_factory=set)

    def look(self) -> None:
        """Note new commands; send SIGHUP to each session that was cut, and SIGKILL at the next look."""
        table = _processes(self.proc)
        for session in self.hung_up:
            _signal(table, session, signal.SIGKILL)
        self.hung_up.clear()
        for command, parent in list(self.commands.items()):
            if command not in table:
                del self.commands[command]
            elif table[command][0] != parent:
                _signal(table, command, signal.SIGHUP)
                self.hung_up.add(command)
                del self.commands[command]
        parents = {self.sshd}
        for _ in range(2):
            parents = {pid for pid, (parent, _) in table.items() if parent in parents}
        self.commands |= {pid: parent for pid, (parent, sid) in table.items() if parent in parents and sid == pid}


def _processes(proc: Path) -> dict[int, tuple[int, int]]:
    """Parent and session by process, as the board counts."""
    table = {}
    for folder in proc.glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue
        table[int(folder.name)] = (int(fields[1]), int(fields[3]))
    return table


def _signal(table: dict[int, tuple[int, int]], session: int, number: signal.Signals) -> None:
    for pid, (_, sid) in table.items():
        if sid == session:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
