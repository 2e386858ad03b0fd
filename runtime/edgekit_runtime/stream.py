"""Frames through an Engine while they come: several are worked on at once, and the answers keep their order."""

from __future__ import annotations

import contextlib
import itertools
import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Callable, Generator, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar

import numpy as np

from edgekit_runtime import frame as formats
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import InputError
from edgekit_runtime.plan import require_count
from edgekit_runtime.pool import EngineClosed
from edgekit_runtime.preprocess import listed

if TYPE_CHECKING:
    from edgekit_runtime.classify import ClassScore
    from edgekit_runtime.detect import Detections
    from edgekit_runtime.engine import Engine
    from edgekit_runtime.preprocess import Source
    from edgekit_runtime.quant import Array

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_STALLED_S = 1.0


@dataclass(frozen=True)
class Result:
    """The answer to one frame, or in `error` why there is none.

    `outputs` has the stored values of each output; `classes` are of a classification model only, `detections` of a
    detector.
    """

    index: int
    outputs: Tuple[Array, ...] = ()
    classes: Tuple["ClassScore", ...] = ()
    detections: Optional["Detections"] = None
    error: Optional[Exception] = None


def results(
    engine: Engine, frames: Iterable[Source], *, top_k: int = 5, format: str = "RGB", in_flight: Optional[int] = None
) -> Iterator[Result]:
    """A Result for each frame, in order. A frame is what `prepare` takes or, for a model without preprocessing, one
    sample of its input as stored. What a frame raises is in its Result, and the next one is served; what the
    iterator `frames` raises is raised here, after the answers to the frames before, and so is an engine that is closed.

    An engine whose batch is above 1 answers so many frames together, once they have come: a plan for throughput. What
    one of them raises is its own again.

    Frames are not copied: each must keep its pixels until its Result is there. A camera that fills one buffer again and
    again wants `in_flight=1`, or `frame.copy()`. Raises InputError for a format or `top_k` that no frame can have,
    for an `in_flight` below 1 and for `frames` that are none.
    """
    if format not in formats.FORMATS:
        raise InputError(f"a frame is one of {', '.join(formats.FORMATS)}, not '{format}'", format=format)
    require_count("top_k", top_k, None)
    if in_flight is not None:
        require_count("in_flight", in_flight, None)

    if engine.preprocess is not None and isinstance(frames, np.ndarray):
        frames = listed(frames)

    def result(index: int, outputs: Sequence[Array]) -> Result:
        classes = engine.top_k(outputs[0], top_k)[0] if engine.task == "classification" else ()
        detections = engine.detections(outputs)[0] if engine.task == "detection" else None
        return Result(index, tuple(out[0] for out in outputs), classes, detections)

    def answer(index: int, frame: Source) -> Result:
        try:
            if engine.preprocess is not None:
                outputs = engine.answer(frame, lambda given: tuple(out.copy() for out in given), format=format)
            else:
                outputs = engine.infer([np.asarray(frame)[None]])
            return result(index, outputs)
        except EngineClosed:
            raise
        except Exception as error:
            return Result(index, error=error)

    def together(group: "List[Tuple[int, Source]]") -> List[Result]:
        if len(group) > 1:
            with contextlib.suppress(Exception):  # whose fault it was shows when each runs alone
                given: List[Any] = [frame for _, frame in group]
                if engine.preprocess is None:
                    rows = np.stack(given)
                else:
                    held = getattr(local, "rows", None)
                    rows = engine.rows(given, format=format, out=None if held is None else held[: len(given)])
                    local.rows = rows if held is None else held
                outputs = engine.infer([rows])
                return [
                    result(index, [out[number : number + 1] for out in outputs])
                    for number, (index, _) in enumerate(group)
                ]
        return [answer(index, frame) for index, frame in group]

    local = threading.local()  # each thread's rows, made for its first group, which is the largest
    size = engine.batch_size if in_flight is None else max(1, min(engine.batch_size, in_flight))
    bound = in_flight if in_flight is None else in_flight // size
    return _flat(ordered(together, _groups(enumerate(_iterator(frames)), size), engine.num_interpreters + 1, bound))


def _iterator(frames: Iterable[Item]) -> Iterator[Item]:
    if not isinstance(frames, (str, bytes)):  # a file's name is one picture, not its letters
        with contextlib.suppress(TypeError):
            return iter(frames)
    raise InputError(
        f"frames are given one after the other, as a list or by a generator, not as {type(frames).__name__}",
        hint="[picture], also for a single one",
    )


def _groups(items: Iterable[Item], size: int) -> Iterator[List[Item]]:
    """So many at a time; what reading raises comes behind what was read before."""
    source = iter(items)
    while True:
        group: List[Item] = []
        failure = None
        try:
            for item in itertools.islice(source, size):
                group.append(item)
        except Exception as error:
            failure = error
        if group:
            yield group
        if failure is not None:
            raise failure
        if len(group) < size:
            return


def _flat(groups: Generator[List[Answer], None, None]) -> Iterator[Answer]:
    with contextlib.closing(groups):
        for group in groups:
            yield from group


def ordered(
    call: Callable[[Item], Answer], items: Iterable[Item], workers: int, in_flight: Optional[int] = None
) -> Generator[Answer, None, None]:
    """`call` of each item, done by `workers` threads, in the items' order. What it raises is raised here.

    At most `in_flight` items (2 * workers) have been read and not yet left by the consumer, who so holds back the
    source. The threads read it in turn, so that an answer never waits for the next item. Closing the iterator ends
    them, once what each has in hand is done; but for a source that gives nothing it does not wait. What reading raises
    is raised behind the last answer.
    """
    bound = 2 * workers if in_flight is None else in_flight
    if bound < 1:
        raise InputError("in_flight is at least 1")
    source = iter(items)
    room, reading, ended = threading.Semaphore(bound), threading.Lock(), threading.Event()
    begun: "SimpleQueue[Optional[Future[Answer]]]" = SimpleQueue()
    failure: List[BaseException] = []

    def work() -> None:
        while True:
            room.acquire()
            with reading:
                if ended.is_set():
                    return
                try:
                    item = next(source)
                except BaseException as error:  # the consumer's thread is the one to raise it
                    if not isinstance(error, StopIteration):
                        failure.append(error)
                    ended.set()
                    begun.put(None)
                    return
                if ended.is_set():  # closed while the source was waited for
                    return
                future: "Future[Answer]" = Future()
                begun.put(future)
            try:
                future.set_result(call(item))
            except BaseException as error:
                future.set_exception(error)
            del future, item  # neither frame nor answer outlives its turn

    threads = [threading.Thread(target=work, name=f"stream-{number}", daemon=True) for number in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for future in iter(begun.get, None):
            yield future.result()
            room.release()
    finally:
        ended.set()
        for _ in threads:
            room.release()
        if reading.acquire(timeout=_STALLED_S):
            reading.release()
            for thread in threads:
                thread.join()
    if failure:
        raise failure[0]
