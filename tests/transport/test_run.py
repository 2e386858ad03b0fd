"""Running commands: what goes in, what comes out, how it ends. Every test runs on each kind of board."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings

from edgekit.errors import UserError
from edgekit.transport import CommandTimeout, OutputTooLarge, RemoteCommandError, RemotePath, Transport
from edgekit.transport.base import command_line, marker
from tests.transport.conftest import Board

words = st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1, max_size=6)
SH = ["sh", "-c"]


def test_streams_are_apart_and_the_status_is_the_commands(link: Transport) -> None:
    done = link.run([*SH, "echo out; echo err >&2; exit 7"])
    assert (done.status, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV"])
def test_a_signal_ends_in_128_and_its_number(link: Transport, name: str) -> None:
    assert link.run([*SH, f"kill -{name} $$"]).status == 128 + signal.Signals[f"SIG{name}"]


def test_a_command_that_does_not_exist_is_127(link: Transport) -> None:
    done = link.run(["no such command"])
    assert done.status == 127
    assert b"not found" in done.stderr


def test_check_raises_with_the_facts(link: Transport) -> None:
    with pytest.raises(RemoteCommandError) as caught:
        link.check([*SH, "echo because >&2; exit 3"])
    assert caught.value.fields["status"] == 3
    assert caught.value.fields["stderr"] == "because"
    assert caught.value.exit_code == 3


def test_a_board_cannot_drive_the_terminal_with_what_it_says(link: Transport) -> None:
    seen: list[str] = []
    talk = [*SH, "printf 'a\\033]0;gotcha\\007\\tb' >&2; exit 1"]
    with pytest.raises(RemoteCommandError) as caught:
        link.check(talk, on_stderr=seen.append)
    assert seen == ["a\ufffd]0;gotcha\ufffd\tb"]
    assert "\033" not in str(caught.value.to_dict())
    assert link.run(talk).stderr == b"a\033]0;gotcha\007\tb"  # as data it is as it was


def test_standard_input_ends_where_it_ends(link: Transport) -> None:
    assert link.run(["wc", "-c"], stdin=b"").stdout.strip() == b"0"
    assert link.run(["wc", "-c"]).stdout.strip() == b"0"
    assert link.run(["cat"], stdin=b"no newline").stdout == b"no newline"


def test_more_than_every_window_goes_both_ways_at_once(link: Transport) -> None:
    data = os.urandom(9 << 20)
    assert link.run(["cat"], stdin=io.BytesIO(data)).stdout == data


def test_a_command_that_does_not_read_its_input_still_has_its_status(link: Transport) -> None:
    done = link.run([*SH, "echo no thanks >&2; exit 4"], stdin=os.urandom(9 << 20))
    assert (done.status, done.stderr) == (4, b"no thanks\n")


def test_output_is_capped_and_the_connection_survives(link: Transport) -> None:
    with pytest.raises(OutputTooLarge):
        link.run(["cat", "/dev/zero"], limit=1 << 20)
    assert link.run(["echo", "alive"]).stdout == b"alive\n"


def test_of_much_standard_error_the_end_is_kept(link: Transport) -> None:
    done = link.run([*SH, "i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done >&2"])
    assert done.stderr.endswith(b"line 59999\n")
    assert len(done.stderr) == 256 << 10


def test_lines_of_standard_error_come_while_it_runs(link: Transport) -> None:
    seen: list[str] = []
    done = link.run([*SH, "printf 'one\\ntwo' >&2; echo x"], on_stderr=seen.append)
    assert seen == ["one", "two"]
    assert done.stderr == b"one\ntwo"


def test_silence_beyond_the_timeout_is_an_error_and_the_connection_survives(link: Transport) -> None:
    with pytest.raises(CommandTimeout):
        link.run(["sleep", "60"], timeout=0.5)
    assert link.run(["echo", "alive"]).stdout == b"alive\n"


def test_progress_keeps_a_command_alive_until_its_deadline(link: Transport) -> None:
    tick = [*SH, "for i in 1 2 3 4 5 6; do sleep 0.3; echo $i; done"]
    assert link.run(tick, timeout=1).stdout == b"1\n2\n3\n4\n5\n6\n"
    with pytest.raises(CommandTimeout):
        link.run(tick, timeout=1, deadline=1)


def test_the_environment_is_passed_by_name(link: Transport) -> None:
    done = link.run([*SH, 'printf %s "$GREETING"'], env={"GREETING": "it's $HOME"})
    assert done.stdout == b"it's $HOME"


def test_several_commands_at_once_over_one_connection(link: Transport) -> None:
    answers: dict[int, bytes] = {}

    def ask(number: int) -> None:
        answers[number] = link.run([*SH, f"sleep 0.2; echo {number}"]).stdout

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == {number: f"{number}\n".encode() for number in range(6)}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words)
def test_any_words_arrive_as_they_were(link: Transport, argv: list[str]) -> None:
    assert link.run(["printf", "%s\\0", *argv]).stdout == "".join(f"{word}\0" for word in argv).encode()


@pytest.mark.parametrize("shell", ["sh", "bash", "fish", "tcsh", "zsh"])
@settings(max_examples=40)
@given(words)
@example(["it's", "\\", "a\\'b", "!!", "a!b", "=ls", "two\nlines\n", "%s", "*", "~", "-n", "", "{a,b}", "ü", "$HOME"])
def test_any_words_survive_any_login_shell(shell: str, argv: list[str]) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here (a Debian package)")
    line = command_line(["printf", "%s\\0", *argv], "tag")
    done = subprocess.run([shell, "-c", line], check=True, capture_output=True, timeout=20)
    assert done.stdout == marker("tag") + "".join(f"{word}\0" for word in argv).encode()
    assert done.stderr == marker("tag")


def test_names_that_are_not_utf8_arrive_as_they_were(link: Transport) -> None:
    odd = b"\xff\xfe".decode("utf-8", "surrogateescape")
    assert link.run(["printf", "%s", odd]).stdout == b"\xff\xfe"


def test_what_is_not_a_command_is_refused_before_it_is_sent(link: Transport) -> None:
    with pytest.raises(TypeError, match="sequence of words"):
        link.run("ls -l")
    with pytest.raises(TypeError, match="this computer"):
        link.run(["cat", Path("/etc/hosts")])  # type: ignore[list-item]  # that is the test
    with pytest.raises(UserError):
        link.run(["echo", "a\0b"])
    with pytest.raises(UserError):
        link.run(["echo", "x" * 200_000])


def test_a_path_of_the_board_is_a_word(link: Transport, board: Board) -> None:
    assert link.run(["test", "-d", RemotePath(str(board.folder))]).status == 0


def test_a_closed_connection_says_so_and_closes_twice(board: Board) -> None:
    from edgekit.errors import DeviceError

    transport = board.connect()
    transport.close()
    transport.close()
    started = time.monotonic()
    with pytest.raises(DeviceError):
        transport.run(["true"])
    assert time.monotonic() - started < 10
