"""Inference that goes on for months: memory does not grow, and a frame costs few allocations whatever its size.

tracemalloc counts Python's objects and NumPy's buffers. Interpreters and Pillow allocate outside it, and `bench --soak`
sees those.
"""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime import detect, frame, quant
from edgekit_runtime.batcher import Batcher
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Detection, Preprocess, TensorSpec
from edgekit_runtime.preprocess import Preprocessor, folded

TRANSIENT = 32 << 10
RUNS = 2500
# A single forgotten object is 28 bytes or more; a stream has more or less in hand when it is looked at.
LEAST_OBJECT = 16


def cost(call: Callable[[], object], runs: int = RUNS, *, warm_up: int = 10) -> tuple[int, int]:
    """The most that one call allocated beyond what was there, and the growth over all of them, in bytes."""
    most = 0
    for _ in range(warm_up):
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
def calls(engine: Engine, picture: np.ndarray) -> Iterator[dict[str, Callable[[], object]]]:
    row = engine.prepare(picture)[None]
    batcher = Batcher(engine)
    with closing(engine.stream(itertools.repeat(picture))) as stream:  # type: ignore[type-var]  # it is a generator
        yield {
            "infer": lambda: engine.infer([row]),
            "classify": lambda: engine.classify([picture]),
            "stream": lambda: next(stream),
            "batcher": lambda: batcher.infer([row]),
        }
    batcher.close()


@pytest.mark.parametrize("what", ["infer", "classify", "stream", "batcher"])
@pytest.mark.parametrize("model", ["classifier_int8", "classifier_uint8", "classifier_float"])
def test_memory_does_not_grow(models: Path, spec: Preprocess, model: str, what: str) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    path = models / f"{model}.tflite"
    with Engine.load(path, preprocess=spec, task="classification", max_batch_size=4) as engine:
        assert engine.batch_size == 4
        with calls(engine, picture) as every:
            transient, growth = cost(every[what])
    assert transient <= TRANSIENT * (engine.batch_size if what == "stream" else 1)
    assert growth < LEAST_OBJECT * RUNS


@pytest.mark.shared
@pytest.mark.parametrize("what", ["infer", "classify", "stream"])
@pytest.mark.parametrize("name", ["mobilenet_v1_0.5_160_quant", "mobilenet_v2_1.0_224_quant"])
def test_a_larger_frame_costs_no_more(shared: Path, name: str, what: str) -> None:
    """These take the pixels as they are: not one copy of a frame (77 and 151 KB) is made."""
    side = int(name.split("_")[3])
    picture = np.random.default_rng(1).integers(0, 256, (side, side, 3)).astype(np.uint8)
    wanted = Preprocess(side, side, mean=(128.0,) * 3, std=(128.0,) * 3)
    path = shared / f"reference/coral_tflite_dev/{name}.tflite"
    with Engine.load(path, preprocess=wanted, task="classification") as engine, calls(engine, picture) as every:
        transient, _ = cost(every[what], 50)
        in_hand = engine.num_interpreters + 1 if what == "stream" else 1
    assert transient <= in_hand * TRANSIENT < picture.nbytes


@pytest.mark.shared
@pytest.mark.parametrize(("batch", "interpreters"), [(1, 1), (1, 2), (4, 1)])
def test_several_frames_cost_no_more_each(shared: Path, batch: int, interpreters: int) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    wanted = Preprocess(224, 224, mean=(128.0,) * 3, std=(128.0,) * 3)
    path = shared / "reference/coral_tflite_dev/mobilenet_v2_1.0_224_quant.tflite"
    with Engine.load(
        path, preprocess=wanted, task="classification", max_batch_size=batch, num_interpreters=interpreters
    ) as engine:
        alone = [engine.classify([frame])[0] for frame in (picture, picture[::-1])]
        assert list(engine.classify([picture, picture[::-1]] * 4)) == alone * 4
        assert cost(lambda: engine.classify([picture] * 7), 5)[0] <= 7 * TRANSIENT


def given(form: str, size: tuple[int, int], lies: str) -> np.ndarray:
    """Noise in a format, in one piece or as cameras and programs give it otherwise."""
    _, shape = frame.parse(f"{size[0]}x{size[1]}:{form}")
    shape = shape[:2] if shape[2:] == (1,) else shape
    wide = np.random.default_rng(1).integers(0, 256, (shape[0], shape[1] + 64, *shape[2:])).astype(np.uint8)
    whole = np.ascontiguousarray(wide[:, : shape[1]])
    return {"in one piece": whole, "with gaps": wide[:, : shape[1]], "turned round": whole[::-1]}[lies]


