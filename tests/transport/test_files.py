"""Putting and getting files: whole, resumed, refused; by SFTP and by `cat`."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from edgekit.errors import UserError
from edgekit.transport import (
    NoSpace,
    NotFound,
    OutputTooLarge,
    ReadOnlyTarget,
    RemotePath,
    TransferFailed,
    Transport,
)
from tests.ssh_fixture import start_sshd
from tests.transport.conftest import SSH, Board

names = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=40).filter(
    lambda name: name not in {".", ".."} and len(name.encode()) < 200
)


def on_board(board: Board, name: str) -> RemotePath:
    return RemotePath(str(board.folder)) / name


def test_what_is_put_is_there(board: Board, link: Transport) -> None:
    data, seen = os.urandom(5_000_001), list[int]()
    link.put(io.BytesIO(data), on_board(board, "x"), size=len(data), progress=seen.append)
    assert (board.folder / "x").read_bytes() == data
    assert seen == sorted(seen)
    assert seen[-1] == len(data)
    assert link.sending == board.sending


@pytest.mark.parametrize("size", [0, 1, 32_256, 32_257])
def test_small_and_round_sizes(board: Board, link: Transport, size: int) -> None:
    data = os.urandom(size)
    link.put(io.BytesIO(data), on_board(board, "x"), size=size)
    assert (board.folder / "x").read_bytes() == data
    assert link.get(on_board(board, "x"), limit=size) == data


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names)
def test_any_name_is_put_and_got(board: Board, link: Transport, name: str) -> None:
    link.put(io.BytesIO(b"content"), on_board(board, name), size=7)
    assert (board.folder / name).read_bytes() == b"content"
    assert link.get(on_board(board, name), limit=7) == b"content"
    (board.folder / name).unlink()


@pytest.mark.parametrize("there", [1_000_000, 1_500_000])
def test_resume_keeps_what_is_before_the_offset_and_replaces_the_rest(
    board: Board, link: Transport, there: int
) -> None:
    data = os.urandom(2_000_000)
    (board.folder / "part").write_bytes(b"\1" * there + b"\2" * 700_000)
    link.put(io.BytesIO(data), on_board(board, "part"), size=len(data), offset=1_000_000)
    assert (board.folder / "part").read_bytes() == b"\1" * 1_000_000 + data[1_000_000:]


def test_a_part_shorter_than_the_offset_is_not_continued(board: Board, link: Transport) -> None:
    (board.folder / "part").write_bytes(b"123")
    with pytest.raises(TransferFailed, match="shorter"):
        link.put(io.BytesIO(b"x" * 100), on_board(board, "part"), size=100, offset=50)
    assert (board.folder / "part").read_bytes() == b"123"


def test_a_put_replaces_a_longer_file(board: Board, link: Transport) -> None:
    (board.folder / "x").write_bytes(b"a much longer content")
    link.put(io.BytesIO(b"short"), on_board(board, "x"), size=5)
    assert (board.folder / "x").read_bytes() == b"short"


def test_a_source_that_ends_early_is_noticed(board: Board, link: Transport) -> None:
    with pytest.raises((TransferFailed, UserError)):
        link.put(io.BytesIO(b"12345"), on_board(board, "x"), size=10)
    assert link.run(["echo", "alive"]).stdout == b"alive\n"


def test_a_source_that_cannot_be_read_is_this_computers_fault(board: Board, link: Transport) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(UserError, match="Input/output error"):
        link.put(Broken(), on_board(board, "x"), size=10)
    assert link.run(["echo", "alive"]).stdout == b"alive\n"


def test_get_is_capped(board: Board, link: Transport) -> None:
    (board.folder / "x").write_bytes(b"x" * 100_001)
    with pytest.raises(OutputTooLarge):
        link.get(on_board(board, "x"), limit=100_000)
    assert len(link.get(on_board(board, "x"), limit=100_001)) == 100_001


@pytest.mark.parametrize("board", SSH, indirect=True)
def test_get_takes_files_that_do_not_know_their_size(link: Transport) -> None:
    assert link.get(RemotePath("/proc/version"), limit=4096) == Path("/proc/version").read_bytes()


def test_a_missing_file_and_a_missing_folder_are_named(board: Board, link: Transport) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        link.get(on_board(board, "nowhere"), limit=10)
    with pytest.raises(NotFound, match="nowhere"):
        link.put(io.BytesIO(b"x"), on_board(board, "nowhere") / "x", size=1)
    link.put(io.BytesIO(b"x"), on_board(board, "x"), size=1)  # and the connection can go on


@pytest.fixture
def small_disk(board: Board) -> Iterator[Path]:
    """A file system of 1 MiB on the board."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    folder = board.folder / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True, timeout=20).returncode:
        pytest.skip("this container may not mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


def test_a_full_disk_is_called_full(link: Transport, small_disk: Path) -> None:
    data = os.urandom(3 << 20)
    with pytest.raises(NoSpace) as caught:
        link.put(io.BytesIO(data), RemotePath(str(small_disk)) / "x", size=len(data))
    assert caught.value.exit_code == 3
    assert caught.value.fields["path"] == str(small_disk / "x")
    assert link.run(["echo", "alive"]).stdout == b"alive\n"


def test_a_read_only_disk_is_called_read_only(link: Transport, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=20)
    with pytest.raises(ReadOnlyTarget, match="Read-only"):
        link.put(io.BytesIO(b"x"), RemotePath(str(small_disk)) / "x", size=1)


def test_a_server_whose_sftp_is_missing_falls_back_to_cat(tmp_path: Path) -> None:
    from edgekit.transport import connect

    with (
        start_sshd(tmp_path, sftp=False, options=["Subsystem sftp /no/such/sftp-server"]) as real,
        connect(real.alias, config=real.ssh_config) as link,
    ):
        link.put(io.BytesIO(b"content"), RemotePath(str(real.root)) / "x", size=7)
        assert (real.root / "x").read_bytes() == b"content"
        assert (link.sending, link.noise) == ("cat", "")
