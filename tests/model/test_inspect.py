"""A model is recognised by what it holds; looking at it runs nothing of it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime.manifest import TensorSpec

from edgekit.conversion import integer, lowering
from edgekit.conversion.record import Files
from edgekit.errors import UserError
from edgekit.models import flatbuffer, keras_archive, keras_model
from edgekit.models.inspection import inspect
from edgekit.models.source import open_model, recognise, require_convertible
from tests.model.conftest import Converted


class TestRecognise:
    @pytest.mark.parametrize(
        ("file", "content", "form"),
        [
            ("m.bin", b"\x1c\0\0\0TFL3" + b"\0" * 60, "tflite"),
            ("m.pb", b"\x0a\x12\x0a\x05input\x12\x0bPlaceholder" + b"\0" * 60, "graph-def"),
            ("m.ckpt.meta", b"", "tf1-checkpoint"),
            ("m.ckpt.index", b"", "tf2-checkpoint"),
            ("folder/model.ckpt.meta", b"", "tf1-checkpoint"),
            ("folder/.meta", b"", "tf1-checkpoint"),
            ("folder/ckpt-1.index", b"", "tf2-checkpoint"),
            ("folder/saved_model.pbtxt", b"", "saved-model"),
        ],
    )
    def test_each_form_by_its_content(self, tmp_path: Path, file: str, content: bytes, form: str) -> None:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content)
        assert recognise(tmp_path / "folder" if "folder" in file else path) == form

    def test_weights_without_a_graph_are_refused_with_the_command_that_is_missing(self, tmp_path: Path) -> None:
        (tmp_path / "ckpt-1.index").touch()
        for path in (tmp_path, tmp_path / "ckpt-1.index", tmp_path / "ckpt-1"):
            with pytest.raises(UserError, match="holds weights but no graph") as caught:
                require_convertible(open_model(path))
            assert "model.export('saved_model')" in str(caught.value.hint)

    def test_hdf5_is_known_whatever_its_name(self, tmp_path: Path) -> None:
        (tmp_path / "m.keras").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(60))
        assert recognise(tmp_path / "m.keras") == "keras-h5"

    def test_of_a_serving_folder_the_newest_version_is_read(self, tmp_path: Path) -> None:
        for version in ("9", "00000010", "notes"):
            (tmp_path / version).mkdir()
            (tmp_path / version / "saved_model.pb").touch()
        found = open_model(tmp_path)
        assert (found.path, found.form, found.name) == (tmp_path / "00000010", "saved-model", tmp_path.name)
        assert found.notes == ("version 00000010 of 9, 00000010: the newest",)

    @pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut", b"\x0a", b"\0" * 100])
    def test_what_is_no_model_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.keras").write_bytes(content)
        for path in (tmp_path / "x.keras", tmp_path, tmp_path / "nothing"):
            with pytest.raises(UserError):
                recognise(path)

    def test_the_file_in_a_savedmodel_stands_for_its_folder(self, saved: Callable[..., Path]) -> None:
        folder = saved(lambda x: x * 2.0)
        assert open_model(folder / "saved_model.pb") == open_model(folder)

    def test_a_savedmodel_one_folder_down_is_pointed_at(self, tmp_path: Path, models: Path) -> None:
        shutil.copytree(models / "colours_savedmodel", tmp_path / "inner")
        with pytest.raises(UserError) as caught:
            recognise(tmp_path)
        assert str(tmp_path / "inner") in (caught.value.hint or "")

    def test_the_hash_of_a_folder_sees_names_and_contents(self, tmp_path: Path, models: Path) -> None:
        one, other = tmp_path / "one", tmp_path / "other"
        for folder in (one, other):
            shutil.copytree(models / "colours_savedmodel", folder)
        assert open_model(one).sha256 == open_model(other).sha256
        (other / "extra").touch()
        assert open_model(one).sha256 != open_model(other).sha256


class TestInspect:
    def test_a_keras_model(self, models: Path) -> None:
        found = inspect(models / "two.keras")
        assert found.form == "keras"
        assert found.inputs == (TensorSpec("left", (-1, 8), "float32"), TensorSpec("right", (-1, 3), "int32"))
        assert [spec.name for spec in found.outputs] == ["other", "score"]
        # Embedding 10x4, Dense 8x4+4, and two Dense layers of 16 inputs
        assert found.parameters == 40 + 36 + 16 * 2 + 2 + 16 * 3 + 3

    def test_why_keras_does_not_load_a_file_is_told_apart(self, models: Path, tmp_path: Path) -> None:
        """A class of the model's own, and weights that are damaged."""
        import keras

        class Own(keras.Model):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.dense = keras.layers.Dense(2)

            def call(self, x: Any) -> Any:
                return self.dense(x)

        Own.__module__ = "__main__"  # as in a script that is run
        own = Own()
        own(np.zeros((1, 3), np.float32))
        own.save(tmp_path / "own.keras")
        with pytest.raises(UserError, match="Could not locate class") as caught:
            keras_model.load(tmp_path / "own.keras", "keras", trust_code=False)
        assert "model.export('saved_model')" in (caught.value.hint or "")
        content = bytearray((models / "colours.keras").read_bytes())
        with zipfile.ZipFile(models / "colours.keras") as archive:
            weights = archive.getinfo("model.weights.h5")
        content[weights.header_offset + weights.compress_size // 2] ^= 255
        (tmp_path / "damaged.keras").write_bytes(content)
        with pytest.raises(UserError, match="cannot load it") as caught:
            keras_model.load(tmp_path / "damaged.keras", "keras", trust_code=False)
        assert (caught.value.hint or "").startswith("copy it again")

    def test_a_keras_model_under_any_name(self, models: Path, tmp_path: Path) -> None:
        """Keras itself goes by the suffix."""
        keras_model.load(models / "colours.keras", "keras", trust_code=False).save(tmp_path / "colours.h5")
        wanted = inspect(models / "colours.keras")
        for source, name in ((models / "colours.keras", "m.h5"), (tmp_path / "colours.h5", "m.tflite")):
            shutil.copy(source, tmp_path / name)
            found = inspect(tmp_path / name)
            assert (found.inputs, found.outputs) == (wanted.inputs, wanted.outputs)

    def test_a_savedmodel_says_the_same_of_the_same_model(self, models: Path) -> None:
        archive, folder = inspect(models / "colours.keras"), inspect(models / "colours_savedmodel")
        assert [spec.shape for spec in folder.inputs] == [spec.shape for spec in archive.inputs] == [(-1, 16, 16, 3)]
        assert archive.parameters == 3 * 3 * 3 * 6 + 6 + 6 * 3 + 3
        assert folder.parameters is not None
        assert folder.parameters >= archive.parameters
        assert "serving_default" in folder.signatures

    def test_a_tflite_model(self, colours: Converted) -> None:
        found = inspect(colours.path)
        assert (found.form, found.quantization, found.size) == ("tflite", "int8", colours.path.stat().st_size)
        assert (found.inputs, found.outputs) == (colours.record.inputs, colours.record.outputs)
        assert found.operators["CONV_2D"] == 1

    @pytest.mark.parametrize(
        ("file", "quantization"),
        [
            ("malformed_or_hostile_tflite_dev/**/simple_floor_mod.tflite", "none"),
            ("malformed_or_hostile_tflite_dev/**/svdf_quantized.bin", "int8"),
            ("mediapipe_selfie_tflite/selfie_segmentation.tflite", "float16"),
            ("ai_edge_quantizer_tflite/**/mnist_quantized.tflite", "dynamic-range"),
            ("ai_edge_quantizer_tflite/**/partly_quantized_mnist.tflite", "mixed"),
            ("ai_edge_quantizer_tflite/**/conv_fc_mnist.tflite", "float"),
        ],
    )
    @pytest.mark.shared
    def test_a_tflite_models_real_numbers_say_how_it_is_quantised(
        self, shared: Path, file: str, quantization: str
    ) -> None:
        (found,) = (shared / "reference").glob(file)
        assert flatbuffer.read(found).quantization == quantization

    def test_what_a_repair_makes_has_the_name_of_its_candidate(self, colours: Converted) -> None:
        samples = [[np.full((1, 16, 16, 3), level, np.float32)] for level in (-1, 1)]
        calibrated = integer.calibrate(Files.of(colours.path).float.read_bytes(), lambda: iter(samples)).content
        made = integer.int16x8(calibrated)
        assert flatbuffer.parse(made).quantization == "int16x8"

    def test_weights_in_8_bits_alone_are_dynamic_range(self, saved: Callable[..., Path], tmp_path: Path) -> None:
        import tensorflow as tf

        weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)  # smaller ones stay as they are
        (tmp_path / "wrapped").symlink_to(saved(lambda x: x @ tf.constant(weights), width=64))
        found = {half: flatbuffer.parse(lowering.without_data(tmp_path, half=half)) for half in (False, True)}
        assert [found[half].quantization for half in (False, True)] == ["dynamic-range", "float16"]

    def test_the_only_signature_is_the_one_whatever_its_name(self, saved: Callable[..., Path]) -> None:
        found = inspect(saved(lambda x: x * 2, signature="double"))
        assert (found.signatures, [spec.name for spec in found.inputs]) == (("double",), ["x"])

    def test_a_folder_that_holds_a_model_file_names_it(self, models: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="not a model") as caught:
            inspect(tmp_path)
        assert "there is" not in str(caught.value.hint)
        shutil.copy(models / "colours.keras", tmp_path)
        with pytest.raises(UserError, match="not a model") as caught:
            inspect(tmp_path)
        assert caught.value.hint == "there is colours.keras in it"

    def test_an_empty_file_is_called_empty(self, tmp_path: Path) -> None:
        (tmp_path / "model.pb").touch()
        with pytest.raises(UserError, match="not a model") as caught:
            inspect(tmp_path / "model.pb")
        assert str(caught.value.hint).startswith("the file is empty")

    def test_code_is_named_and_not_run(self, models: Path) -> None:
        found = inspect(models / "lambda.keras")
        assert any("Lambda 'twice': pickled code" in item for item in found.code)
        assert found.inputs == ()

    @pytest.mark.parametrize("cut", [8, 100, 1000])
    def test_cut_files_are_refused(self, colours: Converted, models: Path, tmp_path: Path, cut: int) -> None:
        (tmp_path / "x.tflite").write_bytes(colours.path.read_bytes()[:cut])
        (tmp_path / "x.keras").write_bytes((models / "colours.keras").read_bytes()[:-cut])
        folder = tmp_path / "saved"
        shutil.copytree(models / "colours_savedmodel", folder)
        content = (folder / "saved_model.pb").read_bytes()
        (folder / "saved_model.pb").write_bytes(content[: len(content) - cut])
        for path in (tmp_path / "x.tflite", tmp_path / "x.keras", folder):
            with pytest.raises(UserError):
                inspect(path)


