"""What long work says while it goes on."""

from __future__ import annotations

import pytest

from edgekit.cli import show


def test_where_there_is_no_terminal_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with show.progress() as short:
        short("calibrate", 1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(show, "SILENCE", 0.0)
    with show.progress() as long:
        long("repair", 3, 8)
    assert capsys.readouterr() == ("", "repair: 3 of 8\n")
