"""Calibration sees what each tensor holds: TensorFlow's calibrator is what it is measured by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgekit.conversion import integer, layers, observer
from edgekit.models import flatbuffer, operators
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
    assert found.ranges.shape == (5, len(flatbuffer.activations(content)), 2)
    wanted = by_tensorflow(content, rows)
    assert ranges(found.content) == ranges(wanted)
    assert int8(found.content) == int8(wanted)


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
    assert not observer.can_observe(content)
    rows = samples(content)
    found = integer.calibrate(content, lambda: iter(rows))
    assert found == integer.Calibrated(by_tensorflow(content, rows), None)


def test_tensors_that_do_not_fit_together_are_left_to_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    content = as_float(classifier())
    most = sum(flatbuffer.activations(content).values())
    monkeypatch.setattr(observer, "MOST_BYTES", most)
    assert observer.can_observe(content)
    monkeypatch.setattr(observer, "MOST_BYTES", most - 1)
    rows = samples(content)
    assert integer.calibrate(content, lambda: iter(rows)).ranges is None


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
    first = list(flatbuffer.activations(content)).index(0)
    np.testing.assert_array_equal(found.ranges[2, first], [rows[2][0].min(), rows[2][0].max()])


def test_a_sample_of_another_shape_is_refused() -> None:
    content = as_float(classifier())
    rows = samples(content, 2)
    wrong = [*rows, [np.zeros((1, 5), np.float32)]]
    with pytest.raises(ValueError, match="Cannot set tensor"):
        integer.calibrate(content, lambda: iter(wrong))
