"""Float against INT8 on the same inputs; what is claimed is recomputed here from the two models alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime import schema
from edgekit_runtime.engine import Engine
from edgekit_runtime.preprocess import load_pixels, to_real

from edgekit.conversion.record import Files
from edgekit.datasets.dataset import Sample, open_dataset
from edgekit.datasets.declaration import declare
from edgekit.errors import CheckFailed, UserError
from edgekit.profiles.profile import DeviceProfile
from edgekit.validation import metric
from edgekit.validation.classification import Classification
from edgekit.validation.metric import Metric
from edgekit.validation.validate import Thresholds, Validation, check, validate, validate_conversion
from tests.model.conftest import COLOURS, Converted, colour_pictures


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 other labelled pictures, three of them in the wrong folder so that accuracy is not 1."""
    folder = colour_pictures(tmp_path_factory.mktemp("held-out"), 15, seed=99)
    for number in range(3):
        (folder / f"red/{number:03d}.png").rename(folder / f"blue/red{number}.png")
    return folder


@pytest.fixture(scope="module")
def validation(colours: Converted, held_out: Path) -> Validation:
    return validate_conversion(colours.path, held_out)


class TestFigures:
    def test_they_are_those_of_the_two_models(self, validation: Validation, colours: Converted, held_out: Path) -> None:
        spec = colours.record.preprocess
        assert spec is not None
        paths = sorted(held_out.rglob("*.png"))
        real = np.stack([to_real(load_pixels(path, spec), spec) for path in paths])
        labels = np.array([COLOURS.index(path.parent.name) for path in paths])
        (wanted,) = Engine.load(Files.of(colours.path).float).infer_real([real])
        (got,) = Engine.load(colours.path).infer_real([real])
        error = wanted.astype(np.float64) - got
        (distance,) = validation.outputs
        assert validation.samples == 45
        assert distance.output == "colour"
        assert distance.max_abs == pytest.approx(np.abs(error).max())
        assert distance.mean_abs == pytest.approx(np.abs(error).mean())
        assert distance.sqnr_db == pytest.approx(
            10 * np.log10((wanted.astype(np.float64) ** 2).sum() / (error**2).sum()), abs=1e-6
        )
        assert validation.top1_agreement == np.mean(wanted.argmax(1) == got.argmax(1))
        (accuracy,) = validation.metrics
        hits = wanted.argmax(1) == labels, got.argmax(1) == labels
        assert (accuracy.name, accuracy.unit, accuracy.n) == ("top-1 accuracy", "%", 45)
        assert accuracy.float_value == np.mean(hits[0])
        assert accuracy.int8_value == np.mean(hits[1])
        assert accuracy.drop == np.mean(hits[0]) - np.mean(hits[1])
        assert accuracy.half == metric.of_means("x", *hits).half

    def test_the_model_knows_colours_and_the_wrong_folders_count(self, validation: Validation) -> None:
        assert validation.metrics[0].float_value == pytest.approx(42 / 45)
        assert validation.metrics[0].int8_value == pytest.approx(42 / 45, abs=1 / 45)

    def test_sizes_and_hashes_are_those_of_the_files(self, validation: Validation, colours: Converted) -> None:
        for path, size, digest in (
            (colours.path, validation.int8_size, validation.int8_sha256),
            (Files.of(colours.path).float, validation.float_size, validation.float_sha256),
        ):
            assert (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) == (size, digest)

    def test_latency_is_marked_as_the_hosts(self, validation: Validation) -> None:
        assert validation.latency.host is True
        assert validation.latency.cpu
        assert validation.latency.runs == 45
        assert validation.latency.float_ms > 0
        assert validation.latency.int8_ms > 0

    def test_it_travels_as_json(self, validation: Validation) -> None:
        assert schema.load_json(Validation, schema.dump_json(validation), "x") == validation

    def test_a_model_does_not_differ_from_itself(self, colours: Converted, held_out: Path) -> None:
        record = colours.record
        same = validate(
            colours.path, colours.path, held_out, preprocess=record.preprocess, task="classification", samples=6
        )
        assert (same.samples, same.top1_agreement) == (6, 1.0)
        assert (same.outputs[0].sqnr_db, same.outputs[0].max_abs) == (None, 0.0)
        assert same.outputs[0].cosine == pytest.approx(1.0)
        assert same.latency.runs >= 20

    def test_inputs_beyond_the_calibrated_range_are_counted(self, colours: Converted, held_out: Path) -> None:
        wide = declare(range="0..255")
        assert colours.record.preprocess is not None
        spec = replace(colours.record.preprocess, mean=(0.0,) * 3, std=(1.0,) * 3)
        found = validate(Files.of(colours.path).float, colours.path, held_out, preprocess=spec, samples=10)
        assert wide.range == "0..255"
        assert found.saturation.inputs[0] is not None
        assert found.saturation.inputs[0] > 0.9
        assert any("input 'picture' saturates" in note for note in found.notes)

    def test_nothing_saturates_in_range(self, validation: Validation) -> None:
        assert validation.saturation.inputs == (0.0,)
        assert validation.saturation.outputs == (0.0,)


