"""`edgekit profiles`: found in the search path, shown, and checked strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.profiles.profile import packaged
from tests.cli.program import Program

NAMES = sorted(path.stem for path in packaged().glob("*.toml"))


@pytest.fixture
def mine(edgekit: Program, repository: Path) -> Path:
    """A profile of the user's own, in the folder `mine`."""
    folder = edgekit.cwd / "mine"
    folder.mkdir()
    text = (repository / "device_profiles/raspberry-pi-4b.toml").read_text("utf-8")
    file = folder / "rover.toml"
    file.write_text(text.replace('name = "raspberry-pi-4b"', 'name = "rover"'), "utf-8")
    return file


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


class TestList:
    def test_those_that_come_with_edgekit(self, edgekit: Program) -> None:
        ended = edgekit("profiles", "list")
        assert all(name in ended.out for name in NAMES)
        assert ended.err == "next: edgekit profiles show PROFILE\n"

    def test_as_json_with_the_file_of_each(self, edgekit: Program) -> None:
        ended = edgekit("profiles", "list", "--json")
        assert [item["name"] for item in ended.data] == NAMES
        assert all(Path(item["path"]).is_file() for item in ended.data)
        assert ended.err == ""

    def test_the_search_path(self, edgekit: Program, mine: Path, tmp_path: Path) -> None:
        def place(folder: Path, description: str) -> Path:
            folder.mkdir(parents=True, exist_ok=True)
            text = mine.read_text("utf-8").replace("Raspberry Pi 4 Model B, Raspberry Pi OS", f"{description}:")
            (folder / "rover.toml").write_text(text, "utf-8")
            return folder

        def found(program: Program, *words: str | Path) -> str:
            return str(program("profiles", "show", "rover", "--json", *words).data["description"].partition(":")[0])

        assert edgekit.fails("profiles", "show", "rover")["fields"]["profile"] == "rover"
        place(Path(edgekit.environment["HOME"]) / ".config/edgekit/profiles", "the user's")
        assert found(edgekit) == "the user's"
        named = edgekit.with_(EDGEKIT_PROFILES=f"/nowhere:{place(tmp_path / 'named', 'of the environment')}")
        assert found(named) == "of the environment"
        given = place(tmp_path / "given", "of the option")
        assert found(named, "--profiles", given) == "of the option"
        assert found(named, "--profiles", place(tmp_path / "other", "first"), "--profiles", given) == "first"


class TestShow:
    def test_every_fact(self, edgekit: Program) -> None:
        ended = edgekit("profiles", "show", "raspberry-pi-5")
        assert "4x cortex-a76" in ended.out
        assert edgekit("profiles", "show", "raspberry-pi-5", "--json").data["isa"] == ["neon", "dotprod"]

    def test_the_host_is_read_from_this_computer(self, edgekit: Program) -> None:
        shown = edgekit("profiles", "show", "host", "--json").data
        assert shown["cores"] >= shown["num_threads"] >= 1
        assert [key for key, value in shown.items() if value == "host"] == ["name"]

    def test_an_unknown_name_and_the_nearest(self, edgekit: Program) -> None:
        told = edgekit.fails("profiles", "show", "raspbery-pi-5")
        assert told["message"] == "unknown profile 'raspbery-pi-5'"
        assert told["hint"] == "did you mean 'raspberry-pi-5'?"

    def test_a_file(self, edgekit: Program, mine: Path) -> None:
        assert edgekit("profiles", "show", mine, "--json").data["name"] == "rover"


class TestCheck:
    def test_good(self, edgekit: Program, mine: Path) -> None:
        ended = edgekit("profiles", "check", mine)
        assert ended.out.startswith(f"{mine}: good (ai-edge-litert 2.3.0, numpy ")
        assert edgekit("profiles", "check", mine, "--json").data["profile"] == "rover"

    @pytest.mark.parametrize(
        ("old", "new", "message", "hint"),
        [
            ("\ncores = 4", "\ncors = 4", "unknown key 'cors'", "did you mean 'cores'?"),
            ("\ncores = 4", "", "missing key 'cores'", "add 'cores'"),
            ("\ncores = 4", '\ncores = "4"', "cores: expected a whole number, got text", None),
            ("\ncores = 4", "\ncores = 0", "cores 0 is not above 0", None),
            ("\ncores = 4", "\ncores = ", "not valid TOML", None),
            ('name = "rover"', 'name = "tank"', "the profile is named 'tank', the file 'rover'", "rename"),
            ('architecture = "aarch64"', 'architecture = "mips"', "architecture 'mips' is not one of aarch64", None),
        ],
        ids=["unknown key", "missing key", "type", "value", "syntax", "name", "choice"],
    )
    def test_bad(self, old: str, new: str, message: str, hint: str | None, edgekit: Program, mine: Path) -> None:
        change(mine, old, new)
        told = edgekit.fails("profiles", "check", mine)
        assert told["message"].startswith(f"{mine}: ") or told["message"].startswith(f"{mine}.")
        assert message in told["message"]
        assert hint is None or hint in told["hint"]
        assert told["fields"]["where"].startswith(str(mine))

    def test_no_interpreter_for_the_board(self, edgekit: Program, mine: Path) -> None:
        change(mine, 'python = "3.11"', 'python = "3.6"')
        told = edgekit.fails("profiles", "check", mine)
        assert "profile 'rover'" in told["message"]
        assert told["hint"]

    def test_no_file(self, edgekit: Program) -> None:
        assert "nowhere.toml: cannot read" in edgekit.fails("profiles", "check", "nowhere.toml")["message"]
