"""Keras `.h5` files: read as data first, then loaded by the Keras that wrote them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from edgekit_runtime.engine import Engine
from hypothesis import HealthCheck, given, settings

from edgekit.conversion import convert
from edgekit.conversion.record import Files
from edgekit.errors import UserError
from edgekit.models import flatbuffer, keras_h5, keras_model
from edgekit.models.inspection import inspect
from edgekit.profiles.profile import DeviceProfile

# Both write the same network: the mean of each colour, doubled.
_SAVE = """\
import sys
import numpy as np
{imports}
image = keras.layers.Input((8, 8, 3), name="image")
hidden = keras.layers.DepthwiseConv2D(1, use_bias=False, name="twice")(image)
mean = keras.layers.GlobalAveragePooling2D(name="mean")(hidden)
model = keras.Model(image, mean)
model.get_layer("twice").set_weights([np.full((1, 1, 3, 1), 2, np.float32)])
model.save(sys.argv[1])
model.save_weights(sys.argv[1].replace("model.h5", "only.weights.h5"))
"""
KERAS = {"2": "import tf_keras as keras", "3": "import keras"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """An .h5 file of Keras 2 or 3."""
    made: dict[str, Path] = {}

    def save(version: str) -> Path:
        if version not in made:
            path = tmp_path_factory.mktemp(f"keras{version}") / "model.h5"
            script = _SAVE.format(imports=KERAS[version])
            subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True, timeout=300)
            made[version] = path
        return made[version]

    return save


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """An .h5 file with a model's config and one weight, for changing."""
    path = tmp_path / "small.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": []}})
        file.attrs["keras_version"] = "2.4.0"
        file.create_group("model_weights/dense")["kernel"] = np.zeros(4, np.float32)
    return path


