"""Boards to look at: the test run's own, and one that a test may start and stop; and ways to look."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.board_fixture import BoardInfo, parse_info, run_board, start_board


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


def processes_with(text: str) -> list[str]:
    """Command lines of live processes of this machine that hold `text`; a dead one has none."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if text in line and int(file.parent.name) != os.getpid():
            found.append(line)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def output(board: BoardInfo, command: str) -> str:
    done = board.ssh(command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class OwnBoard:
    """A board that a test may start and stop; the userland is the cached one."""

    def __init__(self, state: Path, kind: str) -> None:
        self.state = state
        self.kind = kind

    def run(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_board(verb, self.kind, "--state", self.state, *arguments)

    def up(self, *arguments: str) -> BoardInfo:
        done = self.run("up", "--json", "--max-minutes", "10", *arguments)
        assert done.returncode == 0, done.stderr
        return parse_info(done.stdout)


@pytest.fixture(scope="session")
def arm64() -> BoardInfo:
    return start_board("arm64")


@pytest.fixture(scope="session")
def armv7() -> BoardInfo:
    return start_board("armv7")


@pytest.fixture(scope="session")
def vm() -> BoardInfo:
    return start_board("vm")


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[OwnBoard]:
    """Of the kind that the test's mark names."""
    (kind,) = request.node.get_closest_marker("emulated").args or ("arm64",)
    start_board(kind)  # or the test is skipped where there can be none
    board = OwnBoard(tmp_path / "state", kind)
    yield board
    board.run("down")
