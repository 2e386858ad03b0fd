"""`deploy` to several boards: beneath the table stands what has to be known of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from edgekit_runtime import benchreport

from edgekit.board import BoardRelease, FirstBoot, PushResult, Status, local
from edgekit.cli import fleet
from edgekit.deployment import Deployment
from edgekit.fleet import Outcome

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
