"""A conversion is full INT8, proven to run, repeatable, and there as a whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime import golden, quant
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import GOLDEN, Preprocess
from edgekit_runtime.preprocess import folded, to_real

from edgekit.conversion import convert
from edgekit.conversion import record as conversion
from edgekit.conversion.record import Conversion, Files
from edgekit.datasets.dataset import open_dataset
from edgekit.datasets.declaration import Declaration, declare
from edgekit.errors import CheckFailed, UserError
from edgekit.models import delegation, flatbuffer
from edgekit.profiles import profile
from edgekit.profiles.profile import DeviceProfile
from tests.model.conftest import COLOURS, Converted


@pytest.fixture
def attempt(board: DeviceProfile, tmp_path: Path) -> Callable[..., Conversion]:
    """Converts into an empty folder; whatever fails must leave it empty."""

    def run(model: Path, data: Path, declared: Declaration | None = None, **options: Any) -> Conversion:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        options = {"profile": board, "log": tmp_path / "log", **options}
        try:
            return convert.convert(model, data=data, output=out / "m.tflite", declaration=declared, **options)
        except Exception:
            assert list(out.iterdir()) == [], "a failed conversion left something behind"
            raise

    return run


class TestResult:
    def test_it_is_int8_throughout(self, colours: Converted) -> None:
        found = flatbuffer.read(colours.path)
        assert (found.quantization, found.float_operators) == ("int8", ())
        assert flatbuffer.read(Files.of(colours.path).float).quantization == "float"

    def test_tensors_have_the_models_own_names_and_the_profiles_dtypes(self, colours: Converted) -> None:
        (picture,), (colour,) = colours.record.inputs, colours.record.outputs
        assert (picture.name, picture.dtype, picture.shape) == ("picture", "int8", (-1, 16, 16, 3))
        assert (colour.name, colour.dtype, colour.shape) == ("colour", "int8", (-1, 3))

    def test_one_step_of_the_input_is_one_pixel_value(self, colours: Converted) -> None:
        (picture,) = colours.record.inputs
        assert picture.scale == pytest.approx(2 / 255, rel=1e-5)
        assert picture.zero_point == -1
        assert colours.record.preprocess is not None
        assert folded(colours.record.preprocess, picture).kind == quant.SIGN_FLIP

    def test_pixels_of_range_0_to_1_are_copied_as_they_are(
        self, attempt: Callable[..., Conversion], models: Path, pictures: Path, board: DeviceProfile
    ) -> None:
        for dtype, kind in (("uint8", quant.COPY), ("int8", quant.SIGN_FLIP)):
            record = attempt(
                models / "colours.keras", pictures, declare(range="0..1"), profile=replace(board, input_dtype=dtype)
            )
            assert record.preprocess is not None
            assert folded(record.preprocess, record.inputs[0]).kind == kind

    @pytest.mark.parametrize("source", ["colours.keras", "colours_savedmodel"])
    def test_a_mean_for_each_channel_becomes_a_part_of_the_model(
        self, attempt: Callable[..., Conversion], models: Path, pictures: Path, tmp_path: Path, source: str
    ) -> None:
        import keras

        mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
        declared = declare(mean=list(mean), std=list(std))
        record = attempt(models / source, pictures, declared)
        given, inside = record.preprocess, Preprocess(16, 16, mean=mean, std=std)
        assert given == Preprocess(16, 16)
        assert "mean and std are in the model: it takes pixels" in record.notes
        assert folded(given, record.inputs[0]).kind == quant.SIGN_FLIP
        pixels = np.random.default_rng(3).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
        wanted = keras.saving.load_model(models / "colours.keras").predict(to_real(pixels, inside), verbose=0)
        made = tmp_path / "out/m.tflite"
        (real,) = Engine.load(Files.of(made).float).infer_real([pixels])
        np.testing.assert_allclose(real, wanted, atol=1e-5)
        (stored,) = Engine.load(made).infer([folded(given, record.inputs[0]).apply(pixels)])
        np.testing.assert_allclose(quant.dequantize(stored, record.outputs[0]), wanted, atol=0.05)

    def test_a_tflite_file_takes_nothing_in_front_of_it(
        self, attempt: Callable[..., Conversion], colours: Converted, pictures: Path, tmp_path: Path
    ) -> None:
        float_model = tmp_path / "colours.tflite"
        shutil.copyfile(Files.of(colours.path).float, float_model)
        record = attempt(float_model, pictures, declare(mean=[120.0, 127.5, 130.0], std=[127.5] * 3))
        assert record.preprocess is not None
        assert record.preprocess.mean == (120.0, 127.5, 130.0)
        assert folded(record.preprocess, record.inputs[0]).kind == quant.TABLE

    def test_labels_and_task_follow_from_class_folders_that_fit(self, colours: Converted) -> None:
        assert (colours.record.task, colours.record.labels) == ("classification", COLOURS)
        assert Files.of(colours.path).labels.read_text() == "blue\ngreen\nred\n"

    def test_the_record_says_how_it_was_made(self, colours: Converted, models: Path) -> None:
        made = colours.record.provenance
        assert (made.source, made.source_format) == ("colours.keras", "keras")
        assert set(made.versions) == {"tensorflow", "keras", "numpy"}
        assert (made.calibration.samples, made.calibration.seed, made.calibration.skipped) == (40, 0, 0)
        assert str(models) not in Files.of(colours.path).record.read_text(), "no path travels"

    def test_the_record_says_what_runs_slowly_and_what_memory_it_takes(self, colours: Converted) -> None:
        found = colours.record.delegation
        assert found is not None
        assert found == delegation.find(colours.path)
        assert found.taken + sum(found.left.values()) == found.operators > found.taken
        height = width = 16
        assert (
            colours.record.arena_bytes == height * width * (3 + 6) + 6
        )  # the picture, what "mix" makes of it, its mean

    def test_it_is_read_back_as_it_was_written(self, colours: Converted) -> None:
        assert Conversion.load(colours.path) == colours.record

    def test_several_inputs_and_outputs(self, attempt: Callable[..., Conversion], models: Path, tmp_path: Path) -> None:
        noise = np.random.default_rng(0)
        np.savez(tmp_path / "x.npz", left=noise.normal(size=(20, 8)), right=noise.integers(0, 10, (20, 3)))
        record = attempt(models / "two.keras", tmp_path / "x.npz")
        assert [(spec.name, spec.dtype) for spec in record.inputs] == [("left", "int8"), ("right", "int32")]
        assert sorted(spec.name for spec in record.outputs) == ["other", "score"]
        assert (record.task, record.preprocess) == ("raw", None)
        assert record.golden is not None
        assert all(distance.cosine > 0.99 for distance in record.golden.distance)

    def test_what_it_is_made_from_is_not_overwritten(
        self, board: DeviceProfile, models: Path, pictures: Path, tmp_path: Path
    ) -> None:
        made = tmp_path / "m.tflite"
        convert.convert(
            models / "colours.keras", profile=board, data=pictures, output=made, declaration=Declaration(range="-1..1")
        )
        for model in (Files.of(made).float, made):
            before = model.read_bytes()
            with pytest.raises(UserError, match="would overwrite the model that it is made from"):
                convert.convert(model, profile=board, data=pictures, output=made)
            assert model.read_bytes() == before

    def test_inputs_that_are_saved_under_other_keys_than_their_names(
        self, attempt: Callable[..., Conversion], tmp_path: Path
    ) -> None:
        import keras

        keras.utils.set_random_seed(0)
        one, two = keras.Input((8,), name="b"), keras.Input((5,), name="a")
        answer = keras.layers.Dense(4)(one) - keras.layers.Dense(4)(two)
        model = keras.Model({"zed": one, "alpha": two}, answer)
        model.save(tmp_path / "two.keras")
        noise = np.random.default_rng(0)
        given = {"a": noise.normal(size=(40, 5)), "b": noise.normal(size=(40, 8))}
        np.savez(tmp_path / "x.npz", a=given["a"].astype(np.float32), b=given["b"].astype(np.float32))
        record = attempt(tmp_path / "two.keras", tmp_path / "x.npz")
        assert sorted(record.input_names) == ["a", "b"]
        wanted = model({"zed": given["b"], "alpha": given["a"]})
        engine = Engine.load(Files.of(tmp_path / "out/m.tflite").float)
        rows = [given[spec.name][:1].astype(np.float32) for spec in engine.inputs]
        np.testing.assert_allclose(engine.infer_real(rows)[0], np.asarray(wanted)[:1], atol=1e-5)

    def test_weights_that_are_no_numbers_are_named(
        self, attempt: Callable[..., Conversion], vectors: Path, tmp_path: Path
    ) -> None:
        import keras

        model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, name="spoilt")])
        model.layers[0].set_weights([np.full((4, 3), np.nan), np.zeros(3)])
        model.save(tmp_path / "nan.keras")
        with pytest.raises(UserError, match="its own weights hold values that are not a number"):
            attempt(tmp_path / "nan.keras", vectors)

    def test_a_model_that_scales_pixels_by_itself_takes_them_as_they_are(
        self, attempt: Callable[..., Conversion], pictures: Path, tmp_path: Path
    ) -> None:
        import keras

        x = keras.Input((16, 16, 3), name="pixels", dtype="uint8")
        y = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 127.5, -1)(x))
        model = keras.Model(x, keras.layers.Dense(3, activation="softmax")(y))
        model.save(tmp_path / "m.keras")
        with pytest.raises(UserError, match="takes pixels as they are"):
            attempt(tmp_path / "m.keras", pictures, Declaration(range="-1..1"))
        record, made = attempt(tmp_path / "m.keras", pictures), tmp_path / "out/m.tflite"
        assert record.preprocess is not None
        assert (record.preprocess.mean, record.preprocess.std) == ((0.0,) * 3, (1.0,) * 3)
        assert folded(record.preprocess, record.inputs[0]).kind == quant.SIGN_FLIP
        assert flatbuffer.read(made).float_operators == ()
        shown = np.random.default_rng(3).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
        (real,) = Engine.load(Files.of(made).float).infer_real([shown])
        np.testing.assert_allclose(real, model.predict(shown, verbose=0), atol=1e-5)

    def test_each_input_gets_its_own_values_whatever_order_the_converter_has(
        self, attempt: Callable[..., Conversion], tmp_path: Path
    ) -> None:
        """Of the same shape, so that nothing but the answers can tell."""
        import keras

        keras.utils.set_random_seed(0)
        a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
        keras.Model([a, b], keras.layers.Dense(4)(a) - keras.layers.Dense(4)(b)).save(tmp_path / "two.keras")
        noise = np.random.default_rng(0)
        large, small = 10 * noise.normal(size=(40, 8)), noise.normal(size=(40, 8))
        np.savez(tmp_path / "x.npz", a=large.astype(np.float32), b=small.astype(np.float32))
        record = attempt(tmp_path / "two.keras", tmp_path / "x.npz")
        assert [spec.name for spec in record.inputs] == list(record.input_names) == ["a", "b"]
        wide, narrow = (spec.scale for spec in record.inputs)
        assert wide is not None
        assert narrow is not None
        assert wide > 5 * narrow
        assert record.golden is not None
        assert record.golden.distance[0].cosine > 0.999

    def test_a_savedmodel_gives_what_its_keras_model_gives(
        self, attempt: Callable[..., Conversion], models: Path, pictures: Path, colours: Converted
    ) -> None:
        record = attempt(models / "colours_savedmodel", pictures, declare(range="-1..1"), samples=40)
        assert record.name == "colours_savedmodel"
        assert record.inputs[0].scale == colours.record.inputs[0].scale
        assert record.golden is not None
        assert colours.record.golden is not None
        assert record.golden.distance[0].cosine == pytest.approx(colours.record.golden.distance[0].cosine, abs=1e-3)

    def test_the_batch_stays_open_where_that_costs_nothing(self, colours: Converted) -> None:
        engine = Engine.load(colours.path, max_batch_size=4)
        assert (engine.batch_size, engine.batch_refused) == (4, None)

    def test_the_batch_is_fixed_where_it_would_cost_operators(
        self, attempt: Callable[..., Conversion], saved: Callable[..., Path], vectors: Path
    ) -> None:
        import tensorflow as tf

        record = attempt(saved(lambda x: tf.reshape(x, [tf.shape(x)[0], 2, 2]) * 2.0), vectors)
        assert record.inputs[0].shape == (1, 4)
        assert record.outputs[0].shape == (1, 2, 2)
        assert any(note.startswith("the batch is fixed to 1: ") for note in record.notes)

    @pytest.mark.parametrize(("runtime", "scales"), [("ai-edge-litert 1.4.0", 3), ("tflite-runtime 2.14.0", 1)])
    def test_dense_layers_have_a_scale_for_each_channel_only_where_the_runtime_bears_it(
        self,
        attempt: Callable[..., Conversion],
        saved: Callable[..., Path],
        vectors: Path,
        board: DeviceProfile,
        tmp_path: Path,
        runtime: str,
        scales: int,
    ) -> None:
        import tensorflow as tf
        from ai_edge_litert import schema_py_generated as schema

        package, version = runtime.split()
        weights = np.diag([1.0, 0.1, 0.01, 0.001]).astype(np.float32)[:, :3]
        attempt(
            saved(lambda x: tf.matmul(x, weights)),
            vectors,
            profile=replace(board, runtime=package, runtime_version=version),
        )
        model = schema.ModelT.InitFromPackedBuf((tmp_path / "out/m.tflite").read_bytes(), 0)
        graph, dense = model.subgraphs[0], schema.BuiltinOperator.FULLY_CONNECTED
        codes = [code.builtinCode for code in model.operatorCodes]
        (found,) = [operator for operator in graph.operators if codes[operator.opcodeIndex] == dense]
        assert len(graph.tensors[found.inputs[1]].quantization.scale) == scales

    def test_one_unreadable_picture_is_skipped_wherever_it_comes(
        self, attempt: Callable[..., Conversion], models: Path, pictures: Path, tmp_path: Path
    ) -> None:
        """Also among the few that prove the model."""
        folder = tmp_path / "pictures"
        shutil.copytree(pictures, folder)
        data = open_dataset(folder)
        first = data.names[data.order(0)[0]]
        (folder / first).write_bytes(b"no picture")
        record = attempt(models / "colours.keras", folder, declare(range="-1..1"), samples=40)
        assert (record.provenance.calibration.samples, record.provenance.calibration.skipped) == (40, 1)
        assert any(note.startswith(f"skipped {first}") for note in record.notes)
        assert record.golden is not None
        assert record.golden.count == 8

    def test_a_signature_that_is_declared_is_the_one(
        self, attempt: Callable[..., Conversion], vectors: Path, tmp_path: Path
    ) -> None:
        import tensorflow as tf

        def times(name: str, by: float) -> Any:
            return tf.function(lambda x: {name: x * by}).get_concrete_function(tf.TensorSpec([None, 4], name="x"))

        functions = {name: times(name, by) for name, by in (("double", 2.0), ("serving_default", 3.0))}
        tf.saved_model.save(tf.Module(), str(tmp_path / "m"), signatures=functions)
        with pytest.raises(
            UserError, match="has no signature 'treble'; its signatures are double, serving_d"
        ) as caught:
            attempt(tmp_path / "m", vectors, declare(signature="treble"))
        assert caught.value.hint == 'say which in model.toml (--declare): signature = "double"'
        assert [spec.name for spec in attempt(tmp_path / "m", vectors).outputs] == ["serving_default"]
        assert [spec.name for spec in attempt(tmp_path / "m", vectors, declare(signature="double")).outputs] == [
            "double"
        ]

    def test_a_signature_is_of_a_savedmodel(
        self, attempt: Callable[..., Conversion], models: Path, pictures: Path
    ) -> None:
        with pytest.raises(UserError, match="which only a SavedModel has"):
            attempt(models / "colours.keras", pictures, declare(range="-1..1", signature="serve"))


class TestGolden:
    def test_real_inputs_and_what_the_float_model_makes_of_them(self, colours: Converted) -> None:
        files, record = Files.of(colours.path), colours.record
        held = golden.read(files.golden, 1, 1)
        assert record.golden is not None
        assert held.count == record.golden.count == 8
        assert files.golden.stat().st_size <= 1024 * 1024
        real = quant.dequantize(held.inputs[0], record.inputs[0])
        (wanted,) = Engine.load(files.float).infer_real([real])
        np.testing.assert_allclose(held.outputs[0], wanted, atol=1e-6)

    def test_the_distance_is_that_of_the_int8_model_from_them(self, colours: Converted) -> None:
        held = golden.read(Files.of(colours.path).golden, 1, 1)
        (got,) = Engine.load(colours.path).infer([held.inputs[0]])
        assert colours.record.golden is not None
        (distance,) = colours.record.golden.distance
        error = quant.dequantize(got, colours.record.outputs[0]).astype(np.float64) - held.outputs[0]
        assert distance.max_abs == pytest.approx(np.abs(error).max())
        assert distance.sqnr_db == pytest.approx(
            10 * np.log10((held.outputs[0].astype(np.float64) ** 2).sum() / (error**2).sum())
        )

    def test_the_manifest_carries_it_all(self, colours: Converted, board: DeviceProfile) -> None:
        made = conversion.manifest(colours.record, board, "ai-edge-litert 2.3.0")
        assert made.golden == colours.record.golden
        assert made.labels == "labels.txt"
        assert made.model_sha256 == colours.record.model_sha256
        assert made.profile == "generic-aarch64"


class TestRepeatable:
    def test_the_same_inputs_give_the_same_bytes(
        self, attempt: Callable[..., Conversion], models: Path, pictures: Path, colours: Converted, tmp_path: Path
    ) -> None:
        moved = shutil.copytree(pictures, tmp_path / "elsewhere")
        copied = shutil.copy(models / "colours.keras", tmp_path / "colours.keras")
        attempt(Path(copied), moved, declare(range="-1..1"), samples=40)
        one, other = Files.of(colours.path), Files.of(tmp_path / "out/m.tflite")
        assert one.model.read_bytes() == other.model.read_bytes()
        for name in ("conversion.json", "float.tflite", GOLDEN, "labels.txt"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name

    def test_another_seed_takes_other_samples(
        self, attempt: Callable[..., Conversion], models: Path, pictures: Path, colours: Converted
    ) -> None:
        record = attempt(models / "colours.keras", pictures, declare(range="-1..1"), samples=40, seed=1)
        assert record.provenance.calibration.digest != colours.record.provenance.calibration.digest


class TestQuiet:
    def test_tensorflow_talks_to_the_log_alone(
        self,
        attempt: Callable[..., Conversion],
        models: Path,
        pictures: Path,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        stages: list[tuple[str, int, int]] = []
        attempt(
            models / "colours.keras",
            pictures,
            declare(range="-1..1"),
            samples=5,
            progress=lambda *step: stages.append(step),
        )
        assert capfd.readouterr() == ("", "")
        assert len((tmp_path / "log").read_text()) > 100
        assert ("calibrate", 5, 5) in stages
        assert list(dict.fromkeys(stage for stage, _, _ in stages)) == [
            "load",
            "float",
            "calibrate",
            "quantize",
            "prove",
            "examine",
        ]


class TestRefused:
    """Each names what is wrong and leaves nothing behind (`attempt` looks)."""

    def test_no_serving_signature(
        self, attempt: Callable[..., Conversion], saved: Callable[..., Path], vectors: Path
    ) -> None:
        with pytest.raises(UserError, match="it has none at all"):
            attempt(saved(lambda x: x * 2, signature=None), vectors)

    def test_an_operator_that_tflite_lacks(
        self, attempt: Callable[..., Conversion], saved: Callable[..., Path], vectors: Path
    ) -> None:
        import tensorflow as tf

        with pytest.raises(UserError, match="no INT8 TFLite operator does the work of: Erf") as caught:
            attempt(saved(tf.math.erf), vectors)
        assert caught.value.fields["operators"] == ["Erf"]

    def test_an_operator_that_int8_lacks_unless_float_is_allowed(
        self, attempt: Callable[..., Conversion], saved: Callable[..., Path], vectors: Path
    ) -> None:
        import tensorflow as tf

        model = saved(lambda x: tf.math.sin(x) * 2.0)
        with pytest.raises(UserError, match="left these operators in float: SIN") as caught:
            attempt(model, vectors)
        assert caught.value.fields["operators"] == ["SIN"]
        assert "operators kept in float: SIN" in attempt(model, vectors, allow_float=True).notes

    def test_pickled_code_runs_only_when_trusted(
        self, attempt: Callable[..., Conversion], models: Path, vectors: Path
    ) -> None:
        with pytest.raises(UserError, match="would run code that came with it: Lambda 'twice'") as caught:
            attempt(models / "lambda.keras", vectors)
        assert "--trust-code" in (caught.value.hint or "")
        assert attempt(models / "lambda.keras", vectors, trust_code=True).outputs[0].shape[-1] == 4

    def test_python_inside_a_savedmodel_is_refused(
        self, attempt: Callable[..., Conversion], saved: Callable[..., Path], vectors: Path
    ) -> None:
        import tensorflow as tf

        model = saved(lambda x: tf.reshape(tf.py_function(lambda y: y, [x], tf.float32), [-1, 4]))
        with pytest.raises(UserError, match="operator EagerPyFunc"):
            attempt(model, vectors)

    def test_files_read_by_a_savedmodel_are_refused(
        self, attempt: Callable[..., Conversion], saved: Callable[..., Path], vectors: Path
    ) -> None:
        import tensorflow as tf

        def reads(x: Any) -> Any:
            return x * tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)

        with pytest.raises(UserError, match="operator ReadFile"):
            attempt(saved(reads), vectors)

    @pytest.mark.parametrize(
        ("model", "data", "declared", "says"),
        [
            ("colours.keras", "pictures", None, "the value range that the model was trained on is not declared"),
            ("colours.keras", "vectors", None, r"expects samples of shape \[16, 16, 3\], got \[4\]"),
            ("colours.keras", "nothing", None, "no such file or folder"),
            ("two.keras", "vectors", None, "expected the arrays left, right, got x"),
            ("two.keras", "pictures", declare(range="0..1"), "pictures need a model with one input"),
            ("nothing.keras", "vectors", None, "no such model"),
            ("colours.keras", "pictures", declare(range="0..1", labels=["red", "blue"]), "class folders that are no"),
            ("colours.keras", "pictures", declare(range="0..1", labels=["a", "b"]), "labels"),
        ],
    )
    def test_inputs_that_do_not_fit_each_other(
        self,
        attempt: Callable[..., Conversion],
        models: Path,
        pictures: Path,
        vectors: Path,
        model: str,
        data: str,
        declared: Declaration | None,
        says: str,
    ) -> None:
        where = {"pictures": pictures, "vectors": vectors, "nothing": pictures / "nothing"}[data]
        with pytest.raises(UserError, match=says):
            attempt(models / model, where, declared)

    def test_a_model_over_the_profiles_budget(
        self, attempt: Callable[..., Conversion], saved: Callable[..., Path], vectors: Path, board: DeviceProfile
    ) -> None:
        with pytest.raises(CheckFailed, match=r"allows 0\.0005 MiB"):
            attempt(saved(lambda x: x * 2), vectors, profile=replace(board, max_model_mb=0.0005))

    def test_an_operator_that_the_boards_interpreter_lacks(
        self, attempt: Callable[..., Conversion], saved: Callable[..., Path], vectors: Path
    ) -> None:
        import tensorflow as tf

        model = saved(lambda x: tf.cast(tf.bitwise.bitwise_xor(tf.cast(x, tf.int32), 3), tf.float32) * 2.0)
        with pytest.raises(CheckFailed, match=r"tflite-runtime 2\.11\.0 of .* does not run BITWISE_XOR"):
            attempt(model, vectors, profile=profile.find("coral-dev-board"), allow_float=True)

    def test_values_that_overflow_in_the_model(
        self, attempt: Callable[..., Conversion], saved: Callable[..., Path], vectors: Path
    ) -> None:
        import tensorflow as tf

        with pytest.raises(UserError, match="computes values without end, or that are no numbers"):
            attempt(saved(lambda x: tf.math.log(x - 100.0)), vectors, allow_float=True)


class TestWhole:
    def test_a_new_conversion_replaces_an_old_one(
        self, attempt: Callable[..., Conversion], saved: Callable[..., Path], vectors: Path, tmp_path: Path
    ) -> None:
        first = attempt(saved(lambda x: x * 2), vectors)
        second = attempt(saved(lambda x: x * 3), vectors)
        assert first.model_sha256 != second.model_sha256
        assert Conversion.load(tmp_path / "out/m.tflite") == second
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m.edgekit", "m.tflite"]

    def test_a_changed_model_is_noticed(self, colours: Converted, tmp_path: Path) -> None:
        shutil.copytree(colours.path.parent, tmp_path / "copy")
        model = tmp_path / "copy/colours.tflite"
        content = bytearray(model.read_bytes())
        content[-1] ^= 1
        model.write_bytes(content)
        with pytest.raises(CheckFailed, match="not the model that"):
            Conversion.load(model)

    def test_a_tflite_without_a_record_is_not_a_conversion(self, colours: Converted, tmp_path: Path) -> None:
        bare = Path(shutil.copy(colours.path, tmp_path / "bare.tflite"))
        with pytest.raises(UserError, match=r"bare\.edgekit"):
            Conversion.load(bare)

    def test_ctrl_c_leaves_nothing(self, models: Path, pictures: Path, tmp_path: Path) -> None:
        script = (
            "import sys; from pathlib import Path\n"
            "from edgekit.conversion import convert; from edgekit.profiles import profile\n"
            "from edgekit.datasets.declaration import declare\n"
            "convert.convert(Path(sys.argv[1]), profile=profile.find('generic-aarch64'), data=Path(sys.argv[2]),\n"
            "    output=Path(sys.argv[3]) / 'm.tflite', declaration=declare(range='0..1'), log=Path(sys.argv[4]),\n"
            "    progress=lambda stage, done, total: print(stage, flush=True))\n"
        )
        out = tmp_path / "out"
        out.mkdir()
        child = subprocess.Popen(
            [sys.executable, "-c", script, models / "colours.keras", pictures, out, tmp_path / "log"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == "calibrate":
                break
        assert list(out.iterdir()), "it was at work"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
        assert "KeyboardInterrupt" in errors
        assert list(out.iterdir()) == []

    def test_a_crash_of_the_worker_is_a_clear_error(
        self, attempt: Callable[..., Conversion], models: Path, pictures: Path
    ) -> None:
        def crash(stage: str, done: int, _total: int) -> None:
            if stage == "calibrate" and done == 0:
                kill_worker()

        with pytest.raises(CheckFailed, match=r"converting .*colours\.keras crashed with SIGSEGV") as caught:
            attempt(models / "colours.keras", pictures, declare(range="0..1"), progress=crash)
        assert "the log is" in (caught.value.hint or "")


def kill_worker() -> None:
    """Send SIGSEGV to the one child of this process that is a worker."""
    children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text().split()
    workers = [int(pid) for pid in children if b"edgekit.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGSEGV)
