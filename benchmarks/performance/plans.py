"""What tune chooses, beside the defaults and beside the best of every plan there is."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit_runtime import environment
from edgekit_runtime.engine import Engine
from edgekit_runtime.plan import Plan
from edgekit_runtime.tune import BATCHES, tune

SLICE_S = 0.4


@dataclass(frozen=True)
class Found:
    """Samples a second. `best` is the best of `plans`, all of which were measured."""

    chosen: Plan
    tuned: float
    default: float
    all_cores: float
    best_plan: Plan
    best: float
    plans: int
    seconds: float


def opened(release: Path, plan: Plan) -> Engine:
    return Engine.open(
        release,
        num_threads=plan.num_threads,
        num_interpreters=plan.num_interpreters,
        max_batch_size=plan.batch_size,
        xnnpack=plan.xnnpack,
        goal=None,
    )


def measure(release: Path, rounds: int) -> Found:
    """tune once, and then every plan with no more threads than cores, `rounds` times by turns."""
    cores = environment.read().cores
    tuning = tune(lambda plan: opened(release, plan), Plan(1))
    every = [
        Plan(threads, interpreters, size, xnnpack)
        for threads, interpreters in itertools.product(range(1, cores + 1), repeat=2)
        if threads * interpreters <= cores
        for size in (1, *BATCHES)
        for xnnpack in (True, False)
    ]
    paces = {plan: pace for plan, pace in zip(every, _paces(release, every, rounds), strict=True) if pace is not None}
    best = max(paces, key=lambda plan: paces[plan])
    return Found(
        tuning.throughput, paces[tuning.throughput], paces[Plan(1)], paces[Plan(cores)], best, paces[best], len(paces),
        tuning.seconds,
    )  # fmt: skip


def _paces(release: Path, plans: Sequence[Plan], rounds: int) -> Iterable[float | None]:
    """Samples a second of each plan, None where it cannot be: medians of `rounds`."""
    found: list[list[float]] = [[] for _ in plans]
    for _ in range(rounds):
        for plan, paces in zip(plans, found, strict=True):
            with opened(release, plan) as engine:
                if engine.plan == plan:
                    paces.append(_pace(engine, plan))
    return [statistics.median(paces) if paces else None for paces in found]


def _pace(engine: Engine, plan: Plan) -> float:
    several = plan.num_interpreters * plan.batch_size
    rounds = max(1, round(10 / max(engine.startup.warmup_avg_ms, 0.01)))
    rows = engine.samples(several * min(rounds, 64))
    times: list[float] = []
    until = time.perf_counter() + SLICE_S
    while time.perf_counter() < until:
        started = time.perf_counter()
        engine.infer(rows)
        times.append(time.perf_counter() - started)
    return len(rows[0]) / statistics.median(times)
