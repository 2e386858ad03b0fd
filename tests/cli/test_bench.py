"""bench and run: figures with their circumstances, and clear words where there is nothing to measure."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from edgekit_runtime import benchreport
from edgekit_runtime.benchreport import BenchReport, Soak

from edgekit.reports.report import _latency
from tests.cli.conftest import Made, Material
from tests.cli.program import Ended, Program

SHORT = ("--num-runs", "20", "--min-secs", "0", "--warmup-runs", "2")


def columns(table: str) -> list[str]:
    """The words of a table's head."""
    head = next(line for line in table.splitlines() if line.startswith("┃"))
    return [word.strip() for word in head.strip("┃").split("┃")]


class TestLocal:
    def test_one_file(self, edgekit: Program, made: Made) -> None:
        ended = edgekit("bench", "--local", "--model", made.int8, *SHORT, "-o", "report.json", "--json")
        report = benchreport.loads(ended.out)
        assert benchreport.loads((edgekit.cwd / "report.json").read_text()) == report
        assert os.listdir(edgekit.cwd) == ["report.json"]
        assert (report.latency.num_runs, report.environment.emulated) == (20, False)

    def test_int8_and_fp32_side_by_side(self, edgekit: Program, made: Made) -> None:
        def both(*words: str) -> Ended:
            return edgekit("bench", "--local", "--model", made.int8, "--baseline", made.float, *SHORT, *words)

        assert columns(both().out) == ["", "INT8", "FP32", "FP32 / INT8"]
        ended = both("-o", "both.json", "--json")
        assert ended.data == json.loads((edgekit.cwd / "both.json").read_text())
        assert ended.data["report"]["model_sha256"] != ended.data["baseline"]["model_sha256"]

    def test_litert_benchmarks_spelling(self, edgekit: Program, made: Made) -> None:
        words = [
            "--num_runs",
            "3",
            "--min_secs",
            "0",
            "--warmup_runs",
            "1",
            "--num_threads",
            "2",
            "--result-json",
            "r.json",
        ]
        assert edgekit("bench", "--local", "--model", made.int8, *words, "--json").data["num_threads"] == 2
        assert (edgekit.cwd / "r.json").is_file()

    def test_a_soak(self, edgekit: Program, made: Made) -> None:
        ended = edgekit("bench", "--local", "--model", made.int8, *SHORT, "--soak", "6000", "--json")
        assert (ended.data["soak"]["inferences"], ended.data["soak"]["verdict"]) == (6000, "flat")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ((), "say either a BOARD or --local"),
            (("embedded", "--local"), "say either a BOARD or --local"),
            (("--local",), "--local measures a file"),
            (("--local", "--model", "nowhere.tflite"), "nowhere.tflite: no such file"),
        ],
    )
    def test_what_is_to_be_measured(self, words: tuple[str, ...], message: str, edgekit: Program) -> None:
        told = edgekit.fails("bench", *words)
        assert told["message"] == message

    def test_no_model(self, edgekit: Program) -> None:
        (edgekit.cwd / "x.tflite").write_bytes(b"nothing")
        assert "not a TFLite model" in edgekit.fails("bench", "--local", "--model", "x.tflite")["message"]

    @pytest.mark.shared
    def test_a_model_that_crashes_its_interpreter(self, edgekit: Program, shared: Path) -> None:
        name = (
            "reference/malformed_or_hostile_tflite_dev/tflm/tensorflow/lite/micro/models/keyword_scrambled_8bit.tflite"
        )
        told = edgekit.fails("bench", "--local", "--model", shared / name)
        assert (told["type"], told["fields"]["signal"][:3]) == ("ModelCrashed", "SIG")  # which one differs by run
        assert "keyword_scrambled_8bit.tflite: crashed its interpreter on this computer" in told["message"]
        assert told["hint"]

    def test_a_report_that_cannot_be_written(self, edgekit: Program, made: Made) -> None:
        told = edgekit.fails("bench", "--local", "--model", made.int8, *SHORT, "-o", "nowhere/r.json")
        assert "nowhere/r.json: cannot be written" in told["message"]


