"""Inference that goes on for months: memory does not grow, and a frame costs few allocations whatever its size.

tracemalloc counts Python's objects and NumPy's buffers: what is returned and, where the input tensor is not made of
the pixels as they are, one array of the frame's size. Interpreters and Pillow allocate outside it, and `bench --soak`
sees those.
"""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime.batcher import Batcher
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Preprocess

TRANSIENT = 32 << 10
RUNS = 2500
# A single forgotten object is 28 bytes or more; a stream has more or less in hand when it is looked at.
LEAST_OBJECT = 16


def cost(call: Callable[[], object], runs: int = RUNS) -> tuple[int, int]:
    """The most that one call allocated beyond what was there, and the growth over all of them, in bytes."""
    most = 0
    for _ in range(10):
        call()
    tracemalloc.start()
    try:
        for _ in range(runs // 2):
            call()
        gc.collect()
        start, _ = tracemalloc.get_traced_memory()
        for _ in range(runs):
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            call()
            most = max(most, tracemalloc.get_traced_memory()[1] - before)
        gc.collect()
        return most, tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()


@contextmanager
def calls(engine: Engine, frame: np.ndarray) -> Iterator[dict[str, Callable[[], object]]]:
    row = engine.prepare(frame)[None]
    batcher = Batcher(engine)
    with closing(engine.stream(itertools.repeat(frame))) as stream:  # type: ignore[type-var]  # it is a generator
        yield {
            "infer": lambda: engine.infer([row]),
            "classify": lambda: engine.classify([frame]),
            "stream": lambda: next(stream),
            "batcher": lambda: batcher.infer([row]),
        }
    batcher.close()


@pytest.mark.parametrize("what", ["infer", "classify", "stream", "batcher"])
@pytest.mark.parametrize("model", ["classifier_int8", "classifier_uint8", "classifier_float"])
def test_memory_does_not_grow(models: Path, spec: Preprocess, model: str, what: str) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    path = models / f"{model}.tflite"
    with Engine.load(path, preprocess=spec, task="classification", max_batch_size=4) as engine:
        assert engine.batch_size == 4
        with calls(engine, frame) as every:
            transient, growth = cost(every[what])
    assert transient <= TRANSIENT * (engine.batch_size if what == "stream" else 1)
    assert growth < LEAST_OBJECT * RUNS


@pytest.mark.shared
@pytest.mark.parametrize("what", ["infer", "classify", "stream"])
@pytest.mark.parametrize("name", ["mobilenet_v1_0.5_160_quant", "mobilenet_v2_1.0_224_quant"])
def test_a_larger_frame_costs_no_more(shared: Path, name: str, what: str) -> None:
    """These take the pixels as they are: not one copy of a frame (77 and 151 KB) is made."""
    side = int(name.split("_")[3])
    frame = np.random.default_rng(1).integers(0, 256, (side, side, 3)).astype(np.uint8)
    wanted = Preprocess(side, side, mean=(128.0,) * 3, std=(128.0,) * 3)
    path = shared / f"reference/coral_tflite_dev/{name}.tflite"
    with Engine.load(path, preprocess=wanted, task="classification") as engine, calls(engine, frame) as every:
        transient, _ = cost(every[what], 50)
        in_hand = engine.num_interpreters + 1 if what == "stream" else 1
    assert transient <= in_hand * TRANSIENT < frame.nbytes


def test_the_measure_sees_a_leak_and_a_buffer() -> None:
    kept: list[object] = []
    assert cost(lambda: kept.append(object()))[1] >= LEAST_OBJECT * RUNS
    assert cost(lambda: np.zeros(TRANSIENT + 1, np.uint8))[0] > TRANSIENT
