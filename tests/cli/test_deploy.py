"""deploy: the whole chain as one command, on the embedded board."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgekit_runtime import benchreport, schema
from edgekit_runtime.benchreport import BenchReport

from tests.cli.conftest import Material
from tests.cli.program import Program


@pytest.fixture
def trusted(edgekit: Program) -> Program:
    """A user whose embedded board is trusted."""
    edgekit("trust", "embedded", stdin="y\n")
    return edgekit


def words(material: Material, *more: str | Path) -> list[str | Path]:
    data: list[str | Path] = ["-c", material.pictures, "--range", "-1..1", "--samples", "20"]
    return ["deploy", material.keras, "embedded", *data, *more]


def test_from_a_model_to_a_measured_release(trusted: Program, material: Material) -> None:
    ended = trusted(*words(material, "-p", "host", "-d", material.pictures, "-o", "out", "--json"))
    done = ended.data
    assert ended.err == ""
    assert trusted("status", "embedded", "--json").data["current"]["id"] == done["release"]
    for name in ("bench", "float_bench"):
        assert schema.read(BenchReport, done[name], name).schema == benchreport.SCHEMA
    made = sorted(path.name for path in (trusted.cwd / "out").iterdir())
    assert made == ["colours.ekb", "model.edgekit", "model.tflite", "report.html"]
    assert done["report"] == "out/report.html"

    again = trusted(*words(material, "-p", "host", "-o", "out"))
    assert "FP32 against INT8, 60 samples, of which 20 have calibrated it" in again.out
    assert "sent 0 B in 0 files" in again.out, "what the board has is not sent again"
    assert "FP32 / INT8" in again.out
    assert [line for line in again.err.splitlines() if line.startswith("next: ")] == [
        "next: edgekit run embedded PICTURE",
        "next: edgekit rollback embedded",
    ]


def test_a_board_that_contradicts_the_profile_is_told_before_anything_is_made(
    trusted: Program, material: Material, repository: Path, tmp_path: Path
) -> None:
    text = (repository / "device_profiles/raspberry-pi-4b.toml").read_text("utf-8")
    for old, new in (("raspberry-pi-4b", "rover"), ("aarch64-linux-gnu", "arm-linux-gnueabihf"), ("aarch64", "armv7l")):
        text = text.replace(f'"{old}"', f'"{new}"')
    (tmp_path / "rover.toml").write_text(text, "utf-8")
    told = trusted.fails(*words(material, "-p", tmp_path / "rover.toml"))
    assert told["type"] == "BoardMismatch"
    assert "architecture" in told["message"]
    assert {"field", "wanted", "found"} == set(told["fields"]["mismatches"][0])
    assert list(trusted.cwd.iterdir()) == []


def test_a_gate_that_does_not_hold_leaves_the_board_as_it_was(trusted: Program, material: Material) -> None:
    told = trusted.fails(*words(material, "-p", "host", "--min-sqnr", "120"), code=1)
    assert "below 120 dB" in told["message"]
    assert trusted("status", "embedded", "--json").data["releases"] == []


def test_a_place_for_the_results_that_is_taken(trusted: Program, material: Material) -> None:
    (trusted.cwd / "out").write_text("a file\n")
    told = trusted.fails(*words(material, "-p", "host", "-o", "out"))
    assert told["message"] == "out: cannot be made: File exists"
    assert (trusted.cwd / "out").read_text() == "a file\n"
