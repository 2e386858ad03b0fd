"""`deploy` to several boards: beneath the table stands what has to be known of each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from edgekit_runtime import benchreport

from edgekit.board import BoardRelease, FirstBoot, PushResult, Status, local
from edgekit.cli import fleet
from edgekit.cli.boards import show_push
from edgekit.deployment import Deployment
from edgekit.fleet import Outcome
from edgekit.profiles import profile

ID = "0" * 64
BOOT = "sh /home/pi/.local/share/edgekit/bin/edgekit-board boot"


def test_each_board_s_notes_bear_its_name(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = local.bench(repository / "tests/fixtures/models/classifier_int8.tflite", ["--num-runs", "3"])
    report = replace(real, validity=benchreport.Validity(False, ("too hot",), ("the governor is powersave",)))
    release = BoardRelease(ID, "m")
    push = PushResult(ID, "m", 0, 0, 0, 0, 0, 0.0)
    current = Status("COMMITTED", release, None, None, None, 0, 0, (release,), 0, 0)
    pending = replace(current, state="STAGED", current=None, staged=release, pending=release)
    planned = FirstBoot("/mnt/card", "pi", 1000, "/home/pi/.local/share/edgekit", None, BOOT)

    noisy = Deployment("rock", ID, None, None, replace(push, sending="cat", noise="Hi"), current, None, None)  # type: ignore[arg-type]  # not shown
    live = Deployment("pi", ID, None, None, replace(push, sending="cat"), current, report, report)  # type: ignore[arg-type]  # not shown
    card = Deployment("dir:/mnt/card", ID, None, None, push, pending, None, None, planned)  # type: ignore[arg-type]  # not shown
    page = Path("report.html")
    done = (live, noisy, card)
    fleet.show_boards([Outcome(item.board, item) for item in done], {item.board: page for item in done})

    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == "pi: times are not valid: too hot"
    assert told.err.splitlines() == [
        "pi has no SFTP, so files went through its cat; they are hashed on the board all the same",
        "warning: pi: the governor is powersave",
        'rock: a start-up file of its login shell (such as ~/.bashrc) prints "Hi", which spoils SFTP, so files go '
        "through its cat; it must print nothing where the shell is not interactive",
        "dir:/mnt/card: the next boot checks 000000000000 and, if it passes, makes it current (the system, as pi); "
        "until then the board keeps what it has",
        f"warning: dir:/mnt/card has no systemd, so nothing does that yet: at each boot run, as pi: {BOOT}",
        "next: edgekit status dir:/mnt/card",
    ]


def test_an_interrupt_says_which_boards_are_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = threading.Event()

    @contextmanager
    def opened(name: str, *_: object) -> Iterator[Any]:
        yield SimpleNamespace(name=name)

    def deliver(_prepared: object, target: Any, **_: object) -> object:
        if target.name == "pi":
            first.set()
            return object()
        assert first.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(fleet, "opened", opened)
    monkeypatch.setattr("edgekit.board.facts", lambda _: SimpleNamespace(numpy=None))
    monkeypatch.setattr("edgekit.board.require_match", lambda *_: None)
    monkeypatch.setattr("edgekit.deployment.deliver", deliver)
    prepared: Any = object()
    with pytest.raises(KeyboardInterrupt):
        fleet.deploy(["pi", "rock", "pi"], profile.find("host"), lambda *_: prepared, config=None, jobs=2)
    assert capsys.readouterr().err.splitlines()[-1] == "done: pi; not done: rock"


def test_a_numpy_that_the_board_need_not_have_been_sent_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    sent = PushResult(ID, "m", 9, 57_400_000, 0, 0, 0, 1.0, "sftp")
    show_push("pi", sent)
    assert capsys.readouterr().err == ""
    show_push("pi", replace(sent, spare_bytes=39_100_000))
    assert capsys.readouterr().err.startswith("39.1 MB of that are a NumPy, and pi has one that fits: ")
