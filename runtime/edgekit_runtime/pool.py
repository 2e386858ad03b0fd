"""Interpreters of one model file: made alike and warm, and lent to one thread at a time.

Each maps the same file, so that its bytes are in memory once; what a delegate packs of the weights, and the tensors,
are each one's own.
"""

from __future__ import annotations

import time
from _thread import allocate_lock  # as threading.Lock, which would have to be imported
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar

import numpy as np

from edgekit_runtime import batch
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import CheckFailed, UserError
from edgekit_runtime.interpreter import Interpreter

if TYPE_CHECKING:
    from edgekit_runtime.quant import Array

Share = TypeVar("Share")
Answer = TypeVar("Answer")


class EngineClosed(UserError):
    """The engine was closed; it runs nothing any more."""


class PoolRefused(CheckFailed):
    """There is no memory for as many interpreters as were asked for; the engine has fewer."""


@dataclass(frozen=True)
class Startup:
    """Milliseconds until ready: load and allocate, the first inference, and the mean of all warm-up runs."""

    init_ms: float
    first_ms: float
    warmup_avg_ms: float
    warmup_runs: int


@dataclass(frozen=True)
class Lane:
    """What one thread runs with: an interpreter for a sample, and one for each proven batch size."""

    single: Interpreter
    batched: Mapping[int, Interpreter]

    def run(self, rows: Sequence[Array]) -> List[Array]:
        """Rows (n, ...) for each input to rows for each output: in the largest proven sizes that n has room for, since
        on a CPU a padded batch costs as much as a whole one."""
        count = len(rows[0])
        if count in self.batched:
            return self.batched[count].run(rows)
        if count == 1:
            return batch.run_one(self.single, rows)
        size = max((size for size in self.batched if size < count), default=1)
        parts = [self.run([row[part] for row in rows]) for part in batch.chunks(count, size)]
        return [np.concatenate(part) for part in zip(*parts)]


@dataclass(frozen=True)
class Maker:
    """Makes the interpreters of one model, all alike and warm. `samples` gives so many rows for each input."""

    model: str
    num_threads: int
    xnnpack: bool
    warmup_runs: int
    max_ram_mb: Optional[int]
    samples: Callable[[int], List[Array]]

    def interpreter(self) -> Interpreter:
        """A cold one. Raises as Interpreter does."""
        return Interpreter(self.model, num_threads=self.num_threads, xnnpack=self.xnnpack)

    def warm_up(self, interpreter: Interpreter) -> Startup:
        """Run it, and clear what a recurrent model keeps. Raises InvokeError."""
        rows = self.samples(max(1, min(self.warmup_runs, 8)))
        times = []
        for turn in range(self.warmup_runs):
            row = turn % len(rows[0])
            started = time.perf_counter()
            batch.run_one(interpreter, [array[row : row + 1] for array in rows])
            times.append((time.perf_counter() - started) * 1e3)
        interpreter.reset()
        return Startup(interpreter.init_ms, times[0], sum(times) / self.warmup_runs, self.warmup_runs)

    def lane(self, single: Interpreter, sizes: Sequence[int]) -> Tuple[Lane, Optional[batch.BatchRefused]]:
        """`single` and a warm interpreter for each batch size that is proven; where one is missing, why."""
        proven, missing = {}, None
        for size in sizes:
            batched = self.interpreter()
            # Noise next to the golden samples: a few real ones may well be answered alike.
            some = zip(batch.noise(single.inputs, size), self.samples(size // 2))
            rows = [np.concatenate(both)[-size:] for both in some]
            try:
                batch.prove(single, batched, rows, size)
                batch.check_memory(size, self.max_ram_mb)
            except batch.BatchRefused as refused:
                missing = refused
                continue
            finally:
                single.reset()
            for _ in range(self.warmup_runs - 1):
                batched.run(rows)
            batched.reset()
            proven[size] = batched
        return Lane(single, proven), missing


class _Place:
    """In the queue: `gate` opens when there is a `lane`."""

    def __init__(self) -> None:
        self.lane: Optional[Lane] = None
        self.gate = allocate_lock()
        self.gate.acquire()


class Pool:
    """Lanes, lent in the order of asking: who has just given one back waits behind the others."""

    def __init__(self) -> None:
        self._lanes = 0
        self._lock = allocate_lock()
        self._free: List[Lane] = []
        self._waiting: "List[_Place]" = []
        self._closing = allocate_lock()
        self._closed = False
        self._back: Any = None
        self._threads: Any = None

    def __len__(self) -> int:
        return self._lanes

    def add(self, lane: Lane) -> None:
        self._lanes += 1
        self._give(lane)

    @contextmanager
    def lend(self) -> Iterator[Lane]:
        """A lane for the caller alone; waits for a free one. Raises EngineClosed when the pool is closed."""
        lane = self._take()
        try:
            yield lane
        finally:
            self._give(lane)

    def _take(self) -> Lane:
        with self._lock:
            if self._closed:
                raise EngineClosed("the engine is closed")
            if self._free:
                return self._free.pop(0)
            place = _Place()
            self._waiting.append(place)
        try:
            place.gate.acquire()
        except BaseException:  # interrupted; it may have been its turn already
            with self._lock:
                if place in self._waiting:
                    self._waiting.remove(place)
            if place.lane is not None:
                self._give(place.lane)
            raise
        assert place.lane is not None
        return place.lane

    def _give(self, lane: Lane) -> None:
        with self._lock:
            if self._waiting:
                place = self._waiting.pop(0)
                place.lane = lane
                place.gate.release()
                return
            self._free.append(lane)
            if self._back is not None and len(self._free) == self._lanes:
                self._back.release()

    def each(self, call: Callable[[Lane, Share], Answer], shares: Sequence[Share]) -> List[Answer]:
        """`call` of each share with a lane of its own, at the same time; answers in order, the first error is raised
        when all have ended."""

        def one(share: Share) -> Answer:
            with self.lend() as lane:
                return call(lane, share)

        if self._closed:
            raise EngineClosed("the engine is closed")
        if len(shares) == 1:
            return [one(shares[0])]
        from concurrent.futures import ThreadPoolExecutor, wait

        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._lanes, thread_name_prefix="inference")
        futures = [self._threads.submit(one, share) for share in shares]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """Free the interpreters, once all is done that was asked for before."""
        with self._closing:
            if self._closed:
                return
            with self._lock:
                self._closed = True
                if len(self._free) < self._lanes:
                    self._back = allocate_lock()
                    self._back.acquire()
            if self._back is not None:
                self._back.acquire()
            self._free.clear()
            if self._threads is not None:
                self._threads.shutdown()


def refusal(number: int, wanted: int, cost_kb: int, max_ram_mb: Optional[int]) -> Optional[PoolRefused]:
    """Why interpreter `number` of `wanted` is not made, when it costs as much as the first."""
    from edgekit_runtime import environment

    used, _ = environment.memory_kb()
    limits = []
    if max_ram_mb is not None and used is not None:
        limits.append((max_ram_mb * 1024 - used, f"{max_ram_mb} MiB (max_ram_mb)"))
    available = environment.available_kb()
    if available is not None:
        limits.append((available, "the memory here"))
    for left, whose in limits:
        if left < cost_kb:
            return PoolRefused(
                f"interpreter {number} of {wanted} is not made: one takes {cost_kb / 1024:.1f} MiB and of {whose} "
                f"{max(left, 0) / 1024:.1f} are left",
                wanted=wanted,
                made=number - 1,
                cost_mb=round(cost_kb / 1024, 1),
            )
    return None
