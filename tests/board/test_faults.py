"""A cut at any instant, a full disk, a disk that cannot be written: the old release is current, or the new one."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from edgekit_runtime import release

from edgekit.bundles import bundle
from edgekit.bundles.bundle import Bundle
from tests import releases
from tests.board import cut
from tests.board.conftest import Program, start

needs_ptrace = pytest.mark.skipif(not cut.CALLS, reason="the system calls of this architecture are not numbered here")


def traced(program: Program, at: int, *words: str) -> tuple[int, int]:
    """Run a command, killing all its processes before change number `at`: changes seen, and status."""
    argv = [sys.executable, cut.__file__, str(program.root), str(at), *program.command(*words)]
    done = subprocess.run(argv, capture_output=True, env=program.environment, timeout=120, check=False)
    return int(done.stdout.split()[-1]), done.returncode


def copy(program: Program, root: Path) -> Program:
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", str(program.root), str(root)], check=True)  # which keeps hard links
    return Program(program.argv, root, program.path)


def is_intact(program: Program, release_id: str) -> bool:
    folder = program.root / "releases" / release_id
    text = (folder / "RELEASE").read_bytes()
    return hashlib.sha256(text).hexdigest() == release_id and all(
        hashlib.sha256((folder / member.name).read_bytes()).hexdigest() == member.sha256
        for member in release.parse(text).members
    )


def leftovers(program: Program) -> set[str]:
    """What a finished command leaves in no folder."""
    return {
        str(path.relative_to(program.root))
        for path in program.root.rglob("*")
        if path.suffix == ".tmp" or path.name in ("lock", "lock.break", "probe")
    }


@pytest.fixture(scope="module", params=["dash", "busybox"])
def boards(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tools: Mapping[str, str]
) -> dict[str, tuple[Program, str, str]]:
    """A board just before each command, and the ids of the old and the new release. The releases are tiny."""
    folder = tmp_path_factory.mktemp("boards")
    few = {"model.tflite", "manifest.json", "labels.txt"}

    def small(tag: str) -> Bundle:
        members = {name: content for name, content in releases.members(tag).items() if name in few}
        # The real runtime changes nothing in the folder; this one spares hundreds of runs the loading of NumPy.
        members["runtime/edgekit_runtime/__init__.py"] = b""
        members["runtime/edgekit_runtime/__main__.py"] = b"import sys\nassert sys.argv[1:] == ['check']\n"
        return bundle.build(
            folder / f"{tag}.ekb",
            members,
            name="trees",
            profile="host",
            architecture="x86_64",
            glibc="2.36",
            python="3.11",
        )

    old, new = small("old"), small("new")
    base = start(request.param, folder / "base", tools)
    base.activate(old)
    receiving = copy(base, folder / "receiving")
    receiving.receive(new)
    staged = copy(receiving, folder / "staged")
    staged.ok("stage", new.release.id)
    active = copy(staged, folder / "active")
    active.ok("activate", new.release.id)
    deferred = copy(staged, folder / "deferred")
    deferred.ok("defer", new.release.id)
    crowded = copy(active, folder / "crowded")
    crowded.stage(small("third"))
    crowded.stage(small("fourth"))
    ids = (old.release.id, new.release.id)
    return {
        "stage": (receiving, *ids),
        "activate": (staged, *ids),
        "rollback": (active, *ids),
        "gc": (crowded, *ids),
        "boot": (deferred, *ids),
    }


@needs_ptrace
@pytest.mark.parametrize("command", ["stage", "activate", "rollback", "gc", "boot"])
def test_a_cut_before_any_change_leaves_the_old_release_or_the_new(
    boards: dict[str, tuple[Program, str, str]], tmp_path: Path, command: str
) -> None:
    template, old, new = boards[command]
    words = {"stage": ("stage", new), "activate": ("activate", new), "rollback": ("rollback", new), "gc": ("gc",)}
    words["boot"] = ("boot",)
    expected = {"stage": old, "activate": new, "rollback": old, "gc": new, "boot": new}[command]
    whole = copy(template, tmp_path / "board")
    total, status = traced(whole, 0, *words[command])
    assert status == 0
    assert total > 10
    assert (whole.current, leftovers(whole)) == (expected, set())
    before = template.current
    kills = 0
    # Every change under dash; BusyBox makes the same ones with other tools, so every third will do.
    places = range(1, total + 1) if template.argv[-1].endswith("dash") else range(1, total + 1, 3)
    for at in places:
        board = copy(template, tmp_path / "board")
        seen, status = traced(board, at, *words[command])
        kills += (seen, status) == (at, 9)
        current = board.current
        assert current in (before, expected), at
        assert is_intact(board, current), at
        assert board("exec", "--", "check").status == 0, at
        if at % 2:
            board.ok("boot")
        board.ok(*words[command])
        assert board.current == expected, at
        assert is_intact(board, expected), at
        assert leftovers(board) == set(), at
    assert kills == len(places)


def test_a_board_too_full_says_so_before_anything_is_sent(program: Program, small_disk: Path, tmp_path: Path) -> None:
    board = Program(program.argv, small_disk / "root", program.path)
    large = releases.make(tmp_path, "large", extra={"runtime/large.bin": os.urandom(5 << 20)})
    values = board.ok("missing", stdin=large.release.text.encode())
    need, free, reserve = (int(values[key]) for key in ("need", "free", "reserve"))
    assert need > 5 << 20
    assert need + reserve > free


def test_what_nothing_needs_makes_room_for_a_push(
    dash: Program, small_disk: Path, one: Bundle, two: Bundle, tmp_path: Path
) -> None:
    board = Program(dash.argv, small_disk / "root", dash.path)
    board.activate(one)
    forsaken = releases.make(tmp_path, "forsaken", extra={"runtime/large.bin": os.urandom(1 << 20)})
    board.stage(forsaken)
    board.stage(two)
    (board.root / "incoming" / ("0" * 64)).write_bytes(bytes(1 << 20))
    wanted = releases.make(tmp_path, "wanted", extra={"runtime/large.bin": os.urandom(2 << 20)})
    values = board.ok("missing", stdin=wanted.release.text.encode())
    assert int(values["need"]) + int(values["reserve"]) <= int(values["free"])
    assert not (board.root / "releases" / forsaken.release.id).exists()
    assert not (board.root / "incoming" / ("0" * 64)).exists()
    assert board.current == one.release.id


def fill(folder: Path) -> Path:
    """Leave not a byte free."""
    name = folder / "filler"
    with name.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            return name


def test_a_full_disk_stops_a_stage_and_never_a_rollback(
    program: Program, small_disk: Path, one: Bundle, two: Bundle, tmp_path: Path
) -> None:
    board = Program(program.argv, small_disk / "root", program.path)
    board.activate(one)
    board.activate(two)
    third = releases.make(tmp_path, "third", extra={"runtime/more.bin": os.urandom(300_000)})
    board.receive(third)
    filler = fill(small_disk)
    (board.root / "cache" / "ballast").unlink(missing_ok=True)
    fill(small_disk)
    answer = board("stage", third.release.id)
    assert (answer.status, answer.code) == (3, "no-space"), answer
    assert board.current == two.release.id
    assert not (board.root / "releases" / third.release.id).exists()
    for expected in (one, two, one):
        board.ok("rollback")
        assert board.current == expected.release.id
    filler.unlink()
    board.stage(third)
    board.ok("activate", third.release.id)


def test_a_disk_that_cannot_be_written(program: Program, small_disk: Path, one: Bundle, two: Bundle) -> None:
    board = Program(program.argv, small_disk / "root", program.path)
    board.activate(one)
    board.receive(two)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    text = two.release.text.encode()
    for words in (("missing",), ("stage", two.release.id), ("activate", one.release.id), ("rollback",), ("gc",)):
        answer = board(*words, stdin=text)
        assert (answer.status, answer.code) == (3, "read-only"), words
    assert board.ok("status")["current"].split()[0] == one.release.id
    assert board("exec", "--", "check").status == 0
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    board.activate(two)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    fresh = Program(program.argv, small_disk / "another root", program.path)
    assert fresh.ok("facts")["root"] == str(fresh.root)
    answer = fresh("init")
    assert (answer.status, answer.code) == (3, "read-only")
