"""Calibration sees what each tensor holds: TensorFlow's calibrator is what it is measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.conversion import integer, layers, observer
from edgekit.conversion.observer import Observer
from edgekit.models import flatbuffer, operators
from edgekit.models import ranges as limits
from tests.fixtures.make_models import as_float, classifier

Ranges = dict[str, tuple[float, float]]
PUBLISHED = "reference/mlperf_tiny_tflite"
TINY = float(np.finfo(np.float32).tiny)


def ranges(content: bytes) -> Ranges:
    """What calibration wrote of each tensor."""
    from ai_edge_litert import schema_py_generated as schema_fb

    graph = schema_fb.Model.GetRootAsModel(content, 0).Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    return {
        f"{index} {tensor.Name().decode()}": (tensor.Quantization().Min(0), tensor.Quantization().Max(0))
        for index, tensor in enumerate(tensors)
        if tensor.Quantization() is not None and tensor.Quantization().MinLength()
    }


def samples(content: bytes, count: int = 5) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(3)
    shapes = [tuple(max(1, size) for size in spec.shape) for spec in flatbuffer.parse(content).inputs]
    return [[rng.normal(0, 2, shape).astype(np.float32) for shape in shapes] for _ in range(count)]


def by_tensorflow(content: bytes, rows: Sequence[list[np.ndarray]]) -> bytes:
    from tensorflow.lite.python.optimize import calibrator

    calibrated: bytes = calibrator.Calibrator(calibrator.add_intermediate_tensors(content)).calibrate(
        lambda: iter(rows)
    )
    return calibrated


def int16x8_by_tensorflow(content: bytes, rows: Sequence[list[np.ndarray]]) -> bytes:
    import tensorflow as tf
    from tensorflow.lite.python import convert
    from tensorflow.lite.python.optimize import calibrator

    made = calibrator.Calibrator(content).calibrate_and_quantize(
        lambda: iter(rows), tf.float32, tf.float32, True, tf.int16, tf.int64
    )
    return bytes(convert.deduplicate_readonly_buffers(made))


def int8(calibrated: bytes) -> bytes:
    return integer.quantize(calibrated, input_dtype="int8", output_dtype="int8", dense_per_channel=True)


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        f"{PUBLISHED}/keyword_spotting/trained_models/kws_ref_model_float32.tflite",
        f"{PUBLISHED}/visual_wake_words/trained_models/vww_96_float.tflite",
        f"{PUBLISHED}/anomaly_detection/trained_models/ad01_fp32.tflite",
        "models/mltk_h5_pairs_dev/rock_paper_scissors/rock_paper_scissors.float32.tflite",
    ],
)
def test_a_chain_of_operators_becomes_the_model_that_tensorflow_makes(shared: Path, name: str) -> None:
    content = (shared / name).read_bytes()
    rows = samples(content)
    found = integer.calibrate(content, lambda: iter(rows))
    assert found.ranges is not None
    assert found.ranges.shape == (5, sum(flatbuffer.activations(content).values()), 2)
    wanted = by_tensorflow(content, rows)
    assert ranges(found.content) == ranges(wanted)
    assert int8(found.content) == int8(wanted)
    if flatbuffer.parse(content).quantization == "float":  # one of them has its weights in 8 bits
        assert integer.int16x8(found.content) == int16x8_by_tensorflow(content, rows)


@pytest.mark.shared
def test_a_sum_does_not_widen_what_it_adds_up(shared: Path) -> None:
    """ResNet8 adds up three times. TensorFlow's calibrator lets a sum overwrite what it adds, and sees that twice."""
    content = (shared / f"{PUBLISHED}/image_classification/trained_models/pretrainedResnet.tflite").read_bytes()
    rows = samples(content)
    ours = ranges(integer.calibrate(content, lambda: iter(rows)).content)
    theirs = ranges(by_tensorflow(content, rows))
    assert ours.keys() == theirs.keys()
    assert all(theirs[name][0] <= low and high <= theirs[name][1] for name, (low, high) in ours.items())
    assert sum(ours[name] != theirs[name] for name in ours) in (0, 3)
    seen = by_xnnpack(content, rows)
    told = {name.split(" ", 1)[1]: range_ for name, range_ in ours.items()}
    for name, (low, high) in seen.items():
        np.testing.assert_allclose(told[name], (low, max(high, TINY)), rtol=1e-4, atol=1e-4)


def by_xnnpack(content: bytes, rows: Sequence[list[np.ndarray]]) -> Ranges:
    """The same by other kernels, with each tensor as an output, which nothing overwrites."""
    known = operators.operators(content)
    tensors = layers.Tensors(content, known, fast=True)
    found: Ranges = {}
    for row in rows:
        tensors.run(row)
        for name in (name for operator in known for name in operator.outputs):
            value = tensors.real(name)
            assert value is not None
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return found


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["tflm_tflite/examples/mnist_lstm/trained_lstm.tflite", "ai_edge_quantizer_tflite/simple_composite.tflite"]
)
def test_a_state_or_a_second_graph_is_left_to_tensorflow(shared: Path, name: str) -> None:
    content = (shared / "reference" / name).read_bytes()
    rows = samples(content)
    assert Observer.of(content, rows[0]) is None
    found = integer.calibrate(content, lambda: iter(rows))
    assert found == integer.Calibrated(by_tensorflow(content, rows), None)


