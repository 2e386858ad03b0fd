"""A whole board: what only its own boot shows, and its own power when that goes."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import card
from tests.board_fixture import BoardInfo, parse_info, run_board
from tests.deploy import altered
from tests.deploy.boards import own_numpy
from tests.deploy.conftest import Models
from tests.deploy.kit import NOTES, User

pytestmark = pytest.mark.emulated("vm")
_SECONDS = 300


class Machine:
    """A board with a disk of its own, for `user`: switched on, off, and robbed of its power."""

    def __init__(self, state: Path, user: User) -> None:
        self.state = state
        self.user = user
        self.info: BoardInfo | None = None

    def up(self) -> BoardInfo:
        done = run_board("up", "vm", "--state", self.state, "--max-minutes", "30", "--json")
        if done.returncode == 2:
            pytest.skip(f"no emulated board here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        self.info = parse_info(done.stdout)
        NOTES.append(("board", ("vm", self.info.name)))
        return self.info

    def stop(self, verb: str) -> None:
        """`down` or `cut`."""
        done = run_board(verb, "vm", "--state", self.state)
        assert done.returncode == 0, done.stderr

    def do(self, command: str, *arguments: str | Path) -> Any:
        return self.user.do(command, *self._words(command, *arguments))

    def start(self, command: str, *arguments: str | Path) -> subprocess.Popen[str]:
        return self.user.start(command, *self._words(command, *arguments))

    def _words(self, command: str, *arguments: str | Path) -> list[str | Path]:
        assert self.info is not None
        first = arguments[:1] if command == "push" else ()
        return [*first, self.info.name, *arguments[len(first) :], "--ssh-config", self.info.ssh_config]

    def wait(self, condition: Callable[[Any], bool]) -> Any:
        """The board's status, as soon as it is so."""
        deadline = time.monotonic() + _SECONDS
        while not condition(status := self.do("status")):
            assert time.monotonic() < deadline, status
            time.sleep(0.5)
        return status

    @contextmanager
    def card(self) -> Iterator[str]:
        """Its disk in this computer's reader, mounted as edgekit itself says: `dir:FOLDER`."""
        assert self.info is not None
        told = self.user.fail(2, "status", f"dir:{self.info.image}")["fields"]
        with card.open_folder() as folder:
            words = [word.replace("/mnt/card", str(folder)) for word in told["before"][-1].split()]
            subprocess.run(words, check=True)
            try:
                yield f"dir:{folder}"
            finally:
                subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="edgekit-machine-") as folder:
        found = Machine(Path(folder), User(tmp_path_factory.mktemp("owner")))
        try:
            yield found
        finally:
            run_board("cut", "vm", "--state", found.state)


@pytest.fixture(scope="module")
def bundles(models: Models, user: User, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good release, another one, one that fails its check, and one whose check takes its time."""
    folder = tmp_path_factory.mktemp("machine-bundles")
    profile = own_numpy("vm", folder)
    found = {}
    for name in ("colours", "light"):
        model, found[name] = folder / f"{name}.tflite", folder / f"{name}.ekb"
        user.do("convert", models.folder / f"{name}.keras", "-p", profile, "-o", model, *models.options(name))
        user.do("bundle", model, "-p", profile, "-o", found[name])
    for name, change in (("wrong", altered.golden_that_cannot_be_met), ("slow", altered.check_that_takes_its_time)):
        found[name] = folder / f"{name}.ekb"
        altered.alter(found["colours"], found[name], change)
    return found


def test_a_power_cut_takes_nothing_that_was_answered_for_and_a_push_goes_on(
    machine: Machine, bundles: dict[str, Path]
) -> None:
    board = machine.up()
    push = machine.start("push", bundles["colours"])
    deadline = time.monotonic() + _SECONDS
    arriving = "cat ~/.local/share/edgekit/incoming/* ~/.local/share/edgekit/store/*/* 2>/dev/null | wc -c"
    while int(board.ssh(arriving).stdout or 0) < 1_000_000:
        assert time.monotonic() < deadline
        assert push.poll() is None, push.communicate()
    machine.stop("cut")
    _, stderr = push.communicate(timeout=_SECONDS)
    assert push.returncode == 3, stderr

    machine.up()
    assert machine.do("status")["current"] is None
    pushed = machine.do("push", bundles["colours"])
    activated = machine.do("activate")
    machine.stop("cut")  # at once: what was said to be committed must be on the disk
    assert activated["state"] == "COMMITTED"
    with machine.card() as sd:
        found = machine.user.do("status", sd)
    assert (found["state"], found["current"]["id"]) == ("COMMITTED", pushed["release_id"])


def test_the_first_boot_activates_what_was_left_to_it_or_keeps_what_there_was(
    machine: Machine, bundles: dict[str, Path], models: Models
) -> None:
    if machine.info is None:
        machine.up()
        machine.stop("cut")

    def leave_to_the_boot(name: str) -> Any:
        with machine.card() as sd:
            release: str = machine.user.do("push", bundles[name], sd)["release_id"]
            left = machine.user.do("activate", sd)
        assert left["pending"]["id"] == release
        assert left["first_boot"]["unit"] == "edgekit-boot.service"
        return left

    left = leave_to_the_boot("light")
    board = machine.up()
    found = machine.wait(lambda status: status["pending"] is None)
    assert (found["state"], found["current"], found["starts"]) == ("COMMITTED", left["pending"], 0)
    assert found["previous"] == left["current"]
    answer = machine.do("run", models.folder / "snow.png")
    assert answer[0]["classes"][0]["label"] == "bright"
    assert board.ssh("systemctl is-system-running").stdout.strip() == "running"
    machine.stop("cut")

    good = left["pending"]
    leave_to_the_boot("wrong")
    board = machine.up()
    found = machine.wait(lambda status: status["pending"] is None)
    assert (found["state"], found["current"]) == ("ROLLED_BACK", good)
    failed = board.ssh("sudo journalctl --unit edgekit-boot.service --output cat")
    assert "check failed" in failed.stdout or "did not pass" in failed.stdout, failed
    machine.stop("cut")

    left = leave_to_the_boot("slow")
    machine.up()
    found = machine.wait(lambda status: status["state"] == "CANARY")
    assert found["current"] == good
    machine.stop("cut")
    machine.up()
    found = machine.wait(lambda status: status["pending"] is None)
    assert (found["state"], found["current"], found["previous"]) == ("COMMITTED", left["pending"], good)

    machine.stop("cut")
    with machine.card() as sd:
        back = machine.user.do("rollback", sd)
    assert (back["current"], back["previous"]) == (good, left["pending"])
