"""Checkpoints of TensorFlow 1 as their users have them: pipelines, flags, losses. What converts answers as it did."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.conversion.opening import open_source
from edgekit.models import checkpoint, inference, moving_average
from edgekit.models.session import Session
from edgekit.models.source import recognise

RNG = np.random.default_rng(3)
PICTURES = RNG.normal(0, 1, (6, 8, 8, 3)).astype(np.float32)
SIDE = RNG.normal(0, 1, (6, 4)).astype(np.float32)
Ends = tuple[Any, dict[Any, Any]]


def weights(*shape: int) -> Any:
    import tensorflow as tf

    return tf.compat.v1.Variable(RNG.normal(0, 0.5, shape).astype(np.float32))


def trained(folder: Path, build: Callable[[], Ends], train: Callable[[Any], None] | None = None) -> Any:
    """Save what `build` makes: the tensor whose values are wanted, and what it is fed with. Returns these values."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        wanted, feed = build()
        session.run(v1.global_variables_initializer())
        if train is not None:
            train(session)
        folder.mkdir(parents=True, exist_ok=True)
        v1.train.Saver().save(session, str(folder / "model.ckpt"))
        return session.run(wanted, feed)


def answers(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    frozen = checkpoint.freeze(folder, checkpoint.read(folder))
    assert frozen.inputs.keys() == given.keys()
    feed = {frozen.inputs[name]: value for name, value in given.items()}
    values = Session(folder, frozen.graph).run(list(frozen.outputs.values()), feed)
    return dict(zip(frozen.outputs, values, strict=True))


def network(pictures: Any) -> Any:
    import tensorflow as tf

    seen = tf.nn.relu(tf.nn.conv2d(pictures, weights(3, 3, 3, 8), 1, "SAME"))
    return tf.matmul(tf.reduce_mean(seen, [1, 2]), weights(8, 5), name="logits")


def place(shape: list[int | None], name: str, dtype: str = "float32") -> Any:
    import tensorflow as tf

    return tf.compat.v1.placeholder(dtype, shape, name)


def minimise(loss: Any) -> None:
    import tensorflow as tf

    tf.compat.v1.train.AdamOptimizer(1e-3).minimize(tf.reduce_mean(loss))


def cross_entropy(labels: Any, logits: Any, probabilities: Any) -> Any:
    import tensorflow as tf

    return tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def by_hand(labels: Any, logits: Any, probabilities: Any) -> Any:
    import tensorflow as tf

    return -tf.reduce_sum(labels * tf.math.log(tf.clip_by_value(probabilities, 1e-10, 1.0)), 1)


def binary(labels: Any, logits: Any, probabilities: Any) -> Any:
    import tensorflow as tf

    right, wrong = tf.math.log(probabilities + 1e-7), tf.math.log(1.0 - probabilities + 1e-7)
    return -tf.reduce_sum(labels * right + (1.0 - labels) * wrong, 1)


@pytest.mark.parametrize("loss", [cross_entropy, by_hand, binary])
@pytest.mark.parametrize("scored", [True, False])
def test_the_scores_are_the_output_and_not_the_best_class(
    tmp_path: Path, loss: Callable[..., Any], *, scored: bool
) -> None:
    """Labels meet a reshaped copy, a logarithm, and the best class; `scored`: that of the probabilities."""
    import tensorflow as tf

    def build() -> Ends:
        pictures, labels = place([None, 8, 8, 3], "x"), place([None, 5], "y")
        logits = network(pictures)
        probabilities = tf.nn.softmax(logits, name="scores")
        minimise(loss(labels, logits, probabilities))
        best = tf.argmax(probabilities if scored else logits, 1)
        tf.reduce_mean(tf.cast(tf.equal(best, tf.argmax(labels, 1)), tf.float32))
        return probabilities, {pictures: PICTURES}

    wanted = trained(tmp_path / "t", build)
    np.testing.assert_allclose(answers(tmp_path / "t", {"x": PICTURES})["scores"], wanted, atol=1e-5)


def scaled(pictures: Any, labels: Any) -> Any:
    """A regression that brings its answer to the range of what it is to tell."""
    import tensorflow as tf

    wanted = tf.nn.relu(network(pictures) * 25.0 + 100.0)
    minimise(tf.square(wanted - labels))
    return wanted


def in_slices(pictures: Any, labels: Any) -> Any:
    """Boxes and scores in one tensor, each with a loss of its own."""
    import tensorflow as tf

    wanted = network(pictures)
    boxes = tf.square(wanted[:, :2] - labels[:, :2])
    scores = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels[:, 2:], logits=wanted[:, 2:])
    minimise(tf.concat([boxes, scores], 1))
    return wanted


