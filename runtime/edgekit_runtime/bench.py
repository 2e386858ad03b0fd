"""Measure an Engine: the stop rule and the names of benchmark_model and litert-benchmark."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Callable, List, Optional, Sequence, Tuple

import numpy as np

from edgekit_runtime import benchreport, environment, frame, plan, quant, soak
from edgekit_runtime.benchreport import BenchReport, Latency, Memory, PlanGain, Soak, Stages
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.engine import Engine
from edgekit_runtime.errors import InputError, UserError

if TYPE_CHECKING:
    from edgekit_runtime.quant import Array

    Before = Callable[[], object]
    After = Callable[[Sequence[Array]], object]

STAGE_RUNS = 20
_INPUT_SETS = 8


@dataclass(frozen=True)
class Options:
    """How long to measure. A loop goes on while `(run < num_runs or t < min_secs) and t <= max_secs`, as in
    benchmark_model; the warm-up loop likewise. `num_threads` None takes the release's, or 1. `soak` is the number of
    inferences that follow to see whether memory grows; 0 for none."""

    num_runs: int = 50
    min_secs: float = 1.0
    max_secs: float = 150.0
    warmup_runs: int = 1
    warmup_min_secs: float = 0.5
    batch_size: int = 1
    num_threads: Optional[int] = None
    soak: int = 0
    frame: Optional[str] = None

    def __post_init__(self) -> None:
        if min(self.num_runs, self.warmup_runs, self.batch_size) < 1:
            raise InputError("num_runs, warmup_runs and batch_size are at least 1")
        if self.frame is not None:
            frame.parse(self.frame)
        if self.soak and self.soak < soak.LEAST:
            raise InputError(f"a soak has at least {soak.LEAST} inferences, not {self.soak}")
        if not (self.min_secs >= 0 and self.max_secs > 0 and self.warmup_min_secs >= 0):
            raise InputError("min_secs and warmup_min_secs are at least 0, max_secs is above 0")


def run(
    options: Options,
    *,
    release: Optional[Path] = None,
    model: Optional[Path] = None,
    progress: Callable[[int], None] = lambda _run: None,
    soaking: Callable[[int], None] = lambda _done: None,
) -> BenchReport:
    """Measure a release directory, or a bare model file; `progress` is called with the number of each run, `soaking`
    with how many inferences of a soak are done.

    Raises UserError, HashMismatch, or BatchRefused when the batch is not proven equal to single runs.
    """
    if (release is None) == (model is None):
        raise UserError("give either a release or a model to measure")
    start_kb, _ = environment.memory_kb()
    if release is not None:
        engine = Engine.open(release, num_threads=options.num_threads, max_batch_size=options.batch_size)
    else:
        assert model is not None
        engine = Engine.load(model, num_threads=options.num_threads or 1, max_batch_size=options.batch_size)
    with engine:
        if engine.batch_refused is not None:
            raise engine.batch_refused
        report = _measure(engine, options, start_kb, _release_id(release), progress)
        gain = _gain(engine, options, release, report.latency.median_ms)
        pace = _pace(engine, options, release)
        soaked = _soak(engine, options, soaking) if options.soak else None
        return replace(report, plan=gain, throughput_plan=pace, soak=soaked)


def _measure(
    engine: Engine, options: Options, start_kb: Optional[int], release: Optional[str], progress: Callable[[int], None]
) -> BenchReport:
    ready_kb, _ = environment.memory_kb()
    size = options.batch_size
    sets = _input_sets(engine, size)

    def infer(turn: int) -> Tuple[Array, ...]:
        return engine.infer(sets[turn % len(sets)])

    warmup = [engine.startup.first_ms]
    warmup += _timed(infer, options.warmup_runs - 1, options.warmup_min_secs, options.max_secs)
    before = environment.sensors()
    times = _timed(infer, options.num_runs, options.min_secs, options.max_secs, progress)
    after = environment.sensors()
    end_kb, peak_kb = environment.memory_kb()
    latency = _latency(engine.startup.init_ms, warmup, times)
    around = environment.read()
    input_mb = sum(array.nbytes for array in sets[0]) / (1 << 20)
    return BenchReport(
        model=engine.manifest.name if engine.manifest else os.path.basename(engine.model),
        model_size_mb=round(os.path.getsize(engine.model) / (1 << 20), 2),
        accelerators=("CPU",),
        signature=engine.signature,
        fully_accelerated=False,
        num_threads=engine.num_threads,
        latency=latency,
        throughput_mb_s=round(input_mb / latency.avg_ms * 1e3, 2),
        throughput_per_s=round(size / latency.avg_ms * 1e3, 2),
        batch_size=size,
        inputs="golden" if engine.golden is not None else "noise",
        stages=_stages(engine, infer(0), options, latency.median_ms),
        memory=Memory(
            _growth(start_kb, ready_kb),
            _growth(start_kb, end_kb),
            None if peak_kb is None else round(peak_kb / 1024, 2),
        ),
        environment=around,
        sensors_before=before,
        sensors_after=after,
        validity=benchreport.judge(around, before, after),
        model_sha256=engine.model_sha256,
        release=release,
        frame=options.frame and " ".join(options.frame.split(":")),
        findings=engine.findings if options.frame else (),
        samples_ms=tuple(_round(value) for value in times[: benchreport.MAX_SAMPLES]),
    )


def _input_sets(engine: Engine, size: int) -> List[List[Array]]:
    """A few different batches, cut before the clock runs."""
    rows = engine.samples(size * _INPUT_SETS)
    return [[np.ascontiguousarray(array[i * size : (i + 1) * size]) for array in rows] for i in range(_INPUT_SETS)]


def _timed(
    call: Callable[[int], object],
    runs: int,
    min_secs: float,
    max_secs: float,
    progress: Callable[[int], None] = lambda _run: None,
) -> List[float]:
    """Milliseconds of each call, under benchmark_model's stop rule."""
    times: List[float] = []
    begin = time.perf_counter()
    total = 0.0
    while (len(times) < runs or total < min_secs) and total <= max_secs:
        started = time.perf_counter()
        call(len(times))
        ended = time.perf_counter()
        times.append((ended - started) * 1e3)
        progress(len(times))
        total = ended - begin
    return times


