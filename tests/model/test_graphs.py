"""Graphs of TensorFlow 1: the model in them is found, and it answers as the whole graph did."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime.engine import Engine

from edgekit.conversion import convert
from edgekit.conversion.record import Files
from edgekit.datasets.declaration import declare
from edgekit.errors import UserError
from edgekit.models import checkpoint, graph_def, inference
from edgekit.models.inspection import inspect
from edgekit.models.source import checkpoint_prefix, open_model
from edgekit.profiles.profile import DeviceProfile

SIZES = (6, 8, 3)


def dense(v1: Any, x: Any, width: int, name: str, *, training: Any = None) -> Any:
    """A layer with ReLU; with `training`, dropout and a moving average that only training changes."""
    with v1.variable_scope(name):
        kernel = v1.get_variable("kernel", (int(x.shape[-1]), width), initializer=v1.random_normal_initializer(seed=3))
        y = v1.nn.relu(v1.matmul(x, kernel) + v1.get_variable("bias", (width,)))
        if training is None:
            return y
        mean = v1.get_variable("moving_mean", (width,), trainable=False, initializer=v1.zeros_initializer())
        v1.assign_sub(mean, 0.1 * (mean - v1.reduce_mean(y, 0)), name="moving")
        centred = v1.cond(training, lambda: y - v1.reduce_mean(y, 0), lambda: y - mean)
        return v1.cond(training, lambda: v1.nn.dropout(centred, rate=0.5, seed=1), lambda: centred)


def train(v1: Any, loss: Any) -> None:
    """As a training script does: an optimizer, summaries, and metrics beside."""
    v1.summary.scalar("loss", loss)
    v1.train.AdamOptimizer(v1.placeholder(v1.float32, (), "learning_rate")).minimize(loss)


def classifier(v1: Any, *, softmax: bool) -> Any:
    x, labels = v1.placeholder(v1.float32, (None, SIZES[0]), "net/x"), v1.placeholder(v1.int64, (None,), "labels")
    training = v1.placeholder(v1.bool, (), "is_training")
    logits = dense(v1, dense(v1, x, SIZES[1], "one", training=training), SIZES[2], "two")
    if softmax:
        v1.nn.softmax(logits, name="net/probabilities")
    v1.reduce_mean(v1.cast(v1.equal(v1.argmax(logits, 1), labels), v1.float32), name="accuracy")
    train(v1, v1.reduce_mean(v1.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)))
    return logits


def two_heads(v1: Any) -> Any:
    x = v1.placeholder(v1.float32, (None, SIZES[0]), "x")
    body = dense(v1, x, SIZES[1], "body")
    boxes, scores = (v1.identity(dense(v1, body, SIZES[2], f"{name}_head"), name) for name in ("boxes", "scores"))
    wanted = v1.placeholder(v1.float32, (None, SIZES[2]), "wanted")
    train(v1, v1.reduce_mean((boxes - wanted) ** 2) + v1.reduce_mean(v1.abs(scores - wanted)))
    return boxes


def autoencoder(v1: Any) -> Any:
    x = v1.placeholder(v1.float32, (None, SIZES[0]), "x")
    again = dense(v1, dense(v1, x, SIZES[1], "in"), SIZES[0], "out")
    train(v1, v1.reduce_mean((again - x) ** 2))
    return again


@pytest.fixture(autouse=True)
def as_tensorflow_1_wrote_them() -> Iterator[None]:
    """Conditions as Switch and Merge, variables as references."""
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    v1.disable_resource_variables()
    yield
    v1.enable_control_flow_v2()
    v1.enable_resource_variables()


@pytest.fixture
def trained(tmp_path: Path) -> Callable[[Callable[[Any], Any]], tuple[Path, Any, Any]]:
    """Saves a graph and its variables; gives the folder, inputs, and what the graph answers when it does not train."""
    import tensorflow as tf

    v1 = tf.compat.v1

    def save(build: Callable[[Any], Any]) -> tuple[Path, Any, Any]:
        folder = tmp_path / "trained"
        with v1.Graph().as_default(), v1.Session() as session:
            v1.set_random_seed(1)
            answer = build(v1)
            session.run(v1.global_variables_initializer())
            saver = v1.train.Saver()
            saver.save(session, str(folder / "model.ckpt"), global_step=1)
            saver.save(session, str(folder / "model.ckpt"), global_step=20)
            given = np.random.default_rng(1).normal(size=(30, SIZES[0])).astype(np.float32)
            feed = {node.outputs[0]: given for node in session.graph.get_operations() if node.name in ("x", "net/x")}
            feed |= {node.outputs[0]: False for node in session.graph.get_operations() if node.name == "is_training"}
            return folder, given, session.run(answer, feed)

    return save


def ends(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = checkpoint.read(folder)
    return found.inputs, found.outputs


def test_what_nothing_takes_is_the_output(trained: Any) -> None:
    folder, _, _ = trained(lambda v1: classifier(v1, softmax=True))
    found = checkpoint.read(folder)
    assert (found.inputs, found.outputs) == (("net/x",), ("net/probabilities",))
    assert found.flags == {"is_training": False}
    assert set(found.unused) == {"labels", "learning_rate"}


def test_where_the_loss_takes_all_it_is_what_the_labels_meet(trained: Any) -> None:
    folder, _, _ = trained(lambda v1: classifier(v1, softmax=False))
    assert ends(folder) == (("net/x",), ("two/Relu",))


def test_each_head_is_an_output(trained: Any) -> None:
    folder, _, _ = trained(two_heads)
    assert ends(folder) == (("x",), ("boxes", "scores"))


def test_an_autoencoder_whose_end_cannot_be_told_from_its_loss_is_refused(trained: Any) -> None:
    folder, _, _ = trained(autoencoder)
    with pytest.raises(UserError, match="no model was found") as caught:
        checkpoint.read(folder)
    assert "export a SavedModel" in str(caught.value.hint)


def test_the_model_answers_as_the_graph_did(trained: Any, board: DeviceProfile, tmp_path: Path) -> None:
    folder, given, wanted = trained(lambda v1: classifier(v1, softmax=False))
    np.save(tmp_path / "x.npy", given)
    output = tmp_path / "m.tflite"
    record = convert.convert(folder, profile=board, data=tmp_path / "x.npy", output=output)
    assert record.provenance.source_format == "tf1-checkpoint"
    assert "the placeholder is_training is false in inference" in record.notes
    (exact,) = Engine.load(Files.of(output).float).infer_real([given])
    np.testing.assert_allclose(exact, wanted, rtol=1e-4, atol=1e-5)


def test_the_latest_checkpoint_of_a_folder_is_read_and_others_by_their_name(trained: Any, tmp_path: Path) -> None:
    folder, _, _ = trained(two_heads)
    assert checkpoint_prefix(folder) == str(folder / "model.ckpt-20")
    for named in ("model.ckpt-1", "model.ckpt-1.meta", "model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001"):
        assert checkpoint_prefix(folder / named) == str(folder / "model.ckpt-1")
        assert open_model(folder / named).form == "tf1-checkpoint"
    assert open_model(folder / "model.ckpt-1").sha256 != open_model(folder / "model.ckpt-20").sha256
    (folder / "checkpoint").unlink()
    with pytest.raises(UserError, match=r"several checkpoints: model\.ckpt-1, model\.ckpt-20"):
        inspect(folder)


def test_without_its_values_a_checkpoint_is_refused(trained: Any, board: DeviceProfile, tmp_path: Path) -> None:
    folder, given, _ = trained(two_heads)
    np.save(tmp_path / "x.npy", given)
    (folder / "model.ckpt-20.data-00000-of-00001").unlink()
    with pytest.raises(UserError, match="cannot restore it") as caught:
        convert.convert(folder, profile=board, data=tmp_path / "x.npy", output=tmp_path / "m.tflite")
    assert "same step" in str(caught.value.hint)
    (folder / "model.ckpt-20.index").unlink()
    meta = folder / "model.ckpt-20.meta"
    with pytest.raises(UserError, match="a training graph without its values") as caught:
        convert.convert(meta, profile=board, data=tmp_path / "x.npy", output=tmp_path / "m.tflite")
    assert caught.value.hint == "copy all files of the checkpoint"
    assert inspect(meta).convertible is False
    assert not (tmp_path / "m.tflite").exists()


def frozen(node: Callable[[Any, Any], Any], file: Path) -> Path:
    """A graph of x [N, 4] and what `node` makes of it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as graph:
        node(v1, v1.placeholder(v1.float32, (None, 4), "x"))
        file.write_bytes(graph.as_graph_def().SerializeToString())
    return file


