"""Find the plan by measuring: threads x interpreters x batch x delegate, in well under a minute.

What is clearly worse is left early: first the kernels, then the batch, then how many run at a time; the best are
measured again in turn, so that a clock that moves hits all of them.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edgekit_runtime import benchreport, environment, quant
from edgekit_runtime.errors import CheckFailed, EdgekitError, InputError
from edgekit_runtime.plan import Candidate, Plan, Tuning, key

if TYPE_CHECKING:
    from edgekit_runtime.engine import Engine
    from edgekit_runtime.quant import Array

MAX_SECS = 40.0
BATCHES = (4, 8)
# A plan is taken over the default only for more than the noise of two measurements of the same.
GAIN = 1.03
_WITHIN = 1.25  # of the best: what is farther is left
_FINAL = 3
_ROUNDS = 3
_COMPARED = 8
# How far the answers may be from the default's, in the mean: check allows two steps for kernels that round differently.
_STEPS, _SHARE = 2.0, 0.01
# Every call has about as many samples, so many that it lasts so long alone: else a busy system favours short calls.
_CALL_MS = 10.0
_MOST = 256


class OtherAnswers(CheckFailed):
    """A plan's answers are not those of the default."""


def tune(
    open_engine: Callable[[Plan], Engine],
    default: Plan,
    *,
    max_secs: float = MAX_SECS,
    progress: Callable[[Candidate], None] = lambda _one: None,
) -> Tuning:
    """Measure engines as `open_engine` opens them, for at most about `max_secs` seconds, and choose.

    `default` is what runs without a plan. `progress` is told each measurement. Raises InputError, and what opening or
    running the default raises.
    """
    if not max_secs > 0:
        raise InputError("max_secs is above 0")
    around, before = environment.read(), environment.sensors()
    search = _Search(open_engine, max_secs, progress)
    search.measure(default, must=True)
    one = Plan(1)
    search.each([one, replace(one, xnnpack=False)])
    kernels = [item.xnnpack for item in search.near([one, replace(one, xnnpack=False)])]
    base = replace(one, xnnpack=kernels[0])
    batched = [replace(base, batch_size=size) for size in BATCHES]
    search.each(batched)
    sizes = [item.batch_size for item in search.near([base, *batched])]
    threads = _powers(around.cores)
    rest = [
        Plan(count, interpreters, size, xnnpack)
        for xnnpack in kernels
        for count in threads
        for interpreters in _powers(around.cores // count)
        for size in sizes
    ]
    search.each(rest)
    finals = search.best(search.latency, _FINAL) + search.best(search.pace, _FINAL) + [default]
    for _ in range(_ROUNDS):
        search.each(list(dict.fromkeys(finals)), again=True)
    runtime, cpu, cores = key(around)
    validity = benchreport.judge(around, before, environment.sensors())
    return Tuning(
        model_sha256=search.model_sha256,
        runtime=runtime,
        cpu=cpu,
        cores=cores,
        default=default,
        latency=search.chosen(search.latency, default),
        throughput=search.chosen(search.pace, default),
        candidates=tuple(search.found.values()),
        seconds=round(time.monotonic() - search.started, 1),
        invalid="; ".join(validity.reasons) or None,
        warnings=(*validity.warnings, *search.warnings()),
    )


class _Search:
    """What was measured so far. `latency` and `pace` are minimised: the time of one sample alone, and among many."""

    def __init__(
        self, open_engine: Callable[[Plan], Engine], max_secs: float, progress: Callable[[Candidate], None]
    ) -> None:
        self.found: Dict[Plan, Candidate] = {}
        self.model_sha256 = ""
        self.started = time.monotonic()
        self._open = open_engine
        self._until = self.started + max_secs
        self._slice = max_secs / 60
        self._progress = progress
        self._times: Dict[Plan, List[float]] = {}
        self._answers: Sequence[Array] = ()
        self._late = False
        self._sample_ms: Optional[float] = None

    def warnings(self) -> Tuple[str, ...]:
        """What there was no time for."""
        return ("the time was over before the best were measured again: give more --max-secs",) if self._late else ()

    def each(self, plans: List[Plan], *, again: bool = False) -> None:
        for plan in plans:
            if again or plan not in self.found:
                self.measure(plan)

    def measure(self, plan: Plan, *, must: bool = False) -> None:
        """Open, run for a while, close; or say why not. `must` raises instead."""
        if time.monotonic() > self._until and not must:
            self._late = True
            if plan not in self.found:
                self.found[plan] = Candidate(plan, refused="not measured: the time was over")
                self._progress(self.found[plan])
            return
        try:
            with self._open(plan) as engine:
                self.model_sha256 = engine.model_sha256
                refused = engine.batch_refused or engine.pool_refused or self._other_answers(engine)
                found = Candidate(plan, refused=refused.message) if refused else self._run(engine, plan)
        except (EdgekitError, MemoryError) as error:
            if must:
                raise
            found = Candidate(plan, refused=str(error) or "memory ran out")
        self.found[plan] = found
        self._progress(found)

    def near(self, plans: List[Plan]) -> List[Plan]:
        """Those of `plans` that are within reach of the best of them by throughput, the best first."""
        able = sorted((plan for plan in plans if self.pace(plan) is not None), key=lambda plan: self.pace(plan) or 0.0)
        return [plan for plan in able if (self.pace(plan) or 0.0) <= (self.pace(able[0]) or 0.0) * _WITHIN] or plans[:1]

    def best(self, cost: "Callable[[Plan], Optional[float]]", count: int) -> List[Plan]:
        able = sorted((plan for plan in self.found if cost(plan) is not None), key=lambda plan: cost(plan) or 0.0)
        return [plan for plan in able[:count] if (cost(plan) or 0.0) <= (cost(able[0]) or 0.0) * _WITHIN]

    def chosen(self, cost: "Callable[[Plan], Optional[float]]", default: Plan) -> Plan:
        """The best, unless the default is as good."""
        best, of_default = self.best(cost, 1), cost(default)
        if not best or (of_default is not None and of_default <= (cost(best[0]) or 0.0) * GAIN):
            return default
        return best[0]

    def latency(self, plan: Plan) -> Optional[float]:
        return self.found[plan].sample_ms if plan.num_interpreters == plan.batch_size == 1 else None

    def pace(self, plan: Plan) -> Optional[float]:
        return self.found[plan].sample_ms

    def _other_answers(self, engine: Engine) -> Optional[OtherAnswers]:
        """Other kernels round differently; a model that remembers what it saw answers otherwise in a pool."""
        answers = engine.infer(engine.samples(_COMPARED))
        if not self._answers:
            self._answers = answers
        for spec, wanted, got in zip(engine.outputs, self._answers, answers):
            real, other = quant.dequantize(wanted, spec), quant.dequantize(got, spec)
            size = float(np.abs(real[np.isfinite(real)]).max()) if np.isfinite(real).any() else 0.0
            allowed = max(_STEPS * quant.step(spec), _SHARE * size)
            apart = np.abs(real - other)[np.isfinite(real)]
            if (np.isfinite(real) != np.isfinite(other)).any() or (apart.size and float(apart.mean()) > allowed):
                return OtherAnswers(f"output '{spec.name}' differs from the default's", output=spec.name)
        return None

    def _alone_ms(self, engine: Engine) -> float:
        """What one sample takes by the first plan, the default."""
        if self._sample_ms is None:
            self._sample_ms = engine.startup.warmup_avg_ms
        return self._sample_ms

    def _run(self, engine: Engine, plan: Plan) -> Candidate:
        several = plan.num_interpreters * plan.batch_size
        alone = min(_MOST, _CALL_MS / max(self._alone_ms(engine), 0.01))
        samples = several * max(1, round(alone / several))
        # Alone each is a call of its own, as it will be: many rows in one call are cut and joined again.
        rows, calls = (engine.samples(1), samples) if several == 1 else (engine.samples(samples), 1)
        times = self._times.setdefault(plan, [])
        begun = time.perf_counter()
        while True:
            started = time.perf_counter()
            for _ in range(calls):
                engine.infer(rows)
            ended = time.perf_counter()
            times.append((ended - started) * 1e3 / samples)
            if ended - begun >= self._slice or (len(times) >= 3 and time.monotonic() > self._until):
                break
        return Candidate(plan, len(times), round(statistics.median(times), 5))


def _powers(most: int) -> List[int]:
    """1, 2, 4 and so on, and `most` itself."""
    return sorted({2**power for power in range(10) if 2**power <= most} | {most})
