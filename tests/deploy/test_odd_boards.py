"""Boards as they are: odd shells that chatter, umasks, locales, clocks and homes; the same commands on each."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.boards import Board
from tests.deploy.conftest import SHORT, Stock
from tests.deploy.kit import User
from tests.ssh_fixture import Account, SshBoard, start_sshd

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a board's own users need root"),
    pytest.mark.parametrize("board", ["embedded"], indirect=True),  # of the process that has its stock
]


@dataclass(frozen=True)
class Odd:
    """A login shell, its start-up file and what that does, the time, and whether files go by SFTP."""

    shell: str
    file: str
    talk: str
    clock: str
    sftp: bool


ODD = {
    "fish": Odd("fish", ".config/fish/config.fish", "echo Hallo; echo Obacht >&2; umask 000\n", "1970-01-02", False),
    "tcsh": Odd("tcsh", ".tcshrc", 'echo Hallo\nsh -c "echo Obacht >&2"\numask 077\n', "2040-01-01", True),
}


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of somebody in Germany."""
    folder = tmp_path_factory.mktemp("locale")
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", folder / "de_DE.UTF-8"], check=True, timeout=60)
    return {"LOCPATH": str(folder), "LANG": "de_DE.UTF-8", "LANGUAGE": "de"}


@contextmanager
def odd_board(folder: Path, odd: Odd, environment: dict[str, str]) -> Iterator[SshBoard]:
    """Its home is a link to another file system, which only the board sees."""
    disk, home, tools = folder / "disk", folder / "home", folder / "bin"
    disk.mkdir()
    tools.mkdir()
    home.symlink_to(disk)
    (tools / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (tools / "python3").chmod(0o755)
    start = folder / "start"
    start.write_text(odd.talk)
    mounts = (
        f'mount -t tmpfs tmpfs "$1"; mkdir -p "$1/{Path(odd.file).parent}"; cp "$2" "$1/{odd.file}"; shift 2; exec "$@"'
    )
    place = ["unshare", "--mount", "sh", "-ec", mounts, "sh", str(disk), str(start)]
    place += Account(folder / "etc").wrapper("root", f"/bin/{odd.shell}", str(home))
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    clock = {"LD_PRELOAD": str(library), "FAKETIME": f"@{odd.clock} 00:00:00", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    settings = environment | clock | {"PATH": f"{tools}:/usr/bin:/bin"}
    options = ["SetEnv " + " ".join(f'"{name}={value}"' for name, value in settings.items())]
    options += ["Subsystem sftp internal-sftp" if odd.sftp else "Subsystem sftp /usr/lib/openssh/sftp-server"]
    with start_sshd(folder, options=options, wrapper=place, sftp=False) as server:
        yield server


@pytest.mark.parametrize("kind", ODD)
def test_every_command_does_its_work_there(
    board: Board, stock: Stock, german: dict[str, str], tmp_path: Path, kind: str
) -> None:
    someone = User(tmp_path / "me")
    someone.ssh_config.parent.mkdir(parents=True)
    with odd_board(tmp_path, ODD[kind], german) as server:
        someone.ssh_config.write_text(server.ssh_config.read_text())

        def do(*words: str | Path) -> Any:
            return someone.do(*words, **german)

        assert do("status", "board")["state"] == "IDLE"
        assert do("push", stock.colours, "board")["sent_bytes"] > 15e6
        assert do("activate", "board")["state"] == "COMMITTED"
        assert do("push", stock.light, "board")["sent_bytes"] < 100_000
        assert do("activate", "board")["current"]["name"] == "light"
        assert do("bench", "board", *SHORT)["release"] == stock.second["release"]
        assert do("rollback", "board")["current"]["name"] == "colours"
        assert server.process is not None
        root = Path(f"/proc/{server.process.pid}/root{tmp_path}/disk/.local/share/edgekit")
        files = list(root.rglob("*"))
        assert len(files) > 20
        assert [path for path in files if not path.is_symlink() and path.stat().st_mode & 0o022] == []
        assert (root / "journal").read_text().count(ODD[kind].clock[:4]) > 2  # the clock was believed to be so


def test_without_a_home_a_board_can_be_looked_at_and_told_where_to_keep_things(
    board: Board, stock: Stock, tmp_path: Path
) -> None:
    someone = User(tmp_path / "me")
    someone.ssh_config.parent.mkdir(parents=True)
    place = Account(tmp_path / "etc").wrapper("root", "/bin/sh", "/proc/nowhere")
    with start_sshd(tmp_path, options=["SetEnv LANG=C"], wrapper=place) as server:
        someone.ssh_config.write_text(server.ssh_config.read_text())
        assert someone.do("status", "board")["state"] == "IDLE"
        error = someone.fail(3, "push", stock.colours, "board")
        assert error["type"] in ("ReadOnlyTarget", "BoardFailed")
        assert "EDGEKIT_ROOT" in error["hint"]
