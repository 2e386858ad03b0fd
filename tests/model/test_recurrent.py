"""LSTM and GRU become full INT8: their loops are written out, step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime.engine import Engine

from edgekit.conversion import convert
from edgekit.conversion.record import Files
from edgekit.errors import UserError
from edgekit.models import flatbuffer
from edgekit.profiles.profile import DeviceProfile

STEPS, WIDTH = 20, 8


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sequences") / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, STEPS, WIDTH)).astype(np.float32))
    return path


def keras_3(layer: Callable[[Any], Any], steps: int | None = STEPS) -> Any:
    import keras

    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((steps, WIDTH), name="x"), layer(keras.layers), keras.layers.Dense(3)])


def keras_2(layer: Callable[[Any], Any]) -> Any:
    import tf_keras

    tf_keras.utils.set_random_seed(1)
    layers = [tf_keras.Input((STEPS, WIDTH), name="x"), layer(tf_keras.layers), tf_keras.layers.Dense(3)]
    return tf_keras.Sequential(layers)


def converts(model: Any, source: Path, data: Path, board: DeviceProfile, folder: Path) -> flatbuffer.TFLite:
    """`source` converts to INT8, and its float model answers as `model` does."""
    record = convert.convert(source, profile=board, data=data, output=folder / "m.tflite", log=folder / "log")
    found = flatbuffer.read(folder / "m.tflite")
    assert (found.quantization, found.float_operators) == ("int8", ())
    assert any(note.startswith("the batch is fixed to 1: ") for note in record.notes)
    given = np.load(data)[:4]
    engine = Engine.load(Files.of(folder / "m.tflite").float)
    answers = np.concatenate([engine.infer_real([row[None]])[0] for row in given])
    np.testing.assert_allclose(answers, np.asarray(model(given)), atol=1e-5)
    assert record.golden is not None
    assert record.golden.distance[0].cosine > 0.999
    return found


@pytest.mark.parametrize("suffix", ["", ".keras", ".h5"])
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_of_keras_3(name: str, suffix: str, sequences: Path, board: DeviceProfile, tmp_path: Path) -> None:
    model = keras_3(lambda layers: getattr(layers, name)(6))
    source = tmp_path / f"model{suffix}"
    model.save(source) if suffix else model.export(source, verbose=False)
    assert "WHILE" not in converts(model, source, sequences, board, tmp_path).operators


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_of_keras_2(name: str, sequences: Path, board: DeviceProfile, tmp_path: Path) -> None:
    """TensorFlow would make one operator of the LSTM, that keeps its state from one sequence to the next."""
    model = keras_2(lambda layers: getattr(layers, name)(6))
    model.save(tmp_path / "m.h5")
    converts(model, tmp_path / "m.h5", sequences, board, tmp_path)


def test_an_lstm_with_a_batch_of_1_keeps_no_state(sequences: Path, board: DeviceProfile, tmp_path: Path) -> None:
    import tensorflow as tf

    model = keras_2(lambda layers: layers.LSTM(6))
    function = tf.function(lambda x: {"y": model(x)}).get_concrete_function(tf.TensorSpec([1, STEPS, WIDTH], name="x"))
    tf.saved_model.save(model, str(tmp_path / "model"), signatures=function)
    converts(model, tmp_path / "model", sequences, board, tmp_path)


def test_both_directions_and_an_open_number_of_steps(sequences: Path, board: DeviceProfile, tmp_path: Path) -> None:
    """The data say how many there are."""
    model = keras_3(lambda layers: layers.Bidirectional(layers.LSTM(4, return_sequences=True)), steps=None)
    model.export(tmp_path / "model", verbose=False)
    converts(model, tmp_path / "model", sequences, board, tmp_path)


def test_the_same_bytes_each_time(sequences: Path, board: DeviceProfile, tmp_path: Path) -> None:
    keras_3(lambda layers: layers.LSTM(6)).export(tmp_path / "model", verbose=False)
    made = []
    for name in ("a.tflite", "b.tflite"):
        convert.convert(tmp_path / "model", profile=board, data=sequences, output=tmp_path / name)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


def test_a_loop_whose_steps_depend_on_the_input_is_named(
    saved: Callable[..., Path], vectors: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    import tensorflow as tf

    def grown(x: Any) -> Any:
        steps = tf.cast(tf.reduce_max(x), tf.int32)
        rows = tf.TensorArray(tf.float32, size=steps, element_shape=[None, 4])
        _, rows = tf.while_loop(
            lambda step, _: step < steps, lambda step, rows: (step + 1, rows.write(step, x)), (0, rows)
        )
        return tf.reduce_sum(rows.stack(), 0)

    with pytest.raises(UserError, match="its number of steps depends on the input") as caught:
        convert.convert(saved(grown), profile=board, data=vectors, output=tmp_path / "m.tflite")
    assert "unroll=True" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_loop_of_very_many_steps_is_not_written_out(
    saved: Callable[..., Path], vectors: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    import tensorflow as tf

    def long(x: Any) -> Any:
        start = tf.zeros([1001, 4])
        rows = tf.TensorArray(tf.float32, size=1001, element_shape=[None, 4]).unstack(start[:, None] + x[None])
        step = lambda n, state: (n + 1, tf.tanh(state + rows.read(n)))  # noqa: E731
        return tf.while_loop(lambda n, _: n < 1001, step, (0, x))[1]

    with pytest.raises(UserError, match="or is more than 1000"):
        convert.convert(saved(long), profile=board, data=vectors, output=tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []
