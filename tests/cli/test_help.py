"""Help, versions and completion: everything is explained, and nothing heavy is loaded to say so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import edgekit as package
from edgekit.cli.main import app
from tests.cli.program import COMMAND, Program

# What --help must not import: seconds of time, and gigabytes of memory. (NumPy it does: the board's verbs need it.)
HEAVY = ("tensorflow", "keras", "paramiko", "ai_edge_litert", "PIL", "sklearn", "cryptography")


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that lead to it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*path, name))


COMMANDS = dict(walk(typer.main.get_command(app)))
LEAVES = {path: command for path, command in COMMANDS.items() if not hasattr(command, "commands")}


def test_the_verbs_are_there() -> None:
    verbs = {path[0] for path in LEAVES}
    assert verbs >= {"inspect", "fetch", "convert", "validate", "bundle", "trust", "push", "activate", "status"}
    assert verbs >= {"rollback", "deploy", "bench", "run", "demo", "embedded", "probe", "profiles"}
    assert {path for path in LEAVES if path[0] == "profiles"} == {
        ("profiles", "list"),
        ("profiles", "show"),
        ("profiles", "check"),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_option_and_argument_is_explained(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help
    for param in command.params:
        assert param.help, f"{' '.join(path)}: {param.name} has no help"
        assert param.help.endswith((".", ")")), f"{' '.join(path)}: {param.name}: a sentence ends with a full stop"


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_values_have_names_and_not_python_types(path: tuple[str, ...], edgekit: Program) -> None:
    for param in LEAVES[path].params:
        assert param.metavar or getattr(param, "is_flag", False), f"{param.name} has no metavar"
    shown = edgekit(*path, "--help").out
    assert "{" not in shown
    assert not re.search(r"<[a-z]+>", shown)


def test_commands_that_report_speak_json() -> None:
    silent = {path for path, command in LEAVES.items() if "json" not in {param.name for param in command.params}}
    assert silent == {("embedded",)}


def test_the_same_option_means_the_same_everywhere() -> None:
    spelt: dict[str, set[tuple[str, ...]]] = {}
    for command in LEAVES.values():
        for param in command.params:
            if param.param_type_name == "option":
                for name in param.opts:
                    spelt.setdefault(name, set()).add(tuple(sorted(param.opts)))
    # bench alone knows litert-benchmark's other spelling
    measuring = {"--output", "-o", "--num-threads", "--batch-size"}
    assert {name: ways for name, ways in spelt.items() if len(ways) > 1 and name not in measuring} == {}


@pytest.mark.parametrize("path", [(), ("deploy",), ("convert",), ("status",), ("profiles",), ("profiles", "list")])
def test_help_is_light(path: tuple[str, ...], edgekit: Program) -> None:
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['edgekit', *{list(path)!r}, '--help']\n"
        "try:\n    runpy.run_module('edgekit', run_name='__main__')\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=edgekit.cwd,
        env=edgekit.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Usage: edgekit" in done.stdout
    assert done.stderr == "[]\n"


def test_help_goes_to_standard_output_and_short_help_works(edgekit: Program) -> None:
    shown = edgekit("--help")
    assert (edgekit("-h").out, shown.err) == (shown.out, "")
    assert shown.out.index("Start here") < shown.out.index("Models") < shown.out.index("Boards")


def test_version(edgekit: Program) -> None:
    assert edgekit("--version").out == f"edgekit {package.__version__}\n"


def test_no_command_shows_the_help_and_is_a_mistake(edgekit: Program) -> None:
    assert "Usage: edgekit" in "".join(part for part in vars(edgekit(code=2)).values() if isinstance(part, str))


@pytest.mark.parametrize(
    "words", [("flash",), ("status",), ("convert", "--profil", "x"), ("bench", "b", "--num-runs", "0")]
)
def test_a_mistake_in_the_command_line_is_explained_on_standard_error(words: tuple[str, ...], edgekit: Program) -> None:
    ended = edgekit(*words, code=2)
    assert ended.out == ""
    assert "Usage: edgekit" in ended.err


def test_a_reader_that_leaves_early_is_no_bug(edgekit: Program) -> None:
    line = " ".join(COMMAND)
    done = subprocess.run(
        ["sh", "-c", f"{line} profiles list | head -n 1"],
        cwd=edgekit.cwd,
        env=edgekit.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in done.stderr


class TestCompletion:
    @pytest.mark.parametrize(
        ("shell", "mark"),
        [("bash", "complete -o default -F"), ("zsh", "compdef"), ("fish", "complete --command edgekit")],
    )
    def test_scripts_for_three_shells(self, shell: str, mark: str, edgekit: Program) -> None:
        script = edgekit.with_(_EDGEKIT_COMPLETE=f"source_{shell}")().out
        assert mark in script
        assert "_EDGEKIT_COMPLETE=complete_" in script

    def test_show_completion_finds_out_the_shell(self, edgekit: Program) -> None:
        done = subprocess.run(
            ["bash", "-c", f"{' '.join(COMMAND)} --show-completion; exit $?"],
            cwd=edgekit.cwd,
            env=edgekit.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "complete -o default -F _edgekit_completion edgekit" in done.stdout

    def offered(self, edgekit: Program, line: str) -> list[str]:
        """What bash would get for `line`, the cursor at its end."""
        cursor = str(len(line.split(" ")) - 1)
        return edgekit.with_(COMP_WORDS=line, COMP_CWORD=cursor, _EDGEKIT_COMPLETE="complete_bash")().out.split()

    def test_commands_and_options(self, edgekit: Program) -> None:
        assert self.offered(edgekit, "edgekit con") == ["convert"]
        assert sorted(self.offered(edgekit, "edgekit profiles ")) == ["check", "list", "show"]
        assert self.offered(edgekit, "edgekit convert --min-c") == ["--min-cosine"]
        assert self.offered(edgekit, "edgekit convert --color ") == ["BGR", "GRAY", "RGB"]

    @pytest.mark.parametrize("before", ["convert m -p", "deploy m b -p", "bundle m -p", "profiles show", "fetch"])
    def test_profiles_of_the_search_path(self, before: str, edgekit: Program) -> None:
        assert self.offered(edgekit, f"edgekit {before} rasp")[-2:] == ["raspberry-pi-5", "raspberry-pi-zero-2-w"]

    def test_profiles_of_a_folder_that_was_given(self, edgekit: Program) -> None:
        (edgekit.cwd / "mine").mkdir()
        (edgekit.cwd / "mine" / "rover.toml").touch()
        assert self.offered(edgekit, "edgekit convert --profiles mine -p rov") == ["rover"]

    def test_boards_of_the_ssh_config(self, edgekit: Program) -> None:
        folder = Path(edgekit.environment["HOME"]) / ".ssh"
        folder.mkdir()
        (folder / "config").write_text(
            'Host gate *.lab !x\n  HostName 192.0.2.1\nHost=garage # by the door\nHost "open\nHost "greenhouse"\n'
        )
        assert self.offered(edgekit, "edgekit status g") == ["garage", "gate", "greenhouse"]
        assert self.offered(edgekit, "edgekit push x.ekb em") == ["embedded"]
        other = edgekit.cwd / "other"
        other.write_text("Host rover\n")
        assert self.offered(edgekit.with_(EDGEKIT_SSH_CONFIG=str(other)), "edgekit bench r") == ["rover"]
        assert self.offered(edgekit, f"edgekit bench --ssh-config {other} r") == ["rover"]

    def test_files_are_left_to_the_shell(self, edgekit: Program) -> None:
        assert self.offered(edgekit, "edgekit inspect mod") == []

    def test_in_bash_itself(self, edgekit: Program, tmp_path: Path) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "edgekit").write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
        (folder / "edgekit").chmod(0o755)
        script = (
            'eval "$(_EDGEKIT_COMPLETE=source_bash edgekit)"\n'
            "COMP_WORDS=(edgekit convert -p rasp) COMP_CWORD=3\n"
            "_edgekit_completion edgekit\n"
            'printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", script],
            cwd=edgekit.cwd,
            env={**edgekit.environment, "PATH": f"{folder}{os.pathsep}{edgekit.environment['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split()[-2:] == ["raspberry-pi-5", "raspberry-pi-zero-2-w"]
