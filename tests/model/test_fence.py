"""Heads of very different size that are joined keep their own scales where the join stays in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime.engine import Engine

from edgekit.conversion import convert, fence, integer
from edgekit.conversion.record import Files
from edgekit.errors import CheckFailed
from edgekit.models import flatbuffer
from edgekit.models.operators import forming_outputs, operators
from edgekit.profiles.profile import DeviceProfile

RNG = np.random.default_rng(1)
SMALL = RNG.normal(0, 1, (8, 4)).astype(np.float32)
LARGE = RNG.normal(0, 1000, (8, 4)).astype(np.float32)
ROWS = RNG.normal(0, 1, (40, 8)).astype(np.float32)


def joined(x: Any) -> Any:
    import tensorflow as tf

    return tf.concat([tf.matmul(x, SMALL), tf.reshape(tf.matmul(x, LARGE), [-1, 4])], 1)


def shared(x: Any) -> Any:
    """What is joined goes through another product, too."""
    import tensorflow as tf

    small = tf.sigmoid(tf.matmul(x, SMALL))
    return tf.concat([small, tf.matmul(small, LARGE[:4])], 1)


def lowered(function: Callable[[Any], Any] = joined) -> bytes:
    import tensorflow as tf

    concrete = tf.function(function).get_concrete_function(tf.TensorSpec([1, 8], tf.float32))
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    return content


def errors(float_model: Path, int8: Path, rows: np.ndarray) -> Sequence[float]:
    """Of each output value its mean distance from float, as a share of its own range."""
    answers = []
    for model in (float_model, int8):
        with Engine.load(model) as engine:
            answers.append(np.concatenate([engine.infer_real([row[None]])[0] for row in rows]))
    return list(np.abs(answers[0] - answers[1]).mean(axis=0) / np.ptp(answers[0], axis=0))


def test_what_is_joined_keeps_its_scale(tmp_path: Path) -> None:
    content = lowered()
    (tmp_path / "float.tflite").write_bytes(content)
    calibrated = integer.calibrate(content, lambda: ([row[None]] for row in ROWS)).content
    nodes = forming_outputs(content)
    fenced, fences = fence.build(calibrated, nodes)
    worst = {}
    for name, model, float_nodes in (("bare", calibrated, nodes), ("fenced", fenced, nodes | fences)):
        made = integer.quantize(
            model, input_dtype="int8", output_dtype="float32", dense_per_channel=True, float_nodes=float_nodes
        )
        (tmp_path / f"{name}.tflite").write_bytes(fence.take_out(made, 0 if name == "bare" else len(fences)))
        worst[name] = max(errors(tmp_path / "float.tflite", tmp_path / f"{name}.tflite", ROWS))
    assert worst["fenced"] < 0.03 < worst["bare"]
    kinds = [operator.name for operator in operators((tmp_path / "fenced.tflite").read_bytes())]
    assert "MUL" not in kinds
    assert kinds.count("FULLY_CONNECTED") == 2


def test_what_is_stored_behind_it_keeps_its_range(tmp_path: Path) -> None:
    content = lowered(shared)
    (tmp_path / "float.tflite").write_bytes(content)
    calibrated = integer.calibrate(content, lambda: ([row[None]] for row in ROWS)).content
    nodes = forming_outputs(content)
    fenced, fences = fence.build(calibrated, nodes)
    made = integer.quantize(
        fenced, input_dtype="int8", output_dtype="float32", dense_per_channel=True, float_nodes=nodes | fences
    )
    (tmp_path / "fenced.tflite").write_bytes(fence.take_out(made, len(fences)))
    assert max(errors(tmp_path / "float.tflite", tmp_path / "fenced.tflite", ROWS)) < 0.03


def test_a_fence_that_is_not_found_again_is_no_model() -> None:
    content = lowered()
    assert fence.take_out(content, 0) == content
    with pytest.raises(CheckFailed, match="TensorFlow has changed"):
        fence.take_out(content, 1)


def test_a_repair_takes_it(board: DeviceProfile, tmp_path: Path) -> None:
    """Plain INT8 rounds the small values to zero beside the large ones."""
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(joined, input_signature=[tf.TensorSpec([None, 8], tf.float32, "x")])
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)
    np.save(tmp_path / "rows.npy", ROWS)
    output = tmp_path / "m.tflite"
    record = convert.convert(
        tmp_path / "model",
        profile=board,
        data=tmp_path / "rows.npy",
        output=output,
        max_drop=0.01,
        log=tmp_path / "log",
    )
    first, *_ = record.candidates
    assert first.drop is not None
    assert first.drop > 0.1
    assert record.kind == "float-outputs"
    assert [spec.dtype for spec in record.outputs] == ["float32"]
    assert flatbuffer.read(output).operators["FULLY_CONNECTED"] == 2
    assert max(errors(Files.of(output).float, output, ROWS)) < 0.03