def _latency(init_ms: float, warmup: Sequence[float], times: Sequence[float]) -> Latency:
    ordered = sorted(times)

    def at(percent: float) -> float:
        return _round(benchreport.percentile(ordered, percent))

    return Latency(
        init_ms=_round(init_ms),
        first_ms=_round(warmup[0]),
        warmup_first_ms=_round(warmup[0]),
        warmup_avg_ms=_round(statistics.mean(warmup)),
        num_warmup_runs=len(warmup),
        avg_ms=_round(statistics.mean(times)),
        min_ms=_round(ordered[0]),
        max_ms=_round(ordered[-1]),
        median_ms=at(50),
        std_ms=_round(statistics.stdev(times)) if len(times) > 1 else 0.0,
        p5_ms=at(5),
        p90_ms=at(90),
        p95_ms=at(95),
        p99_ms=at(99),
        p999_ms=at(99.9),
        num_runs=len(times),
    )


def _image(engine: Engine, wanted: Optional[str]) -> "Optional[Tuple[Array, str]]":
    """A frame and its format, as in frame.parse, or RGB of the model's size; None for a model without pictures."""
    if engine.preprocess is None:
        if wanted is not None:
            raise InputError(
                "--frame is for a model that takes pictures", hint="measure a release that has preprocessing"
            )
        return None
    form, shape = frame.parse(wanted or f"{engine.preprocess.width}x{engine.preprocess.height}")
    return np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8), form