@pytest.mark.parametrize("lies", ["in one piece", "with gaps", "turned round"])
@pytest.mark.parametrize("form", frame.FORMATS)
@pytest.mark.parametrize("filter_", ["linear", "bilinear"])  # NumPy's or OpenCV's way, and Pillow's
def test_a_frame_of_any_kind_costs_no_more(filter_: str, form: str, lies: str) -> None:
    large = (1280, 720) if lies == "in one piece" else (640, 480)
    for color in ("RGB", "GRAY"):
        channels = 3 if color == "RGB" else 1
        wanted = Preprocess(96, 96, color=color, mean=(127.5,) * channels, std=(127.5,) * channels, filter=filter_)
        inputs = [TensorSpec("x", (1, 96, 96, channels), "int8", 1 / 127.5, -1)]
        for size in ((96, 96), large):
            pictures, tensor = Preprocessor(wanted, inputs), np.empty((1, 96, 96, channels), np.int8)
            camera = given(form, size, lies)
            prepared: Callable[[], None] = lambda: pictures.write(pictures.pixels(camera, form), tensor)  # noqa: B023, E731
            assert cost(prepared, 2, warm_up=1)[0] <= TRANSIENT, (color, size)
            expected = tensor.copy()
            pictures.write(pictures.pixels(np.ascontiguousarray(camera), form), tensor)
            np.testing.assert_array_equal(tensor, expected)
            told = [finding for finding in pictures.findings if "copied first" in finding]
            packed = form in frame.PACKED and size == (96, 96)
            assert len(told) == (lies != "in one piece" and not packed)


@pytest.mark.parametrize(("dtype", "scale"), [("float32", None), ("int8", 0.05)])
def test_a_wide_picture_through_a_table_costs_no_more(dtype: str, scale: float | None) -> None:
    wanted = Preprocess(4000, 4, mean=(127.5,) * 3, std=(127.5,) * 3)
    zero_point = None if scale is None else 0
    pictures = Preprocessor(wanted, [TensorSpec("x", (1, 4, 4000, 3), dtype, scale, zero_point)])
    camera, tensor = given("RGB", (4000, 4), "in one piece"), np.empty((1, 4, 4000, 3), dtype)
    assert cost(lambda: pictures.write(pictures.pixels(camera, "RGB"), tensor), 3)[0] <= TRANSIENT
    wanted_values = folded(wanted, TensorSpec("x", (1, 4, 4000, 3), dtype, scale, zero_point)).table[camera, [0, 1, 2]]
    np.testing.assert_array_equal(tensor[0], wanted_values)


@pytest.mark.parametrize("converter", ["sigmoid", "softmax"])
@pytest.mark.parametrize("stored", ["int8", "float32"])
@pytest.mark.parametrize("threshold", [0.3, 0.02, 1e-8])
def test_boxes_cost_no_more_however_many_there_are(threshold: float, stored: str, converter: str) -> None:
    """Of 12,804 anchors and 7 classes, as many as the shared detector has, a picture full of rivals among them."""
    random, anchors = np.random.default_rng(0), 12_804
    wanted = Detection(
        boxes=0, scores=1, score_converter=converter, box_scales=(10, 10, 5, 5), first_column=1,
        class_ids=tuple(range(1, 8)), max_per_class=100, iou_threshold=0.6, score_threshold=threshold,
        max_detections=100,
    )  # fmt: skip
    predictions = TensorSpec("scores", (1, anchors, 8), stored)
    if stored == "int8":
        predictions = replace(predictions, scale=0.05, zero_point=10)
    specs = (TensorSpec("boxes", (1, anchors, 4), "int8", 0.05, 0), predictions)
    heads = detect.heads(wanted, random.uniform(0, 1, (anchors, 4)).astype(np.float32), specs)
    boxes = random.integers(-30, 30, (1, anchors, 4)).astype(np.int8)
    logits = np.clip(random.normal(-60, 15, (1, anchors, 8)), -128, 127)
    logits[0, :5, 2] = 90
    scores = quant.quantize(((logits - 10) * 0.05).astype(np.float32), predictions)
    (found,) = heads.find([boxes, scores])
    assert 5 <= len(found) <= 100
    assert cost(lambda: heads.find([boxes, scores]), 5)[0] <= TRANSIENT
    rivals = heads.find([np.zeros_like(boxes), scores])
    assert len(rivals[0]) > 0
    assert cost(lambda: heads.find([np.zeros_like(boxes), scores]) and None, 3)[0] <= TRANSIENT + boxes.nbytes


def test_the_measure_sees_a_leak_and_a_buffer() -> None:
    kept: list[object] = []
    assert cost(lambda: kept.append(object()))[1] >= LEAST_OBJECT * RUNS
    assert cost(lambda: np.zeros(TRANSIENT + 1, np.uint8))[0] > TRANSIENT
