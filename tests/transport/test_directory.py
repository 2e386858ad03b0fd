"""dir:FOLDER: a mounted root file system is foreign input; nothing of it is run and no link in it leads out of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit import board as boards
from edgekit.bundles.bundle import Bundle
from edgekit.errors import UserError
from edgekit.profiles import hostfacts
from edgekit.transport import NoSpace, ReadOnlyTarget, connect
from edgekit.transport.tree import Tree
from tests import card, releases
from tests.card import UID, Card


@pytest.fixture
def place() -> Iterator[Path]:
    with card.open_folder() as folder:
        yield folder


@pytest.fixture
def sd(place: Path) -> Card:
    (place / "card").mkdir(mode=0o755)
    return card.fill(place / "card")


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return releases.make(tmp_path_factory.mktemp("bundles"), "one")


@pytest.fixture
def mounted(place: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a tmpfs below the place, with options; all are gone afterwards."""
    made: list[Path] = []

    def mount(name: str, options: str = "mode=755") -> Path:
        if os.geteuid():
            pytest.skip("mounting needs root")
        folder = place / name
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        made.append(folder)
        return folder

    yield mount
    for folder in reversed(made):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def deliver(sd: Card, bundle: Bundle) -> boards.Status:
    """Push and activate."""
    with connect(sd.name) as link:
        board = boards.open_board(link)
        return boards.activate(board, boards.push(board, bundle).release_id)


def refused(name: str) -> str:
    with pytest.raises(UserError) as caught, connect(name):
        pass
    return f"{caught.value.message} / {caught.value.hint}"


def test_facts_are_read_from_files(sd: Card) -> None:
    before = sd.files()
    with connect(sd.name) as link:
        found = boards.facts(boards.open_board(link))
    assert found.architecture == hostfacts.architecture()
    assert (found.libc, found.glibc, found.python) == ("glibc", hostfacts.glibc(), hostfacts.python())
    assert (found.numpy, found.os, found.hash_tool) == ("1.24.2", "A card for tests", "sha256sum")
    assert (found.writable, found.emulated, found.cores, found.ram_kb) == (True, False, 0, 0)
    assert found.free_kb > 0
    assert sd.files() == before
    shutil.rmtree(sd.folder / "usr/lib/python3/dist-packages/numpy")
    with connect(sd.name) as link:
        assert boards.facts(boards.open_board(link)).numpy is None


def test_a_release_is_left_to_the_first_boot_and_belongs_to_the_board_s_user(sd: Card, one: Bundle) -> None:
    found = deliver(sd, one)
    assert found.state == "STAGED"
    assert (found.current, found.starts) == (None, 0)
    assert found.pending is not None
    assert found.pending.id == one.release.id
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in [sd.root.parent, sd.root, *sd.root.rglob("*")]}
    assert owners == {(UID, UID)}
    assert [path for path in sd.root.rglob("*") if path.lstat().st_mode & 0o022] == []

    assert (sd.unit.stat().st_uid, sd.unit.stat().st_mode & 0o777) == (0, 0o644)
    assert os.readlink(sd.wants) == "/etc/systemd/system/edgekit-boot.service"
    assert "\nUser=1000\n" in sd.unit.read_text()
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", sd.unit], capture_output=True, text=True, check=False
        )
        assert (done.returncode, "edgekit-boot" in done.stderr) == (0, False), done.stderr
    before = sd.unit.stat().st_ino
    assert replace(deliver(sd, one), free_kb=0) == replace(found, free_kb=0)
    assert sd.unit.stat().st_ino == before


def test_a_system_without_ordinary_users_keeps_releases_with_root(sd: Card, one: Bundle) -> None:
    lines = card.PASSWD.splitlines(keepends=True)
    (sd.folder / "etc/passwd").write_text("".join(line for line in lines if not line.startswith("pi:")))
    deliver(sd, one)
    root = sd.folder / "root/.local/share/edgekit"
    assert (root / "state").stat().st_uid == 0
    assert "\nUser=0\n" in sd.unit.read_text()
    assert not sd.root.exists()


def test_a_system_without_systemd_is_told_what_it_has_to_run(place: Path, one: Bundle) -> None:
    (place / "card").mkdir()
    sd = card.fill(place / "card", systemd=False)
    deliver(sd, one)
    assert not sd.unit.exists()
    with connect(sd.name) as link:
        planned = boards.first_boot(boards.open_board(link))
    assert planned.unit is None
    assert planned.command == "sh /home/pi/.local/share/edgekit/bin/edgekit-board boot"


# Links


def test_links_are_followed_as_the_board_would(place: Path) -> None:
    for name in ("data/home", "etc"):
        (place / name).mkdir(parents=True)
    (place / "var").symlink_to("/data")
    (place / "etc/up").symlink_to("../../../../data/home")
    (place / "etc/round").symlink_to("round")
    tree = Tree(place)
    assert tree.resolve("/var/home/new/file") == "/data/home/new/file"
    assert tree.resolve("/etc/up/x") == "/data/home/x"
    assert tree.resolve("/../../etc/./up") == "/data/home"
    with pytest.raises(UserError, match="circles"):
        tree.resolve("/etc/round/x")


@pytest.mark.parametrize("target", ["absolute", "relative"])
@pytest.mark.parametrize("link", ["home/pi", "home/pi/.local", "home/pi/.local/share/edgekit", "etc/systemd/system"])
def test_a_folder_that_is_a_link_to_the_outside_stays_inside(
    place: Path, sd: Card, one: Bundle, link: str, target: str
) -> None:
    outside = place / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    path = sd.folder / link
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside if target == "absolute" else os.path.relpath(outside, path.parent))
    inside = sd.folder / Tree(sd.folder).resolve(f"/{link}").lstrip("/")
    inside.mkdir(parents=True)
    for folder in (inside, *(item for item in inside.parents if item.is_relative_to(sd.folder) and item != sd.folder)):
        if not link.startswith("etc"):
            os.chown(folder, UID, UID)
    deliver(sd, one)
    assert list(outside.iterdir()) == []
    assert list(inside.iterdir()) != []


