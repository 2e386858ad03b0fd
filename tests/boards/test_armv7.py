"""The 32-bit board: BusyBox is its userland, Dropbear its SSH server, and files do not go by SFTP."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from tests.board_fixture import BoardInfo
from tests.boards.conftest import OwnBoard, is_alive, output, processes_with, wait_until

pytestmark = pytest.mark.emulated("armv7")


def test_it_is_a_32_bit_computer_whose_shell_and_tools_are_busybox(armv7: BoardInfo) -> None:
    assert output(armv7, "uname -m; id -un; cat /etc/edgekit-emulated") == "armv7l\npi\nqemu-user cortex-a15"
    tools = "sh cat mv sha256sum tar sync stat"
    found = output(armv7, f'for tool in {tools}; do readlink -f "$(command -v $tool)"; done; readlink -f /bin/sh')
    assert set(found.split()) == {"/usr/bin/busybox"}
    assert output(armv7, "command -v bash dash fsync flock || echo none") == "none"


def test_it_has_a_numpy_that_tflite_runtime_can_live_with_and_no_interpreter(armv7: BoardInfo) -> None:
    version = output(armv7, "python3 -c 'import numpy; print(numpy.dot([1, 2], [3, 4]), numpy.__version__)'")
    assert version.startswith("11 1.")
    assert output(armv7, "python3 -c 'import tflite_runtime' 2>&1 | tail -1").startswith("ModuleNotFoundError")


def test_dropbear_answers_and_has_no_sftp_server(armv7: BoardInfo) -> None:
    with socket.create_connection((armv7.host, armv7.port), timeout=60) as link:
        assert link.makefile("rb").readline().startswith(b"SSH-2.0-dropbear")
    done = armv7.ssh("echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    sftp = ["sftp", "-q", "-F", str(armv7.ssh_config), "-b", "-", armv7.name]
    refused = subprocess.run(sftp, input=b"pwd\n", capture_output=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert armv7.ssh("true", options=["-l", "root"]).returncode == 255


def test_a_fresh_home_still_lets_its_user_in_and_down_leaves_no_process(own: OwnBoard) -> None:
    """Dropbear looks for keys in the home alone."""
    board = own.up()
    output(board, "echo x > file; mkdir folder")
    own.up("--fresh-home")
    assert output(board, "ls -A") == ".ssh"
    mark = f"86396.{os.getpid()}"
    output(board, f"setsid sleep {mark} </dev/null >/dev/null 2>&1 &")
    wait_until(lambda: processes_with(f"sleep {mark}") != [], "the command runs")
    assert own.run("cut").returncode == 2  # it has no disk
    assert own.run("down").returncode == 0
    assert not is_alive(board.pid)
    assert processes_with(f"sleep {mark}") == processes_with(str(own.state)) == []
    assert board.ssh("true").returncode == 255
