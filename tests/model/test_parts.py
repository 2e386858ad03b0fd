"""An output is judged by what it tells: its parts each by themselves, around their mean, logits as logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.conversion import convert
from edgekit.conversion.record import Conversion
from edgekit.errors import CheckFailed, UserError
from edgekit.models import operators
from edgekit.profiles.profile import DeviceProfile
from edgekit.validation.fidelity import Fidelity
from edgekit.validation.validate import validate_conversion
from tests.fixtures.make_models import as_float

RNG = np.random.default_rng(4)
VALUES = arrays(np.float64, st.tuples(st.just(2), st.integers(2, 30)), elements=st.floats(-100, 100))


def lowered(forward: Callable[[Any], Any], *shape: int) -> bytes:
    import tensorflow as tf

    return as_float(tf.function(forward, input_signature=[tf.TensorSpec([1, *shape], tf.float32)]))


def dense(units: int) -> Any:
    import tensorflow as tf

    weights = tf.constant(RNG.normal(0, 1, (8, units)).astype(np.float32))
    return lambda values: tf.matmul(values, weights)


def test_a_logit_is_told_from_a_probability() -> None:
    import tensorflow as tf

    one = dense(1)
    assert operators.middle(lowered(one, 8)) == 0
    assert operators.middle(lowered(lambda x: tf.reshape(one(x), [1, 1, 1, 1]), 8)) == 0
    assert operators.middle(lowered(lambda x: tf.sigmoid(one(x)), 8)) == 0.5
    assert operators.middle(lowered(lambda x: tf.tanh(one(x)), 8)) == 0
    assert operators.middle(lowered(lambda x: tf.nn.leaky_relu(one(x)), 8)) == 0
    assert operators.middle(lowered(lambda x: tf.nn.relu6(one(x) + 3.0) / 6.0, 8)) == 0.5  # a hard sigmoid
    five = dense(5)
    assert operators.middle(lowered(lambda x: tf.reduce_max(five(x), 1, keepdims=True), 8)) == 0
    assert operators.middle(lowered(lambda x: tf.reduce_mean(tf.sigmoid(five(x)), 1, keepdims=True), 8)) == 0.5

    kernel = tf.constant(RNG.normal(0, 1, (3, 3, 3, 1)).astype(np.float32))

    def mask(pictures: Any) -> Any:
        return tf.image.resize(tf.nn.conv2d(pictures, kernel, 1, "SAME"), [16, 16])

    assert operators.middle(lowered(mask, 8, 8, 3)) == 0
    assert operators.middle(lowered(lambda x: tf.sigmoid(mask(x)), 8, 8, 3)) == 0.5


def test_the_parts_of_an_output_are_where_they_were_joined() -> None:
    import tensorflow as tf

    two, three = dense(2), dense(3)
    assert operators.parts(lowered(two, 8)) == ((((0, 2),),),)
    joined = lambda x: tf.concat([tf.nn.relu(two(x)), tf.sigmoid(three(x))], 1)  # noqa: E731
    assert operators.parts(lowered(joined, 8)) == ((((0, 2),), ((2, 5),)),)
    # As detectors do: boxes beside scores at every place, and the places of two scales one behind the other.
    kernels = [tf.constant(RNG.normal(0, 1, (1, 1, 3, size)).astype(np.float32)) for size in (4, 2)]

    def scale(pictures: Any, step: int) -> Any:
        boxes, scores = (tf.nn.conv2d(pictures, kernel, step, "SAME") for kernel in kernels)
        places = (8 // step) ** 2
        return tf.reshape(tf.concat([boxes * 640.0, tf.sigmoid(scores)], -1), [1, places, 6])

    found = operators.parts(lowered(lambda x: tf.concat([scale(x, 1), scale(x, 2)], 1), 8, 8, 3))
    assert found == ((((0, 64), (0, 4)), ((0, 64), (4, 6)), ((64, 80), (0, 4)), ((64, 80), (4, 6))),)


@given(values=VALUES, offset=st.floats(-1000, 1000))
def test_an_offset_of_both_changes_nothing_around_the_mean(values: np.ndarray, offset: float) -> None:
    one, other = np.round(values, 3)
    if np.ptp(one) < 1 or np.ptp(other) < 1:
        return
    mean = one.mean()
    wanted = (one - mean) @ (other - mean) / np.sqrt(((one - mean) ** 2).sum() * ((other - mean) ** 2).sum())
    for shift in (0.0, offset):
        fidelity = Fidelity("y")
        fidelity.add(one + shift, other + shift)
        assert fidelity.around_mean() == pytest.approx(wanted, abs=1e-4)


def test_what_never_changes_has_no_mean_to_be_judged_around() -> None:
    fidelity = Fidelity("y")
    fidelity.add(np.full(9, 3.0), np.full(9, 3.0))
    assert fidelity.around_mean() == pytest.approx(1.0)


@pytest.fixture
def attempt(board: DeviceProfile, tmp_path: Path) -> Callable[..., Conversion]:
    def run(output: Any, inputs: Any, data: np.ndarray, **options: Any) -> Conversion:
        import keras

        keras.Model(inputs, output).save(tmp_path / "m.keras")
        np.save(tmp_path / "data.npy", data)
        return convert.convert(
            tmp_path / "m.keras", profile=board, data=tmp_path / "data.npy", output=tmp_path / "m.tflite",
            log=tmp_path / "log", **options,
        )  # fmt: skip

    return run


def heads() -> tuple[Any, Any]:
    """Boxes of hundreds of pixels beside scores below 1, in one output."""
    import keras
    from keras import layers

    given = keras.Input((16, 16, 3))
    seen = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(given)
    boxes = layers.Rescaling(640.0)(layers.Conv2D(4, 1, activation="sigmoid")(seen))
    scores = layers.Conv2D(2, 1, activation="sigmoid", bias_initializer=keras.initializers.Constant(-2.0))(seen)
    return layers.Reshape((64, 6))(layers.Concatenate()([boxes, scores])), given


def test_scores_that_int8_rounds_to_zero_beside_boxes_are_seen(
    attempt: Callable[..., Conversion], tmp_path: Path
) -> None:
    data = RNG.random((30, 16, 16, 3)).astype(np.float32)
    output, given = heads()
    attempt(output, given, data)
    found = validate_conversion(tmp_path / "m.tflite", tmp_path / "data.npy")
    assert found.outputs[0].cosine > 0.999
    assert found.around_mean[0] < 0.5
    assert any("far from float" in note for note in found.notes)
    record = attempt(output, given, data, max_drop=0.01)
    assert record.kind != "int8"
    assert record.candidates[0].drop is not None
    assert record.candidates[0].drop > 0.5
    assert validate_conversion(tmp_path / "m.tflite", tmp_path / "data.npy").around_mean[0] > 0.99


def test_an_offset_does_not_hide_what_int8_loses(attempt: Callable[..., Conversion], tmp_path: Path) -> None:
    """Pressures around 1000 hPa."""
    import keras
    from keras import layers

    given = keras.Input((8,))
    output = layers.Dense(1, bias_initializer=keras.initializers.Constant(1000.0))(layers.Dense(4)(given))
    data = np.random.default_rng(1).normal(0, 0.5, (60, 8)).astype(np.float32)
    attempt(output, given, data)
    found = validate_conversion(tmp_path / "m.tflite", tmp_path / "data.npy")
    assert found.outputs[0].cosine > 0.9999
    assert found.around_mean[0] < 0.95
    assert any("around float's mean" in note for note in found.notes)


def test_weights_that_stay_float_are_no_dynamic_range(attempt: Callable[..., Conversion]) -> None:
    import keras
    from keras import layers

    given = keras.Input((8,))
    with pytest.raises(CheckFailed, match="no candidate loses at most") as caught:
        attempt(layers.Dense(2)(given), given, RNG.normal(0, 1, (30, 8)).astype(np.float32), max_drop=1e-12)
    failures = {one["name"]: one["failure"] for one in caught.value.fields["candidates"]}
    assert "it is float itself" in failures["dynamic-range"]


def test_activations_without_end_are_named(attempt: Callable[..., Conversion]) -> None:
    """They ended TensorFlow's process with a signal."""
    import keras
    from keras import layers

    given = keras.Input((8,))
    large = layers.Dense(4, activation="exponential", kernel_initializer=keras.initializers.Constant(50.0))(given)
    with pytest.raises(UserError, match="computes values without end"):
        attempt(layers.Dense(2)(large), given, np.ones((30, 8), np.float32) * np.linspace(1, 2, 30)[:, None])


def test_data_that_do_not_fit_are_no_candidate_s_fault(attempt: Callable[..., Conversion], tmp_path: Path) -> None:
    import keras
    from keras import layers

    given = keras.Input((8,))
    np.save(tmp_path / "other.npy", np.zeros((20, 3), np.float32))
    with pytest.raises(UserError, match=r"expects samples of shape \[8\], got \[3\]"):
        attempt(
            layers.Dense(2)(given), given, RNG.normal(0, 1, (30, 8)).astype(np.float32), max_drop=0.1,
            held_out=tmp_path / "other.npy",
        )  # fmt: skip
    assert not (tmp_path / "m.tflite").exists()


@pytest.mark.parametrize("declared", [{"task": "classification"}, {"labels": ("a", "b")}])
def test_two_outputs_are_no_classification(attempt: Callable[..., Conversion], declared: dict[str, Any]) -> None:
    import keras
    from keras import layers

    from edgekit.datasets.declaration import declare

    given = keras.Input((8,))
    outputs = [layers.Dense(2, name="scores")(given), layers.Dense(3, name="other")(given)]
    with pytest.raises(UserError, match="declared a classification, which has one output, but it has 2: "):
        attempt(outputs, given, np.ones((4, 8), np.float32), declaration=declare(**declared))
