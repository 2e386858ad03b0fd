"""`edgekit probe`: the profile of a live board, which that board then accepts."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.boards import Board
from tests.deploy.conftest import EMULATED, Models
from tests.deploy.kit import User


@pytest.fixture
def file(board: Board, user: User, tmp_path: Path) -> Path:
    """The board's profile as a probe wrote it."""
    made = tmp_path / "my-board.toml"
    user.do("probe", board.name, "-o", made)
    return made


def refusal(user: User, models: Models, board: Board, profile: Path, out: Path) -> Any:
    """How a deploy of a model that does not exist ends: first the board is compared with the profile."""
    words = [*models.options("colours"), "-p", profile, "-o", out]
    return user.fail(2, "deploy", models.folder / "nowhere.keras", board.name, *words)


def test_a_probe_writes_what_it_read_and_how_and_changes_nothing(board: Board, user: User, tmp_path: Path) -> None:
    file = tmp_path / "my-board.toml"
    looked = user.run("probe", board.name)
    assert (looked.status, "edgekit probe" in looked.stderr) == (0, True)
    found = user.do("probe", board.name, "-o", file)
    written = tomllib.loads(file.read_text())
    assert {key: value for key, value in found["profile"].items() if value is not None} == written
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines):
        assert line.startswith("#") or lines[number - 1].startswith("# "), line
    assert found["facts"]["emulated"] is board.emulated
    assert written["ssh_server"].startswith("SSH-2.0-")
    assert user.do("profiles", "check", file)["profile"] == "my-board"
    assert not board.root.exists()


ARM: dict[str, dict[str, Any]] = {
    "arm64": {
        "description": "Raspberry Pi 4 Model B Rev 1.4",
        "architecture": "aarch64",
        "clusters": ["4x cortex-a72"],
        "cores": 4,
        "thermal_zones": ["cpu-thermal"],
        "governor": "ondemand",
        "runtime": "ai-edge-litert",
        "sftp": True,
    },
    "armv7": {
        "description": "Raspberry Pi 3 Model B Plus Rev 1.3",
        "architecture": "armv7l",
        "clusters": ["4x cortex-a53"],
        "cores": 4,
        "thermal_zones": ["cpu-thermal"],
        "governor": "powersave",
        "runtime": "tflite-runtime",
        "sftp": False,
    },
    "vm": {
        "description": "linux,dummy-virt",
        "architecture": "aarch64",
        "clusters": ["2x cortex-a72"],
        "cores": 2,
        "thermal_zones": None,
        "governor": None,
        "runtime": "ai-edge-litert",
        "sftp": True,
    },
}


@pytest.mark.parametrize("board", EMULATED, indirect=True)
def test_an_arm_board_is_described_as_what_it_shows(board: Board, file: Path) -> None:
    made = tomllib.loads(file.read_text())
    assert {key: made.get(key) for key in ARM[board.kind]} == ARM[board.kind]
    assert (made["glibc"], made["python"], made["isa"]) == ("2.36", "3.11", ["neon"])
    assert (made["numpy"], made["numpy_version"]) == ("auto", "1.24.2")
    assert f"# /proc/cpuinfo, CPU implementer and CPU part: {made['cores']}x0x41:0xd0" in file.read_text()


def test_the_board_accepts_its_profile_and_one_that_counts_on_more_is_refused_with_a_table(
    board: Board, file: Path, models: Models, user: User, tmp_path: Path
) -> None:
    assert "nowhere.keras" in refusal(user, models, board, file, tmp_path / "first")["message"]

    cores = tomllib.loads(file.read_text())["cores"]
    wanted: dict[str, Any] = {"isa": ["neon", "amx"], "num_threads": 999, "cores": 999}
    more = file.with_name("more.toml")
    facts = tomllib.loads(file.read_text()) | wanted | {"name": "more"}
    more.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in facts.items()))
    error = refusal(user, models, board, more, tmp_path / "out")
    assert error["type"] == "BoardMismatch"
    assert [item["field"] for item in error["fields"]["mismatches"]] == ["isa", "num_threads"]
    rows = [line.split() for line in error["talk"].splitlines()]
    assert ["num_threads", "999", str(cores), "cores"] in rows
    assert f"edgekit probe {board.name} -o my-board.toml" in error["hint"]
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_there_stays_unless_forced(board: Board, file: Path, user: User) -> None:
    file.write_text("mine")
    assert "is there already" in user.fail(2, "probe", board.name, "-o", file)["message"]
    assert file.read_text() == "mine"
    user.do("probe", board.name, "-o", file, "--force")
    assert tomllib.loads(file.read_text())["name"] == "my-board"
    for name in ("board.txt", "My Board.toml"):
        assert "my-board.toml" in user.fail(2, "probe", board.name, "-o", file.with_name(name))["hint"]


def test_a_board_that_nothing_runs_on_is_shown_with_the_reason(board: Board, file: Path, user: User) -> None:
    board.set_python("#!/bin/sh\nexit 9\n")  # taking it away would leave another in some PATH
    there = file.with_name("none.toml")
    error = user.fail(1, "probe", board.name, "-o", there)
    assert (error["type"], error["fields"]["facts"]["python"]) == ("NothingFits", None)
    assert "python3" in error["message"]
    shown = user.run("probe", board.name)
    assert (shown.status, error["fields"]["facts"]["architecture"] in shown.stdout) == (1, True)
    assert not there.exists()
