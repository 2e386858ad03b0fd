"""push, when something gets in its way: what arrived is kept, nothing is half done, and doing it again finishes it."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.boards import OLD_PYTHON, Board
from tests.deploy.conftest import ANY_PROCESSOR, EMULATED, Stock
from tests.deploy.kit import Answer, User, answer
from tests.tcp_proxy import TcpProxy

MIB = 1 << 20


@pytest.fixture
def through(board: Board, tmp_path: Path) -> Callable[[TcpProxy], list[str | Path]]:
    """The words that send a command to the board through a proxy."""

    def words(proxy: TcpProxy) -> list[str | Path]:
        config = tmp_path / "detour"
        block = board.host_block.replace(f"Port {board.port}", f"Port {proxy.port}")
        config.write_text(f"{block}  HostKeyAlias [127.0.0.1]:{board.port}\n")
        return [board.alias, "--ssh-config", config]

    return words


def incoming(board: Board) -> int:
    """Bytes that have arrived and are in no release yet."""
    try:
        return sum(file.stat().st_size for file in (board.root / "incoming").iterdir())
    except FileNotFoundError:
        return 0  # not made yet, or a file just moved to the store


def at_once(user: User, board: Board, *bundles: Path) -> list[Answer]:
    """Push them all together."""
    started = [user.start("push", file, board.name, "--json") for file in bundles]
    return [answer(process) for process in started]


def assert_nothing_half_done(board: Board, user: User) -> None:
    board.wait_until_idle()
    found = user.do("status", board.name)
    assert found["state"] in ("IDLE", "RECEIVING")
    assert found["releases"] == []
    assert found["current"] is found["staged"] is found["locked"] is None


def assert_finishes(board: Board, stock: Stock, user: User, *, resumed: bool) -> None:
    """The same push again does the rest, and the release is good."""
    sent = user.do("push", stock.colours, board.name)
    whole = stock.first["push"]["sent_bytes"]
    assert sent["release_id"] == stock.first["release"]
    assert sent["sent_bytes"] + sent["reused_bytes"] == whole
    if resumed:
        assert 0 < sent["sent_bytes"] < whole
    assert board.parts() == []
    assert user.do("status", board.name)["staged"]["id"] == stock.first["release"]


@ANY_PROCESSOR
def test_a_push_whose_link_is_cut_goes_on_where_it_stopped(
    board: Board, stock: Stock, user: User, through: Callable[[TcpProxy], list[str | Path]]
) -> None:
    whole = stock.first["push"]["sent_bytes"]
    with TcpProxy(("127.0.0.1", board.port), cut_after=whole * 2 // 3) as proxy:
        error = user.fail(3, "push", stock.colours, *through(proxy))
    assert error["type"] == "LinkLost"
    assert_nothing_half_done(board, user)
    assert incoming(board) > whole // 3
    assert_finishes(board, stock, user, resumed=True)
    assert user.do("activate", board.name)["current"]["id"] == stock.first["release"]


@ANY_PROCESSOR
def test_ctrl_c_ends_a_push_at_once_and_leaves_nothing_half_done(
    board: Board, stock: Stock, user: User, through: Callable[[TcpProxy], list[str | Path]]
) -> None:
    with TcpProxy(("127.0.0.1", board.port), delay=0.02) as proxy:
        process = user.start("push", stock.colours, *through(proxy))
        deadline = time.monotonic() + 120
        while incoming(board) < MIB and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        done = answer(process)
    assert done.status == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert_nothing_half_done(board, user)
    assert incoming(board) >= MIB
    assert_finishes(board, stock, user, resumed=True)


@ANY_PROCESSOR
def test_two_pushes_at_once_end_in_one_good_release(board: Board, stock: Stock, user: User) -> None:
    both = at_once(user, board, stock.colours, stock.colours)
    for done in both:
        assert "Traceback" not in done.stderr
        assert done.status == 0 or (done.status, done.json["type"]) == (3, "Locked"), done.stderr
    assert 0 in [done.status for done in both]
    assert_finishes(board, stock, user, resumed=False)


@ANY_PROCESSOR
def test_two_models_pushed_at_once_are_both_there(board: Board, stock: Stock, user: User) -> None:
    stock.restore(board)
    for name in ("releases", "store"):  # the runtime stays, the models go
        for path in sorted((board.root / name).rglob("*"), reverse=True):
            if path.is_file() and (name == "releases" or path.stat().st_size < 20_000):
                path.unlink()
            elif path.is_dir():
                path.rmdir()
    (board.root / "state").unlink()
    both = at_once(user, board, stock.colours, stock.light)
    assert [done.status for done in both] == [0, 0], both
    names = {release["name"] for release in user.do("status", board.name)["releases"]}
    assert names == {"colours", "light"}


@ANY_PROCESSOR
def test_a_board_without_space_is_told_apart_before_anything_is_sent(board: Board, stock: Stock, user: User) -> None:
    board.put_root_on(board.small)
    error = user.fail(3, "push", stock.colours, board.name)
    assert error["type"] == "NoSpace"
    assert error["fields"]["needed"] + error["fields"]["reserve"] > error["fields"]["free"]
    assert error["fields"]["path"] == board.board_root
    assert "remove files" in error["hint"]
    left = board.sh(f"cd {shlex.quote(board.board_root)}/ && find store releases incoming -type f").split()
    assert [name for name in left if not name.endswith(".release")] == []
    assert user.do("status", board.name)["releases"] == []


@ANY_PROCESSOR
def test_a_target_that_cannot_be_written_is_said_to_be_one(board: Board, stock: Stock, user: User) -> None:
    board.put_root_on(board.readonly)
    error = user.fail(3, "push", stock.colours, board.name)
    assert error["type"] == "ReadOnlyTarget"
    assert board.board_root in error["message"]
    assert "read-write" in error["hint"]


@ANY_PROCESSOR
@pytest.mark.parametrize(
    ("what", "damage"),
    [
        ("truncated", lambda data: data[: len(data) // 2]),
        ("altered", lambda data: data[:-5000] + bytes([data[-5000] ^ 1]) + data[-4999:]),
        ("not-a-bundle", lambda data: b"PK\3\4" + data[4:]),
    ],
    ids=["truncated", "altered", "not-a-bundle"],
)
def test_a_damaged_bundle_is_refused_and_the_board_never_hears_of_it(
    board: Board, stock: Stock, user: User, tmp_path: Path, what: str, damage: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "damaged.ekb"
    file.write_bytes(damage(stock.light.read_bytes()))
    error = user.fail(2, "push", file, board.name)
    assert (error["type"], error["fields"]["what"]) == ("BundleError", what)
    assert str(file) in error["message"]
    assert not board.root.exists()


# A board's Python


def test_an_old_python_is_refused_before_anything_is_sent(board: Board, stock: Stock, user: User) -> None:
    board.set_old_python()
    error = user.fail(2, "push", stock.light, board.name)
    assert error["type"] == "BoardMismatch"
    (mismatch,) = error["fields"]["mismatches"]
    assert (mismatch["field"], mismatch["found"]) == ("python", OLD_PYTHON)
    assert not board.root.exists()


# The embedded board has this computer's tools, its Python among them, in its PATH.
WITHOUT_PYTHON = pytest.mark.parametrize("board", ["openssh", *EMULATED], indirect=True)


@WITHOUT_PYTHON
def test_a_missing_python_is_refused_before_anything_is_sent(board: Board, stock: Stock, user: User) -> None:
    board.set_python(None)
    error = user.fail(2, "push", stock.light, board.name)
    assert error["type"] == "BoardMismatch"
    assert error["fields"]["mismatches"][0]["found"] == "none"
    assert "install python3" in error["hint"]
    assert not board.root.exists()


@WITHOUT_PYTHON
def test_releases_can_be_switched_back_without_python_but_not_activated(
    stocked: Board, stock: Stock, user: User
) -> None:
    stocked.set_python(None)
    assert user.do("rollback", stocked.name)["current"]["id"] == stock.first["release"]
    error = user.fail(3, "activate", stocked.name, stock.second["release"])
    assert error["type"] == "PythonMissing"
    assert "install python3" in error["hint"]
    assert user.do("status", stocked.name)["current"]["id"] == stock.first["release"]


def test_a_python_that_has_become_too_old_activates_nothing(stocked: Board, stock: Stock, user: User) -> None:
    stocked.set_old_python()
    error = user.fail(3, "activate", stocked.name, user.do("rollback", stocked.name)["previous"]["id"])
    assert error["type"] == "PythonMissing"
    assert "3.7" in error["hint"]
    assert user.do("status", stocked.name)["current"]["id"] == stock.first["release"]