class TestWhatIsShown:
    """The figures of a real run, with other circumstances put in their place."""

    @pytest.fixture
    def report(self, made: Made) -> BenchReport:
        argv = [sys.executable, "-P", "-m", "edgekit_runtime", "bench", "--json", "--model", str(made.int8), *SHORT]
        return benchreport.loads(subprocess.run(argv, capture_output=True, check=True).stdout)

    def shown(self, report: BenchReport, tmp_path: Path) -> subprocess.CompletedProcess[str]:
        judged = benchreport.judge(report.environment, report.sensors_before, report.sensors_after)
        (tmp_path / "r.json").write_text(benchreport.dumps(dataclasses.replace(report, validity=judged)))
        program = (
            "import pathlib, sys; from edgekit_runtime import benchreport; from edgekit.cli.bench import show_bench\n"
            "report = benchreport.loads(pathlib.Path(sys.argv[1]).read_text())\n"
            "show_bench([report, report], ['INT8', 'FP32'])"
        )
        argv = [sys.executable, "-c", program, str(tmp_path / "r.json")]
        return subprocess.run(argv, capture_output=True, text=True, check=True)

    def test_true_figures(self, report: BenchReport, tmp_path: Path) -> None:
        told = self.shown(report, tmp_path).stdout
        assert "median, ms" in told
        assert "FP32 / INT8" in told
        assert "a frame: " in told

    def test_how_memory_went(self, report: BenchReport, tmp_path: Path) -> None:
        assert "memory flat" not in self.shown(report, tmp_path).stdout
        soaked = dataclasses.replace(report, soak=Soak(100_000, 1.0, -0.001, 1.28, "flat", (5000, 5000)))
        assert "INT8: memory flat: +0.00 KiB per 1000 of 100000 inferences\n" in self.shown(soaked, tmp_path).stdout
        assert "memory over a soak" in _latency(report, soaked)
        assert "memory over a soak" not in _latency(report, None)

    def test_of_an_emulated_board_no_time_is_shown(self, report: BenchReport, tmp_path: Path) -> None:
        emulated = dataclasses.replace(report.environment, emulated=True)
        told = self.shown(dataclasses.replace(report, environment=emulated), tmp_path).stdout
        assert told.startswith("times are not valid: the board is emulated: its times mean nothing\n")
        assert "ms" not in told.replace("times", "")
        assert "a second" not in told
        assert "FP32 / INT8" not in told
        assert "peak memory" in told

    def test_of_a_throttled_board_no_ratio(self, report: BenchReport, tmp_path: Path) -> None:
        hot = dataclasses.replace(report.sensors_after, throttled="4")
        told = self.shown(dataclasses.replace(report, sensors_after=hot), tmp_path).stdout
        assert told.startswith("times are not valid: the firmware throttled the CPU")
        assert "median, ms" in told
        assert "FP32 / INT8" not in told

    def test_what_may_have_moved_them_is_talk(self, report: BenchReport, tmp_path: Path) -> None:
        lazy = dataclasses.replace(report.sensors_after, governor="powersave")
        assert (
            "warning: the CPU governor is 'powersave'"
            in self.shown(dataclasses.replace(report, sensors_after=lazy), tmp_path).stderr
        )


class TestBoard:
    """The embedded board of a user who has never had one."""

    def test_nothing_is_there_to_measure_or_run(self, edgekit: Program, made: Made, material: Material) -> None:
        picture = next(material.pictures.rglob("*.png"))
        edgekit("trust", "embedded", stdin="y\n")
        for told in (
            edgekit.fails("bench", "embedded"),
            edgekit.fails("run", "embedded", picture),
            edgekit.fails("bench", "embedded", "--model", made.int8),
        ):
            assert told["type"] == "UnknownRelease"
            assert "release" in told["message"]
            assert "push" in told["hint"]
        status = edgekit("status", "embedded")
        assert "IDLE, no release is there" in status.out
        assert status.err == "next: edgekit push BUNDLE embedded\n"
        assert edgekit.fails("rollback", "embedded", code=1)["type"] == "NoPreviousRelease"
        assert edgekit.fails("activate", "embedded")["type"] == "UnknownRelease"

    def test_the_verbs_one_by_one(self, edgekit: Program, made: Made, material: Material) -> None:
        edgekit("trust", "embedded", stdin="y\n")
        pushed = edgekit("push", made.bundle, "embedded")
        assert "is staged" in pushed.out
        release = pushed.err.split()[-1]
        assert "of that are a NumPy, and embedded has one that fits" in pushed.err
        assert pushed.err.endswith(f"\nnext: edgekit activate embedded {release}\n")
        active = edgekit("activate", "embedded", release)
        assert "current" in active.out
        assert active.err.endswith("next: edgekit bench embedded\n")
        assert edgekit("status", "embedded", "--json").data["current"]["id"].startswith(release)
        both = edgekit("bench", "embedded", "--baseline", made.float, *SHORT)
        assert columns(both.out) == ["", "INT8", "FP32", "FP32 / INT8"]
        red = sorted(material.pictures.glob("red/*.png"))[:2]
        answers = edgekit("run", "embedded", *red, "--json").data
        assert [item["classes"][0]["label"] for item in answers] == ["red", "red"]
        said = edgekit("run", "embedded", *red, "--top-k", "1").out.splitlines()
        assert said[0].startswith(f"{red[0]}: red ")
        told = edgekit.fails("run", "embedded", "nowhere.png")
        assert told["message"] == "'nowhere.png' does not exist"

    def test_a_board_that_is_none(self, edgekit: Program) -> None:
        assert "a BOARD is user@host" in edgekit.fails("status", "no board")["hint"]

    def test_a_board_that_does_not_answer(self, edgekit: Program) -> None:
        told = edgekit.fails("trust", "127.0.0.1:1", code=3)
        assert (told["type"], told["fields"]["reason"]) == ("Unreachable", "refused")


class TestTrust:
    def test_nothing_is_trusted_by_itself(self, edgekit: Program) -> None:
        told = edgekit.fails("status", "embedded", code=3)
        assert told["type"] == "UnknownHostKey"
        assert "edgekit trust embedded" in told["hint"]

    def test_only_a_yes_is_a_yes(self, edgekit: Program) -> None:
        assert "error: not trusted\n" in edgekit("trust", "embedded", stdin="n\n", code=2).err
        told = edgekit("trust", "embedded", code=2).err
        assert "not trusted: nobody answered" in told
        assert "--fingerprint SHA256:" in told
        edgekit("status", "embedded", code=3)

    def test_by_fingerprint(self, edgekit: Program) -> None:
        shown = edgekit.fails("status", "embedded", code=3)["fields"]["fingerprint"]
        told = edgekit.fails("trust", "embedded", "--fingerprint", "SHA256:something-else")
        assert told["fields"] == {"shown": shown, "expected": "SHA256:something-else"}
        found = edgekit("trust", "embedded", "--fingerprint", shown, "--json").data
        assert (found["fingerprint"], found["was"]) == (shown, "none")
        again = edgekit("trust", "embedded")
        assert "is trusted already" in again.err
        edgekit("status", "embedded")
