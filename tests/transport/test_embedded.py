"""The embedded board as OpenSSH's own ssh, sftp and scp see it, and how it begins and ends."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest

from edgekit.embedded import BoardHome, EmbeddedBoard, borrow, serve, server
from edgekit.errors import DeviceError, UserError
from edgekit.transport import LinkLost, connect, host_key, remember
from tests.ssh_fixture import make_key


@dataclass
class OpenSsh:
    """OpenSSH's clients, told where the board is."""

    config: Path

    def run(self, *argv: str | Path, stdin: bytes = b"", program: str = "ssh") -> subprocess.CompletedProcess[bytes]:
        command = [program, "-F", str(self.config), *map(str, argv)]
        return subprocess.run(command, check=False, input=stdin, capture_output=True, timeout=30)

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        command = ["ssh", "-F", str(self.config), *argv]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.fixture
def openssh(embedded: EmbeddedBoard, tmp_path: Path) -> OpenSsh:
    known = tmp_path / "known"
    known.write_text(f"edgekit-embedded {Path(f'{embedded.home.host_key}.pub').read_text()}")
    config = tmp_path / "config"
    config.write_text(
        f"{embedded.ssh_config('b')}  UserKnownHostsFile {known}\n  StrictHostKeyChecking yes\n  BatchMode yes\n"
    )
    return OpenSsh(config)


def test_ssh_has_streams_status_and_signals(openssh: OpenSsh) -> None:
    done = openssh.run("b", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, b"out\n", b"err\n")
    assert openssh.run("b", "kill -KILL $$").returncode == 137
    assert openssh.run("b", "cat | wc -c", stdin=b"x" * 5_000_000).stdout.strip() == b"5000000"
    assert openssh.run("b", stdin=b"echo from a shell\nexit 3\n").stdout == b"from a shell\n"


def test_a_terminal_is_refused_and_the_shell_runs_without(openssh: OpenSsh) -> None:
    near, far = pty.openpty()
    os.write(near, b"echo hello; tty; exit 3\n")
    command = ["ssh", "-F", str(openssh.config), "b"]
    done = subprocess.run(command, check=False, stdin=far, capture_output=True, timeout=30)
    os.close(near)
    os.close(far)
    assert (done.returncode, done.stdout) == (3, b"hello\nnot a tty\n")
    assert b"PTY allocation request failed" in done.stderr


def test_nothing_of_this_environment_is_inherited(
    openssh: OpenSsh, monkeypatch: pytest.MonkeyPatch, embedded: EmbeddedBoard
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    done = openssh.run("-o", "SendEnv=SECRET_TOKEN", "b", "env")
    found = dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
    assert set(found) <= {"HOME", "TMPDIR", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "PWD", "SHLVL", "_", "OLDPWD"}
    assert found["HOME"] == found["PWD"] == str(embedded.home.home)
    assert Path(found["TMPDIR"]).is_dir()


def test_python3_is_this_interpreter(openssh: OpenSsh) -> None:
    done = openssh.run("b", "python3 -c 'import sys, paramiko; print(sys.prefix)'")
    assert done.stdout.decode().strip() == sys.prefix


def test_sftp_puts_gets_lists_and_renames(openssh: OpenSsh, tmp_path: Path, embedded: EmbeddedBoard) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "local file").write_bytes(data)
    (embedded.home.home / "old").write_text("replaced by posix-rename")
    script = f"""
        mkdir "a folder"
        put "{tmp_path}/local file" "a folder/it's"
        chmod 640 "a folder/it's"
        rename "a folder/it's" old
        ln -s old link
        get link "{tmp_path}/back"
        ls -l
        rm link
        rmdir "a folder"
    """
    done = openssh.run("-b", "-", "b", stdin=script.encode(), program="sftp")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == data == (embedded.home.home / "old").read_bytes()
    assert oct((embedded.home.home / "old").stat().st_mode)[-3:] == "640"
    assert b"3000000" in done.stdout
    assert not (embedded.home.home / "a folder").exists()


def test_sftp_gives_the_reason_of_a_refusal(openssh: OpenSsh) -> None:
    done = openssh.run("-b", "-", "b", stdin=b"put /etc/hosts /nowhere/x\n", program="sftp")
    assert done.returncode != 0
    assert b"No such file" in done.stderr


@pytest.mark.parametrize("mode", [[], ["-O"]])
def test_scp_works_in_both_of_its_ways(openssh: OpenSsh, tmp_path: Path, mode: list[str]) -> None:
    data = os.urandom(1_000_000)
    (tmp_path / "there").write_bytes(data)
    assert openssh.run(*mode, "-p", tmp_path / "there", "b:copied", program="scp").returncode == 0
    assert openssh.run(*mode, "b:copied", tmp_path / "back", program="scp").returncode == 0
    assert (tmp_path / "back").read_bytes() == data


