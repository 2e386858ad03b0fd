"""push, activate, status, rollback, check and bench over SSH to the embedded board."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgekit import board as boards
from edgekit import transport
from edgekit.board import Board, BoardMismatch, CheckRejected, NoPreviousRelease, UnknownRelease
from edgekit.board.session import open_board
from edgekit.bundles import bundle
from edgekit.bundles.bundle import Bundle, BundleError
from edgekit.embedded import BoardHome, EmbeddedBoard, serve
from edgekit.errors import DeviceError, UserError
from edgekit.transport import LinkLost, NoSpace
from edgekit.transport.dial import Timeouts
from tests import releases
from tests.tcp_proxy import TcpProxy


@dataclass(frozen=True)
class Site:
    """The embedded board of one test, and how to reach it, also through another port."""

    server: EmbeddedBoard
    folder: Path

    @property
    def root(self) -> Path:
        return self.server.home.home / ".local/share/edgekit"

    def connect(self, port: int | None = None) -> transport.Transport:
        known = self.folder / "known"
        known.write_text(f"edgekit-embedded {Path(f'{self.server.home.host_key}.pub').read_text()}")
        text = self.server.ssh_config("board") + f"  UserKnownHostsFile {known}\n"
        config = self.folder / "config"
        config.write_text(text.replace(f"Port {self.server.port}", f"Port {port or self.server.port}"))
        return transport.connect("board", config=config, timeouts=Timeouts(connect=5, auth=5, stall=5))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("EDGEKIT_CONFIG_DIR", str(tmp_path / "config folder"))
    with serve(BoardHome(tmp_path / "an embedded board")) as server:
        yield Site(server, tmp_path)


@pytest.fixture
def board(site: Site) -> Iterator[Board]:
    with site.connect() as link:
        yield open_board(link)


def test_looking_leaves_nothing_behind(site: Site, board: Board) -> None:
    found = boards.facts(board)
    assert found.root == str(site.root)
    assert found.python is not None
    assert boards.status(board).state == "IDLE"
    assert not site.root.exists()


def test_the_way_of_two_releases(site: Site, board: Board, one: Bundle, two: Bundle) -> None:
    first = boards.push(board, one)
    assert (first.sent_files, first.reused_files) == (len(one.sizes), 0)
    assert first.sent_bytes == sum(one.sizes.values())
    status = boards.status(board)
    assert (status.state, status.current) == ("STAGED", None)
    assert status.staged is not None
    assert status.staged.name == "trees"

    status = boards.activate(board)
    assert status.current is not None
    assert status.current.id == one.release.id

    second = boards.push(board, two)
    assert second.sent_files == len(set(two.sizes) - set(one.sizes))
    assert second.reused_bytes == sum(size for sha256, size in two.sizes.items() if sha256 in one.sizes)
    again = boards.push(board, two)
    assert (again.sent_files, again.sent_bytes) == (0, 0)

    status = boards.activate(board, two.release.id[:12])
    assert (status.previous, status.staged) == (boards.BoardRelease(one.release.id, "trees"), None)
    again_status = boards.activate(board, two.release.id)
    assert replace(again_status, free_kb=0) == replace(status, free_kb=0)
    status = boards.rollback(board)
    assert (status.state, status.current) == ("ROLLED_BACK", boards.BoardRelease(one.release.id, "trees"))
    assert boards.check(board, two.release.id)["result"] == "ok"
    assert {item.id for item in boards.status(board).releases} == {one.release.id, two.release.id}
    assert not list((site.root / "incoming").iterdir())


def test_another_program_on_the_board_is_replaced(site: Site, board: Board, one: Bundle) -> None:
    boards.push(board, one)
    program = site.root / "bin" / "edgekit-board"
    ours = program.read_bytes()
    program.write_bytes(b"#!/bin/sh\nexit 0\n")
    with site.connect() as link:
        assert boards.collect(open_board(link)) >= 0
    assert program.read_bytes() == ours
    assert [path.name for path in program.parent.iterdir()] == ["edgekit-board"]


def test_progress_counts_what_the_board_has(board: Board, one: Bundle) -> None:
    seen: list[tuple[int, int]] = []
    boards.push(board, one, progress=lambda done, total: seen.append((done, total)))
    total = sum(one.sizes.values())
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def large(folder: Path, size: int = 3 << 20) -> tuple[Bundle, str, bytes]:
    content = os.urandom(size)
    made = releases.make(folder, "large", extra={"runtime/large.bin": content})
    return made, hashlib.sha256(content).hexdigest(), content


def test_a_cut_link_costs_only_what_had_not_arrived(site: Site, tmp_path: Path) -> None:
    made, sha256, content = large(tmp_path)
    with (
        TcpProxy(("127.0.0.1", site.server.port), cut_after=2 << 20) as proxy,
        site.connect(proxy.port) as link,
        pytest.raises(LinkLost),
    ):
        boards.push(open_board(link), made)
    with site.connect() as link:
        board = open_board(link)
        assert boards.status(board).current is None
        result = boards.push(board, made)
    assert 0 < result.resumed_bytes < len(content)
    assert result.sent_bytes <= sum(made.sizes.values()) - result.resumed_bytes
    assert (site.root / "store" / sha256).read_bytes() == content


@pytest.mark.parametrize("prefix", ["right", "altered", "longer than the whole", "of the right size but wrong"])
def test_only_a_proven_prefix_is_continued(site: Site, board: Board, tmp_path: Path, prefix: str) -> None:
    made, sha256, content = large(tmp_path, 1 << 20)
    board.install()
    half = 1 << 19
    there = {
        "right": content[:half],
        "altered": b"x" + content[1:half],
        "longer than the whole": content + b"x",
        "of the right size but wrong": b"x" + content[1:],
    }[prefix]
    board.transport.put(io.BytesIO(there), board.root / "incoming" / sha256, size=len(there))
    result = boards.push(board, made)
    assert result.resumed_bytes == (half if prefix == "right" else 0)
    assert (site.root / "store" / sha256).read_bytes() == content


def test_a_damaged_store_is_mended_by_pushing_again(site: Site, board: Board, one: Bundle) -> None:
    boards.push(board, one)
    boards.activate(board)
    sha256 = one.release.member("model.tflite").sha256
    content = site.root / "store" / sha256
    content.chmod(0o600)
    content.write_bytes(content.read_bytes()[:-1])
    with pytest.raises(boards.Damaged):
        boards.activate(board, one.release.id)
    result = boards.push(board, one)
    assert result.sent_files == 1
    boards.activate(board, one.release.id)
    assert hashlib.sha256(content.read_bytes()).hexdigest() == sha256


def test_a_bundle_that_was_altered_is_not_sent(site: Site, board: Board, one: Bundle, tmp_path: Path) -> None:
    content = bytearray(one.path.read_bytes())
    content[one.offsets[one.release.member("model.tflite").sha256] + 100] ^= 1
    path = tmp_path / "altered.ekb"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.tflite"):
        boards.push(board, bundle.open_bundle(path))
    assert not site.root.exists()


def test_a_release_for_another_kind_of_board_is_not_sent(site: Site, board: Board, tmp_path: Path) -> None:
    made = releases.make(tmp_path, "foreign", architecture="riscv64", python="3.6")
    with pytest.raises(BoardMismatch) as caught:
        boards.push(board, made)
    assert caught.value.exit_code == 2
    assert [item["field"] for item in caught.value.fields["mismatches"]] == ["architecture", "python"]
    assert "riscv64" in caught.value.message
    assert not site.root.exists()


def test_a_release_that_fails_its_check_leaves_the_old_one(board: Board, one: Bundle, rejected: Bundle) -> None:
    boards.push(board, one)
    boards.activate(board)
    boards.push(board, rejected)
    heard: list[str] = []
    with pytest.raises(CheckRejected) as caught:
        boards.activate(board, rejected.release.id, on_stderr=heard.append)
    assert caught.value.exit_code == 1
    assert "which ai_edge_litert" in caught.value.message
    assert "convert it with built-in operators only" in caught.value.fields["reason"]
    assert heard
    status = boards.status(board)
    assert status.state == "ROLLED_BACK"
    assert status.current == boards.BoardRelease(one.release.id, "trees")


def test_a_board_that_is_too_full_is_sent_nothing(site: Site, board: Board, small_disk: Path, tmp_path: Path) -> None:
    site.root.parent.mkdir(parents=True)
    site.root.symlink_to(small_disk)
    made, _, _ = large(tmp_path, 6 << 20)
    with pytest.raises(NoSpace) as caught:
        boards.push(board, made)
    fields = caught.value.fields
    assert fields["needed"] + fields["reserve"] > fields["free"]
    assert {path.name for path in (small_disk / "incoming").iterdir()} == {f"{made.release.id}.release"}


def test_nothing_to_do_is_said(board: Board) -> None:
    with pytest.raises(NoPreviousRelease):
        boards.rollback(board)
    with pytest.raises(UnknownRelease):
        boards.activate(board)
    with pytest.raises(UnknownRelease):
        boards.run_runtime(board, ["info"])
    with pytest.raises(UnknownRelease):
        boards.bench_file(board, releases.MODELS / "classifier_int8.tflite")


QUICK = ("--num-runs", "3", "--min-secs", "0", "--warmup-min-secs", "0")


def test_bench_of_a_release_and_of_a_file(site: Site, board: Board, one: Bundle) -> None:
    boards.push(board, one)
    staged = boards.bench_file(board, releases.MODELS / "classifier_float.tflite", QUICK)
    assert staged.latency.num_runs >= 3
    boards.activate(board)
    before = boards.status(board)
    measured = boards.bench(board, QUICK)
    assert measured.latency.median_ms > 0
    with pytest.raises(UserError) as caught:
        boards.bench_file(board, releases.MODELS / "custom.tflite", QUICK)
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="cannot be read"):
        boards.bench_file(board, site.folder / "none.tflite", QUICK)
    assert not list((site.root / "cache").glob("bench.*"))
    after = boards.status(board)
    assert (after.current, after.state, after.releases) == (before.current, before.state, before.releases)


def test_a_root_that_is_a_file_is_an_error_of_the_board(site: Site, board: Board, one: Bundle) -> None:
    site.root.parent.mkdir(parents=True)
    site.root.write_text("in the way")
    with pytest.raises(DeviceError) as caught:
        boards.push(board, one)
    assert caught.value.exit_code == 3
    assert site.root.read_text() == "in the way"