def focal(pictures: Any, labels: Any) -> Any:
    import tensorflow as tf

    wanted = tf.nn.softmax(network(pictures))
    minimise(-tf.reduce_sum(labels * (1.0 - wanted) ** 2.0 * tf.math.log(wanted + 1e-7), 1))
    return wanted


def contrastive(pictures: Any, labels: Any) -> Any:
    import tensorflow as tf

    far = tf.sqrt(tf.reduce_sum(tf.square(network(pictures)), 1, keepdims=True) + 1e-6)
    minimise(labels * far**2.0 + (1.0 - labels) * tf.maximum(0.0, 1.0 - far) ** 2.0)
    return far


@pytest.mark.parametrize("end", [scaled, in_slices, focal, contrastive])
def test_what_a_loss_reads_is_told_from_what_the_model_gives(tmp_path: Path, end: Callable[..., Any]) -> None:
    def build() -> Ends:
        pictures = place([None, 8, 8, 3], "x")
        return end(pictures, place([None, 5], "y")), {pictures: PICTURES}

    wanted = trained(tmp_path / "t", build)
    ((_, found),) = answers(tmp_path / "t", {"x": PICTURES}).items()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_state_that_leaks_is_no_moving_average(tmp_path: Path) -> None:
    """It is updated as an average is, but by what the network gives, not by the mean of a batch."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as whole:
        state = v1.Variable(np.zeros((1, 4), np.float32), trainable=False)
        inner = tf.tanh(tf.matmul(place([1, 3], "x"), weights(3, 4)))
        v1.assign(state, state * 0.9 + inner * 0.1)
        tf.matmul(inner, weights(4, 2))
    assert moving_average.use(whole.as_graph_def())[1] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("is_training", False), ("latest_model/is_training", False), ("contest/isTraining", False), ("is_test", True),
        ("eval/Placeholder", True), ("inference/is_training", False), ("phase", False), ("predict_mode", True),
    ],
)  # fmt: skip
def test_a_flag_goes_by_the_words_of_its_name(name: str, *, value: bool) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as whole:
        place([], name, "bool")
        v1.placeholder_with_default(True, [], "use_filter")
    assert inference.flags(whole.as_graph_def()) == {name: value, "use_filter": True}


def test_a_mask_of_truths_is_an_input_and_no_flag(tmp_path: Path) -> None:
    import tensorflow as tf

    def build() -> Ends:
        values, present, labels = place([None, 4], "x"), place([None, 4], "present", "bool"), place([None, 2], "y")
        wanted = tf.matmul(values * tf.cast(present, tf.float32), weights(4, 2), name="end")
        minimise(tf.square(wanted - labels))
        return wanted, {values: SIDE, present: SIDE > 0}

    wanted = trained(tmp_path / "t", build)
    np.testing.assert_allclose(answers(tmp_path / "t", {"x": SIDE, "present": SIDE > 0})["end"], wanted, atol=1e-5)


def test_a_second_input_may_join_late(tmp_path: Path) -> None:
    """As labels do; but what it makes meets weights."""
    import tensorflow as tf

    def build() -> Ends:
        pictures, side, labels = place([None, 8, 8, 3], "x"), place([None, 4], "side"), place([None], "y", "int32")
        joined = tf.concat([network(pictures), side], 1)
        logits = tf.matmul(joined, weights(9, 5), name="end")
        minimise(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        return logits, {pictures: PICTURES, side: SIDE}

    wanted = trained(tmp_path / "t", build)
    np.testing.assert_allclose(answers(tmp_path / "t", {"x": PICTURES, "side": SIDE})["end"], wanted, atol=1e-5)


def normalised(flag: Any) -> tuple[Any, Any]:
    """A network whose moments come from the batch in training, and from its variables otherwise: logits and update."""
    import tensorflow as tf

    v1 = tf.compat.v1
    pictures, labels = place([None, 8, 8, 3], "x"), place([None], "y", "int32")
    seen = tf.nn.conv2d(pictures, weights(3, 3, 3, 8), 1, "SAME")
    held = [v1.Variable(np.full(8, start, np.float32), trainable=False, use_resource=True) for start in (0.5, 2.0)]

    def of_batch() -> list[Any]:
        moments = tf.nn.moments(seen, [0, 1, 2])
        kept = [v1.assign(old, 0.5 * old + 0.5 * new) for old, new in zip(held, moments, strict=True)]
        with tf.control_dependencies(kept):
            return [tf.identity(moment) for moment in moments]

    mean, variance = v1.cond(flag, of_batch, lambda: [tf.identity(one) for one in held])
    seen = tf.nn.relu(tf.nn.batch_normalization(seen, mean, variance, None, None, 1e-3))
    logits = tf.matmul(tf.reduce_mean(seen, [1, 2]), weights(8, 5), name="logits")
    minimise(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    return pictures, logits


def save_flagged(folder: Path, default: bool | None, functions: bool) -> None:
    """With what it answers in inference, as wanted.npy."""
    import tensorflow as tf

    v1 = tf.compat.v1
    (v1.enable_control_flow_v2 if functions else v1.disable_control_flow_v2)()

    def build() -> Ends:
        if default is None:
            flag = place([], "is_training", "bool")
        else:
            flag = v1.placeholder_with_default(default, [], "is_training")
        pictures, logits = normalised(flag)
        return logits, {pictures: PICTURES, flag: False}

    np.save(folder / "wanted.npy", trained(folder / "t", build))


@pytest.mark.parametrize(
    ("default", "functions"), [(None, False), (False, False), (True, False), (None, True), (True, True)]
)
def test_a_flag_of_training_is_off_whatever_its_default(
    tmp_path: Path, *, default: bool | None, functions: bool
) -> None:
    """`functions`: the branches of TensorFlow 2's `tf.cond` are functions. TensorFlow keeps those of what it has built:
    that is done in another process.
    """
    code = (
        "from pathlib import Path; from tests.model.test_training_graphs import save_flagged; "
        f"save_flagged(Path({str(tmp_path)!r}), {default}, {functions})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    wanted = np.load(tmp_path / "wanted.npy")
    np.testing.assert_allclose(answers(tmp_path / "t", {"x": PICTURES})["logits"], wanted, atol=1e-5)
    assert checkpoint.read(tmp_path / "t").flags == {"is_training": False}


def of_layers(seen: Any, mean: Any, variance: Any) -> Any:
    """As TensorFlow's own layers: one operator, which gives its moments, too."""
    import tensorflow as tf

    v1 = tf.compat.v1
    ready, *moments = v1.nn.fused_batch_norm(seen, np.ones(8, np.float32), np.zeros(8, np.float32), is_training=True)
    for average, moment in zip((mean, variance), moments, strict=True):
        v1.assign_sub(average, (average - moment) * 0.1)
    return ready