@pytest.mark.parametrize("name", ["store", "incoming", "state", "bin/edgekit-board", "releases/link.tmp", "lock"])
def test_a_link_in_edgekit_s_own_folder_is_refused(place: Path, sd: Card, one: Bundle, name: str) -> None:
    deliver(sd, one)
    outside = place / "outside"
    outside.mkdir(mode=0o777)
    path = sd.root / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(outside)
    assert "neither a file nor a folder" in refused(sd.name)
    assert list(outside.iterdir()) == []


def test_pipes_and_devices_are_not_waited_for(sd: Card) -> None:
    sd.root.mkdir(parents=True)
    os.mkfifo(sd.root / "state")
    assert "neither a file nor a folder" in refused(sd.name)
    (sd.root / "state").unlink()
    (sd.folder / "etc/passwd").unlink()
    os.mkfifo(sd.folder / "etc/passwd")
    assert "no root file system" in refused(sd.name)


def test_a_program_from_the_card_is_never_run(place: Path, sd: Card, one: Bundle) -> None:
    deliver(sd, one)
    spoil = f"#!/bin/sh\n: >{place}/spoiled\n"
    place.chmod(0o777)
    for path in (sd.root / "bin/edgekit-board", sd.folder / "usr/bin/dash", sd.folder / "usr/bin/sha256sum"):
        path.write_text(spoil)
        path.chmod(0o755)
    with connect(sd.name) as link:
        board = boards.open_board(link)
        boards.status(board)
        boards.push(board, one, found=_fitting(one))
    assert not (place / "spoiled").exists()
    assert (sd.root / "bin/edgekit-board").read_bytes() != spoil.encode()


def _fitting(bundle: Bundle) -> boards.BoardFacts:
    """What a board that fits would say of itself: this one's sh tells nothing any more."""
    release = bundle.release
    return boards.BoardFacts(
        root="/", hash_tool=None, program=None, architecture=release.architecture, kernel="-", os=None, libc="glibc",
        glibc=release.glibc, python=release.python, numpy="1.0", cores=0, ram_kb=0, board=None, features=(),
        free_kb=0, writable=True, tools=(), emulated=False,
    )  # fmt: skip


# What cannot be


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ((), "is empty"),
        (("lost+found/",), "is the card mounted there?"),
        (("System Volume Information/", "Users/"), "Windows partition"),
        (("cmdline.txt", "config.txt", "kernel8.img"), "boot partition"),
        (("DCIM/", "etc/"), "no root file system"),
    ],
    ids=["empty", "not-mounted", "windows", "boot", "camera"],
)
def test_what_is_no_root_file_system_is_said_to_be_what_it_is(place: Path, names: tuple[str, ...], word: str) -> None:
    for name in names:
        if name.endswith("/"):
            (place / name).mkdir()
        else:
            (place / name).touch()
    assert word in refused(f"dir:{place}")


def test_this_computer_is_no_card() -> None:
    assert "this computer's own root" in refused("dir:/")
    assert "no such folder" in refused("dir:/nowhere/card")
    assert "names no folder" in refused("dir:")


def test_a_home_that_is_not_mounted_is_told(sd: Card) -> None:
    sd.home.rmdir()
    assert "another partition" in refused(sd.name)


def test_a_home_of_somebody_else_is_told(sd: Card) -> None:
    os.chown(sd.home, 0, 0)
    assert "belongs to uid 0" in refused(sd.name)


def test_a_place_where_its_user_cannot_go_is_told(place: Path, sd: Card) -> None:
    place.chmod(0o700)
    assert "where everybody may go" in refused(sd.name)


def test_a_card_mounted_read_only_says_so(place: Path, mounted: Callable[..., Path], one: Bundle) -> None:
    folder = mounted("small", "mode=755,size=64M,noexec,nosuid,nodev")
    sd = card.fill(folder)
    deliver(sd, one)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    with connect(sd.name) as link:
        board = boards.open_board(link)
        assert boards.facts(board).writable is False
        assert boards.status(board).pending is not None
        for order in (lambda: boards.push(board, one), lambda: boards.activate(board)):
            with pytest.raises(ReadOnlyTarget, match="small"):
                order()


def test_a_card_that_is_too_small_says_so_before_anything_is_sent(mounted: Callable[..., Path], one: Bundle) -> None:
    sd = card.fill(mounted("small", "mode=755,size=14M"))
    with connect(sd.name) as link, pytest.raises(NoSpace) as caught:
        boards.push(boards.open_board(link), one)
    assert caught.value.fields["needed"] > 0
    assert list((sd.root / "store").iterdir()) == []


def test_what_needs_a_running_board_is_refused(sd: Card, one: Bundle) -> None:
    deliver(sd, one)
    with connect(sd.name) as link:
        board = boards.open_board(link)
        orders: tuple[Callable[[], object], ...] = (
            lambda: boards.bench(board),
            lambda: boards.bench_file(board, releases.MODELS / "classifier_int8.tflite"),
            lambda: boards.check(board),
            lambda: boards.current_preprocess(board),
        )
        for order in orders:
            with pytest.raises(boards.NotRunning) as caught:
                order()
            assert "SSH" in str(caught.value.hint)
