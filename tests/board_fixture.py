"""An emulated ARM board for tests: `start_board("arm64")`, one a test run, with keys and home of its own."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "board"
# The first start unpacks the userland; a run that was killed leaves its board at most that long.
_UP_SECONDS = 1800
_MAX_MINUTES = 90
NOWHERE = "/nonexistent"
# As the run began: a test that changes HOME must not move the cache of userlands.
_ENVIRONMENT = dict(os.environ)


@dataclass(frozen=True)
class BoardInfo:
    """How to reach a board: what `scripts/board up --json` prints, and more of it than most tests need.

    Attributes:
        name: its Host in `ssh_config`, whose known_hosts holds its key.
        pid: the board's first process; everything in the board ends with it.
        root: the userland, read-only; `NOWHERE` in a board with a disk of its own, as home and sys are.
        image: that disk, else `NOWHERE`.
        home: the board user's home as this machine sees it.
        sys: what the board sees as /sys: write there to change governor or heat.
    """

    name: str
    host: str
    port: int
    user: str
    identity_file: Path
    ssh_config: Path
    known_hosts: Path
    host_key_fingerprint: str
    pid: int
    root: Path
    home: Path
    sys: Path
    log: Path
    image: Path

    def ssh(
        self, command: str, *, timeout: float = 120, options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the board with OpenSSH's client."""
        argv = ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", *options, self.name, command]
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )


def run_board(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`scripts/board ARGUMENTS`, whatever its exit code."""
    return subprocess.run(
        [SCRIPT, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_ENVIRONMENT if env is None else env,
        timeout=_UP_SECONDS,
        check=False,
    )


def parse_info(text: str) -> BoardInfo:
    """The JSON of `scripts/board up`."""
    answer = json.loads(text)
    paths = {"identity_file", "ssh_config", "known_hosts", "root", "home", "sys", "log", "image"}
    facts: dict[str, Any] = {field.name: answer[field.name] for field in fields(BoardInfo)}
    facts.update({name: Path(facts[name] or NOWHERE) for name in paths})
    return BoardInfo(**facts)


@functools.cache
def start_board(kind: str) -> BoardInfo:
    """The test run's board of that kind, started at the first call and stopped when the process ends.

    Skips the test when this machine cannot run one (not root, or packages missing). On the board /mnt/small has
    16 MiB and /mnt/readonly cannot be written; both belong to its user.
    """
    folder = Path(tempfile.mkdtemp(prefix="edgekit-board-"))
    done = run_board("up", kind, "--state", folder, "--max-minutes", str(_MAX_MINUTES), "--json")
    atexit.register(_stop, kind, folder, os.getpid())
    if done.returncode == 2:
        pytest.skip(f"no emulated board here: {done.stderr.strip()}")
    if done.returncode:
        raise RuntimeError(done.stderr)
    return parse_info(done.stdout)


def empty_home(board: BoardInfo) -> None:
    """Give the board's user an empty home, as a test that begins expects it; keys that let the user in stay."""
    for entry in board.home.iterdir():
        if entry.name == ".ssh":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _stop(kind: str, folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        run_board("down", kind, "--state", folder)
        shutil.rmtree(folder, ignore_errors=True)
