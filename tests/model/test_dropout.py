"""Dropout is of the training: no form of it is left in what is converted, and nothing else goes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.conversion import convert
from edgekit.errors import UserError
from edgekit.models import checkpoint, dropout, graph_def, savedmodel, savedmodel_v1
from edgekit.models.session import Session
from edgekit.profiles.profile import DeviceProfile

Drop = Callable[[Any, Any, Any], Any]  # (tf, x, keep) -> what follows


def floored(tf: Any, x: Any, keep: Any) -> Any:
    """As until TensorFlow 1.12."""
    return x / keep * tf.floor(keep + tf.random.uniform(tf.shape(x), seed=1))


def compared(tf: Any, x: Any, keep: Any) -> Any:
    """As until TensorFlow 2.10, its noise in a range of its own."""
    kept = tf.random.uniform(tf.shape(x), 0.0, 1.0, seed=1) * 1.0 + 0.0 >= 1 - keep
    return x * (1 / (1 - (1 - keep))) * tf.cast(kept, tf.float32)


def selected(tf: Any, x: Any, keep: Any) -> Any:
    return tf.compat.v1.nn.dropout(x, rate=1 - keep, seed=1)


DROPS = pytest.mark.parametrize("drop", [floored, compared, selected])
KEEPS: dict[str, Callable[[Any], Any]] = {
    "placeholder": lambda v1: v1.placeholder(v1.float32, name="keep_prob"),
    "single number": lambda v1: v1.placeholder(v1.float32, (), name="keep_prob"),
    "default of training": lambda v1: v1.placeholder_with_default(0.5, (), name="keep_prob"),
    "default of inference": lambda v1: v1.placeholder_with_default(1.0, (), name="keep_prob"),
    "constant": lambda v1: v1.constant(0.5, name="keep_prob"),
}


def network(tf: Any, drop: Drop, keep: Any) -> tuple[Any, np.ndarray]:
    """Two layers with dropout between them, and the weights of both as one matrix (there is nothing else between)."""
    v1 = tf.compat.v1
    random = np.random.default_rng(0)
    one, two = (random.normal(size=shape).astype(np.float32) for shape in ((4, 8), (8, 3)))
    x = v1.placeholder(tf.float32, (None, 4), "x")
    hidden = drop(tf, v1.matmul(x, v1.get_variable("one", initializer=one)), keep)
    hidden.set_shape((None, 8))  # as `dropout` does
    return v1.matmul(hidden, v1.get_variable("two", initializer=two), name="scores"), one @ two


@contextmanager
def trained(drop: Drop, keep: str) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """A session with the network, its end and its weights."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        end, weights = network(tf, drop, KEEPS[keep](v1))
        session.run(v1.global_variables_initializer())
        yield session, end, weights


@DROPS
@pytest.mark.parametrize("keep", KEEPS)
def test_a_frozen_graph_loses_it(drop: Drop, keep: str, tmp_path: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with trained(drop, keep) as (session, end, weights):
        frozen = v1.graph_util.convert_variables_to_constants(session, session.graph.as_graph_def(), [end.op.name])
    (tmp_path / "m.pb").write_bytes(frozen.SerializeToString())
    found = graph_def.read(tmp_path / "m.pb")
    assert (list(found.inputs), list(found.outputs)) == (["x"], ["scores"])
    assert found.notes == ("its dropouts (1) are of the training and were removed",)
    given = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    answer = Session(tmp_path, found.graph).run(["scores:0"], {"x:0": given})
    np.testing.assert_allclose(answer[0], given @ weights, rtol=1e-4, atol=1e-5)


@DROPS
@pytest.mark.parametrize("keep", KEEPS)
def test_a_checkpoint_ends_where_its_model_does(drop: Drop, keep: str, tmp_path: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with trained(drop, keep) as (session, end, weights):
        labels = v1.placeholder(tf.int64, (None,), "labels")
        loss = v1.reduce_mean(v1.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=end))
        v1.train.AdamOptimizer(0.01).minimize(loss)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    found = checkpoint.read(tmp_path)
    assert (found.inputs, found.outputs, found.done) == (("x",), ("scores",), dropout.note(1))
    given = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    answer = Session(tmp_path, checkpoint.freeze(tmp_path, found).graph).run(["scores:0"], {"x:0": given})
    np.testing.assert_allclose(answer[0], given @ weights, rtol=1e-4, atol=1e-5)


def test_a_saved_model_of_tensorflow_1_loses_it_and_its_placeholder(tmp_path: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        keep = KEEPS["placeholder"](v1)
        end, _ = network(tf, selected, keep)
        session.run(v1.global_variables_initializer())
        x = graph.get_tensor_by_name("x:0")
        v1.saved_model.simple_save(session, str(tmp_path / "saved"), {"x": x, "keep_prob": keep}, {"scores": end})
    frozen = savedmodel_v1.freeze(tmp_path / "saved", savedmodel.read(tmp_path / "saved"))
    assert list(frozen.inputs) == ["x"]
    assert frozen.notes == ("its dropouts (1) are of the training and were removed",)


@DROPS
def test_an_input_may_be_dropped_too(drop: Drop) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as graph:
        dropped = drop(tf, v1.placeholder(tf.float32, (None, 4), "x"), KEEPS["single number"](v1))
        tf.identity(dropped, name="y")
    left, count = dropout.remove(graph.as_graph_def())
    assert count == 1
    assert {node.name for node in left.node if node.op != "Identity"} == {"x"}


def test_noise_that_is_no_dropout_stays() -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, (None, 4), "x")
        v1.add(x, tf.random.uniform(tf.shape(x)), name="jittered")
        v1.multiply(x, tf.cast(tf.random.uniform(tf.shape(x)) >= x, tf.float32), name="sampled")
        kept = tf.random.uniform(tf.shape(x)) >= 0.5
        weighed = tf.nn.relu(x) * tf.constant([1.0, 2.0, 3.0, 4.0])
        v1.multiply(weighed, tf.cast(kept, tf.float32), name="not_scaled")
        tf.where(kept, tf.nn.relu(x) * 2.0, 1.0, name="filled")
        proto = graph.as_graph_def()
    assert dropout.remove(proto) == (proto, 0)


def test_what_answers_at_random_is_refused(tmp_path: Path, board: DeviceProfile) -> None:
    import tensorflow as tf

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.nn.dropout(tf.matmul(x, tf.eye(4)), 0.5)}

    model = tf.Module()
    model.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
    tf.saved_model.save(model, str(tmp_path / "saved"), signatures={"serving_default": model.serve})
    np.save(tmp_path / "x.npy", np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32))
    with pytest.raises(UserError, match=r"answers at random.*RANDOM_UNIFORM") as caught:
        convert.convert(tmp_path / "saved", profile=board, data=tmp_path / "x.npy", output=tmp_path / "m.tflite")
    assert "training=False" in str(caught.value.hint)
    assert not (tmp_path / "m.tflite").exists()