def _around(engine: Engine, wanted: Optional[str]) -> "Tuple[Optional[Before], After]":
    """What comes before the inference of a frame (see _image), where there is something, and what comes after."""
    before = None
    given = _image(engine, wanted)
    if given is not None:
        image, form = given

        def before() -> object:
            return engine.prepare(image, format=form)

    if engine.task == "classification":
        return before, lambda outputs: engine.top_k(outputs[0])
    if engine.task == "detection":
        return before, engine.detections
    return before, lambda outputs: [quant.dequantize(out, spec) for out, spec in zip(outputs, engine.outputs)]


def _stages(engine: Engine, outputs: Sequence[Array], options: Options, invoke_ms: float) -> Stages:
    before, after = _around(engine, options.frame)
    return Stages(
        None if before is None else _median(lambda: [before() for _ in range(options.batch_size)]),
        invoke_ms,
        _median(lambda: after(outputs)),
    )


def _gain(engine: Engine, options: Options, release: Optional[Path], median_ms: float) -> Optional[PlanGain]:
    """Where a stored plan runs: what the release does without it."""
    if release is None or options.num_threads is not None:
        return None
    with Engine.open(release, max_batch_size=options.batch_size, goal=None) as other:
        if other.plan == engine.plan:
            return None
        sets = _input_sets(other, options.batch_size)

        def infer(turn: int) -> Tuple[Array, ...]:
            return other.infer(sets[turn % len(sets)])

        _timed(infer, options.warmup_runs, options.warmup_min_secs, options.max_secs)
        without = statistics.median(_timed(infer, options.num_runs, options.min_secs, options.max_secs))
        return PlanGain(engine.plan, other.plan, median_ms, _round(without), round(median_ms / without, 3))


def _pace(engine: Engine, options: Options, release: Optional[Path]) -> Optional[PlanGain]:
    """Where a plan for throughput is stored: a sample among many, with it and without."""
    if release is None or options.num_threads is not None or options.batch_size != 1:
        return None
    tuning, _ = plan.stored(release, engine.model_sha256)
    if tuning is None or tuning.throughput == tuning.default:
        return None

    def sample_ms(goal: Optional[str]) -> Tuple[plan.Plan, float]:
        with Engine.open(release, goal=goal) as one:
            several = one.num_interpreters * one.batch_size
            rows = one.samples(1 if several == 1 else 4 * several)
            _timed(lambda _turn: one.infer(rows), options.warmup_runs, options.warmup_min_secs, options.max_secs)
            times = _timed(lambda _turn: one.infer(rows), options.num_runs, options.min_secs, options.max_secs)
            return one.plan, statistics.median(times) / len(rows[0])

    (chosen, with_it), (default, without) = sample_ms("throughput"), sample_ms(None)
    return PlanGain(chosen, default, _round(with_it), _round(without), round(with_it / without, 3))


def _soak(engine: Engine, options: Options, soaking: Callable[[int], None]) -> Soak:
    """The whole way of a frame, again and again: into the input tensor and out of the output as `classify` goes."""
    sets = _input_sets(engine, options.batch_size)
    before, after = _around(engine, options.frame)
    given = _image(engine, options.frame)
    if given is not None and options.batch_size == 1:
        image, form = given

        def read(outputs: Sequence[Array]) -> None:
            after(outputs)

        return soak.run(lambda _turn: engine.answer(image, read, format=form), options.soak, progress=soaking)

    def one(turn: int) -> None:
        if before is not None:
            before()
        after(engine.infer(sets[turn % len(sets)]))

    return soak.run(one, options.soak, progress=soaking)


def _median(call: Callable[[], object]) -> float:
    return _round(statistics.median(_timed(lambda _turn: call(), STAGE_RUNS, 0.0, 10.0)))


def _growth(start: Optional[int], end: Optional[int]) -> Optional[int]:
    return None if start is None or end is None else end - start


def _round(milliseconds: float) -> float:
    return round(milliseconds, 4)


def _release_id(release: Optional[Path]) -> Optional[str]:
    path = None if release is None else Path(release) / "RELEASE"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else None
