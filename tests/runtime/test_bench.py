"""bench: litert-benchmark's names and meanings, the stop rule, and a report that survives its file."""

from __future__ import annotations

import json
import mmap
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime import bench, benchreport, soak
from edgekit_runtime.batch import BatchRefused
from edgekit_runtime.bench import Options
from edgekit_runtime.errors import DeviceError, InputError, UserError
from edgekit_runtime.integrity import ModelError
from edgekit_runtime.schema import SchemaError
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = Options(num_runs=5, min_secs=0.0, warmup_runs=3, warmup_min_secs=0.0)


def shape(value: Any) -> Any:
    """Keys and JSON types, nested."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def test_the_report_is_a_superset_of_litert_benchmarks(models: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.json"
    model = str(models / "classifier_int8.tflite")
    program = "from ai_edge_litert.tools.benchmark_litert_model import main; main()"
    argv = ["--model", model, "--num_runs", "5", "--result_json", str(theirs)]
    subprocess.run([sys.executable, "-c", program, *argv], check=True, capture_output=True, timeout=120)
    wanted = json.loads(theirs.read_text())
    ours = json.loads(benchreport.dumps(bench.run(QUICK, model=Path(model))))
    assert {"init_ms", "median_ms", "p95_ms"} <= set(wanted["latency"])
    assert shape(wanted) == {key: shape(ours[key]) for key in wanted if key != "latency"} | {
        "latency": {key: shape(ours["latency"][key]) for key in wanted["latency"]}
    }
    assert ours["accelerators"] == wanted["accelerators"]


def test_a_release_is_measured_with_its_golden_inputs(release: Path) -> None:
    seen: list[int] = []
    report = bench.run(QUICK, release=release, progress=seen.append)
    assert seen == [1, 2, 3, 4, 5]
    assert report.model == "trees"
    assert report.inputs == "golden"
    assert (report.latency.num_runs, report.latency.num_warmup_runs) == (5, 3)
    assert len(report.samples_ms) == 5
    assert report.latency.first_ms == report.latency.warmup_first_ms
    assert report.stages.preprocess_ms is not None
    assert report.stages.postprocess_ms is not None
    assert report.memory.peak_mem_mb is not None
    assert benchreport.loads(benchreport.dumps(report)) == report


def test_a_cameras_frame_is_prepared_and_what_it_wastes_is_told(release: Path, models: Path) -> None:
    report = bench.run(replace(QUICK, frame="640x480:NV12"), release=release)
    assert report.frame == "640x480 NV12"
    assert report.stages.preprocess_ms is not None
    assert any("640x480 and are shrunk 60.0x: ask the camera for 160x120" in text for text in report.findings)
    assert benchreport.loads(benchreport.dumps(report)) == report
    with pytest.raises(InputError, match="takes pictures"):
        bench.run(replace(QUICK, frame="640x480"), model=models / "classifier_int8.tflite")
    for text in ("640", "0x4", "641x480:NV12", "640x480:P010"):
        with pytest.raises(InputError):
            replace(QUICK, frame=text)


def test_a_bare_model_is_measured_with_noise_and_batches(models: Path) -> None:
    report = bench.run(Options(5, 0.0, 10.0, 1, 0.0, batch_size=4, num_threads=2), model=models / "two_inputs.tflite")
    assert (report.inputs, report.batch_size, report.num_threads) == ("noise", 4, 2)
    assert report.stages.preprocess_ms is None
    # Both are rounded to two places
    assert report.throughput_per_s == pytest.approx(4 * 1e3 / report.latency.avg_ms, abs=0.01)


def test_a_batch_that_is_not_proven_is_not_measured(models: Path) -> None:
    with pytest.raises(BatchRefused, match="batch 4 is not used"):
        bench.run(Options(5, 0.0, batch_size=4), model=models / "truncating.tflite")


def test_the_stop_rule() -> None:
    calls: list[int] = []
    assert len(bench._timed(calls.append, 3, 0.0, 100.0)) == 3
    assert calls == [0, 1, 2]
    assert len(bench._timed(calls.append, 0, 0.0, 100.0)) == 0
    # at least so long: more runs than asked for
    assert len(bench._timed(lambda _turn: None, 1, 0.02, 100.0)) > 1
    # but never much longer
    assert len(bench._timed(lambda _turn: bytes(1 << 20), 10**9, 0.0, 0.05)) < 10**9


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60))
def test_percentiles_are_ordered_and_numpys_linear_ones(times: list[float]) -> None:
    latency = bench._latency(1.0, [1.0], times)
    ordered = [
        latency.min_ms,
        latency.p5_ms,
        latency.median_ms,
        latency.p90_ms,
        latency.p95_ms,
        latency.p99_ms,
        latency.p999_ms,
        latency.max_ms,
    ]
    assert ordered == sorted(ordered)
    assert latency.p90_ms == pytest.approx(float(np.percentile(times, 90)), abs=1e-3)
    assert latency.median_ms == pytest.approx(statistics.median(times), abs=1e-3)


class TestSoak:
    def test_a_model_that_runs_on_is_flat(self, release: Path) -> None:
        told: list[int] = []
        report = bench.run(replace(QUICK, soak=8000), release=release, soaking=told.append)
        assert report.soak is not None
        assert (report.soak.verdict, report.soak.inferences, told[-1]) == ("flat", 8000, 8000)
        assert len(report.soak.rss_kb) == len(told) == soak.SAMPLES + 1
        assert report.soak.limit_kb_per_1000 == 16.0
        assert benchreport.loads(benchreport.dumps(report)) == report

    def test_memory_that_is_kept_is_growing(self) -> None:
        kept = []

        def keep(_turn: int) -> None:
            """Fresh pages: what the allocator has free would hide a leak of objects in this long process."""
            kept.append(mmap.mmap(-1, 4096))
            kept[-1].write(b"x" * 4096)

        found = soak.run(keep, 8000)
        assert found.verdict == "growing"
        assert found.slope_kb_per_1000 == pytest.approx(4000, rel=0.3)

    @given(st.integers(0, 5000), st.floats(0, 20), st.integers(5000, 50_000))
    @settings(max_examples=30)
    def test_the_line_goes_through_what_was_sampled(self, start: int, slope: float, count: int) -> None:
        done = 0

        def call(turn: int) -> None:
            nonlocal done
            done = turn + 1

        found = soak.run(call, count, memory=lambda: round(start + slope * done / 1000))
        # A step of 1 in its middle tilts a line by 1.5 of what a ramp of 1 does.
        assert found.slope_kb_per_1000 == pytest.approx(slope, abs=3100 / count)
        assert found.verdict == ("growing" if found.slope_kb_per_1000 > found.limit_kb_per_1000 else "flat")

    def test_the_first_half_may_settle_and_one_page_is_no_leak(self) -> None:
        done = 0

        def call(turn: int) -> None:
            nonlocal done
            done = turn + 1

        found = soak.run(call, 10_000, memory=lambda: 5000 + min(done, 4900) + 16 * (done > 7000))
        assert found.verdict == "flat"
        assert str(found).startswith("flat: +")

    def test_too_few_and_no_proc(self) -> None:
        with pytest.raises(InputError, match="at least 5000"):
            soak.run(lambda _turn: None, 4999)
        with pytest.raises(DeviceError, match="does not say"):
            soak.run(lambda _turn: None, 5000, memory=lambda: None)

    def test_a_report_from_before_soaks_is_read(self, release: Path) -> None:
        data = json.loads(benchreport.dumps(bench.run(QUICK, release=release)))
        assert data.pop("soak") is None
        assert benchreport.loads(json.dumps(data)).soak is None


@pytest.mark.parametrize(
    "options",
    [{"soak": 4999}, {"num_runs": 0}, {"warmup_runs": 0}, {"batch_size": 0}, {"min_secs": -1.0}, {"max_secs": 0.0}],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Options(**options)


def test_one_thing_to_measure(release: Path, models: Path) -> None:
    with pytest.raises(UserError, match="either"):
        bench.run(QUICK)
    with pytest.raises(UserError, match="either"):
        bench.run(QUICK, release=release, model=models / "fixed.tflite")
    with pytest.raises(ModelError):
        bench.run(QUICK, model=models / "absent.tflite")


def test_a_report_of_another_schema_is_refused(release: Path) -> None:
    text = benchreport.dumps(bench.run(QUICK, release=release)).replace('"schema": 1', '"schema": 2')
    with pytest.raises(SchemaError, match="schema 2"):
        benchreport.loads(text)
