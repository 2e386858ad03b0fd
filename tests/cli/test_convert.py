"""edgekit convert: for several boards at once, twice, and interrupted."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Material
from tests.cli.program import Program

# Gives samples to the stages before the one that is named, and stops there for longer than any test waits.
HANGS = """
import os, pathlib, sys, time
import numpy as np

def samples():
    calibrating = "tensorflow" in sys.modules
    for number in range(20):
        if number == 5 and calibrating == (os.environ["HANG"] == "calibrate"):
            pathlib.Path(os.environ["HANGS"]).touch()
            time.sleep(600)
        yield np.array([0.1 * number, -1, 1, 0.5], np.float32)
"""


class TestTwice:
    def test_several_boards_then_one_of_them_from_the_cache(self, edgekit: Program, material: Material) -> None:
        edgekit = edgekit.with_(EDGEKIT_NO_CACHE="", EDGEKIT_CACHE=str(edgekit.cwd.parent / "cache"))
        words: list[str | Path] = [
            "convert",
            material.keras,
            "-c",
            material.pictures,
            "--range",
            "-1..1",
            "--samples",
            "20",
        ]
        boards = ["raspberry-pi-4b", "generic-armv7"]
        both = edgekit(*words, "-p", boards[0], "-p", boards[1], "-o", "m.tflite")
        for name in boards:
            assert f"colours: keras to INT8 for {name}" in both.out
            assert f"wrote m.{name}.tflite and m.{name}.edgekit/\n" in both.err
            assert f"next: edgekit bundle m.{name}.tflite -p {name} -o m.{name}.ekb\n" in both.err
        assert "from the cache" not in both.err
        assert sorted(os.listdir(edgekit.cwd)) == [
            f"m.{name}{suffix}" for name in sorted(boards) for suffix in (".edgekit", ".tflite")
        ]

        one = edgekit(*words, "-p", boards[1], "-o", "again.tflite")
        assert "from the cache: the same was converted before (--no-cache converts anew)\n" in one.err
        assert "TensorFlow" not in one.err
        for name in ("again.tflite", "again.edgekit/conversion.json"):
            before = edgekit.cwd / name.replace("again", f"m.{boards[1]}")
            assert (edgekit.cwd / name).read_bytes() == before.read_bytes()

        told = edgekit(*words, "-p", boards[0], "-p", boards[1], "-o", "m.tflite", "--json").data
        assert set(told) == {"conversions", "seconds", "peak_memory_mb"}
        assert [part["conversion"]["profile"] for part in told["conversions"]] == boards
        assert [part["output"] for part in told["conversions"]] == [f"m.{name}.tflite" for name in boards]
        assert all(part["cached"] for part in told["conversions"])

    def test_the_same_profile_twice(self, edgekit: Program, material: Material) -> None:
        words: list[str | Path] = ["-p", "host", "-p", "host", "-c", material.vectors, "-o", "m.tflite"]
        assert edgekit.fails("convert", material.sine, *words)["message"] == "profile given twice: host"


@pytest.mark.parametrize(
    ("stage", "number", "status"),
    [("calibrate", signal.SIGINT, 130), ("prove", signal.SIGINT, 130), ("calibrate", signal.SIGTERM, 143)],
)
def test_an_end_leaves_nothing(
    stage: str, number: signal.Signals, status: int, edgekit: Program, material: Material
) -> None:
    (edgekit.cwd.parent / "data.py").write_text(HANGS)
    hangs = edgekit.cwd.parent / "hangs"
    process = edgekit.with_(HANG=stage, HANGS=str(hangs)).start(
        "convert", material.code, "--trust-code", "-p", "host", "-c", "../data.py:samples", "-o", "m.tflite"
    )
    try:
        limit = time.monotonic() + 120
        while not hangs.exists():
            assert time.monotonic() < limit
            assert process.poll() is None
            time.sleep(0.02)
        workers = _children(process.pid)
        assert len(workers) == 1
        assert [path.suffix for path in edgekit.cwd.iterdir()] == [".part"], "it was at work"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status
    assert out == ""
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err
    assert list(edgekit.cwd.iterdir()) == []
    assert [worker for worker in workers if _runs(worker)] == []


def test_ctrl_c_before_it_has_begun_is_no_traceback_either(edgekit: Program, tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    ended = edgekit.with_(PYTHONPATH=str(tmp_path))("--version", code=130)
    assert (ended.out, ended.err) == ("", "interrupted\n")


def test_what_a_killed_conversion_has_left(edgekit: Program, material: Material) -> None:
    """The next one in that folder removes it, but not what a living process holds, and leaves no temporary file."""
    left, held = edgekit.cwd / ".m-abcdefgh.part", edgekit.cwd / ".other-abcdefgh.part"
    temporary = edgekit.cwd.parent / "temporary"
    for folder in (left, held, temporary):
        folder.mkdir()
    (left / "float.tflite").write_bytes(b"half")
    descriptor = os.open(held, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        edgekit.with_(TMPDIR=str(temporary))(
            "convert", material.keras, "-p", "host", "-c", material.pictures, "--range", "-1..1", "-o", "m.tflite",
            "--samples", "10", "--no-cache",
        )  # fmt: skip
    finally:
        os.close(descriptor)
    assert sorted(path.name for path in edgekit.cwd.iterdir()) == [held.name, "m.edgekit", "m.tflite"]
    assert list(temporary.iterdir()) == []


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        return "edgekit" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