class TestGate:
    def test_what_holds_passes(self, validation: Validation) -> None:
        check(validation, Thresholds(min_cosine=0.9, min_sqnr_db=10, min_top1_agreement=0.9, max_accuracy_drop=0.05))
        check(validation, Thresholds())

    def test_all_that_does_not_hold_is_listed(self, validation: Validation) -> None:
        bad = replace(
            validation, top1_agreement=0.5, metrics=(Metric("top-1 accuracy", "%", 100, 0.9, 0.8, 0.1, 0.05),)
        )
        wanted = Thresholds(min_cosine=1.1, min_sqnr_db=200, min_top1_agreement=0.9, max_accuracy_drop=0.05)
        with pytest.raises(CheckFailed) as caught:
            check(bad, wanted)
        assert len(caught.value.fields["failures"]) == 4
        assert "top-1 accuracy falls by 10.00% (of 100 samples), more than 5.00%" in caught.value.message

    @pytest.mark.parametrize("wanted", [Thresholds(min_top1_agreement=0.9), Thresholds(max_accuracy_drop=0.1)])
    def test_what_cannot_be_judged_does_not_pass(self, validation: Validation, wanted: Thresholds) -> None:
        with pytest.raises(UserError, match="judged"):
            check(replace(validation, top1_agreement=None, metrics=()), wanted)


class TestRefused:
    def test_models_that_are_not_a_pair(
        self, colours: Converted, held_out: Path, tmp_path: Path, vectors: Path, board: DeviceProfile
    ) -> None:
        import tensorflow as tf

        model = tf.Module()
        function = tf.function(lambda x: x * 2.0).get_concrete_function(tf.TensorSpec([None, 4], tf.float32))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
        (tmp_path / "other.tflite").write_bytes(converter.convert())
        with pytest.raises(UserError, match="do not have the same inputs"):
            validate(tmp_path / "other.tflite", colours.path, held_out)

    def test_files_that_are_no_models(self, colours: Converted, held_out: Path, tmp_path: Path) -> None:
        (tmp_path / "x.tflite").write_bytes(b"hello")
        with pytest.raises(UserError, match="is not a TFLite model"):
            validate(tmp_path / "x.tflite", colours.path, held_out)
        with pytest.raises(UserError, match="no such"):
            validate(tmp_path / "y.tflite", colours.path, held_out)

    def test_classes_that_the_model_does_not_have(self, colours: Converted, held_out: Path, tmp_path: Path) -> None:
        pictures = sorted(held_out.rglob("*.png"))[:2]
        for path in pictures:
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{path.name},7\n" for path in pictures))
        with pytest.raises(UserError, match="labels that the model's 3 classes do not have: 7"):
            validate_conversion(colours.path, tmp_path)

    def test_data_of_another_model(self, colours: Converted, vectors: Path) -> None:
        with pytest.raises(UserError, match=r"expects samples of shape \[16, 16, 3\], got \[4\]"):
            validate_conversion(colours.path, vectors)


@pytest.mark.parametrize("labelled", [(400, "dealt"), (400, "right"), (40, "dealt")])
def test_an_accuracy_that_float_itself_has_by_chance_proves_nothing(tmp_path: Path, labelled: tuple[int, str]) -> None:
    """Rows of another scale, or labels in another order: INT8 is as bad as float, and no gate may pass for that."""
    count, kind = labelled
    model = Path(__file__).parents[1] / "fixtures/models/fixed.tflite"
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (count, 6)).astype(np.float32)
    with Engine.load(model) as engine:
        best = np.array([int(engine.infer_real([row[None]])[0].argmax()) for row in rows])
    np.savez(tmp_path / "data.npz", x=rows, y=best if kind == "right" else rng.permutation(best))
    found = validate(model, model, tmp_path / "data.npz", task="classification")
    if (count, kind) != (400, "dealt"):
        assert found.metrics
        return
    assert found.metrics == ()
    (note,) = [note for note in found.notes if note.startswith("no accuracy: float itself is right in")]
    assert "not clearly more than by chance" in note
    with pytest.raises(UserError, match="cannot be judged: no accuracy: float itself"):
        check(found, Thresholds(max_accuracy_drop=0.01))


def test_of_two_classes_the_ranks_tell_whether_it_is_chance(tmp_path: Path) -> None:
    """Few positives, none of which reaches a half: the best class is always the first, and yet the score knows them."""
    np.savez(tmp_path / "data.npz", x=np.zeros((600, 1), np.float32), y=np.arange(600) % 2)
    data = open_dataset(tmp_path / "data.npz")
    for kind, told in (("ranked", True), ("dealt", False)):
        score = Classification(data, 1, 0.5)
        rng = np.random.default_rng(0)
        for number in range(600):
            label = int(number % 20 == 0)
            value = rng.normal(0.1 + 0.2 * label * (kind == "ranked"), 0.02)
            out = [np.array([[value]], np.float32)]
            score.add(Sample(str(number), str(number), (), label), out, out)
        assert [one.name for one in score.metrics()] == (["top-1 accuracy", "AUC"] if told else [])


def test_labels_without_a_task_are_not_called_missing(tmp_path: Path) -> None:
    model = Path(__file__).parents[1] / "fixtures/models/fixed.tflite"
    rows = np.random.default_rng(0).normal(0, 1, (20, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=rows, y=np.arange(20) % 6)
    found = validate(model, model, tmp_path / "data.npz")
    assert found.notes[0].startswith("the labels are not used, since no task was declared")
    with pytest.raises(UserError, match="cannot be judged: no task was declared"):
        check(found, Thresholds(max_accuracy_drop=0.01))
