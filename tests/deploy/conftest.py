"""One suite, many boards: every test that asks for `board` runs on each of `KINDS`."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import boards
from tests.deploy.boards import Board, write_ssh_config
from tests.deploy.kit import NOTES, User

# The machine's tests are in test_machine.py; the whole suite runs on it, and all of it on each board, when
# `scripts/board-matrix` says so.
_EVERY_BOARD = os.environ.get("EDGEKIT_TEST_EVERY_BOARD") == "1"
EMULATED = tuple(
    pytest.param(kind, marks=pytest.mark.emulated) for kind in boards.EMULATED if kind != "vm" or _EVERY_BOARD
)
KINDS = ("embedded", "openssh", *EMULATED)
# How bytes travel, keys are trusted and links break is the same on every processor, and slow where it is emulated.
_ONE_EMULATED = KINDS if _EVERY_BOARD else KINDS[:3]
ANY_PROCESSOR = pytest.mark.parametrize("board", _ONE_EMULATED, indirect=True)
# Enough to see a figure; how large it is means nothing here.
SHORT = ("--num-runs", "2", "--min-secs", "0")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    report.user_properties += NOTES
    NOTES.clear()
    return report


@dataclass(frozen=True)
class Models:
    """Small Keras models with pictures, and their folder."""

    folder: Path

    @property
    def calibration(self) -> Path:
        return self.folder / "pictures"

    def options(self, name: str) -> list[str | Path]:
        """What the command line has to know to convert the model of that name."""
        labels = self.folder / f"{name}.txt"
        return ["-c", self.calibration, "--task", "classification", "--labels", labels, "--range", "0..1"]


@dataclass(frozen=True)
class Stock:
    """Three deployments to an empty board and what they left: `colours`, the same again, then `light`.

    `first`, `again` and `second` are the answers of `edgekit deploy`; `packages` what pip knew before and after.
    """

    first: Any
    again: Any
    second: Any
    folder: Path
    packages: tuple[str, str]

    @property
    def colours(self) -> Path:
        return Path(self.first["bundle"])

    @property
    def light(self) -> Path:
        return Path(self.second["bundle"])

    def restore(self, board: Board) -> None:
        """Make an empty board one on which `light` is current and `colours` was before."""
        _copy(self.folder, board.root)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).with_name("make_models.py")
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True, timeout=300)
    return Models(folder)


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    """Who trusts every board of the suite."""
    return User(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="session")
def board_of(user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Board]]:
    """The board of a kind, started once and trusted by `user`."""
    makers: dict[str, Callable[[], AbstractContextManager[Board]]] = {
        "embedded": lambda: boards.embedded(user),
        "openssh": lambda: boards.openssh(tmp_path_factory.mktemp("openssh")),
        **{kind: functools.partial(_emulated, kind, tmp_path_factory) for kind in boards.EMULATED},
    }
    started: list[Board] = []
    with ExitStack() as stack:

        @functools.cache
        def start(kind: str) -> Board:
            board = stack.enter_context(makers[kind]())
            started.append(board)
            NOTES.append(("board", (kind, board.name, board.alias)))
            write_ssh_config(user, *started)
            for name in {board.name, board.alias}:
                answer = user.run("trust", name, "--fingerprint", board.fingerprint)
                assert answer.status == 0, answer.stderr
            return board

        yield start


@pytest.fixture(params=KINDS)
def board(request: pytest.FixtureRequest, board_of: Callable[[str], Board]) -> Iterator[Board]:
    """A board on which nothing is; afterwards nothing works there any more."""
    found = board_of(request.param)
    found.reset()
    yield found
    found.wait_until_idle()


@pytest.fixture(scope="session")
def stock_of(
    user: User, models: Models, board_of: Callable[[str], Board], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Stock]:
    """The stock of a kind of board, made once."""

    @functools.cache
    def make(kind: str) -> Stock:
        board = board_of(kind)
        board.reset()
        work = tmp_path_factory.mktemp(f"deploy-{kind}")
        before = board.packages()

        def deploy(name: str, output: str) -> Any:
            model = models.folder / f"{name}.keras"
            words = [*models.options(name), "-p", board.profile, "-o", work / output]
            return user.do("deploy", model, board.name, *words)

        first = deploy("colours", "first")
        again = deploy("colours", "again")
        second = deploy("light", "second")
        NOTES.append(("sent", (kind, *(each["push"]["sent_bytes"] for each in (first, again, second)))))
        # Beside the board's home, so that it can be made of hard links.
        kept = (board.stash or board.home.parent) / f"stock-{os.getpid()}"
        _copy(board.root, kept)
        return Stock(first, again, second, kept, (before, board.packages()))

    return make


@pytest.fixture
def stock(board: Board, stock_of: Callable[[str], Stock]) -> Stock:
    """What was deployed to that kind of board; the board itself is empty."""
    found = stock_of(board.kind)
    board.reset()
    return found


@pytest.fixture
def stocked(board: Board, stock: Stock) -> Board:
    """The board with `light` current and `colours` before it."""
    stock.restore(board)
    return board


def _emulated(kind: str, folders: pytest.TempPathFactory) -> AbstractContextManager[Board]:
    return boards.machine(folders.mktemp(kind)) if kind == "vm" else boards.emulated(kind, folders.mktemp(kind))


def _copy(source: Path, target: Path) -> None:
    """A copy whose contents, which nobody ever changes, are hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "--archive", "--link", source, target], check=True, timeout=300)
    for name in ("state", "journal"):
        (target / name).unlink()
        subprocess.run(["cp", "--archive", source / name, target / name], check=True, timeout=60)
