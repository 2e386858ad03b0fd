"""`scripts/board`: an emulated board starts, is what it says, holds several sessions, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from edgekit_runtime import environment

from tests.board_fixture import BoardInfo, parse_info, run_board
from tests.boards.conftest import OwnBoard, is_alive, output, processes_with, wait_until

pytestmark = pytest.mark.emulated


# What the board is


def test_it_is_an_arm_computer_with_what_edgekit_needs(arm64: BoardInfo) -> None:
    assert output(arm64, "uname -m; id -un; echo $HOME") == "aarch64\npi\n/home/pi"
    report = "import numpy, platform; print(platform.machine(), numpy.dot([1, 2], [3, 4]))"
    assert output(arm64, f"python3 -c '{report}'") == "aarch64 11"
    assert output(arm64, "python3 -c 'import sys; print(sys.version_info[:2])'") == "(3, 11)"
    # What it does not have, edgekit has to bring.
    assert output(arm64, "python3 -c 'import ai_edge_litert' 2>&1 | tail -1").startswith("ModuleNotFoundError")


def test_a_report_from_it_says_that_it_is_emulated(arm64: BoardInfo) -> None:
    """What the runtime itself reads there: model, core, clock and heat of a Pi, and the marker."""
    assert output(arm64, "cat /etc/edgekit-emulated") == "qemu-user cortex-a72"
    folder = Path(environment.__file__).parents[1]
    program = (
        "from edgekit_runtime import environment as e; import json; f, s = e.read(), e.sensors(); "
        "print(json.dumps([f.emulated, f.board, f.cpu, f.cpu_features, f.os, s.governor, s.frequency_mhz, "
        "s.frequency_max_mhz, s.temperature_c]))"
    )
    target = arm64.home / "environment"
    shutil.copytree(folder / "edgekit_runtime", target / "edgekit_runtime")
    try:
        facts = json.loads(output(arm64, f"cd environment && python3 -c '{program}'"))
    finally:
        shutil.rmtree(target)
    assert facts[:3] == [True, "Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72"]
    assert facts[3:] == [["asimd"], "Debian GNU/Linux 12 (bookworm)", "ondemand", 1500.0, 1500.0, 48.2]


def test_governor_and_heat_can_be_changed_from_outside(own: OwnBoard) -> None:
    board = own.up()
    governor = board.sys / "devices/system/cpu/cpufreq/policy0/scaling_governor"
    governor.write_text("performance\n")
    seen = output(board, "cat /sys/devices/system/cpu/cpu3/cpufreq/scaling_governor")
    assert seen == "performance"
    assert board.ssh("echo x > /sys/devices/system/cpu/cpufreq/policy0/scaling_governor").returncode != 0


def test_the_user_is_an_ordinary_one(arm64: BoardInfo) -> None:
    assert output(arm64, "id -u") == "1000"
    refused = arm64.ssh("touch /etc/x /usr/x /root/x; cat /etc/shadow /etc/ssh/board/ssh_host_ed25519_key")
    assert refused.returncode != 0
    assert refused.stdout == ""
    as_root = arm64.ssh("true", options=["-l", "root"])
    assert as_root.returncode == 255
    assert "Permission denied" in as_root.stderr


def test_there_is_a_small_and_a_readonly_place(arm64: BoardInfo) -> None:
    small = arm64.ssh("head -c 20M /dev/zero > /mnt/small/x; status=$?; rm /mnt/small/x; exit $status")
    assert small.returncode != 0
    assert "No space left on device" in small.stderr
    readonly = arm64.ssh("touch /mnt/readonly/x")
    assert readonly.returncode != 0
    assert "Read-only file system" in readonly.stderr


def test_the_small_place_has_the_size_that_was_asked_for(own: OwnBoard) -> None:
    board = own.up("--small-size", "3M")
    assert output(board, "df --output=size /mnt/small | tail -1") == "3072"


# How it is reached


def test_streams_status_and_files_arrive(arm64: BoardInfo, tmp_path: Path) -> None:
    done = arm64.ssh("echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    data = os.urandom(300_000)
    (tmp_path / "sent").write_bytes(data)
    batch = tmp_path / "batch"
    batch.write_text(f"put {tmp_path}/sent a.part\nrename a.part a\nget a {tmp_path}/back\nrm a\n")
    subprocess.run(
        ["sftp", "-q", "-F", arm64.ssh_config, "-b", batch, arm64.name], check=True, capture_output=True, timeout=120
    )
    assert (tmp_path / "back").read_bytes() == data


def test_the_printed_facts_are_those_of_the_server(arm64: BoardInfo) -> None:
    offered = subprocess.run(
        ["ssh-keyscan", "-t", "ed25519", "-p", str(arm64.port), arm64.host],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    seen = subprocess.run(
        ["ssh-keygen", "-lf", "-"], input=offered, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert seen.split()[1] == arm64.host_key_fingerprint
    assert arm64.host == "127.0.0.1"
    assert stat.S_IMODE(arm64.identity_file.stat().st_mode) == 0o600


def test_many_sessions_at_once(arm64: BoardInfo) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: output(arm64, f"sleep 0.5; echo {number}"), range(8)))
    assert answers == [str(number) for number in range(8)]


def running(mark: str) -> bool:
    """Whether the board runs `sleep MARK`; the marks are numbers that no other test run uses."""
    return bool(processes_with(f"/usr/bin/sleep sleep {mark}"))


@pytest.mark.parametrize("delay", [0.0, 1.5])
def test_a_session_that_is_cut_ends_with_all_its_processes(arm64: BoardInfo, delay: float) -> None:
    """Early, before the board may have looked at it, and late."""
    mark = f"86399.{os.getpid()}"
    argv = ["ssh", "-F", str(arm64.ssh_config), arm64.name, f"sh -c 'nohup sleep {mark} | cat; true'; true"]
    client = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: running(mark), "the command runs")
        time.sleep(delay)
        client.kill()
        wait_until(lambda: not running(mark), "the command ended")
    finally:
        client.kill()
        client.wait()


def test_what_a_session_left_in_the_background_stays(arm64: BoardInfo) -> None:
    mark = f"86398.{os.getpid()}"
    for command in ("nohup sleep", "setsid -f sleep"):
        output(arm64, f"{command} {mark} </dev/null >/dev/null 2>&1 &")
        time.sleep(2)  # longer than the board takes to notice a cut session
        assert running(mark)
        output(arm64, f"pkill -f 'sleep [8]6398.{os.getpid()}'")
        wait_until(lambda: not running(mark), "it ended")


# Up, down, and nothing left


def test_up_twice_is_one_board(own: OwnBoard) -> None:
    first = own.up()
    again = own.run("up", "--json")
    assert again.returncode == 0
    assert "already up" in again.stderr
    assert parse_info(again.stdout) == first


def test_two_ups_at_the_same_time_are_one_board(own: OwnBoard) -> None:
    with ThreadPoolExecutor(3) as pool:
        boards = list(pool.map(lambda _: own.up(), range(3)))
    assert len(set(boards)) == 1


def test_down_leaves_no_process_and_no_mount(own: OwnBoard) -> None:
    board = own.up()
    mark = f"86397.{os.getpid()}"
    output(board, f"setsid -f sleep {mark} </dev/null >/dev/null 2>&1")
    namespace = os.readlink(f"/proc/{board.pid}/ns/pid")
    assert processes_with(str(own.state))
    wait_until(lambda: processes_with(f"sleep {mark}") != [], "the command runs")
    assert own.run("down").returncode == 0
    assert not is_alive(board.pid)
    assert not processes_with(str(own.state))
    assert not processes_with(f"sleep {mark}")
    left = [link for link in Path("/proc").glob("[0-9]*/ns/pid") if link.is_symlink() and _readlink(link) == namespace]
    assert left == []
    assert str(board.root) not in Path("/proc/self/mountinfo").read_text()
    assert board.ssh("true").returncode == 255
    assert own.run("down").returncode == 0


def _readlink(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def test_down_ends_its_own_board_only(own: OwnBoard, arm64: BoardInfo) -> None:
    own.up()
    own.run("down")
    assert output(arm64, "echo still here") == "still here"


def test_keys_home_and_port_outlive_down(own: OwnBoard) -> None:
    first = own.up()
    output(first, "echo kept > file")
    own.run("down")
    second = own.up()
    assert second.host_key_fingerprint == first.host_key_fingerprint
    assert second.port == first.port
    assert output(second, "cat file") == "kept"


def test_a_fresh_home_is_empty_also_while_it_is_up(own: OwnBoard) -> None:
    board = own.up()
    output(board, "mkdir -p .local/share && echo x > .local/share/file && ln -s /etc link")
    own.up("--fresh-home")
    assert output(board, "ls -A; touch mine; rm mine") == ""
    assert (board.root / "etc/passwd").is_file()


def test_a_killed_board_is_known_to_be_down(own: OwnBoard) -> None:
    board = own.up()
    os.kill(board.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(board.pid), "it is dead")
    assert "was not up" in own.run("down").stderr
    again = own.up()
    assert again.pid != board.pid
    assert output(again, "echo back") == "back"


def test_a_board_whose_time_is_over_stops_itself(own: OwnBoard) -> None:
    done = own.run("up", "--json", "--max-minutes", "0.03")
    board = parse_info(done.stdout)
    wait_until(lambda: not is_alive(board.pid), "its time is over")
    assert "its time is over" in board.log.read_text()
    assert not (board.ssh_config.parent / "board.json").exists()


def test_another_process_with_the_same_number_is_not_taken_for_the_board(own: OwnBoard) -> None:
    board = own.up()
    own.run("down")
    file = own.state / "run/board.json"
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        facts = {
            "pid": bystander.pid,
            "started": 1,
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        }
        texts = {name: str(value) for name, value in vars(board).items() if isinstance(value, Path)}
        file.write_text(json.dumps({**vars(board), **texts, **facts}))
        assert "was not up" in own.run("down").stderr
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_rm_deletes_only_what_boards_make(own: OwnBoard, arm64: BoardInfo) -> None:
    own.up()
    refused = own.run("rm")
    assert refused.returncode == 2
    assert "is up" in refused.stderr
    assert "hint:" in refused.stderr
    own.run("down")
    (own.state / "precious").write_text("mine")
    kept = own.run("rm")
    assert kept.returncode == 0, kept.stderr
    assert [path.name for path in own.state.iterdir()] == ["precious"]
    # The other board still runs from the userland.
    assert str(arm64.root) in kept.stderr
    assert output(arm64, "uname -m") == "aarch64"


def test_under_sudo_the_caller_can_use_the_key(own: OwnBoard, arm64: BoardInfo) -> None:
    environment = {**os.environ, "SUDO_UID": "65534", "EDGEKIT_BOARDS": str(arm64.root.parents[1])}
    done = run_board("up", "arm64", "--state", own.state, "--max-minutes", "10", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    board = parse_info(done.stdout)
    assert board.identity_file.stat().st_uid == board.ssh_config.stat().st_uid == 65534
