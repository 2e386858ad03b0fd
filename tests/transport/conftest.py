"""Boards to talk to: a real OpenSSH with and without SFTP, and the embedded one; nothing of the user's own is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgekit.embedded import BoardHome, EmbeddedBoard, serve
from edgekit.transport import Transport, connect
from edgekit.transport.dial import Timeouts
from tests import card
from tests.ssh_fixture import SshBoard, start_sshd

SSH = ("sshd", "sshd_without_sftp", "embedded")
SHORT = Timeouts(connect=1.5, auth=1.5, stall=1.5)


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and configuration, no agent."""
    folder = tmp_path_factory.mktemp("user")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("EDGEKIT_CONFIG_DIR", str(folder / "edgekit"))
    monkeypatch.delenv("EDGEKIT_SSH_CONFIG", raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshBoard]:
    with start_sshd(tmp_path_factory.mktemp("openssh")) as board:
        yield board


@pytest.fixture(scope="session")
def sshd_without_sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshBoard]:
    with start_sshd(tmp_path_factory.mktemp("nosftp"), sftp=False) as board:
        yield board


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBoard]:
    with serve(BoardHome(tmp_path_factory.mktemp("embedded") / "a board")) as board:
        yield board


@dataclass
class Board:
    """A board as a test sees it: how to connect, and a folder there that is also one here."""

    connect: Callable[[], Transport]
    folder: Path
    sending: str
    opened: list[Transport] = field(default_factory=list)


@contextmanager
def board_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Board]:
    if kind == "card":
        with card.open_folder() as place:
            sd = card.fill(place)
            target = sd.home / "on the board"
            target.mkdir()
            os.chown(target, card.UID, card.UID)
            yield Board(lambda: connect(sd.name), target, "copy")
        return
    if kind == "embedded":
        server: EmbeddedBoard = request.getfixturevalue("embedded")
        config, alias = folder / "ssh_config", "edgekit-embedded"
        key = Path(f"{server.home.host_key}.pub").read_text()
        (folder / "known").write_text(f"edgekit-embedded {key}")
        config.write_text(server.ssh_config() + f"  UserKnownHostsFile {folder / 'known'}\n")
    else:
        real: SshBoard = request.getfixturevalue(kind)
        config, alias = real.ssh_config, real.alias
    sending = "cat" if kind == "sshd_without_sftp" else "sftp"
    target = folder / "on the board"
    target.mkdir()
    yield Board(lambda: connect(alias, config=config), target, sending)


@pytest.fixture(params=[*SSH, "card"])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Board]:
    with board_of(request.param, request, tmp_path) as found:
        yield found


@pytest.fixture
def link(board: Board) -> Iterator[Transport]:
    with board.connect() as transport:
        yield transport