def test_a_frozen_graph(vectors: Path, board: DeviceProfile, tmp_path: Path) -> None:
    file = frozen(lambda v1, x: v1.identity(v1.matmul(x, 2.0 * np.eye(4, dtype=np.float32)), "y"), tmp_path / "g.pb")
    found = inspect(file)
    assert (found.form, found.parameters, found.code) == ("graph-def", 16, ())
    assert [(spec.name, spec.shape) for spec in (*found.inputs, *found.outputs)] == [("x", (-1, 4)), ("y", (-1, 4))]
    convert.convert(file, profile=board, data=vectors, output=tmp_path / "m.tflite")
    (answer,) = Engine.load(Files.of(tmp_path / "m.tflite").float).infer_real([np.eye(4, dtype=np.float32)])
    np.testing.assert_allclose(answer, 2 * np.eye(4))


@pytest.mark.shared
def test_names_that_no_parameter_may_have_and_a_placeholder_that_leads_nowhere(
    vectors: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as made:
        first = v1.placeholder(tf.float32, [None, 4], name="class")
        v1.placeholder(tf.float32, [None, 3], name="left/over")
        answer = tf.nn.softmax(first @ tf.ones((4, 3)), name="a/b-c.d")
        v1.summary.histogram("watched", answer)
        v1.Assert(tf.reduce_all(answer >= 0), [answer])
        (tmp_path / "model.pb").write_bytes(made.as_graph_def().SerializeToString())
    record = convert.convert(tmp_path / "model.pb", profile=board, data=vectors, output=tmp_path / "m.tflite")
    assert record.input_names == ("class_",)
    assert [spec.name for spec in record.outputs] == ["b_c_d"]


@pytest.mark.parametrize("moments", [False, True])
def test_a_saved_model_of_tensorflow_1_with_a_condition_of_functions(
    vectors: Path, board: DeviceProfile, tmp_path: Path, moments: bool
) -> None:
    """On a flag of training: a dropout, and the moments of a batch, for which inference has a variable."""
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.enable_control_flow_v2()
    v1.enable_resource_variables()
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        training = v1.placeholder_with_default(False, [], name="is_training")
        weights = v1.get_variable("w", [4, 3])
        mean = v1.get_variable("mean", [4], initializer=v1.constant_initializer([1.0, 2.0, 3.0, 4.0]))
        if moments:
            seen = tf.cond(training, lambda: x - tf.reduce_mean(x, 0), lambda: x - mean)
        else:
            seen = tf.cond(training, lambda: tf.nn.dropout(x, 0.5), lambda: tf.identity(x))
        y = tf.nn.softmax(seen @ weights)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "model"), {"x": x}, {"y": y})
        rows = np.load(vectors)[:8].astype(np.float32)
        wanted = session.run(y, {x: rows, training: False})
    output = tmp_path / "m.tflite"
    record = convert.convert(tmp_path / "model", profile=board, data=vectors, output=output, allow_float=True)
    assert "the placeholder is_training is false in inference" in record.notes
    with Engine.load(Files.of(output).float) as engine:
        got = np.concatenate([engine.infer_real([row[None]])[0] for row in rows])
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_frozen_graph_that_was_cut_between_two_nodes_is_doubted(shared: Path, tmp_path: Path) -> None:
    """It is a good file but for what is not there: elsewhere a cut does not even parse."""
    whole = (shared / "models/odapi_ssd_mnv2_fpnlite320_frozen_tf2sm/frozen_inference_graph.pb").read_bytes()
    (tmp_path / "cut.pb").write_bytes(whole[:400_000])
    (tmp_path / "whole.pb").write_bytes(whole)
    doubt = "is it the whole file?"
    assert any(doubt in note for note in inspect(tmp_path / "cut.pb").notes)
    assert not any(doubt in note for note in inspect(tmp_path / "whole.pb").notes)


