"""Host keys: unknown, known, changed, revoked; what `trust` reads and writes."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edgekit.embedded import EmbeddedBoard
from edgekit.errors import UserError
from edgekit.transport import (
    ChangedHostKey,
    HostKey,
    RevokedHostKey,
    UnknownHostKey,
    connect,
    host_key,
    remember,
)
from edgekit.transport.hostkeys import KnownHosts, known_hosts_name
from edgekit.transport.hostkeys import remember as write
from tests.ssh_fixture import SshBoard, make_key, start_sshd


def fingerprint_of(key: Path) -> str:
    shown = subprocess.run(["ssh-keygen", "-l", "-f", f"{key}.pub"], check=True, capture_output=True, text=True)
    return shown.stdout.split()[1]


def config_with(board: SshBoard, folder: Path, known: str) -> Path:
    """The board's ssh config with another known_hosts."""
    file = folder / "known"
    file.write_text(known)
    config = folder / "config"
    config.write_text(board.ssh_config.read_text().replace(str(board.known_hosts), str(file)))
    return config


def public(key: Path) -> str:
    return " ".join(Path(f"{key}.pub").read_text().split()[:2])


def test_an_unknown_key_is_refused_with_its_fingerprint(sshd: SshBoard, tmp_path: Path) -> None:
    config = config_with(sshd, tmp_path, "")
    with pytest.raises(UnknownHostKey) as caught:
        connect("board", config=config)
    assert caught.value.fields["fingerprint"] == fingerprint_of(sshd.host_key)
    assert "edgekit trust board" in (caught.value.hint or "")
    assert caught.value.exit_code == 3


def test_what_is_trusted_once_is_known_from_then_on(sshd: SshBoard, tmp_path: Path, own_surroundings: Path) -> None:
    config = config_with(sshd, tmp_path, "")
    key = host_key("board", config=config)
    assert (key.known, key.fingerprint) == ("none", fingerprint_of(sshd.host_key))
    file = remember(key)
    assert file == own_surroundings / "edgekit" / "known_hosts"
    assert file.read_text() == f"[127.0.0.1]:{sshd.port} {public(sshd.host_key)}\n"
    assert remember(key) == file
    assert len(file.read_text().splitlines()) == 1
    assert host_key("board", config=config).known == "known"
    connect("board", config=config).close()


def test_openssh_reads_what_was_remembered(sshd: SshBoard, tmp_path: Path) -> None:
    config = config_with(sshd, tmp_path, "")
    file = remember(host_key("board", config=config))
    ssh = ["ssh", "-F", str(config), "-o", f"UserKnownHostsFile={file}", "-o", "StrictHostKeyChecking=yes"]
    done = subprocess.run([*ssh, "board", "echo", "hello"], check=False, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, b"hello\n")


