"""A mounted card as a BOARD: what its user is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import card, releases
from tests.card import Card
from tests.cli.program import Program


@pytest.fixture
def sd() -> Iterator[Card]:
    with card.open_folder() as folder:
        yield card.fill(folder)


def test_a_rollback_takes_back_what_was_left_to_the_next_boot(edgekit: Program, sd: Card, tmp_path: Path) -> None:
    one = releases.make(tmp_path, "one")
    edgekit("push", tmp_path / "one.ekb", sd.name)
    assert edgekit("activate", sd.name, "--json").data["pending"]["id"] == one.release.id

    told = edgekit("rollback", sd.name).err
    assert f"{one.release.id[:12]} (trees) is taken back: the next boot leaves it alone; none is current" in told
    assert "edgekit activate" not in told
    found = edgekit("status", sd.name, "--json").data
    assert (found["state"], found["pending"], found["staged"]["id"]) == ("ROLLED_BACK", None, one.release.id)
    assert edgekit.fails("rollback", sd.name, code=1)["type"] == "NoPreviousRelease"