def test_a_graph_that_is_not_frozen_or_holds_code_is_refused(
    vectors: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    loose = frozen(lambda v1, x: v1.matmul(x, v1.get_variable("w", (4, 2)), name="y"), tmp_path / "loose.pb")
    with pytest.raises(UserError, match="not frozen: the values of 1 variables, such as 'w'"):
        inspect(loose)
    evil = frozen(lambda v1, x: v1.py_func(lambda v: v, [x], v1.float32, name="y"), tmp_path / "evil.pb")
    assert inspect(evil).code == ("operator PyFunc",)
    with pytest.raises(UserError, match="would run code that came with it: operator PyFunc"):
        convert.convert(evil, profile=board, data=vectors, output=tmp_path / "m.tflite")


@pytest.mark.parametrize("cut", [3, 40])
def test_a_cut_graph_is_refused(tmp_path: Path, cut: int) -> None:
    file = frozen(lambda v1, x: v1.identity(x + np.ones(4, np.float32), "y"), tmp_path / "g.pb")
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(UserError):
        inspect(file)


@pytest.mark.parametrize("truth", [False, True])
def test_of_a_known_condition_one_branch_is_left(truth: bool) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as whole, v1.Session() as session:
        x, flag = v1.placeholder(v1.float32, (None,), "x"), v1.placeholder(v1.bool, (), "flag")
        other = v1.placeholder(v1.bool, (), "other")
        inner = v1.cond(v1.logical_not(flag), lambda: v1.cond(other, lambda: x + 1, lambda: x - 1), lambda: x * 2)
        y = v1.identity(v1.cond(flag, lambda: inner + 10, lambda: inner + 20), "y")
        values = np.array([1.0, 2.0], np.float32)
        wanted = [session.run(y, {x: values, flag: truth, other: choice}) for choice in (False, True)]
    part = inference.pruned(Path("g"), whole.as_graph_def(), ["x:0"], ["y:0"], {"flag": truth})
    assert sum(node.op == "Merge" for node in part.node) == (0 if truth else 1)
    assert "flag" not in {node.name for node in part.node}
    with v1.Graph().as_default(), v1.Session() as session:
        v1.import_graph_def(part, name="")
        for choice, answer in zip((False, True), wanted, strict=True):
            feed = {"x:0": values} if truth else {"x:0": values, "other:0": choice}
            np.testing.assert_array_equal(session.run("y:0", feed), answer)


def test_a_float_tflite_gives_the_same_int8_as_the_model_it_was_made_from(
    saved: Callable[..., Path], vectors: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.tflite", tmp_path / "second.tflite"
    convert.convert(saved(lambda x: x * 2 + 1), profile=board, data=vectors, output=first)
    record = convert.convert(Files.of(first).float, profile=board, data=vectors, output=second)
    assert record.provenance.source_format == "tflite"
    assert second.read_bytes() == first.read_bytes()
    with pytest.raises(UserError, match=r"quantised already \(int8\)"):
        convert.convert(first, profile=board, data=vectors, output=tmp_path / "third.tflite")


def test_a_savedmodel_in_text_form_and_one_inside_an_export(
    saved: Callable[..., Path], vectors: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    export = tmp_path / "detector"
    shutil.copytree(saved(lambda x: x * 3), export / "saved_model")
    binary = export / "saved_model/saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(binary.read_bytes())
    binary.with_suffix(".pbtxt").write_text(text_format.MessageToString(proto))
    binary.unlink()
    found = inspect(export)
    assert (found.form, found.name, found.notes) == ("saved-model", "detector", ("saved_model of the export",))
    convert.convert(export, profile=board, data=vectors, output=tmp_path / "m.tflite")
    (answer,) = Engine.load(Files.of(tmp_path / "m.tflite").float).infer_real([np.ones((1, 4), np.float32)])
    np.testing.assert_allclose(answer, np.full((1, 4), 3.0))


def test_of_a_best_class_the_scores_are_taken_and_of_a_map_of_classes_the_map(tmp_path: Path) -> None:
    import tensorflow as tf

    weights = np.random.default_rng(5).normal(size=(3, 7)).astype(np.float32)
    for shape, wanted in (((None, 3), ["scores"]), ((None, 8, 8, 3), ["best"])):
        with tf.Graph().as_default() as graph:
            x = tf.compat.v1.placeholder(tf.float32, shape, "x")
            scores = tf.identity(tf.tensordot(x, weights, 1), name="scores")
            tf.cast(tf.argmax(scores, -1), tf.int32, name="best")
        path = tmp_path / f"{len(shape)}.pb"
        path.write_bytes(graph.as_graph_def().SerializeToString())
        frozen = graph_def.read(path)
        assert list(frozen.outputs) == wanted
        said = "of its best class, best, the scores are taken: scores"
        assert (said in frozen.notes) is (wanted == ["scores"])


def test_a_class_without_scores_is_no_classification(
    board: DeviceProfile, saved: Callable[..., Path], tmp_path: Path
) -> None:
    import tensorflow as tf

    model = saved(lambda x: tf.argmax(x * 2.0, -1), width=4)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    with pytest.raises(UserError, match="is the number of the best class"):
        convert.convert(
            model, profile=board, data=tmp_path / "x.npy", output=tmp_path / "m.tflite",
            declaration=declare(task="classification"), allow_float=True,
        )  # fmt: skip
    assert not (tmp_path / "m.tflite").exists()
