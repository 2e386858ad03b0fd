"""`edgekit deploy`: one command from a model to a measured release, and nothing of it left lying about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.profiles.profile import ABIS
from tests.deploy.boards import Board
from tests.deploy.conftest import Models, Stock
from tests.deploy.kit import User


def test_a_first_deployment_sends_everything_activates_and_measures(board: Board, stock: Stock) -> None:
    done = stock.first
    assert done["board"] == board.name
    assert done["push"]["sent_bytes"] > board.runtime_size  # the interpreter comes along
    assert done["push"]["reused_files"] == done["push"]["resumed_bytes"] == 0
    assert done["status"]["state"] == "COMMITTED"
    assert done["status"]["current"] == {"id": done["release"], "name": "colours"}
    assert done["status"]["previous"] is None
    assert done["bench"]["release"] == done["release"]
    assert done["bench"]["model_sha256"] == done["conversion"]["model_sha256"]
    assert done["float_bench"]["model_sha256"] != done["bench"]["model_sha256"]
    assert done["validation"]["top1_agreement"] >= 0.9
    for made in ("model", "bundle", "report"):
        assert Path(done[made]).stat().st_size > 0


def test_times_of_an_emulated_board_are_called_invalid_and_others_are_not(board: Board, stock: Stock) -> None:
    for report in (stock.first["bench"], stock.first["float_bench"]):
        assert report["environment"]["emulated"] is board.emulated
        assert any("emulated" in reason for reason in report["validity"]["reasons"]) is board.emulated
        if board.emulated:
            assert report["validity"]["valid"] is False


def test_deploying_the_same_again_makes_the_same_release_and_sends_nothing(board: Board, stock: Stock) -> None:
    assert stock.again["release"] == stock.first["release"]
    assert Path(stock.again["bundle"]).read_bytes() == stock.colours.read_bytes()
    sent = stock.again["push"]
    assert sent["sent_files"] == sent["sent_bytes"] == 0
    assert sent["reused_bytes"] == stock.first["push"]["sent_bytes"]
    assert stock.again["status"]["current"] == stock.first["status"]["current"]
    assert stock.again["status"]["previous"] is None


def test_a_second_model_sends_only_what_is_new_and_keeps_the_first_to_go_back_to(board: Board, stock: Stock) -> None:
    sent = stock.second["push"]
    assert 0 < sent["sent_bytes"] < 100_000
    assert sent["reused_bytes"] > board.runtime_size
    assert stock.second["status"]["current"]["name"] == "light"
    assert stock.second["status"]["previous"] == stock.first["status"]["current"]


def test_nothing_but_the_releases_is_left(stocked: Board, stock: Stock, user: User) -> None:
    assert stocked.parts() == []
    assert stocked.processes() == []
    ids = {stock.first["release"], stock.second["release"]}
    assert {path.name for path in (stocked.root / "releases").iterdir()} == ids
    found = user.do("status", stocked.name)
    assert {release["id"] for release in found["releases"]} == ids
    assert found["locked"] is None


def test_nothing_is_installed_there(board: Board, stock: Stock) -> None:
    before, after = stock.packages
    assert before == after


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ({"python": "3.9"}, "3.9"),
        ({"architecture": "another", "abi": "another"}, "another"),
        ({"glibc": "2.99"}, "2.99 or newer"),
    ],
    ids=["python", "architecture", "glibc"],
)
def test_a_board_that_is_not_the_profile_s_is_refused_before_anything_is_converted(
    board: Board, models: Models, user: User, tmp_path: Path, facts: dict[str, str], wanted: str
) -> None:
    key = next(iter(facts))
    right = user.do("profiles", "show", board.profile)
    if key == "architecture":
        wanted = next(name for name in ABIS if name != right["architecture"])
        facts = {"architecture": wanted, "abi": ABIS[wanted]}
    file = tmp_path / "wrong.toml"
    lines = (right | {"name": "wrong"} | facts).items()
    file.write_text("".join(f"{name} = {json.dumps(fact)}\n" for name, fact in lines if fact is not None))
    words = [*models.options("colours"), "-p", file, "-o", tmp_path / "out"]
    error = user.fail(2, "deploy", models.folder / "colours.keras", board.name, *words)
    assert error["type"] == "BoardMismatch"
    (mismatch,) = error["fields"]["mismatches"]
    assert (mismatch["field"], mismatch["wanted"]) == (key, wanted)
    assert mismatch["found"].startswith(right[key])
    rows = [line.split() for line in error["talk"].splitlines()]
    assert ["profile", "wrong", board.name] in rows
    assert [key, *wanted.split(), mismatch["found"]] in rows
    assert "profiles list" in error["hint"]
    assert not (tmp_path / "out").exists()
    assert not board.root.exists()