def test_only_the_one_key_is_let_in(openssh: OpenSsh, embedded: EmbeddedBoard, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    text = openssh.config.read_text().replace(f'"{embedded.home.client_key}"', str(stranger))
    other = OpenSsh(tmp_path / "other")
    other.config.write_text(text)
    done = other.run("b", "true")
    assert (done.returncode, b"Permission denied" in done.stderr) == (255, True)
    assert openssh.run("-l", "root", "b", "true").returncode == 255


def test_it_forwards_nothing(openssh: OpenSsh) -> None:
    done = openssh.run("-W", "127.0.0.1:1", "b")
    assert done.returncode == 255
    assert b"prohibited" in done.stderr


def test_it_listens_on_loopback_alone(embedded: EmbeddedBoard) -> None:
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    mine = [line.split()[1] for line in listening if line.split()[1].endswith(f":{embedded.port:04X}")]
    assert {address.split(":")[0] for address in mine if line_is_listener(listening, address)} == {"0100007F"}


def line_is_listener(lines: list[str], address: str) -> bool:
    return any(line.split()[1] == address and line.split()[3] == "0A" for line in lines)


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().strip():
            return path.read_text().strip()
        time.sleep(0.02)
    raise AssertionError(f"{path} did not come")


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("trap", ["", "trap '' TERM HUP; "])
def test_a_disconnect_ends_the_whole_process_group(openssh: OpenSsh, embedded: EmbeddedBoard, trap: str) -> None:
    file = embedded.home.home / "pids"
    file.unlink(missing_ok=True)
    client = openssh.start("b", f"{trap}sleep 1000 & echo $$ $! >pids; wait")
    pids = [int(word) for word in wait_for(file).split()]
    assert len(pids) == 2
    client.kill()
    client.communicate(timeout=10)
    assert all(gone(pid) for pid in pids)


def test_closing_the_board_ends_what_runs_on_it(tmp_path: Path, own_surroundings: Path) -> None:
    board = EmbeddedBoard(BoardHome(tmp_path / "b"))
    config = tmp_path / "config"
    config.write_text(board.ssh_config("b"))
    remember(host_key("b", config=config))
    with connect("b", config=config) as link:
        lost: list[Exception] = []

        def run() -> None:
            try:
                link.run(["sh", "-c", "echo $$ >pid; exec sleep 1000"], timeout=100)
            except LinkLost as error:
                lost.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        pid = int(wait_for(board.home.home / "pid"))
        board.close()
        thread.join(20)
        assert len(lost) == 1
        assert gone(pid)
    with pytest.raises(OSError):  # noqa: PT011  # any refusal will do
        socket.create_connection(("127.0.0.1", board.port), 1)


def test_keys_and_files_stay(tmp_path: Path) -> None:
    home = BoardHome(tmp_path / "b")
    with EmbeddedBoard(home):
        first = (home.host_key.read_bytes(), home.client_key.read_bytes())
        (home.home / "kept").write_text("kept")
    with EmbeddedBoard(home):
        assert (home.host_key.read_bytes(), home.client_key.read_bytes()) == first
        assert (home.home / "kept").read_text() == "kept"
    assert oct(home.client_key.stat().st_mode)[-3:] == oct(home.host_key.stat().st_mode)[-3:] == "600"
    assert oct(home.root.stat().st_mode)[-3:] == "700"


def test_a_running_board_is_used_and_a_dead_ones_record_is_not(tmp_path: Path) -> None:
    home = BoardHome(tmp_path / "b")
    with serve(home) as board:
        loan = borrow(home)
        assert loan.target.port == board.port
        loan.close()
        with socket.create_connection(("127.0.0.1", board.port), 5):
            pass  # closing the loan closed nothing
        with pytest.raises(UserError, match="running already"), serve(home):
            raise AssertionError
    home.state.write_text('{"pid": 1, "port": 1}')
    loan = borrow(home)
    assert loan.target.port != 1
    loan.close()


PROGRAM = """
import sys
from edgekit.embedded import serve, wait_for_signal
with serve() as board:
    print(board.port, flush=True)
    print(wait_for_signal(), flush=True)
"""


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "EDGEKIT_EMBEDDED_ROOT": str(tmp_path / "b")}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_another_process_can_run_it_until_it_is_told_to_stop(
    other_process: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("EDGEKIT_EMBEDDED_ROOT", str(tmp_path / "b"))
    assert other_process.stdout is not None
    port = int(other_process.stdout.readline())
    remember(host_key("embedded"))
    with connect("embedded") as link:
        assert link.run(["pwd"]).text.strip() == str(tmp_path / "b" / "home")
    other_process.send_signal(number)
    out, _ = other_process.communicate(timeout=20)
    assert (other_process.returncode, out.strip()) == (0, str(int(number)))
    assert not (tmp_path / "b" / "running.json").exists()
    with pytest.raises(OSError):  # noqa: PT011  # any refusal will do
        socket.create_connection(("127.0.0.1", port), 1)


def test_a_root_that_cannot_be_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot live"):
        borrow(BoardHome(tmp_path / "file" / "b"))


def test_a_session_that_the_server_ends_before_it_has_begun_is_asked_for_again(
    embedded: EmbeddedBoard, openssh: OpenSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Dropbear 2022.83 does when the child of another session ends in between."""
    ended: list[bytes] = []
    begin = server._Policy.check_channel_exec_request

    def end(policy: server._Policy, channel: paramiko.Channel, command: bytes) -> bool:
        if len(ended) < wanted:
            ended.append(command)
            return False
        return begin(policy, channel, command)

    monkeypatch.setattr(server._Policy, "check_channel_exec_request", end)
    wanted = 2
    with connect("b", config=openssh.config) as link:
        assert link.run(["echo", "once"]).stdout == b"once\n"
        wanted = 1000
        with pytest.raises(DeviceError, match="Channel closed"):
            link.run(["echo", "once"])
    assert len(ended) == 2 + 3
