"""Batcher: TensorFlow Serving's batching parameters mean what they mean there, and nobody pays for another's data."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime.batcher import Batcher, Parameters, QueueFull, read_parameters
from edgekit_runtime.engine import Engine
from edgekit_runtime.errors import InputError, UserError
from edgekit_runtime.interpreter import InvokeError
from hypothesis import given, settings
from hypothesis import strategies as st

PATIENCE = 60.0
NEVER = 3_600_000_000


class Watched(Engine):
    """An Engine that notes how many samples it is given, and waits while its gate is shut."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.sizes: list[int] = []
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        super().__init__(*given, **named)

    def __enter__(self) -> Watched:
        return self

    def infer(self, arrays: Any) -> tuple[np.ndarray, ...]:
        self.sizes.append(len(arrays[0]))
        self.entered.release()
        assert self.gate.wait(PATIENCE)
        return super().infer(arrays)


@pytest.fixture
def engine(models: Path) -> Watched:
    watched = Watched(models / "classifier_int8.tflite", max_batch_size=4, allowed_batch_sizes=[2])
    assert watched.batch_sizes == (2, 4)
    return watched


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(3).integers(-128, 128, (12, 8, 8, 3)).astype(np.int8)


Ask = Callable[..., "Future[tuple[np.ndarray, ...]]"]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Calls in threads; each waits in the queue, runs, or is answered when the next one begins."""
    with ThreadPoolExecutor(40) as pool:

        def call(batcher: Batcher, *arrays: np.ndarray) -> Future[tuple[np.ndarray, ...]]:
            before = waiting(batcher), running(batcher)
            answer = pool.submit(batcher.infer, arrays)
            while not answer.done() and (waiting(batcher), running(batcher)) == before:
                time.sleep(0.001)
            return answer

        yield call


def waiting(batcher: Batcher) -> list[int]:
    with batcher._changed:
        return [sum(task.count for task in tasks) for tasks in batcher._queue]


def running(batcher: Batcher) -> int:
    assert isinstance(batcher._engine, Watched)
    return len(batcher._engine.sizes)


def busy(engine: Watched, batcher: Batcher, ask: Ask, rows: np.ndarray) -> Future[tuple[np.ndarray, ...]]:
    """The one batch thread is at work and stays there until the gate opens."""
    engine.gate.clear()
    first = ask(batcher, rows[:4])
    assert engine.entered.acquire(timeout=PATIENCE)
    return first


class TestParameters:
    def test_the_file_is_tensorflow_servings(self, tmp_path: Path) -> None:
        file = tmp_path / "batching.txt"
        file.write_text(
            "max_batch_size { value: 8 }  # of the model\nbatch_timeout_micros: { value: 1000 }\n"
            "max_enqueued_batches { value: 100 } num_batch_threads { value: 2 }\n"
            "allowed_batch_sizes: 1\nallowed_batch_sizes: 8\n"
        )
        assert read_parameters(file) == Parameters(8, 1000, 100, 2, (1, 8))
        file.write_text("allowed_batch_sizes: [1, 2, 4]")
        assert read_parameters(file) == Parameters(allowed_batch_sizes=(1, 2, 4))
        file.write_text("")
        assert read_parameters(file) == Parameters(None, 0, 10, None, ())

    @pytest.mark.parametrize(
        "text",
        [
            "max_batch { value: 8 }",
            "max_batch_size { value: 8 } max_batch_size { value: 8 }",
            "max_batch_size { value: -8 }",
            "max_batch_size { value: 0 }",
            "max_batch_size: [1, 2]",
            "{ value: 8 }",
            "max_batch_size",
            "num_batch_threads { value: 0 }",
            "allowed_batch_sizes: [4, 2]",
            "allowed_batch_sizes: 0",
            "\xff",
        ],
    )
    def test_what_is_none_is_refused(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "batching.txt"
        file.write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError):
            read_parameters(file)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot read"):
            read_parameters(tmp_path / "none")

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            (Parameters(max_batch_size=8), "batches of 8 are not proven: the engine runs 1, 2, 4"),
            (Parameters(allowed_batch_sizes=(3, 4)), "batches of 3 are not proven"),
            (Parameters(allowed_batch_sizes=(1,)), "last of allowed_batch_sizes"),
            (Parameters(max_batch_size=3), "batches of 3 are not proven"),
        ],
    )
    def test_what_the_engine_has_not_proven_is_refused(
        self, engine: Watched, parameters: Parameters, message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            Batcher(engine, parameters)


class TestQueue:
    def test_who_waits_while_the_thread_is_busy_goes_together(
        self, engine: Watched, ask: Ask, rows: np.ndarray
    ) -> None:
        batcher = Batcher(engine)
        first = busy(engine, batcher, ask, rows)
        later = [ask(batcher, rows[start:end]) for start, end in ((4, 5), (5, 7), (7, 8), (8, 11))]
        assert waiting(batcher) == [4, 3]
        engine.gate.set()
        (wanted,) = Engine.infer(engine, [rows[:11]])
        assert np.array_equal(np.concatenate([one.result()[0] for one in (first, *later)]), wanted)
        assert engine.sizes == [4, 4, 3]
        batcher.close()

    def test_a_batch_waits_until_it_is_full_or_closed(self, engine: Watched, ask: Ask, rows: np.ndarray) -> None:
        batcher = Batcher(engine, Parameters(batch_timeout_micros=NEVER))
        one, two = ask(batcher, rows[:1]), ask(batcher, rows[1:3])
        assert (waiting(batcher), engine.sizes) == ([3], [])
        three = ask(batcher, rows[3:4])
        assert [len(answer.result()[0]) for answer in (one, two, three)] == [1, 2, 1]
        four, five = ask(batcher, rows[:2]), ask(batcher, rows[:3])  # together too many: the first may go
        four.result()
        assert (waiting(batcher), engine.sizes) == ([3], [4, 2])
        batcher.close()
        assert (len(five.result()[0]), engine.sizes) == (3, [4, 2, 3])
        with pytest.raises(UserError, match="closed"):
            batcher.infer([rows[:1]])

    @pytest.mark.parametrize("micros", [0, 20_000])
    def test_the_timeout_lets_an_underfull_batch_go(self, engine: Watched, rows: np.ndarray, micros: int) -> None:
        batcher = Batcher(engine, Parameters(batch_timeout_micros=micros))
        assert len(batcher.infer([rows[:3]])[0]) == 3
        batcher.close()

    def test_a_full_queue_refuses_and_keeps_what_it_has(self, engine: Watched, ask: Ask, rows: np.ndarray) -> None:
        batcher = Batcher(engine, Parameters(max_enqueued_batches=2))
        first = busy(engine, batcher, ask, rows)
        kept = [ask(batcher, rows[:4]), ask(batcher, rows[:3])]
        with pytest.raises(QueueFull):
            batcher.infer([rows[:2]])
        with pytest.raises(QueueFull):  # all of it or nothing
            batcher.infer([rows[:5]])
        kept.append(ask(batcher, rows[:1]))
        assert waiting(batcher) == [4, 4]
        engine.gate.set()
        assert [len(answer.result()[0]) for answer in (first, *kept)] == [4, 4, 3, 1]
        assert len(batcher.infer([rows[:2]])[0]) == 2
        batcher.close()

    def test_more_than_a_batch_is_split_and_more_than_the_queue_is_refused(
        self, engine: Watched, rows: np.ndarray
    ) -> None:
        batcher = Batcher(engine, Parameters(max_enqueued_batches=3))
        (wanted,) = Engine.infer(engine, [rows])
        assert np.array_equal(batcher.infer([rows[:11]])[0], wanted[:11])
        assert engine.sizes == [4, 4, 3]
        with pytest.raises(InputError, match="at most 12 samples"):
            batcher.infer([np.concatenate([rows, rows[:1]])])
        batcher.close()

    def test_as_many_batches_at_once_as_there_are_threads(self, engine: Watched, ask: Ask, rows: np.ndarray) -> None:
        batcher = Batcher(engine, Parameters(num_batch_threads=2))
        engine.gate.clear()
        answers = [ask(batcher, rows[:4]) for _ in range(3)]
        assert all(engine.entered.acquire(timeout=PATIENCE) for _ in range(2))
        assert (waiting(batcher), engine.sizes) == ([4], [4, 4])
        engine.gate.set()
        assert [len(answer.result()[0]) for answer in answers] == [4, 4, 4]
        batcher.close()

    @pytest.mark.parametrize(
        ("allowed", "count", "sizes"),
        [
            ((4,), 1, [4]),
            ((1, 4), 1, [1]),
            ((1, 4), 2, [4]),
            ((2, 4), 1, [2]),
            ((2, 4), 3, [4]),
            ((), 3, [3]),
            ((), 4, [4]),
        ],
    )
    def test_a_batch_is_padded_to_the_next_allowed_size_and_to_none_without_them(
        self, engine: Watched, rows: np.ndarray, allowed: tuple[int, ...], count: int, sizes: list[int]
    ) -> None:
        batcher = Batcher(engine, Parameters(allowed_batch_sizes=allowed))
        (wanted,) = Engine.infer(engine, [rows[:count]])
        assert np.array_equal(batcher.infer([rows[:count]])[0], wanted)
        assert engine.sizes == sizes
        batcher.close()

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 3), st.sampled_from([0, 500]))
    def test_each_is_answered_as_by_the_engine(self, models: Path, sizes: list[int], threads: int, micros: int) -> None:
        rows = np.random.default_rng(sum(sizes)).integers(-128, 128, (12, 8, 8, 3)).astype(np.int8)
        with Engine.load(models / "classifier_int8.tflite", max_batch_size=3) as engine:
            batcher = Batcher(engine, Parameters(3, micros, 100, threads))
            (wanted,) = engine.infer([rows])
            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(lambda size: batcher.infer([rows[12 - size :]])[0], sizes))
            batcher.close()
        for size, out in zip(sizes, found, strict=True):
            assert np.array_equal(out, wanted[12 - size :])


class TestBadData:
    def test_the_wrong_shape_never_reaches_the_queue(self, engine: Watched, ask: Ask, rows: np.ndarray) -> None:
        batcher = Batcher(engine)
        first = busy(engine, batcher, ask, rows)
        good = ask(batcher, rows[:2])
        for bad in (rows[:1].astype(np.uint8), rows[:1, :4], rows[0]):
            with pytest.raises(InputError, match="expected int8"):
                batcher.infer([bad])
        assert waiting(batcher) == [2]
        engine.gate.set()
        assert (len(first.result()[0]), len(good.result()[0])) == (4, 2)
        batcher.close()

    def test_what_makes_the_model_fail_fails_alone(self, models: Path, ask: Ask) -> None:
        with Watched(models / "lookup.tflite", max_batch_size=4) as engine:
            assert engine.batch_size == 4
            batcher = Batcher(engine, Parameters(allowed_batch_sizes=(4,)))
            first = busy(engine, batcher, ask, np.zeros((4, 3), np.int32))
            good, bad, also = (ask(batcher, np.full((1, 3), index, np.int32)) for index in (1, 8, 3))
            engine.gate.set()
            assert (first.result()[0] == 2).all()
            assert [good.result()[0].tolist(), also.result()[0].tolist()] == [[[3] * 3], [[7] * 3]]
            with pytest.raises(InvokeError):
                bad.result()
            assert (batcher.infer([np.full((1, 3), 2, np.int32)])[0] == 5).all()
            batcher.close()

    def test_nan_stays_with_its_request(self, models: Path, ask: Ask) -> None:
        with Watched(models / "classifier_float.tflite", max_batch_size=4) as engine:
            pictures = np.random.default_rng(2).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
            (wanted,) = Engine.infer(engine, [pictures])
            batcher = Batcher(engine, Parameters(allowed_batch_sizes=(4,)))
            first = busy(engine, batcher, ask, pictures)
            good, bad = ask(batcher, pictures[:1]), ask(batcher, np.full_like(pictures[:1], np.nan))
            engine.gate.set()
            assert np.array_equal(first.result()[0], wanted)
            assert np.array_equal(good.result()[0], wanted[:1])
            assert not np.isfinite(bad.result()[0]).all()
            assert engine.sizes == [4, 4]
            batcher.close()