class TestKerasArchive:
    """What a `.keras` file names is judged before anything is imported or loaded."""

    @pytest.mark.parametrize(
        ("layer", "says"),
        [
            ({"module": "keras.layers", "class_name": "Lambda", "config": {"name": "f"}}, "Lambda 'f': pickled code"),
            ({"class_name": "__lambda__", "config": {"value": "x"}}, "pickled code"),
            ({"module": "os", "class_name": "function", "config": "system"}, "code outside of Keras (os)"),
            ({"module": "keras.utils", "class_name": "function", "config": "get_file"}, "function 'get_file'"),
            ({"module": "builtins", "class_name": "function", "config": "mine"}, "code outside of Keras (builtins)"),
            ({"module": "mylib.layers", "class_name": "Mine", "config": {"name": "m"}}, "code outside of Keras (mylib"),
            ({"module": None, "registered_name": "pkg>Mine", "class_name": "Mine", "config": {}}, "a custom object"),
            ({"module": "keras.layers", "class_name": "TFSMLayer", "config": {}}, "another SavedModel"),
            ({"class_name": "TFOpLambda", "config": {"function": "io.write_file"}}, "calls io.write_file"),
            ({"class_name": "TFOpLambda", "config": {"function": "raw_ops.PyFunc"}}, "calls raw_ops.PyFunc"),
            ({"class_name": "TFOpLambda", "config": {"function": "load_library"}}, "calls load_library"),
            ({"class_name": "TFOpLambda", "config": {"function": "load_op_library"}}, "calls load_op_library"),
            ({"class_name": "layers.Lambda", "module": "keras", "config": {"name": "f"}}, "Lambda 'f': pickled code"),
            ({"class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}}, "reads the file '/etc/passwd'"),
            (
                {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
                "reads the file '/etc/passwd'",
            ),
        ],
    )
    def test_code_is_found_however_deep(self, layer: dict[str, Any], says: str) -> None:
        config = {"class_name": "Functional", "module": "keras", "config": {"layers": [{"config": {"f": [layer]}}]}}
        found = keras_archive.code_in(config)
        assert len(found) == 1
        assert says in found[0]

    def test_a_loss_of_one_s_own_is_not_loaded(self) -> None:
        mine = {"module": "builtins", "class_name": "function", "config": "my_loss", "registered_name": "function"}
        config = {"class_name": "Sequential", "module": "keras", "config": {}, "compile_config": {"loss": mine}}
        assert keras_archive.code_in(config) == ()

    def test_keras_2_s_own_layers_in_an_archive_are_no_code(self) -> None:
        layers = [
            {"module": "tf_keras.src.engine.functional", "class_name": "Functional", "config": {}},
            {"module": None, "class_name": "TFOpLambda", "config": {"name": "f", "function": "math.multiply"}},
            {"module": None, "class_name": "SlicingOpLambda", "config": {"function": "__operators__.getitem"}},
        ]
        assert keras_archive.code_in({"config": {"layers": layers}}) == ()

    def test_ordinary_models_hold_none(self, models: Path) -> None:
        for name in ("colours.keras", "two.keras"):
            assert keras_archive.code_in(keras_archive.read_config(models / name)) == ()

    def test_a_bomb_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb.keras"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("metadata.json", "{}")
            with archive.open("config.json", "w") as member:
                for _ in range(65):
                    member.write(b" " * 1024 * 1024)
        assert path.stat().st_size < 1024 * 1024
        with pytest.raises(UserError, match=r"config\.json is larger than"):
            keras_archive.read_config(path)

    @pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a\\..\\b"])
    def test_paths_that_leave_the_archive_are_refused(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "evil.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps({}))
            archive.writestr(name, b"")
        with pytest.raises(UserError, match="leaves the archive"):
            keras_archive.read_config(path)
