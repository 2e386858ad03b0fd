"""Samples of several callers in one inference: TensorFlow Serving's batching, with its parameters and their meaning.

A request waits in a queue of batches, of which the last is open. A batch is taken by a batch thread as soon as it is
full, a later one was begun, or its first request has waited for `batch_timeout_micros`.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Deque, Dict, List, Optional, Sequence, Tuple

from edgekit_runtime import batch
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import DeviceError, InputError, UserError
from edgekit_runtime.plan import MOST

if TYPE_CHECKING:
    from edgekit_runtime.engine import Engine
    from edgekit_runtime.quant import Array

_FIELD = re.compile(r"(\w+)\s*(?::\s*(\d+)|:\s*\[([\d\s,]*)\]|:?\s*\{\s*value\s*:\s*(\d+)\s*\})\s*[,;]?\s*")


class QueueFull(DeviceError):
    """More requests wait than were allowed to; to be tried again."""


@dataclass(frozen=True)
class Parameters:
    """The fields of TensorFlow Serving's BatchingParameters that a board has a use for, with its defaults.

    `max_batch_size` None is the engine's proven batch, `num_batch_threads` None its number of interpreters.
    `max_enqueued_batches` counts the open batch but none that a thread has taken. A batch is padded to the next of
    `allowed_batch_sizes`, which ascend to `max_batch_size`; with none nothing is padded.
    """

    max_batch_size: Optional[int] = None
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: Optional[int] = None
    allowed_batch_sizes: Tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "num_batch_threads"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST:
                raise InputError(f"{name} is 1 to {MOST}, not {value}")
        if self.batch_timeout_micros < 0 or self.max_enqueued_batches < 0:
            raise InputError("batch_timeout_micros and max_enqueued_batches are not negative")
        sizes = self.allowed_batch_sizes
        if sizes and (sizes[0] < 1 or list(sizes) != sorted(set(sizes))):
            raise InputError(f"allowed_batch_sizes are not ascending: {list(sizes)}")


def read_parameters(path: Path) -> Parameters:
    """Read the file of `tensorflow_model_server --batching_parameters_file`. Raises UserError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {error}", path=str(path)) from error
    rest = re.sub(r"#[^\n]*", "", text).strip()
    values: Dict[str, Any] = {"allowed_batch_sizes": ()}
    while rest:
        field = _FIELD.match(rest)
        if field is None:
            raise UserError(
                f"'{path}': not a batching parameter: {rest.split()[0][:80]}", hint=_known(), path=str(path)
            )
        name, numbers = field.group(1), [int(item) for item in re.findall(r"\d+", field.group()[len(field.group(1)) :])]
        if name == "allowed_batch_sizes":
            values[name] += tuple(numbers)
        elif name not in Parameters.__dataclass_fields__ or name in values or len(numbers) != 1:
            raise UserError(f"'{path}': {name} is unknown or stands twice", hint=_known(), path=str(path))
        else:
            values[name] = numbers[0]
        rest = rest[field.end() :]
    return Parameters(**values)


class _Task:
    """What one caller asks, or a part of it: at most one batch."""

    def __init__(self, arrays: List[Array], count: int) -> None:
        self.arrays = arrays
        self.count = count
        self.answer: "Future[List[Array]]" = Future()
        self.begun = time.monotonic()


