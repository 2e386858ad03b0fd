"""Getting in: keys, passphrases, passwords, the agent, jumps; and what is said when it does not work."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED
from paramiko.server import InteractiveQuery

from edgekit.embedded.home import BoardHome
from edgekit.embedded.process import Session
from edgekit.errors import UserError
from edgekit.transport import AuthenticationFailed, Unreachable, connect, install_key
from edgekit.transport.dial import Timeouts
from tests.ssh_fixture import SshBoard, free_port, make_key, start_sshd
from tests.transport.conftest import SHORT


def config_of(board: SshBoard, folder: Path, identity: Path | None, *lines: str) -> Path:
    """The board's ssh config with another identity (None: whatever the home has)."""
    kept = [
        line
        for line in board.ssh_config.read_text().splitlines()
        if not line.strip().startswith(("IdentityFile", "IdentitiesOnly"))
    ]
    if identity is not None:
        kept += [f"  IdentityFile {identity}", "  IdentitiesOnly yes"]
    config = folder / "config"
    config.write_text("\n".join([*kept, *(f"  {line}" for line in lines)]) + "\n")
    return config


def test_a_wrong_key_is_named_and_no_secret_is(sshd: SshBoard, tmp_path: Path) -> None:
    config = config_of(sshd, tmp_path, make_key(tmp_path / "wrong"))
    with pytest.raises(AuthenticationFailed) as caught:
        connect("board", config=config, ask=lambda prompt: "hunter2")
    assert caught.value.fields["tried"] == [f"key {tmp_path / 'wrong'}"]
    assert caught.value.fields["offered"] == ["publickey"]
    assert caught.value.fields["user"] == getpass.getuser()
    assert "--install-key" in (caught.value.hint or "")
    assert "hunter2" not in str(caught.value.to_dict())


def test_no_key_at_all_is_said(sshd: SshBoard, tmp_path: Path) -> None:
    with pytest.raises(AuthenticationFailed, match="no key"):
        connect("board", config=config_of(sshd, tmp_path, None))


def test_more_wrong_keys_than_the_server_bears_is_a_refusal_too(sshd: SshBoard, tmp_path: Path) -> None:
    keys = [make_key(tmp_path / f"key{number}") for number in range(9)]
    config = config_of(sshd, tmp_path, keys[0], *(f"IdentityFile {key}" for key in keys[1:]))
    with pytest.raises(AuthenticationFailed) as caught:
        connect("board", config=config)
    assert len(caught.value.fields["tried"]) >= 5


def test_the_usual_key_of_the_home_is_used(sshd: SshBoard, tmp_path: Path, own_surroundings: Path) -> None:
    (own_surroundings / ".ssh").mkdir()
    (own_surroundings / ".ssh" / "id_ed25519").write_bytes(sshd.identity.read_bytes())
    connect("board", config=config_of(sshd, tmp_path, None)).close()


@pytest.fixture
def locked(sshd: SshBoard, tmp_path: Path) -> Path:
    """The board's key, encrypted."""
    key = tmp_path / "locked"
    key.write_bytes(sshd.identity.read_bytes())
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", str(key)], check=True, capture_output=True)
    return key


def test_an_encrypted_key_asks_until_it_opens(sshd: SshBoard, tmp_path: Path, locked: Path) -> None:
    config, answers, prompts = config_of(sshd, tmp_path, locked), iter(["wrong", "open sesame"]), list[str]()

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return next(answers)

    with pytest.raises(AuthenticationFailed) as caught:
        connect("board", config=config)
    assert caught.value.fields["tried"] == [f"key {locked} (encrypted, not opened)"]
    assert str(caught.value.hint).startswith(f"open the key: ssh-add {locked}, or run this in a terminal")
    connect("board", config=config, ask=ask).close()
    assert prompts == [f"passphrase of {locked}: "] * 2
    connect("board", config=config, ask=ask).close()  # and not again