def of_a_tutorial(seen: Any, mean: Any, variance: Any) -> Any:
    import tensorflow as tf

    v1 = tf.compat.v1
    moments = tf.nn.moments(seen, [0, 1, 2])
    kept = [v1.assign(old, old * 0.9 + new * 0.1) for old, new in zip((mean, variance), moments, strict=True)]
    with tf.control_dependencies(kept):
        return tf.nn.batch_normalization(seen, *moments, None, None, 1e-3)


@pytest.mark.parametrize("normalise", [of_layers, of_a_tutorial])
def test_a_graph_that_only_trains_takes_its_moving_averages(tmp_path: Path, normalise: Callable[..., Any]) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    averages = (np.linspace(-1, 1, 8).astype(np.float32), np.linspace(1, 3, 8).astype(np.float32))
    kernel = RNG.normal(0, 0.5, (3, 3, 3, 8)).astype(np.float32)

    def build() -> Ends:
        pictures, labels = place([None, 8, 8, 3], "x"), place([None], "y", "int32")
        seen = tf.nn.conv2d(pictures, v1.Variable(kernel), 1, "SAME")
        ready = normalise(seen, *(v1.Variable(start, trainable=False) for start in averages))
        logits = tf.matmul(tf.reduce_mean(tf.nn.relu(ready), [1, 2]), weights(8, 5), name="logits")
        minimise(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        return v1.trainable_variables()[-1], {}

    last = trained(tmp_path / "t", build)
    seen = tf.nn.batch_normalization(tf.nn.conv2d(PICTURES, kernel, 1, "SAME"), *averages, None, None, 1e-3)
    wanted = tf.reduce_mean(tf.nn.relu(seen), [1, 2]).numpy() @ last
    np.testing.assert_allclose(answers(tmp_path / "t", {"x": PICTURES})["logits"], wanted, atol=1e-4)
    (note,) = [note for note in checkpoint.read(tmp_path / "t").notes() if "moving averages" in note]
    assert note == "moving averages are in the places of moments of a batch (2), as in inference"


def from_queue(labels: Any) -> Any:
    import tensorflow as tf

    one, label = tf.compat.v1.train.slice_input_producer([PICTURES, labels])
    return tf.compat.v1.train.batch([one, label], 2)


def from_iterator(labels: Any) -> Any:
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((PICTURES, labels)).repeat().batch(2)
    return tf.compat.v1.data.make_one_shot_iterator(data).get_next()


@pytest.mark.parametrize("pipeline", [from_queue, from_iterator])
def test_what_a_pipeline_feeds_is_an_input(tmp_path: Path, pipeline: Callable[[Any], Any]) -> None:
    import tensorflow as tf

    def build() -> Ends:
        pictures, labels = pipeline(np.arange(6, dtype=np.int32) % 5)
        logits = network(pictures)
        minimise(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        return logits, {pictures: PICTURES[:2]}

    wanted = trained(tmp_path / "t", build)
    found = checkpoint.read(tmp_path / "t")
    (name,) = found.inputs
    assert name.endswith("_0")
    assert any(one.endswith("_1") for one in found.unused)
    np.testing.assert_allclose(
        answers(tmp_path / "t", {name.rpartition("/")[2]: PICTURES[:2]})["logits"], wanted, atol=1e-5
    )
    (spec,) = open_source(tmp_path / "t", recognise(tmp_path / "t"), tmp_path, trust_code=False).inputs
    assert spec.shape == (-1, 8, 8, 3)


def test_a_frozen_graph_may_have_its_flag_still(tmp_path: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        with v1.Graph().as_default(), v1.Session() as session:
            flag = v1.placeholder_with_default(True, [], "is_training")
            pictures, logits = normalised(flag)
            session.run(v1.global_variables_initializer())
            wanted = session.run(logits, {pictures: PICTURES, flag: False})
            frozen = v1.graph_util.convert_variables_to_constants(session, session.graph.as_graph_def(), ["logits"])
    finally:
        v1.enable_control_flow_v2()
    (tmp_path / "m.pb").write_bytes(frozen.SerializeToString())
    opened = open_source(tmp_path / "m.pb", recognise(tmp_path / "m.pb"), tmp_path, trust_code=False)
    assert [spec.name for spec in opened.inputs] == ["x"]
    assert "the placeholder is_training is false in inference" in opened.notes
    content, _ = opened.lower(opened.inputs)
    from edgekit_runtime.engine import Engine

    (tmp_path / "m.tflite").write_bytes(content)
    with Engine.load(tmp_path / "m.tflite") as engine:
        np.testing.assert_allclose(engine.infer_real([PICTURES])[0], wanted, atol=1e-4)


def test_a_graph_that_begins_with_its_weights_is_one(tmp_path: Path) -> None:
    """Its first node is longer than 16 KiB."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as whole:
        matrix = tf.constant(RNG.normal(0, 1, (192, 64)).astype(np.float32))
        tf.matmul(place([None, 192], "x"), matrix, name="y")
    (tmp_path / "m.pb").write_bytes(whole.as_graph_def().SerializeToString())
    assert recognise(tmp_path / "m.pb") == "graph-def"


def flagged_1(folder: Path, given: np.ndarray) -> np.ndarray:
    """A SavedModel of TensorFlow 1 whose signature has the flag; returns what it answers in inference."""
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        with v1.Graph().as_default(), v1.Session() as session:
            x, flag = v1.placeholder(tf.float32, (None, 8), name="x"), v1.placeholder(tf.bool, name="is_training")
            inner = x @ weights(8, 4)
            end = tf.nn.softmax(tf.cond(flag, lambda: tf.nn.dropout(inner, rate=0.5), lambda: inner * 3.0))
            session.run(v1.global_variables_initializer())
            v1.saved_model.simple_save(session, str(folder), {"x": x, "training": flag}, {"scores": end})
            return np.asarray(session.run(end, {x: given, flag: False}))
    finally:
        v1.enable_control_flow_v2()


def flagged_2(folder: Path, given: np.ndarray) -> np.ndarray:
    """The same of TensorFlow 2, whose branches are functions with variables of their own."""
    import tensorflow as tf

    module = tf.Module()
    module.one, module.other = (tf.Variable(RNG.normal(0, 0.5, (8, 4)).astype(np.float32)) for _ in range(2))

    def serve(x: Any, training: Any) -> dict[str, Any]:
        seen = tf.cond(training, lambda: tf.nn.dropout(x @ module.one, 0.5), lambda: x @ module.other)
        return {"scores": tf.nn.softmax(seen)}

    module.serve = tf.function(serve).get_concrete_function(
        tf.TensorSpec((None, 8), tf.float32, name="x"), tf.TensorSpec((), tf.bool, name="training")
    )
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return np.asarray(module.serve(tf.constant(given), tf.constant(False))["scores"])


@pytest.mark.parametrize("saved", [flagged_1, flagged_2])
def test_a_signature_may_ask_whether_it_is_training(
    tmp_path: Path, saved: Callable[[Path, np.ndarray], np.ndarray]
) -> None:
    given = RNG.normal(0, 1, (3, 8)).astype(np.float32)
    wanted = saved(tmp_path / "model", given)
    (tmp_path / "work").mkdir()
    opened = open_source(tmp_path / "model", "saved-model", tmp_path / "work", trust_code=False)
    assert [spec.name for spec in opened.inputs] == ["x"]
    assert any("is false in inference" in note for note in opened.notes)
    assert opened.part is not None
    (answer,) = Session(tmp_path, opened.part.graph).run(
        list(opened.part.outputs.values()), {opened.part.inputs["x"]: given}
    )
    np.testing.assert_allclose(answer, wanted, atol=1e-6)