class Batcher:
    """`infer` as the Engine's, for many threads: what they ask at about the same time is run together."""

    def __init__(self, engine: Engine, parameters: Optional[Parameters] = None) -> None:
        """Raises InputError when the engine does not run a size that the parameters ask for."""
        given = Parameters() if parameters is None else parameters
        self._engine = engine
        self._size = engine.batch_size if given.max_batch_size is None else given.max_batch_size
        self._allowed = given.allowed_batch_sizes
        proven = {1, *engine.batch_sizes}
        others = sorted({self._size, *given.allowed_batch_sizes} - proven)
        if others:
            raise InputError(
                f"batches of {others[0]} are not proven: the engine runs {', '.join(map(str, sorted(proven)))}",
                hint=None if engine.batch_refused is None else engine.batch_refused.message,
            )
        if self._allowed and self._allowed[-1] != self._size:
            raise InputError(f"the last of allowed_batch_sizes is not max_batch_size ({self._size})")
        self._limit = max(1, given.max_enqueued_batches)
        self._timeout = given.batch_timeout_micros / 1e6
        self._queue: "Deque[List[_Task]]" = deque()
        self._closed = False
        self._changed = threading.Condition()
        count = given.num_batch_threads or engine.num_interpreters
        self._threads = [threading.Thread(target=self._work, name=f"batch-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def infer(self, arrays: Sequence[Array]) -> Tuple[Array, ...]:
        """As `Engine.infer`. More than `max_batch_size` samples are split. Raises QueueFull, and what that raises."""
        count = self._engine.count(arrays)
        if count == 0:
            return self._engine.infer(arrays)
        if count > self._limit * self._size:
            raise InputError(f"at most {self._limit * self._size} samples fit into the queue, not {count}")
        parts = batch.chunks(count, self._size)
        tasks = [_Task([array[part] for array in arrays], part.stop - part.start) for part in parts]
        with self._changed:
            self._enqueue(tasks)
            self._changed.notify_all()
        answers = [task.answer.result() for task in tasks]
        return tuple(batch.join([answer[number] for answer in answers]) for number in range(len(answers[0])))

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _enqueue(self, tasks: List[_Task]) -> None:
        """All of the tasks or none."""
        if self._closed:
            raise UserError("the batcher is closed")
        room = self._size - _count(self._queue[-1]) if self._queue else 0
        # Only the last of them may be less than a whole batch.
        new = len(tasks) - (tasks[-1].count <= room)
        if len(self._queue) + new > self._limit:
            raise QueueFull("the batching queue is full", hint="try again", max_enqueued_batches=self._limit)
        if new < len(tasks):
            self._queue[-1].append(tasks[-1])
        self._queue.extend([task] for task in tasks[:new])

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._ready():
                    if self._closed and not self._queue:
                        return
                    self._changed.wait(self._left() if self._queue else None)
                tasks = self._queue.popleft()
            self._answer(tasks)

    def _ready(self) -> bool:
        if not self._queue:
            return False
        full = _count(self._queue[0]) >= self._size
        return full or len(self._queue) > 1 or self._closed or self._left() <= 0

    def _left(self) -> float:
        return self._queue[0][0].begun + self._timeout - time.monotonic()

    def _answer(self, tasks: List[_Task]) -> None:
        """Samples whose free sizes differ cannot go together."""
        groups: "Dict[Tuple[Any, ...], List[_Task]]" = {}
        for task in tasks:
            groups.setdefault(tuple(array.shape[1:] for array in task.arrays), []).append(task)
        for group in groups.values():
            self._run(group)

    def _run(self, tasks: List[_Task]) -> None:
        try:
            outputs = self._together([batch.join(parts) for parts in zip(*(task.arrays for task in tasks))])
        except Exception as error:
            if len(tasks) == 1:
                tasks[0].answer.set_exception(error)
                return
            for task in tasks:  # whose fault it was shows when each runs alone
                self._run([task])
            return
        start = 0
        for task in tasks:
            task.answer.set_result([out[start : start + task.count] for out in outputs])
            start += task.count

    def _together(self, rows: List[Array]) -> Sequence[Array]:
        size = next((allowed for allowed in self._allowed if allowed >= len(rows[0])), len(rows[0]))
        return self._engine.infer([batch.pad(array, size) for array in rows])


def _count(tasks: Sequence[_Task]) -> int:
    return sum(task.count for task in tasks)


def _known() -> str:
    return "known: " + ", ".join(Parameters.__dataclass_fields__)