def whole(x: Any) -> Any:
    import tensorflow as tf

    return tf.cast(tf.cast(x * 100, tf.int32) + 1, tf.float32)


def repeated(x: Any) -> Any:
    """As often as the sample says."""
    import tensorflow as tf

    return tf.tile(x, [1, tf.cast(tf.reduce_max(x) * 0 + 100, tf.int32)]) * 2.0


def dilated(x: Any) -> Any:
    import tensorflow as tf

    weights = np.ones((5, 5, 4, 1), np.float32)
    return tf.nn.conv2d(tf.reshape(x, [1, 25, 10, 4]), weights, 1, "SAME", dilations=3)


@pytest.mark.parametrize(
    ("function", "least"),
    [(lambda x: x * 3.0, 2 * 4000), (whole, 4 * 4000), (repeated, 201 * 4000), (dilated, 25 * 4000)],
)
def test_tensors_that_do_not_fit_together_are_left_to_tensorflow(
    monkeypatch: pytest.MonkeyPatch, function: Callable[[Any], Any], least: int
) -> None:
    """Those of other types, those whose size is known only in a run, and what a convolution needs beside them."""
    import tensorflow as tf

    concrete = tf.function(function).get_concrete_function(tf.TensorSpec([1, 1000], tf.float32))
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    rows = samples(content)
    assert integer.calibrate(content, lambda: iter(rows)).ranges is not None
    monkeypatch.setattr(observer, "MOST_BYTES", least - len(content) - 4000)
    found = integer.calibrate(content, lambda: iter(rows))
    assert found == integer.Calibrated(by_tensorflow(content, rows), None)


@pytest.mark.parametrize("clip", [False, True])
def test_units_that_never_answer_do_not_stop_the_others(*, clip: bool) -> None:
    """XNNPACK loads a convolution whose output was zero throughout; with TensorFlow's range it does not."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    rng = np.random.default_rng(0)
    first, second = (rng.normal(0, 1, (3, 3, 3, 3)).astype(np.float32) for _ in range(2))

    def network(x: Any) -> Any:
        dead = tf.nn.relu(tf.nn.conv2d(x, first, 1, "SAME") - 1000.0)
        return x * tf.sigmoid(tf.nn.conv2d(dead, second, 1, "SAME"))

    concrete = tf.function(network).get_concrete_function(tf.TensorSpec([1, 8, 8, 3], tf.float32))
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    rows = samples(content)
    calibrated = integer.calibrate(content, lambda: iter(rows)).content
    seen = {
        name: (range_.low, range_.high)
        for name, range_ in layers.ranges(content, operators.operators(content), rows, 99.99).items()
    }
    made = int8(limits.clipped(calibrated, seen) if clip else calibrated)
    interpreter = Interpreter(model_content=made)
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = given["quantization"]
    interpreter.set_tensor(given["index"], np.clip(np.rint(rows[0][0] / scale) + zero, -128, 127).astype(np.int8))
    interpreter.invoke()
    scale, zero = answer["quantization"]
    got = (interpreter.get_tensor(answer["index"]).astype(np.float32) - zero) * scale
    np.testing.assert_allclose(got, rows[0][0] / 2, atol=3 * scale)


def test_a_tensor_without_any_number_is_named() -> None:
    import tensorflow as tf

    def network(x: Any) -> Any:
        lost = tf.math.log(-tf.abs(x) - 1.0)
        return tf.where(x > 1e9, lost, x * 2.0)

    concrete = tf.function(network).get_concrete_function(tf.TensorSpec([1, 4], tf.float32))
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    rows = samples(content)
    found = integer.calibrate(content, lambda: iter(rows))
    assert found.ranges is not None
    (name,) = limits.endless(found.content)
    assert "Log" in name


def test_values_that_are_no_numbers_are_not_counted() -> None:
    assert observer._ends(np.array([np.nan, 2, -1], np.float32)) == (-1, 2)
    assert np.isnan(observer._ends(np.array([np.nan], np.float32))).all()
    assert np.isnan(observer._ends(np.zeros((1, 0), np.float32))).all()


def test_ranges_are_kept_of_the_first_samples_only() -> None:
    content = as_float(classifier())
    rows = samples(content, observer.KEPT + 3)
    found = integer.calibrate(content, lambda: iter(rows))
    assert found.ranges is not None
    assert len(found.ranges) == observer.KEPT
    last = found.ranges[2, -1]
    assert 0 <= last[0] < last[1] <= 1  # probabilities


def test_a_sample_of_another_shape_is_refused() -> None:
    content = as_float(classifier())
    rows = samples(content, 2)
    wrong = [*rows, [np.zeros((1, 5), np.float32)]]
    with pytest.raises(ValueError, match="Cannot set tensor"):
        integer.calibrate(content, lambda: iter(wrong))
