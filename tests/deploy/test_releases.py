"""activate, status and rollback: which release answers, and what a release that fails its check changes: nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy import altered
from tests.deploy.boards import Board
from tests.deploy.conftest import Models, Stock
from tests.deploy.kit import User


def best(user: User, board: Board, *pictures: Path) -> list[str]:
    """The best class of each picture, as the board's current release sees it."""
    return [item["classes"][0]["label"] for item in user.do("run", board.name, *pictures)]


def test_answers_come_from_the_current_release_forward_and_back(
    stocked: Board, stock: Stock, models: Models, user: User
) -> None:
    red, snow = models.folder / "red.png", models.folder / "snow.png"
    colours, light = stock.first["release"], stock.second["release"]
    assert best(user, stocked, red, snow) == ["dark", "bright"]

    back = user.do("rollback", stocked.name)
    assert (back["state"], back["current"]["id"], back["previous"]["id"]) == ("ROLLED_BACK", colours, light)
    assert best(user, stocked, red, models.folder / "blue.png") == ["red", "blue"]

    forward = user.do("activate", stocked.name, light[:12])
    assert (forward["state"], forward["current"]["id"], forward["previous"]["id"]) == ("COMMITTED", light, colours)
    assert user.do("status", stocked.name)["releases"] == forward["releases"]
    assert best(user, stocked, red, snow) == ["dark", "bright"]


def test_status_for_a_person_names_each_release_and_its_part(stocked: Board, stock: Stock, user: User) -> None:
    answer = user.run("status", stocked.name)
    assert answer.status == 0
    rows = [line.replace("│", " ").split() for line in answer.stdout.splitlines()]
    assert [stock.second["release"][:12], "light", "current"] in rows
    assert [stock.first["release"][:12], "colours", "previous"] in rows


def test_there_is_nothing_to_go_back_to_on_an_empty_board(board: Board, user: User) -> None:
    error = user.fail(1, "rollback", board.name)
    assert error["type"] == "NoPreviousRelease"
    assert "activate" in error["hint"]
    assert not board.root.exists()


def test_there_is_nothing_to_go_back_to_after_the_first_release(board: Board, stock: Stock, user: User) -> None:
    stock.restore(board)
    state = board.root / "state"
    previous = f"previous {stock.first['release']}"
    assert previous in state.read_text()
    state.write_text(state.read_text().replace(previous, "previous -"))
    error = user.fail(1, "rollback", board.name)
    assert error["type"] == "NoPreviousRelease"
    assert user.do("status", board.name)["current"]["id"] == stock.second["release"]


def test_a_release_that_is_not_there_cannot_be_activated(stocked: Board, stock: Stock, user: User) -> None:
    for word, kind in (("f" * 64, "UnknownRelease"), ("no such", "UserError")):
        error = user.fail(2, "activate", stocked.name, word)
        assert error["type"] == kind
    assert user.do("status", stocked.name)["current"]["id"] == stock.second["release"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (altered.golden_that_cannot_be_met, "much further from the float model"),
        (altered.runtime_that_dies, "did not pass its check"),
    ],
    ids=["wrong-answers", "crash"],
)
def test_a_release_that_fails_its_check_leaves_the_old_one_in_place(
    stocked: Board,
    stock: Stock,
    models: Models,
    user: User,
    tmp_path: Path,
    change: Callable[[dict[str, bytes]], None],
    reason: str,
) -> None:
    wrong = altered.alter(stock.colours, tmp_path / "wrong.ekb", change)
    assert user.do("push", tmp_path / "wrong.ekb", stocked.name)["release_id"] == wrong
    error = user.fail(1, "activate", stocked.name, wrong)
    assert error["type"] == "CheckRejected"
    assert reason in error["message"]
    assert "keeps" in error["hint"]

    found = user.do("status", stocked.name)
    assert found["state"] == "ROLLED_BACK"
    assert found["current"]["id"] == stock.second["release"]
    assert found["previous"]["id"] == stock.first["release"]
    assert found["trial"] is None
    assert best(user, stocked, models.folder / "snow.png") == ["bright"]
