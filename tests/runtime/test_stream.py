"""stream: answers in order while frames come, a bound on what is in hand, and it goes on after a bad frame."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime import stream
from edgekit_runtime.engine import Engine
from edgekit_runtime.errors import InputError
from edgekit_runtime.picture import ImageError
from edgekit_runtime.pool import EngineClosed
from hypothesis import given, settings
from hypothesis import strategies as st

PATIENCE = 60.0


@pytest.fixture(scope="module")
def engine(release: Path) -> Engine:
    return Engine.open(release)


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stream-")]


class TestEngineStream:
    def test_every_frame_is_answered_in_order(self, engine: Engine, frames: list[np.ndarray]) -> None:
        many = [frames[index % 6] for index in range(50)]
        found = list(engine.stream(iter(many), top_k=2))
        assert [result.index for result in found] == list(range(50))
        assert [result.classes for result in found] == list(engine.classify(many, top_k=2))
        assert all(result.error is None and result.outputs[0].shape == (4,) for result in found)
        assert workers() == []

    @pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
    def test_a_batch_that_was_proven_is_answered_together(
        self, release: Path, frames: list[np.ndarray], tmp_path: Path, count: int
    ) -> None:
        many: list[Any] = [frames[index % 6] for index in range(count)]
        with Engine.open(release, max_batch_size=4) as engine:
            assert engine.batch_size == 4
            wanted = list(engine.classify(many, top_k=2))
            found = list(engine.stream(iter(many), top_k=2))
            assert [(one.index, one.classes) for one in found] == list(enumerate(wanted))
            assert all(one.error is None and one.outputs[0].shape == (4,) for one in found)
            mixed: list[Any] = [one for frame in many for one in (frame, None)]
            found = list(engine.stream(mixed, top_k=2))
            assert [one.classes for one in found[::2]] == wanted
            assert all(isinstance(one.error, Exception) for one in found[1::2])
        assert workers() == []

    def test_what_the_source_raises_comes_behind_a_batch_s_rest(self, release: Path, frames: list[np.ndarray]) -> None:
        def source() -> Iterator[np.ndarray]:
            yield from frames[:5]
            raise OSError("unplugged")

        with Engine.open(release, max_batch_size=4) as engine:
            answers = engine.stream(source())
            assert [next(answers).index for _ in range(5)] == [0, 1, 2, 3, 4]
            with pytest.raises(OSError, match="unplugged"):
                next(answers)

    def test_a_bad_frame_is_reported_in_its_place_and_the_next_is_served(
        self, engine: Engine, frames: list[np.ndarray], tmp_path: Path
    ) -> None:
        (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
        bad = [np.zeros((8, 8, 3)), tmp_path / "bad.jpg", None]
        found = list(engine.stream([frames[0], *bad, frames[1]]))  # type: ignore[list-item]  # that is the point
        assert [type(result.error) for result in found[1:3]] == [InputError, ImageError]
        assert isinstance(found[3].error, Exception)
        assert [found[0].classes, found[4].classes] == list(engine.classify(frames[:2]))
        assert all(not result.classes and not result.outputs for result in found[1:4])

    def test_of_a_closed_engine_it_ends_at_once(self, release: Path, frames: list[np.ndarray]) -> None:
        engine = Engine.open(release)
        answers = engine.stream(itertools.repeat(frames[0]))
        assert next(answers).error is None
        engine.close()
        with pytest.raises(EngineClosed):
            list(itertools.islice(answers, 20))

    def test_what_no_frame_can_have_is_refused_at_once(self, engine: Engine, frames: list[np.ndarray]) -> None:
        with pytest.raises(InputError, match="a frame is one of"):
            engine.stream(frames, format="rgb")
        with pytest.raises(InputError, match="top_k"):
            engine.stream(frames, top_k=0)
        no_frames: list[Any] = [3, None, "photo.jpg", b"photo"]
        for wrong in no_frames:
            with pytest.raises(InputError, match="frames are given one after the other"):
                engine.stream(wrong)
        with pytest.raises(InputError, match="pictures are given as a list"):
            engine.stream(frames[0])
        assert len(list(engine.stream(np.stack(frames)))) == len(frames)
        no_counts: list[Any] = [0, -1, 1.5, "a", True]
        for wrong in no_counts:
            with pytest.raises(InputError, match="in_flight is a whole number of at least 1, not"):
                engine.stream(frames, in_flight=wrong)
        assert [result.error for result in engine.stream(frames, in_flight=1)] == [None] * 6

    def test_a_model_without_preprocessing_takes_its_stored_samples(self, models: Path) -> None:
        rows = np.arange(18, dtype=np.float32).reshape(3, 6)
        with Engine.load(models / "fixed.tflite") as engine:
            found = list(engine.stream([*rows, rows[0].astype(np.float64)]))
            (wanted,) = engine.infer([rows])
        assert np.array_equal(np.stack([result.outputs[0] for result in found[:3]]), wanted)
        assert isinstance(found[3].error, InputError)

    def test_real_values_that_are_nan_stay_in_their_frame(self, models: Path) -> None:
        rows = np.ones((3, 8, 8, 3), np.float32)
        rows[1] = np.nan
        with Engine.load(models / "classifier_float.tflite") as engine:
            before, _, after = (result.outputs[0] for result in engine.stream(rows))
        assert np.isfinite(before).all()
        assert np.array_equal(before, after)


class TestOrdered:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(), max_size=20), st.integers(1, 4), st.integers(1, 6))
    def test_is_map(self, items: list[int], count: int, bound: int) -> None:
        assert list(stream.ordered(str, items, count, bound)) == [str(item) for item in items]

    @pytest.mark.parametrize(("count", "bound"), [(1, 1), (2, 3), (3, 2), (2, None)])
    def test_a_slow_consumer_holds_the_source_back(self, count: int, bound: int | None) -> None:
        read, left = 0, 0
        excess: list[int] = []
        allowed = 2 * count if bound is None else bound

        def source() -> Iterator[int]:
            nonlocal read
            for number in range(30):
                read += 1
                excess.append(read - left - allowed)
                yield number

        for number in stream.ordered(abs, source(), count, bound):
            # As if it had been left: a thread may read on before this line is reached again.
            left = number + 1
        assert read == 30
        assert max(excess) <= 0

    def test_the_next_item_is_worked_on_while_one_is(self) -> None:
        """Two calls meet: neither could return if they ran in turn."""
        both = threading.Barrier(2, timeout=PATIENCE)
        assert len(list(stream.ordered(lambda _item: both.wait(), range(4), 2))) == 4

    def test_an_answer_does_not_wait_for_the_next_item(self) -> None:
        answered = threading.Event()

        def source() -> Iterator[int]:
            yield 1
            assert answered.wait(PATIENCE)
            yield 2

        answers = stream.ordered(abs, source(), 2)
        assert next(answers) == 1
        answered.set()
        assert list(answers) == [2]

    def test_closing_ends_the_workers_of_an_endless_source(self) -> None:
        answers = stream.ordered(abs, itertools.count(), 3)
        assert [next(answers), next(answers)] == [0, 1]
        assert len(workers()) == 3
        answers.close()
        assert workers() == []

    def test_closing_does_not_wait_for_a_source_that_gives_nothing(self) -> None:
        stalled = threading.Event()

        def source() -> Iterator[int]:
            yield 1
            stalled.wait(60)
            yield 2

        answers = stream.ordered(lambda item: item, source(), 2)
        assert next(answers) == 1
        answers.close()
        assert not stalled.is_set()
        stalled.set()
        deadline = time.monotonic() + 30
        while workers():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_what_the_source_raises_comes_behind_the_answers(self) -> None:
        def source() -> Iterator[int]:
            yield 1
            raise OSError("the camera is gone")

        answers = stream.ordered(abs, source(), 2)
        assert next(answers) == 1
        with pytest.raises(OSError, match="camera"):
            next(answers)
        assert workers() == []

    def test_what_a_call_raises_ends_it(self) -> None:
        with pytest.raises(ZeroDivisionError):
            list(stream.ordered(lambda item: 1 // item, itertools.count(-2), 2))
        assert workers() == []

    def test_a_bound_below_one(self) -> None:
        with pytest.raises(InputError, match="at least 1"):
            next(stream.ordered(abs, [1], 1, 0))
