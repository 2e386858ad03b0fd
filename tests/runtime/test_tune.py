"""The plan: measured, kept with its release, used where it holds, and never fatal."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime import bench, benchreport, environment, manifest, plan, schema, tune
from edgekit_runtime.engine import Engine
from edgekit_runtime.errors import InputError
from edgekit_runtime.integrity import ModelError
from edgekit_runtime.plan import Plan, Tuning

from .test_runtime_cli import program


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release, tmp_path / "release"))


def tuning(release: Path, **changes: Any) -> Tuning:
    runtime, cpu, cores = plan.key(environment.read())
    found = Tuning(
        model_sha256=manifest.read(release).model_sha256, runtime=runtime, cpu=cpu, cores=cores, default=Plan(1),
        latency=Plan(1, xnnpack=False), throughput=Plan(1, 2, 2), seconds=1.0,
        candidates=tuple(
            plan.Candidate(one, 3, 0.5) for one in (Plan(1), Plan(1, xnnpack=False), Plan(1, 2, 2), Plan(2), Plan(1, 2))
        ),
    )  # fmt: skip
    return replace(found, **changes)


class TestSearch:
    def test_the_best_of_what_was_measured_is_chosen(self, models: Path) -> None:
        opened: list[Plan] = []

        def open_engine(one: Plan) -> Engine:
            opened.append(one)
            return Engine.load(
                models / "classifier_int8.tflite",
                num_threads=one.num_threads,
                max_batch_size=one.batch_size,
                num_interpreters=one.num_interpreters,
                xnnpack=one.xnnpack,
            )

        told: list[plan.Candidate] = []
        found = tune.tune(open_engine, Plan(1), max_secs=3, progress=told.append)
        cores = environment.read().cores
        assert {one.plan for one in found.candidates} == set(opened)
        assert all(one.plan.num_threads * one.plan.num_interpreters <= cores for one in found.candidates)
        assert {one.plan.xnnpack for one in found.candidates} == {True, False}
        assert {one.plan.batch_size for one in found.candidates} >= {1, *tune.BATCHES}
        times = {one.plan: one.sample_ms for one in found.candidates if one.sample_ms is not None}
        for chosen, able in (
            (found.latency, [one for one in times if one.num_interpreters == one.batch_size == 1]),
            (found.throughput, list(times)),
        ):
            best = min(times[one] for one in able)
            assert times[chosen] <= best * tune.GAIN
            assert chosen == found.default or times[chosen] == best
        assert len(told) == len(opened)
        assert schema.read(Tuning, schema.plain(found), "plan") == found

    def test_what_cannot_be_is_left_with_its_reason(self, models: Path) -> None:
        def open_engine(one: Plan) -> Engine:
            return Engine.load(models / "fixed.tflite", max_batch_size=one.batch_size)

        found = tune.tune(open_engine, Plan(1), max_secs=1)
        reasons = [one.refused for one in found.candidates if one.plan.batch_size > 1]
        assert len(reasons) == len(tune.BATCHES)
        assert all(reason and "fixed shape" in reason for reason in reasons)

    def test_a_plan_that_answers_otherwise_is_left(self, models: Path) -> None:
        """A model that remembers what it was given last answers otherwise when its samples are dealt out."""

        def open_engine(one: Plan) -> Engine:
            return Engine.load(models / "remembering.tflite", num_interpreters=one.num_interpreters)

        found = tune.tune(open_engine, Plan(1), max_secs=1)
        assert {one.plan.num_interpreters for one in found.candidates if one.sample_ms is not None} == {1}
        dealt = [one.refused for one in found.candidates if one.plan.num_interpreters > 1]
        assert dealt
        assert all(reason and "differs from the default's" in reason for reason in dealt)

    def test_a_plan_that_fails_is_left_with_what_it_said(self, models: Path) -> None:
        def open_engine(one: Plan) -> Engine:
            if one.num_interpreters > 1:
                raise MemoryError
            if one.batch_size > 1:
                raise ModelError("out of order")
            return Engine.load(models / "classifier_int8.tflite", num_threads=one.num_threads)

        found = tune.tune(open_engine, Plan(1), max_secs=1)
        refused = {one.refused for one in found.candidates if one.refused}
        assert {"memory ran out", "out of order"} <= refused

    def test_every_plan_is_measured_with_about_as_many_samples_at_a_time(self, models: Path) -> None:
        """On a busy system short times are now and then undisturbed, and long ones never. One alone is a call each."""
        counts: dict[Plan, list[int]] = {}

        class Counting(Engine):
            def infer(self, arrays: Any) -> Any:
                counts.setdefault(self.plan, []).append(len(arrays[0]))
                return super().infer(arrays)

        def open_engine(one: Plan) -> Engine:
            return Counting(
                models / "classifier_int8.tflite", num_threads=one.num_threads, max_batch_size=one.batch_size,
                num_interpreters=one.num_interpreters, xnnpack=one.xnnpack,
            )  # fmt: skip

        found = tune.tune(open_engine, Plan(1), max_secs=1)
        calls = {one.plan: one.calls for one in found.candidates}
        alone = {one: seen for one, seen in counts.items() if one.num_interpreters == one.batch_size == 1}
        together = [max(seen) for one, seen in counts.items() if one not in alone]
        assert len(together) > 2
        assert max(together) <= 2 * min(together)
        for one, seen in alone.items():
            assert set(seen) <= {1, 8}
            assert min(together) / 2 <= seen.count(1) / calls[one] <= 2 * max(together)

    def test_the_time_is_kept_and_what_was_not_reached_is_said(self, models: Path) -> None:
        found = tune.tune(lambda one: Engine.load(models / "classifier_int8.tflite"), Plan(1), max_secs=1e-6)
        assert found.of(Plan(1)).sample_ms is not None
        assert (found.latency, found.throughput) == (Plan(1), Plan(1))
        assert any(one.refused == "not measured: the time was over" for one in found.candidates)
        assert any("give more --max-secs" in one for one in found.warnings)
        with pytest.raises(InputError, match="max_secs"):
            tune.tune(lambda one: Engine.load(models / "classifier_int8.tflite"), Plan(1), max_secs=0)


class TestUse:
    def test_a_stored_plan_is_used_for_its_goal(self, copy: Path) -> None:
        plan.store(copy, tuning(copy))
        with Engine.open(copy) as engine:
            assert engine.plan == Plan(1, xnnpack=False)
        with Engine.open(copy, goal="throughput") as engine:
            assert engine.plan == Plan(1, 2, 2)
            engine.infer(engine.samples(7))
        with Engine.open(copy, goal=None) as engine:
            assert engine.plan.xnnpack
        with Engine.open(copy, num_threads=2) as engine:
            assert engine.plan == Plan(2)
            assert engine.plan_note is None
        with pytest.raises(InputError, match="goal is one of"):
            Engine.open(copy, goal="speed")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"model_sha256": "0" * 64}, "another model"),
            ({"runtime": "tflite_runtime 2.5.0"}, "measured with tflite_runtime 2.5.0"),
            ({"cores": 999}, "on 999 cores"),
            ({"cpu": "Cortex-A72"}, "Cortex-A72"),
        ],
    )
    def test_a_plan_from_elsewhere_is_not(self, copy: Path, changes: dict[str, Any], reason: str) -> None:
        plan.store(copy, tuning(copy, **changes))
        with Engine.open(copy) as engine:
            assert engine.plan.xnnpack
            assert engine.plan_note is not None
            assert reason in engine.plan_note

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"latency": {"num_threads": 2**31}}, "1 to 1024"),
            ({"throughput": {"batch_size": 10**9}}, "1 to 1024"),
            ({"throughput": {"num_interpreters": 300}}, "was not measured"),
            ({"candidates": [{"plan": {"num_threads": 900}, "calls": 1, "sample_ms": 0.1}]}, "more threads than"),
            ({"invalid": "the firmware throttled the CPU"}, "the firmware throttled"),
        ],
    )
    def test_a_plan_that_no_tune_has_made_is_not(self, copy: Path, changes: dict[str, Any], reason: str) -> None:
        plain = schema.plain(tuning(copy))
        for name, value in changes.items():
            if isinstance(value, dict):
                plain[name].update(value)
            elif isinstance(value, list):
                plain[name] += [
                    {**plain[name][0], **item, "plan": {**plain["default"], **item["plan"]}} for item in value
                ]
            else:
                plain[name] = value
        (copy / plan.PLAN).write_text(json.dumps(plain))
        with Engine.open(copy) as engine:
            assert engine.plan == Plan(1)
            assert engine.plan_note is not None
            assert reason in engine.plan_note

    def test_a_pipe_is_not_read(self, copy: Path) -> None:
        os.mkfifo(copy / plan.PLAN)
        with Engine.open(copy) as engine:
            assert engine.plan_note == "the plan is not used: it is no file"

    def test_run_says_why_a_plan_is_not_used(self, copy: Path) -> None:
        plan.store(copy, tuning(copy, runtime="another 1.0"))
        np.save(copy / "x.npy", np.zeros((1, 8, 8, 3), np.uint8))
        done = program("run", str(copy / "x.npy"), "--release", str(copy))
        assert "the plan is not used: it was measured with another 1.0" in done.stderr

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 9}', b"\xff\xfe"])
    def test_a_damaged_one_is_never_fatal(self, copy: Path, content: bytes) -> None:
        (copy / plan.PLAN).write_bytes(content)
        with Engine.open(copy) as engine:
            assert engine.plan_note is not None
            assert "the plan is not used" in engine.plan_note
            engine.infer(engine.samples(1))

    def test_bench_shows_it_beside_the_default(self, copy: Path) -> None:
        quick = bench.Options(num_runs=5, min_secs=0, warmup_min_secs=0)
        assert bench.run(quick, release=copy).plan is None
        plan.store(copy, tuning(copy))
        report = bench.run(quick, release=copy)
        assert report.plan is not None
        assert (report.plan.plan, report.plan.default) == (Plan(1, xnnpack=False), Plan(1))
        assert report.plan.median_ms == report.latency.median_ms
        assert benchreport.loads(benchreport.dumps(report)) == report
        without = bench.run(replace(quick, num_threads=1), release=copy)
        assert (without.plan, without.throughput_plan) == (None, None)

    def test_bench_shows_one_for_throughput_too(self, copy: Path) -> None:
        quick = ("--num-runs", "5", "--min-secs", "0", "--warmup-min-secs", "0", "--release", str(copy))
        plan.store(copy, tuning(copy, throughput=Plan(1)))
        assert "throughput plan" not in program("bench", *quick).stdout
        plan.store(copy, tuning(copy, throughput=Plan(1, 2)))
        report = benchreport.loads(program("bench", *quick, "--json").stdout)
        pace = report.throughput_plan
        assert pace is not None
        assert (pace.plan, pace.default) == (Plan(1, 2), Plan(1))
        assert pace.ratio == pytest.approx(pace.median_ms / pace.default_median_ms, abs=0.02)
        assert f"throughput plan, a sample {Plan(1, 2)}: " in program("bench", *quick).stdout


class TestCommand:
    def test_the_plan_is_kept_with_the_release_and_bench_tells(self, copy: Path) -> None:
        done = program("tune", "--release", str(copy), "--max-secs", "1", "--json")
        found = json.loads(done.stdout)
        assert schema.load_json(Tuning, (copy / plan.PLAN).read_bytes(), "plan") == schema.read(Tuning, found, "plan")
        assert "samples/s" in done.stderr
        with Engine.open(copy, goal="throughput") as engine:
            assert engine.plan == schema.read(Plan, found["throughput"], "plan")

    def test_of_a_file_nothing_is_kept(self, models: Path) -> None:
        before = sorted(models.iterdir())
        done = program("tune", "--model", str(models / "classifier_int8.tflite"), "--max_secs", "1")
        assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["latency", "throughput"]
        assert sorted(models.iterdir()) == before