@pytest.mark.parametrize("version", ["2", "3"])
def test_each_keras_reads_its_own_and_the_answers_are_the_models(
    saved: Callable[[str], Path], board: DeviceProfile, tmp_path: Path, version: str
) -> None:
    found = inspect(saved(version))
    assert found.form == "keras-h5"
    assert str(found.made_with).startswith(f"Keras {version}.")
    assert [(spec.name, spec.shape) for spec in found.inputs] == [("image", (-1, 8, 8, 3))]
    assert found.operators["DepthwiseConv2D"] == 1

    data = np.random.default_rng(1).uniform(-1, 1, (40, 8, 8, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", data)
    output = tmp_path / "m.tflite"
    record = convert.convert(saved(version), profile=board, data=tmp_path / "x.npy", output=output)
    assert (record.provenance.source_format, record.provenance.versions["keras"][0]) == ("keras-h5", version)
    (answers,) = Engine.load(output).infer_real([data[:4]])
    np.testing.assert_allclose(answers, 2 * data[:4].mean((1, 2)), atol=0.03)


def test_weights_alone_are_no_model(saved: Callable[[str], Path]) -> None:
    weights = saved("2").with_name("only.weights.h5")
    with pytest.raises(UserError, match="weights and no model") as caught:
        inspect(weights)
    assert "model.save" in str(caught.value.hint)


def test_code_in_it_is_found_before_it_is_loaded(small: Path, board: DeviceProfile, tmp_path: Path) -> None:
    layer = {"class_name": "Lambda", "config": {"name": "surprise", "function": ["4wEAAAA=", None, None]}}
    with h5py.File(small, "a") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": [layer]}})
    assert inspect(small).code == ("Lambda 'surprise': pickled code",)
    np.save(tmp_path / "x.npy", np.zeros((4, 2), np.float32))
    with pytest.raises(UserError, match="would run code that came with it: Lambda 'surprise'"):
        convert.convert(small, profile=board, data=tmp_path / "x.npy", output=tmp_path / "m.tflite")


def external_link(file: h5py.File) -> None:
    file["model_weights/dense/link"] = h5py.ExternalLink("other.h5", "/secret")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("model_weights/dense/raw", (4,), "u1", external=[("other.bin", 0, 4)])


def virtual_dataset(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "secret", shape=(4,))
    file.create_virtual_dataset("model_weights/dense/virtual", layout)


@pytest.mark.parametrize("reach", [external_link, external_storage, virtual_dataset])
def test_a_file_that_takes_its_content_from_another_is_refused(small: Path, reach: Callable[[Any], None]) -> None:
    with h5py.File(small, "a") as file:
        reach(file)
    with pytest.raises(UserError, match="in another file"):
        keras_h5.read(small)


def test_groups_that_hold_each_other_are_walked_once(small: Path) -> None:
    with h5py.File(small, "a") as file:
        file["model_weights/dense/up"] = file["model_weights"]
        file["soft"] = h5py.SoftLink("/nowhere")
    assert keras_h5.read(small).keras == "2.4.0"


@pytest.mark.parametrize("config", ["[]", "{", "1", "null"])
def test_a_config_that_is_none_is_refused(small: Path, config: str) -> None:
    with h5py.File(small, "a") as file:
        file.attrs["model_config"] = config
    with pytest.raises(UserError, match="model_config"):
        keras_h5.read(small)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_read(small: Path, where: float, value: int) -> None:
    content = bytearray(small.read_bytes())
    content[int(where * (len(content) - 1))] = value
    damaged = small.with_name("damaged.h5")
    damaged.write_bytes(content[: len(content) if value % 2 else int(where * len(content))])
    try:
        keras_h5.read(damaged)
    except UserError:
        return


def test_a_keras_2_model_that_holds_more_than_weights_is_exported(tmp_path: Path) -> None:
    import tf_keras

    from edgekit.models import keras_model, savedmodel

    word = tf_keras.Input((1,), dtype="int64", name="word")
    model = tf_keras.Model(word, tf_keras.layers.IntegerLookup(vocabulary=[3, 1, 2])(word))
    keras_model.export(model, tmp_path / "saved")
    found = savedmodel.read(tmp_path / "saved")
    assert [spec.name for spec in savedmodel.serving_signature(tmp_path / "saved", found).inputs] == ["word"]


_MIXED = """\
import sys
{imports}
keras.mixed_precision.set_global_policy(sys.argv[2])
image = keras.layers.Input((8, 8, 3), name="image")
hidden = keras.layers.Conv2D(4, 3, activation="relu")(image)
mean = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(hidden))
model = keras.Model(image, keras.layers.Dense(3, name="scores")(mean))
model.save(sys.argv[1])
"""


def mixed(version: str, policy: str, path: Path) -> Path:
    script = _MIXED.format(imports=KERAS[version])
    subprocess.run([sys.executable, "-c", script, path, policy], check=True, capture_output=True, timeout=300)
    return path


@pytest.mark.parametrize(("version", "policy"), [("2", "mixed_float16"), ("3", "mixed_bfloat16")])
def test_a_model_of_mixed_precision_is_converted_in_float32(
    version: str, policy: str, board: DeviceProfile, tmp_path: Path
) -> None:
    model = mixed(version, policy, tmp_path / "model.h5")
    samples = np.random.default_rng(1).uniform(-1, 1, (20, 8, 8, 3)).astype(np.float32)
    np.save(tmp_path / "data.npy", samples)
    record = convert.convert(
        model, profile=board, data=tmp_path / "data.npy", output=tmp_path / "m.tflite", log=tmp_path / "log"
    )
    assert "it computes in float16 or bfloat16; it was converted as one that computes in float32" in record.notes
    assert flatbuffer.read(tmp_path / "m.tflite").quantization == "int8"
    original = keras_model.load(model, "keras-h5", trust_code=False)
    with Engine.load(Files.of(tmp_path / "m.tflite").float) as engine:
        got = engine.infer_real([samples])[0]
    wanted = np.asarray(original(samples), np.float32)
    np.testing.assert_allclose(got, wanted, atol=0.02 * np.abs(wanted).max())  # bfloat16 has 8 bits


def test_weights_in_float16_are_refused(board: DeviceProfile, tmp_path: Path) -> None:
    model = mixed("3", "float16", tmp_path / "model.h5")
    np.save(tmp_path / "data.npy", np.zeros((20, 8, 8, 3), np.float32))
    with pytest.raises(UserError, match="its weights are in float16 or bfloat16") as caught:
        convert.convert(
            model, profile=board, data=tmp_path / "data.npy", output=tmp_path / "m.tflite", log=tmp_path / "log"
        )
    assert caught.value.hint