def test_a_changed_key_is_refused_with_both_fingerprints(sshd: SshBoard, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    config = config_with(sshd, tmp_path, f"[127.0.0.1]:{sshd.port} {public(other)}\n")
    with pytest.raises(ChangedHostKey) as caught:
        connect("board", config=config)
    assert caught.value.fields["fingerprint"] == fingerprint_of(sshd.host_key)
    assert caught.value.fields["known"] == [fingerprint_of(other)]
    assert str(tmp_path / "known") in caught.value.fields["where"]
    key = host_key("board", config=config)
    assert key.known == "changed"
    with pytest.raises(ChangedHostKey):
        remember(key)
    remember(key, replace=True)
    assert host_key("board", config=config).known == "known"


def test_a_key_of_another_type_than_the_known_one_is_a_change(sshd: SshBoard, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other", "ecdsa")
    config = config_with(sshd, tmp_path, f"[127.0.0.1]:{sshd.port} {public(other)}\n")
    with pytest.raises(ChangedHostKey):
        connect("board", config=config)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_the_known_type_is_asked_for_when_the_board_has_several(tmp_path: Path, kind: str) -> None:
    second = make_key(tmp_path / "second", "ed25519")
    with start_sshd(tmp_path, key_type=kind, options=[f"HostKey {second}"]) as board:
        connect("board", config=board.ssh_config).close()


def test_a_revoked_key_is_refused_though_it_is_known(sshd: SshBoard, tmp_path: Path) -> None:
    line = f"[127.0.0.1]:{sshd.port} {public(sshd.host_key)}\n"
    config = config_with(sshd, tmp_path, f"{line}@revoked * {public(sshd.host_key)}\n")
    with pytest.raises(RevokedHostKey):
        connect("board", config=config)
    with pytest.raises(RevokedHostKey):
        remember(host_key("board", config=config), replace=True)


def test_hashed_names_are_found(sshd: SshBoard, tmp_path: Path) -> None:
    config = config_with(sshd, tmp_path, f"[127.0.0.1]:{sshd.port} {public(sshd.host_key)}\n")
    subprocess.run(["ssh-keygen", "-H", "-f", str(tmp_path / "known")], check=True, capture_output=True)
    assert "127.0.0.1" not in (tmp_path / "known").read_text()
    connect("board", config=config).close()


def test_the_alias_of_the_config_names_the_key(sshd: SshBoard, tmp_path: Path) -> None:
    config = config_with(sshd, tmp_path, f"pi-no-7 {public(sshd.host_key)}\n")
    with pytest.raises(UnknownHostKey):
        connect("board", config=config)
    config.write_text(config.read_text() + "  HostKeyAlias Pi-No-7\n")
    connect("board", config=config).close()


def test_the_embedded_board_has_to_be_trusted_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, embedded: EmbeddedBoard
) -> None:
    monkeypatch.setenv("EDGEKIT_EMBEDDED_ROOT", str(embedded.home.root))
    with pytest.raises(UnknownHostKey):
        connect("embedded")
    key = host_key("embedded")
    assert key.fingerprint == fingerprint_of(embedded.home.host_key)
    remember(key)
    with connect("embedded") as link:
        assert link.run(["echo", "hello"]).stdout == b"hello\n"


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJtSVqZPOpdtkEEBZEIiqbsyPp8qGOL2CYvdXJQYcq9C"


@pytest.mark.parametrize(
    ("patterns", "name", "found"),
    [
        ("pi", "pi", True),
        ("pi", "pi2", False),
        ("*.local,!bad.local", "good.local", True),
        ("*.local,!bad.local", "bad.local", False),
        ("p?", "pi", True),
        ("[pi]:2222", "[pi]:2222", True),
        ("[pi]:2222", "p:2222", False),
        ("[*]:2222", "[pi]:2222", True),
        ("PI", "pi", True),
        ("|1|nonsense", "pi", False),
    ],
)
def test_patterns_mean_what_sshd_8_says(tmp_path: Path, patterns: str, name: str, found: bool) -> None:
    (tmp_path / "known").write_text(f"{patterns} {KEY}\n")
    assert bool(KnownHosts.read([tmp_path / "known"]).types(name)) == found
    if "|" not in patterns:
        (tmp_path / "lower").write_text(f"{patterns.lower()} {KEY}\n")
        ssh = subprocess.run(
            ["ssh-keygen", "-F", name, "-f", str(tmp_path / "lower")], check=False, capture_output=True
        )
        assert (ssh.returncode == 0) == found


@given(st.binary(max_size=300))
def test_no_known_hosts_file_is_too_odd_to_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("odd") / "known"
    file.write_bytes(content + f"\npi {KEY}\n".encode())
    assert KnownHosts.read([file]).types("pi") == ["ssh-ed25519"]


def test_remembering_keeps_every_other_line_and_writes_all_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "new" / "known_hosts"
    key = HostKey("pi", "pi", "ssh-ed25519", b"one")
    write(key, file)
    file.write_bytes(b"# mine \xff\nother " + KEY.encode() + b"\npi ssh-rsa AAAA")
    with pytest.raises(ChangedHostKey):
        write(key, file)
    write(key, file, replace=True)
    assert file.read_bytes() == b"# mine \xff\nother " + KEY.encode() + b"\npi ssh-ed25519 b25l\n"
    assert [path.name for path in file.parent.iterdir()] == ["known_hosts"]
    write(replace(key, name="[pi]:22022", blob=b"two"), file)
    assert len(KnownHosts.read([file]).types("[pi]:22022")) == 1


def test_a_known_hosts_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot remember"):
        write(HostKey("pi", "pi", "ssh-ed25519", b"one"), tmp_path / "file" / "known_hosts")


def test_names_are_written_as_openssh_writes_them() -> None:
    assert known_hosts_name("Pi.local", 22) == "pi.local"
    assert known_hosts_name("fe80::1", 2222) == "[fe80::1]:2222"
