"""`edgekit profiles`: found in the search path, shown, and checked strictly. `edgekit fetch`: what they need, kept."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from edgekit.profiles import profile
from edgekit.profiles.profile import packaged
from edgekit.runtimes import here, resolve, wheelhouse
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

    def test_a_numpy_of_the_board_that_the_interpreter_does_not_take(self, edgekit: Program, mine: Path) -> None:
        for old, new in (
            ('runtime = "ai-edge-litert"', 'runtime = "tflite-runtime"'),
            ('runtime_version = "2.3.0"', 'runtime_version = "2.14.0"'),
            ('numpy = "auto"', 'numpy = "board"\nnumpy_version = "2.1.0"'),
        ):
            change(mine, old, new)
        (edgekit.cwd / "data").mkdir()
        convert: list[str | Path] = ["convert", "m.keras", "-p", mine, "-c", "data", "-o", "m.tflite"]
        for words in (["profiles", "check", mine], convert):
            told = edgekit.fails(*words)
            assert "takes NumPy >=1.23.2,<2 and numpy_version says that the board's own is 2.1.0" in told["message"]
            assert 'say numpy = "auto"' in told["hint"]

    def test_no_interpreter_for_the_board(self, edgekit: Program, mine: Path) -> None:
        change(mine, 'python = "3.11"', 'python = "3.6"')
        told = edgekit.fails("profiles", "check", mine)
        assert "profile 'rover'" in told["message"]
        assert told["hint"]

    def test_no_file(self, edgekit: Program) -> None:
        assert "nowhere.toml: cannot read" in edgekit.fails("profiles", "check", "nowhere.toml")["message"]


BOARDS = ("generic-aarch64", "generic-armv7")


class TestFetch:
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Path:
        """All wheels of BOARDS, and of their interpreters here, in a folder: pip finds them there, not in an index."""
        shelf = tmp_path / "shelf"
        shelf.mkdir()
        boards = [profile.find(name) for name in BOARDS]
        for board in boards + [here.stand_in(board)[0] for board in boards if not here.is_own(board)]:
            for wheel in resolve.choose(board):
                root = wheelhouse.cache_root()
                where = (board.python, board.architecture)
                shutil.copy(wheelhouse.obtain(wheel, *where, root=root, offline=False, progress=None), shelf)
        return shelf

    @pytest.fixture
    def alone(self, edgekit: Program, shelf: Path) -> Program:
        """With an empty cache on a stick, and a pip that knows the shelf only."""
        only = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(shelf), "PIP_NO_INDEX": "1"}
        return edgekit.with_(EDGEKIT_CACHE=str(edgekit.cwd / "stick"), **only)

    def test_one_that_was_cut_goes_on_and_its_cache_may_be_copied(self, alone: Program, shelf: Path) -> None:
        stick, copy, later = alone.cwd / "stick", alone.cwd / "copy", alone.cwd / "later"
        later.mkdir()
        for path in [*shelf.glob("numpy*"), *shelf.glob("waitress*")]:
            path.rename(later / path.name)
        assert "numpy 2.2.6 for aarch64" in alone.fails("fetch", *BOARDS)["message"]
        kept = {path.name for path in stick.rglob("*.whl")}
        assert kept == {path.name for path in shelf.glob("ai_edge_litert*")}

        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent.settimeout(60)
            address = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
            process = alone.with_(PIP_NO_INDEX="", PIP_INDEX_URL=address).start("fetch", *BOARDS)
            with process, silent.accept()[0]:  # pip asks, and has no answer
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=60)
        assert process.returncode == 130
        assert {path.name for path in (stick / "wheels").rglob("*") if path.is_file()} == kept
        assert not list(stick.rglob(".*"))

        shelf.rename(alone.cwd / "gone")
        later.rename(shelf)
        for path in (alone.cwd / "gone").glob("tflite_runtime*"):
            shutil.copy(path, shelf)
        first = alone("fetch", *BOARDS, "--json").data
        shutil.rmtree(shelf)
        stick.rename(copy)
        copied = alone.with_(EDGEKIT_CACHE=str(copy))
        again = copied("fetch", *BOARDS, "--json")
        assert again.data == [{**board, "cache": str(copy)} for board in first]
        assert again.err == ""
        for board, row in zip(BOARDS, again.data, strict=True):
            tree = resolve.resolve(profile.find(board), cache=copy, offline=True)
            assert row["profile"] == board
            assert (row["bytes"], row["wheel_bytes"]) == (tree.total_size, tree.wheel_bytes)
            assert row["bytes"] == sum(file.path.stat().st_size for file in tree.files)

        told = copied("fetch", *BOARDS)
        assert "of wheels" in told.out
        total = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
        assert f"copy {copy}/wheels and {copy}/content ({total / 1e6:.1f} MB) into one folder" in told.err
        assert told.err.splitlines()[-2:] == [
            f"next: cp -r {copy}/wheels {copy}/content STICK",
            f"next: EDGEKIT_CACHE=STICK edgekit deploy MODEL BOARD -p {BOARDS[0]} -c DATA",
        ]

    def test_a_board_that_nothing_fits_is_told_before_anything_is_fetched(self, alone: Program, mine: Path) -> None:
        change(mine, 'python = "3.11"', 'python = "3.6"')
        told = alone.fails("fetch", BOARDS[0], mine)
        assert "profile 'rover'" in told["message"]
        assert not (alone.cwd / "stick").exists()