def test_a_key_file_that_is_none_is_said_to_be(sshd: SshBoard, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a key")
    config = config_of(sshd, tmp_path, tmp_path / "text", f"IdentityFile {tmp_path / 'absent'}")
    with pytest.raises(AuthenticationFailed) as caught:
        connect("board", config=config)
    assert caught.value.fields["tried"] == [
        f"key {tmp_path / 'text'} (not a key that can be used)",
        f"key {tmp_path / 'absent'} (No such file or directory)",
    ]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    while not path.exists():
        assert process.poll() is None
    yield
    process.terminate()
    process.wait(5)


@pytest.mark.usefixtures("agent")
def test_the_agent_opens_what_is_encrypted(sshd: SshBoard, tmp_path: Path, locked: Path) -> None:
    config = config_of(sshd, tmp_path, locked)
    subprocess.run(["ssh-add", "-q", str(sshd.identity)], check=True, capture_output=True)
    connect("board", config=config).close()  # a locked file tells its public key too
    Path(f"{locked}.pub").write_bytes(Path(f"{sshd.identity}.pub").read_bytes())
    locked.unlink()
    connect("board", config=config).close()
    connect("board", config=config_of(sshd, tmp_path, None)).close()


@pytest.mark.usefixtures("agent")
def test_identities_only_keeps_the_agent_out(sshd: SshBoard, tmp_path: Path) -> None:
    subprocess.run(["ssh-add", "-q", str(sshd.identity)], check=True, capture_output=True)
    wrong = make_key(tmp_path / "wrong")
    with pytest.raises(AuthenticationFailed):
        connect("board", config=config_of(sshd, tmp_path, wrong))
    connect("board", config=config_of(sshd, tmp_path, None, f"IdentityFile {wrong}")).close()


# A board that takes a password: OpenSSH would need a system account with one.
class PasswordBoard(paramiko.ServerInterface):
    def __init__(self, home: BoardHome, method: str) -> None:
        self.home = home
        self.method = method
        self.sessions: list[Session] = []

    def get_allowed_auths(self, username: str) -> str:
        return f"publickey,{self.method}"

    def check_auth_interactive(self, username: str, submethods: str) -> InteractiveQuery | int:
        query = InteractiveQuery("login", "")
        query.add_prompt("Password: ", False)
        return query if self.method == "keyboard-interactive" else AUTH_FAILED

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        return AUTH_SUCCESSFUL if responses == ["raspberry"] else AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        right = self.method == "password" and (username, password) == ("pi", "raspberry")
        return AUTH_SUCCESSFUL if right else AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        authorized = self.home.home / ".ssh" / "authorized_keys"
        lines = authorized.read_text().splitlines() if authorized.exists() else []
        known = any(key.get_base64() in line for line in lines if not line.startswith("#"))
        return AUTH_SUCCESSFUL if known else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.sessions.append(Session(channel, ["/bin/sh", "-c", command], self.home))
        self.sessions[-1].start()
        return True


@contextmanager
def password_board(folder: Path, method: str = "password") -> Iterator[tuple[BoardHome, Path]]:
    home = BoardHome(folder / "password board")
    home.prepare()
    key = paramiko.Ed25519Key.from_private_key_file(str(home.host_key))
    listener = socket.create_server(("127.0.0.1", 0))
    transports: list[paramiko.Transport] = []
    channels: list[paramiko.Channel | None] = []

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(sock)
            transport.add_server_key(key)
            transport.start_server(event=threading.Event(), server=PasswordBoard(home, method))
            transports.append(transport)
            channels.append(transport.accept(5))

    threading.Thread(target=serve, daemon=True).start()
    config = folder / "password_config"
    port = listener.getsockname()[1]
    known = folder / "password_known"
    known.write_text(f"[127.0.0.1]:{port} {Path(f'{home.host_key}.pub').read_text()}")
    config.write_text(f"Host board\n  HostName 127.0.0.1\n  Port {port}\n  User pi\n  UserKnownHostsFile {known}\n")
    yield home, config
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for transport in transports:
        transport.close()


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
def test_a_password_is_asked_for_only_when_somebody_is_there(tmp_path: Path, method: str) -> None:
    with password_board(tmp_path, method) as (_, config):
        with pytest.raises(AuthenticationFailed):
            connect("board", config=config)
        with pytest.raises(AuthenticationFailed) as caught:
            connect("board", config=config, ask=lambda _: "wrong-secret")
        assert caught.value.fields["tried"] == ["password"]
        assert "wrong-secret" not in str(caught.value.to_dict())
        prompts: list[str] = []

        def ask(prompt: str) -> str:
            prompts.append(prompt)
            return "raspberry"

        connect("board", config=config, ask=ask).close()
        assert prompts == ["password of pi@127.0.0.1: "]


def test_a_key_is_installed_once_with_the_right_modes(tmp_path: Path, own_surroundings: Path) -> None:
    with password_board(tmp_path) as (home, config):
        authorized = home.home / ".ssh" / "authorized_keys"
        authorized.parent.mkdir(mode=0o777)
        authorized.write_text("ssh-rsa AAAA someone else's, without a line end")
        public = install_key("board", ask=lambda _: "raspberry", config=config)
        assert public == own_surroundings / "edgekit" / "id_ed25519.pub"
        assert oct(Path(str(public)[:-4]).stat().st_mode)[-3:] == "600"
        first = authorized.read_text()
        assert first.splitlines()[0] == "ssh-rsa AAAA someone else's, without a line end"
        assert first.splitlines()[1].split()[:2] == public.read_text().split()[:2]
        install_key("board", ask=lambda _: "raspberry", config=config)
        assert authorized.read_text() == first
        assert [oct(path.stat().st_mode)[-3:] for path in (authorized.parent, authorized)] == ["700", "600"]
        connect("board", config=config).close()


@pytest.mark.parametrize("hops", [1, 2])
def test_boards_behind_other_hosts_are_reached_through_them(tmp_path: Path, hops: int) -> None:
    with (
        start_sshd(tmp_path, alias="board") as board,
        start_sshd(tmp_path, alias="gate") as gate,
        start_sshd(tmp_path, alias="door") as door,
    ):
        jump = "gate" if hops == 1 else "door,gate"
        config = tmp_path / "config"
        config.write_text(
            board.ssh_config.read_text()
            + f"  ProxyJump {jump}\n"
            + gate.ssh_config.read_text()
            + door.ssh_config.read_text()
        )
        with connect("board", config=config) as link:
            port = link.run(["sh", "-c", "echo $SSH_CONNECTION"]).text.split()[-1]
            assert port == str(board.port)
        assert f"Accepted publickey for {getpass.getuser()}" in gate.log.read_text()
        assert ("Accepted publickey" in door.log.read_text()) == (hops == 2)


def test_a_jump_host_is_verified_as_the_board_is(tmp_path: Path) -> None:
    from edgekit.transport import UnknownHostKey

    with start_sshd(tmp_path, alias="board") as board, start_sshd(tmp_path, alias="gate") as gate:
        gate.known_hosts.write_text("")
        config = tmp_path / "config"
        config.write_text(board.ssh_config.read_text() + "  ProxyJump gate\n" + gate.ssh_config.read_text())
        with pytest.raises(UnknownHostKey) as caught:
            connect("board", config=config)
        assert caught.value.fields["board"] == "gate"


def test_a_jump_host_that_cannot_go_on_is_named(tmp_path: Path) -> None:
    with start_sshd(tmp_path, alias="gate") as gate:
        config = tmp_path / "config"
        config.write_text(
            f"Host board\n  HostName 127.0.0.1\n  Port {free_port()}\n  ProxyJump gate\n" + gate.ssh_config.read_text()
        )
        with pytest.raises(Unreachable, match="cannot or will not connect"):
            connect("board", config=config)


def raw_server(*answers: bytes) -> tuple[socket.socket, int]:
    """Says the same to everyone and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            while True:
                sock, _ = listener.accept()
                with sock:
                    for answer in answers:
                        sock.sendall(answer)
        except OSError:
            return

    threading.Thread(target=serve, daemon=True).start()
    return listener, int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not-ssh"),
        (b"", "not-ssh"),
        (b"SSH-1.5-old\r\n", "outdated"),
        (b"SSH-2.0-gone\r\n", "closed"),
    ],
)
def test_a_port_where_something_else_listens(answer: bytes, reason: str) -> None:
    listener, port = raw_server(answer)
    with listener, pytest.raises(Unreachable) as caught:
        connect(f"127.0.0.1:{port}", timeouts=SHORT)
    assert caught.value.fields["reason"] == reason
    assert str(port) in str(caught.value)


def test_a_port_that_never_stops_talking_nonsense() -> None:
    listener, port = raw_server(*[b"x" * 65536] * 64)
    with listener, pytest.raises(Unreachable):
        connect(f"127.0.0.1:{port}", timeouts=SHORT)


def test_a_port_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(Unreachable) as caught:
        connect(f"127.0.0.1:{listener.getsockname()[1]}", timeouts=SHORT)
    assert caught.value.fields["reason"] == "timeout"


def test_refused_unknown_and_unroutable_are_told_apart() -> None:
    with pytest.raises(Unreachable) as refused:
        connect(f"127.0.0.1:{free_port()}")
    assert refused.value.fields["reason"] == "refused"
    with pytest.raises(Unreachable) as unknown:
        connect("no-such-board.invalid", timeouts=Timeouts(5, 5, 5))
    assert unknown.value.fields["reason"] == "dns"
    with pytest.raises(Unreachable) as unroutable:
        connect("255.255.255.255", timeouts=SHORT)
    assert unroutable.value.fields["reason"] == "no-route"
    assert {error.value.exit_code for error in (refused, unknown, unroutable)} == {3}


def test_timeouts_scale_with_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_TIMEOUT_SCALE", "2.5")
    assert Timeouts.from_environment() == Timeouts(25, 37.5, 75)
    monkeypatch.setenv("EDGEKIT_TIMEOUT_SCALE", "soon")
    with pytest.raises(UserError, match="EDGEKIT_TIMEOUT_SCALE"):
        Timeouts.from_environment()


def test_the_embedded_board_needs_no_key_installed() -> None:
    with pytest.raises(UserError):
        install_key("embedded", ask=lambda _: "")


def test_no_environment_of_ours_is_needed(sshd: SshBoard) -> None:
    assert "SSH_AUTH_SOCK" not in os.environ
    connect("board", config=sshd.ssh_config).close()
