"""What freezing and pruning spare: nodes, bytes and TensorFlow's own time, of each form before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from edgekit_runtime import schema

from edgekit import worker
from edgekit.conversion import pruning
from edgekit.conversion.evidence import Evidence
from edgekit.conversion.examples import Examples
from edgekit.conversion.layers import LayerReport
from edgekit.conversion.pruning import Part, Pruning, Request
from edgekit.datasets.declaration import Declaration
from edgekit.models.source import open_model
from edgekit.reports import conversion_page
from edgekit.validation.validate import validate_conversion
from tests.model import detector_exports as exports
from tests.model.conftest import Converted


def spared(path: Path, **shapes: tuple[int, ...]) -> Pruning:
    source = open_model(path)
    asked = Request(
        str(source.path), source.form, source.size, signature=None, whole=False, trust_code=False, shapes=shapes
    )
    found = schema.read(Pruning, worker.run("pruning", asdict(asked), what="measuring"), "pruning")
    assert 0 < found.after.nodes <= found.before.nodes
    assert found.after.size > 0
    assert found.before.size == source.size
    return found


def timed(found: Pruning) -> bool:
    return bool(found.failure is None and found.before.ms and found.after.ms)


def test_a_keras_model_is_measured_as_its_export_in_a_process_of_its_own(models: Path, colours: Converted) -> None:
    found = pruning.measure(models / "colours.keras", colours.record, Declaration())
    assert found is not None
    assert timed(found)
    assert found.after.nodes < found.before.nodes / 2


def test_a_tflite_file_has_no_graph_to_prune(colours: Converted) -> None:
    assert pruning.measure(colours.path, colours.record, Declaration()) is None


def test_variables_become_constants_and_unused_functions_go(saved: Callable[..., Path]) -> None:
    import tensorflow as tf

    found = spared(saved(lambda x: tf.nn.relu(x @ tf.ones((4, 3)))))
    assert timed(found)
    assert found.after.nodes < found.before.nodes


def test_of_a_checkpoint_the_training_goes(tmp_path: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 64], name="x")
        training = v1.placeholder(tf.bool, [], name="is_training")
        weights = v1.get_variable("w", [64, 10])
        logits = tf.identity(tf.cond(training, lambda: tf.nn.dropout(x, 0.5), lambda: x) @ weights, name="logits")
        truth = v1.placeholder(tf.int64, [None], name="truth")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=truth, logits=logits))
        v1.train.AdamOptimizer().minimize(loss)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    v1.enable_control_flow_v2()
    found = spared(tmp_path, x=(1, 64))
    assert timed(found)
    assert found.after.nodes < found.before.nodes / 5
    assert 64 * 10 * 4 < found.after.size < found.before.size / 3  # the optimizer's moments are gone, too


def test_what_tensorflow_cannot_run_here_has_no_times_but_a_reason(tmp_path: Path) -> None:
    """This convolution runs on graphics cards alone; TFLite has it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 3, 8, 8], name="x")
        v1.nn.conv2d(x, tf.ones((3, 3, 3, 4)), strides=[1, 1, 1, 1], padding="SAME", data_format="NCHW", name="y")
        (tmp_path / "nchw.pb").write_bytes(graph.as_graph_def().SerializeToString())
    found = spared(tmp_path / "nchw.pb")
    assert (found.before.ms, found.after.ms) == (None, None)
    assert found.failure is not None
    assert "NHWC" in found.failure


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["as it is", "map", "encoded"])
def test_of_a_detector_what_resizes_and_selects_goes(shared: Path, tmp_path: Path, kind: str) -> None:
    frozen = shared / "models/odapi_ssd_mnv2_fpnlite320_frozen_tf2sm/frozen_inference_graph.pb"
    make: dict[str, Callable[[], Path]] = {
        "as it is": lambda: frozen,
        "map": lambda: exports.looped_saved_model(frozen, tmp_path / "export"),
        "encoded": lambda: exports.looped(frozen, tmp_path / "looped.pb", encoded=True),
    }
    found = spared(make[kind]())
    assert timed(found)
    assert found.after.nodes < found.before.nodes - 400
    assert found.after.size < found.before.size


@pytest.mark.parametrize("failure", [None, "<b>no</b>"])
def test_the_page_shows_both(colours: Converted, pictures: Path, failure: str | None) -> None:
    times: tuple[Any, Any] = (2.5, 1.25) if failure is None else (None, None)
    found = Pruning(Part(1234, 2_000_000, times[0]), Part(56, 1_500_000, times[1]), failure)
    shown = Evidence(LayerReport(), Examples(0, None, 0, (), (), (), {}), found)
    page = conversion_page.render(colours.record, validate_conversion(colours.path, pictures, samples=2), shown)
    for text in ("as it was given", "1234", "2000.0", "frozen and pruned", "56", "1500.0"):
        assert text in page
    assert ("2.500" in page, "1.250" in page) == (failure is None, failure is None)
    assert ("&lt;b&gt;no&lt;/b&gt;" in page) == (failure is not None)
    assert shown.facts()["pruning"]["before"] == {"nodes": 1234, "size": 2_000_000, "ms": times[0]}
