"""What callers may count on: types, addresses, the ssh config, and what is not imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edgekit.errors import UserError
from edgekit.transport import Address, RemotePath, parse_address
from edgekit.transport.config import resolve


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pi", Address("pi")),
        ("pi@10.0.0.7", Address("10.0.0.7", "pi")),
        ("pi@board.local:2222", Address("board.local", "pi", 2222)),
        ("board:22", Address("board", None, 22)),
        ("[fe80::1%eth0]:2222", Address("fe80::1%eth0", None, 2222)),
        ("pi@[::1]", Address("::1", "pi")),
        ("::1", Address("::1")),
        ("2001:db8::7", Address("2001:db8::7")),
        ("me@corp@board", Address("board", "me@corp")),
    ],
)
def test_a_board_is_read_as_people_type_it(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "pi@",
        "-oProxyCommand=sh",
        "pi@-x",
        "board:0",
        "board:65536",
        "board:ssh",
        "board:",
        "a b",
        "[::1",
        "x/y",
    ],
)
def test_what_is_not_a_board_is_said_to_be_none(text: str) -> None:
    with pytest.raises(UserError, match="not a board"):
        parse_address(text)


@given(st.text())
def test_no_text_breaks_the_reading_of_an_address(text: str) -> None:
    try:
        found = parse_address(text)
    except UserError:
        return
    assert found.host
    assert not found.host.startswith("-")


def config(folder: Path, text: str) -> Path:
    file = folder / "config"
    file.write_text(text)
    return file


def test_the_config_completes_what_was_typed(tmp_path: Path) -> None:
    file = config(
        tmp_path,
        """
        Host lab-*
          User pi
          Port 2222
        Host lab-7
          HostName 10.0.0.7
          IdentityFile ~/.ssh/lab_%h
          IdentitiesOnly yes
          HostKeyAlias lab-seven
          UserKnownHostsFile ~/a "~/b c"
          ProxyJump root@gate:22022
        """,
    )
    target = resolve("lab-7", file)
    assert (target.host, target.port, target.user, target.key_name) == ("10.0.0.7", 2222, "pi", "lab-seven")
    assert target.identities == (Path.home() / ".ssh" / "lab_10.0.0.7",)
    assert target.identities_only
    assert target.known_hosts[1:3] == (Path.home() / "a", Path.home() / "b c")
    assert [(jump.host, jump.user, jump.port) for jump in target.jumps] == [("gate", "root", 22022)]
    typed = resolve("admin@lab-7:22", file)
    assert (typed.user, typed.port) == ("admin", 22)


def test_what_ssh_itself_makes_of_the_config_is_the_same(tmp_path: Path) -> None:
    file = config(
        tmp_path,
        "Host a\n HostName ten.example\n User first\nHost *\n User second\n Port 2201\nHost a\n Port 2202\n",
    )
    shown = subprocess.run(["ssh", "-G", "-F", str(file), "a"], check=True, capture_output=True, text=True)
    ssh = dict(line.split(" ", 1) for line in shown.stdout.splitlines() if " " in line)
    target = resolve("a", file)
    assert (target.host, target.user, str(target.port)) == (ssh["hostname"], ssh["user"], ssh["port"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Host b\n ProxyCommand nc %h %Z\n", "%Z"),
        ("Host b\n User $(reboot)\n ProxyCommand nc -u %r %h\n", "cannot stand in a ProxyCommand"),
        ("Host b\n ProxyJump c\nHost c\n ProxyJump b\n", "circle"),
        ("Host b\n Port many\n", "port"),
        ("Host b\n ProxyJump -oX\n", "not a board"),
        ("Host 'b\n", "cannot read the ssh config"),
    ],
)
def test_a_config_that_cannot_be_followed_is_the_users_to_mend(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve("b", config(tmp_path, text))


def test_a_config_that_was_asked_for_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no ssh config"):
        resolve("b", tmp_path / "none")
    monkeypatch.setenv("EDGEKIT_SSH_CONFIG", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no ssh config"):
        resolve("b")


def test_paths_of_the_board_join_and_refuse() -> None:
    path = RemotePath("/srv") / "a b" / RemotePath("c")
    assert str(path) == "/srv/a b/c"
    assert (path.name, str(path.parent), str(RemotePath("x").parent), str(RemotePath("/x").parent)) == (
        "c",
        "/srv/a b",
        ".",
        "/",
    )
    for wrong in ("", "a\0b"):
        with pytest.raises(UserError):
            RemotePath(wrong)
    with pytest.raises(UserError, match="absolute"):
        path / "/etc/passwd"
    with pytest.raises(TypeError):
        RemotePath(Path("/local"))  # type: ignore[arg-type]  # that is the test
    with pytest.raises(TypeError):
        open(path)  # type: ignore[call-overload]  # that is the test  # noqa: SIM115
    with pytest.raises(AttributeError):
        path.path = "other"  # type: ignore[misc]  # that is the test


SNIPPET = """
from io import BytesIO
from pathlib import Path
from edgekit.transport import RemotePath, Transport

def wrong(board: Transport) -> None:
    board.put(BytesIO(), Path("/local"), size=0)
    board.get(Path("/local"), limit=1)
    board.run(["cat", Path("/local")])
    Path("/local") / RemotePath("x")
    open(RemotePath("x"))

def right(board: Transport) -> None:
    board.put(BytesIO(), RemotePath("/there"), size=0)
    board.run(["cat", RemotePath("/there")])
"""


def test_a_local_path_where_a_boards_path_is_due_fails_under_mypy(tmp_path: Path, repository: Path) -> None:
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--config-file", str(repository / "pyproject.toml"), str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=repository, timeout=300)
    errors = [line.split(":", 1)[1] for line in done.stdout.splitlines() if ": error:" in line]
    assert [int(line.split(":")[0]) for line in errors] == [7, 8, 9, 10, 11], done.stdout
    assert 'expected "RemotePath"' in errors[0]


def test_importing_the_transport_does_not_import_paramiko() -> None:
    code = "import sys, edgekit.transport; sys.exit('paramiko' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
