"""`dir:FOLDER`: the command line on a mounted card of another architecture. Its first boot is in test_machine.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import card
from tests.board_fixture import start_board
from tests.card import UID, Card
from tests.deploy.boards import EMULATED
from tests.deploy.conftest import Models
from tests.deploy.kit import User

KINDS = [pytest.param(kind, marks=pytest.mark.emulated) for kind in ("arm64", "armv7")]


@pytest.fixture(params=KINDS)
def sd(request: pytest.FixtureRequest) -> Iterator[Card]:
    with card.over(start_board(request.param).root) as found:
        yield found


@pytest.fixture
def profile(request: pytest.FixtureRequest) -> str:
    """That of the board that the card is for."""
    return EMULATED[request.node.callspec.params["sd"]].profile


def test_a_deployment_is_left_to_the_first_boot_and_each_order_says_so(
    sd: Card, profile: str, models: Models, user: User, tmp_path: Path
) -> None:
    output = tmp_path / "out"

    def words(name: str) -> list[str | Path]:
        return ["deploy", models.folder / f"{name}.keras", sd.name, "-p", profile, "-o", output, *models.options(name)]

    first = user.do(*words("colours"))
    pending = {"id": first["release"], "name": "colours"}
    assert (first["status"]["state"], first["status"]["pending"]) == ("STAGED", pending)
    assert first["status"]["current"] is first["bench"] is first["float_bench"] is None
    assert first["push"]["sending"] == "copy"
    assert "Not measured" in Path(first["report"]).read_text("utf-8")
    for path in (sd.root, *sd.root.rglob("*")):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (UID, UID)

    talk = user.run(*words("light"))
    assert talk.status == 0, talk.stderr
    assert "not measured: nothing of the board runs here" in talk.stdout
    assert "the next boot checks" in talk.words
    # These userlands have no systemd: whoever made them has to call it.
    assert "has no systemd" in talk.words
    assert "sh /home/pi/.local/share/edgekit/bin/edgekit-board boot" in talk.words
    assert f"next: umount {sd.folder}" in talk.words

    found = user.do("status", sd.name)
    assert found["pending"]["name"] == "light"
    again = user.do("push", first["bundle"], sd.name)
    assert (again["sent_bytes"], again["reused_bytes"]) == (0, first["push"]["sent_bytes"])
    assert user.do("activate", sd.name, first["release"][:12])["pending"] == pending
    talk = user.run("rollback", sd.name)
    assert talk.status == 0, talk.stderr
    assert "(colours) is taken back: the next boot leaves it alone; none is current" in talk.words
    assert user.fail(1, "rollback", sd.name)["type"] == "NoPreviousRelease"


def test_what_needs_a_running_board_is_refused_with_the_way_to_get_it(sd: Card, user: User, tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    for order in (["run", sd.name, tmp_path / "x.png"], ["bench", sd.name], ["probe", sd.name]):
        error = user.fail(2, *order)
        assert error["type"] == "NotRunning"
        assert "by its SSH address" in error["hint"]
    for order in (["trust", sd.name], ["trust", "--install-key", sd.name]):
        assert "no key to trust" in user.fail(2, *order)["message"]
    assert not sd.root.exists()


def test_a_card_of_another_kind_is_refused_before_anything_is_converted(
    sd: Card, profile: str, models: Models, user: User, tmp_path: Path
) -> None:
    other = next(shown.profile for shown in EMULATED.values() if shown.profile != profile)
    model, output = models.folder / "colours.keras", tmp_path / "out"
    error = user.fail(2, "deploy", model, sd.name, "-p", other, "-o", output, *models.options("colours"))
    assert error["type"] == "BoardMismatch"
    assert "architecture" in {item["field"] for item in error["fields"]["mismatches"]}
    assert "probe" not in error["hint"]
    assert not output.exists()
    assert not sd.root.exists()
