"""`edgekit deploy` with several boards: converted once, delivered side by side, and each board's result is its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.boards import Board
from tests.deploy.conftest import Models
from tests.deploy.kit import User, answer
from tests.ssh_fixture import free_port
from tests.tcp_proxy import TcpProxy


@pytest.fixture
def pair(board_of: Callable[[str], Board]) -> tuple[Board, Board]:
    """Two empty boards of one profile."""
    both = board_of("embedded"), board_of("openssh")
    for board in both:
        board.reset()
    return both


def words(models: Models, output: Path) -> list[str | Path]:
    return ["-p", "host", "-o", output, *models.options("colours")]


def test_good_boards_get_their_release_whatever_happens_to_the_others(
    pair: tuple[Board, Board], models: Models, user: User, tmp_path: Path
) -> None:
    model, closed = models.folder / "colours.keras", f"pi@127.0.0.1:{free_port()}"
    names = [pair[0].name, closed, pair[1].name, pair[0].name]
    done = user.run("deploy", model, *names, *words(models, tmp_path / "out"), "--json")
    assert done.status == 3, done.stderr
    first, failed, second = done.json["boards"]
    assert [item["board"] for item in (first, failed, second)] == names[:3]
    assert set(failed) == {"board", "error"}
    assert (failed["error"]["type"], failed["error"]["error"]) == ("Unreachable", "device")
    assert first["release"] == second["release"]
    for item, board in zip((first, second), pair, strict=True):
        assert item["error"] is None
        assert user.do("status", board.name)["current"]["id"] == item["release"]
        assert item["bench"]["release"] == item["release"]
        assert board.name in Path(item["report"]).read_text("utf-8")
    assert first["report"] != second["report"]
    begun = [line for line in done.stderr.splitlines() if line.startswith((pair[0].name, pair[1].name))]
    for board in pair:
        assert [line for line in begun if line.startswith(board.name)] == [
            f"{board.name}: {stage}" for stage in ("push", "check and activate", "measure")
        ]


def test_a_person_reads_one_table_and_every_reason(
    pair: tuple[Board, Board], models: Models, user: User, tmp_path: Path
) -> None:
    wrong = f"pi@127.0.0.1:{free_port()}"
    model = models.folder / "colours.keras"
    done = user.run("deploy", model, pair[0].name, wrong, *words(models, tmp_path / "out"))
    assert done.status == 3
    rows = {
        row[1]: row for row in (line.replace("│", " | ").split() for line in done.stdout.splitlines()) if len(row) > 3
    }
    assert "done" in rows[pair[0].name]
    assert "failed" in rows[wrong]
    assert "error: " in done.stderr
    assert "refuses the connection" in done.words
    assert done.words.count("hint: ") == 1


def test_when_no_board_can_be_reached_nothing_is_converted(models: Models, user: User, tmp_path: Path) -> None:
    names = [f"pi@127.0.0.1:{free_port()}" for _ in range(2)]
    done = user.run("deploy", models.folder / "colours.keras", *names, *words(models, tmp_path / "out"), "--json")
    assert done.status == 3
    assert [item["error"]["type"] for item in done.json["boards"]] == ["Unreachable", "Unreachable"]
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_every_board_s_part_and_leaves_nothing_half_done(
    pair: tuple[Board, Board], models: Models, user: User, tmp_path: Path
) -> None:
    slow = pair[1]
    config = tmp_path / "config"
    with TcpProxy(("127.0.0.1", slow.port), delay=0.01) as proxy:
        block = slow.host_block.replace(f"Port {slow.port}", f"Port {proxy.port}")
        config.write_text(f"{block}  HostKeyAlias [127.0.0.1]:{slow.port}\n")
        boards: list[str | Path] = [pair[0].name, slow.alias, "--ssh-config", config]
        process = user.start("deploy", models.folder / "colours.keras", *boards, *words(models, tmp_path / "out"))
        deadline = time.monotonic() + 240
        while not any((slow.root / "incoming").glob("*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        done = answer(process)
    assert done.status == 130, done.stderr
    assert "not done: " in done.words
    assert done.words.endswith(f"{slow.alias} interrupted")
    assert "Traceback" not in done.stderr
    slow.wait_until_idle()
    assert user.do("status", slow.name)["current"] is None
