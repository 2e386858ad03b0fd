"""The doctor: wrong declarations and bad calibration data are found before they cost accuracy."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime import schema
from edgekit_runtime.manifest import Preprocess, TensorSpec
from PIL import Image

from edgekit.conversion import convert, doctor, integer, layers, opening, quantize, samples, trial
from edgekit.conversion.calibration import CalibrationRecord
from edgekit.conversion.doctor import Request
from edgekit.conversion.record import Files
from edgekit.conversion.survey import Survey, leaked
from edgekit.datasets.dataset import Sample, open_dataset
from edgekit.datasets.declaration import RANGES, declare
from edgekit.errors import UserError
from edgekit.models.source import open_model
from edgekit.profiles.profile import DeviceProfile
from edgekit.validation.classification import by_chance
from tests.model.conftest import Converted


def examine(request: Request) -> dict[str, str]:
    """The findings by their names."""
    return {finding.name: str(finding) for finding in doctor.examine(request, lambda *_: None).findings}


def asked(model: Path, data: Path, **changes: object) -> Request:
    return replace(Request(str(model), str(data), None, None, None, "raw", 200, 0), **changes)  # type: ignore[arg-type]


@pytest.mark.shared
class TestDeclaration:
    """A real classifier that was trained on 0..255, with real labelled pictures."""

    @pytest.fixture(scope="class")
    def cifar(self, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("cifar")
        with tarfile.open(shared / "data/cifar10_jpg_dev/cifar10.tar.xz") as archive:
            names = [member for member in archive.getmembers() if "/test" in f"/{member.name}"]
            archive.extractall(folder, names, filter="data")
        return folder / "test"

    @pytest.mark.parametrize(("color", "found"), [("RGB", False), ("BGR", True)])
    def test_its_colour_order(self, shared: Path, cifar: Path, color: str, found: bool) -> None:
        model = shared / "reference/mlperf_tiny_tflite/image_classification/trained_models/pretrainedResnet.tflite"
        findings = examine(asked(model, cifar, preprocess=Preprocess(32, 32, color=color), task="classification"))
        assert list(findings) == (["color-order"] if found else [])

    @pytest.mark.parametrize(("declared", "found"), [("0..255", False), ("-1..1", True), ("0..1", True)])
    def test_the_range_that_a_model_was_trained_on(self, shared: Path, cifar: Path, declared: str, found: bool) -> None:
        model = shared / "reference/mlperf_tiny_tflite/image_classification/trained_models/pretrainedResnet.tflite"
        mean, std = RANGES[declared]
        spec = Preprocess(32, 32, mean=(mean,) * 3, std=(std,) * 3)
        findings = examine(asked(model, cifar, preprocess=spec, task="classification"))
        assert ("range" in findings) == found
        if found:
            assert "with range 0..255 the float model's top-1 accuracy on 192 samples is" in findings["range"]
            assert findings["range"].endswith("was the model trained with range 0..255?")

    @pytest.mark.parametrize(
        ("given", "labelled", "found"),
        [
            ("0..255", True, {}),
            ("0..255", False, {}),
            ("0..1", True, {"range": "was the model trained with range 0..255?"}),
            ("-1..1", False, {"range": "was the model trained with range 0..255?"}),
            ("BGR", True, {"color-order": "was the model trained with the channels reversed?"}),
        ],
    )
    def test_arrays_of_float_pictures(
        self, shared: Path, cifar: Path, tmp_path: Path, given: str, labelled: bool, found: dict[str, str]
    ) -> None:
        """Nobody has declared anything: the arrays are the model's real numbers, and are not what it was trained on."""
        mean, std = RANGES.get(given, (0.0, 1.0))
        color = given if given == "BGR" else "RGB"
        spec = Preprocess(32, 32, color=color, mean=(mean,) * 3, std=(std,) * 3)
        inputs = (TensorSpec("x", (-1, 32, 32, 3), "float32"),)
        samples = list(open_dataset(cifar).stream(inputs, spec, count=192))
        arrays: dict[str, Any] = {"x": np.stack([sample.inputs[0] for sample in samples])}
        if labelled:
            arrays["y"] = np.array([sample.label for sample in samples])
        np.savez(tmp_path / "arrays.npz", **arrays)
        model = shared / "reference/mlperf_tiny_tflite/image_classification/trained_models/pretrainedResnet.tflite"
        findings = examine(asked(model, tmp_path / "arrays.npz"))
        assert {name: text.rsplit(": ", 1)[1] for name, text in findings.items()} == found

    @pytest.mark.parametrize(
        ("first", "second", "low", "high"),
        [
            ("-1..1", "-1..1", "-1.008", "-0.9922"),
            ("0..1", "-1..1", "-1", "-0.9922"),
            ("-1..1", "0..1", "-0.003922", "0.003922"),
            ("0..1", "0..1", "0", "0.003922"),
        ],
    )
    def test_arrays_that_were_normalised_twice(
        self, shared: Path, cifar: Path, tmp_path: Path, first: str, second: str, low: str, high: str
    ) -> None:
        """No labels, no task: their range says it."""
        (mean, std), (mean2, std2) = RANGES[first], RANGES[second]
        spec = Preprocess(32, 32, mean=(mean,) * 3, std=(std,) * 3)
        inputs = (TensorSpec("x", (-1, 32, 32, 3), "float32"),)
        once = np.stack([sample.inputs[0] for sample in open_dataset(cifar).stream(inputs, spec, count=64)])
        np.savez(tmp_path / "arrays.npz", x=(once - mean2) / std2)
        model = shared / "reference/mlperf_tiny_tflite/image_classification/trained_models/pretrainedResnet.tflite"
        seen = examine(asked(model, tmp_path / "arrays.npz"))["double-normalisation"]
        assert f"from {low} to {high}, as pixels do that were brought to {first} and then to {second}" in seen

    @pytest.mark.parametrize("how", ["shifted", "dealt"])
    def test_labels_that_are_wholly_wrong(self, shared: Path, cifar: Path, tmp_path: Path, how: str) -> None:
        """Each class under the next one's name, and names that are dealt out to the pictures."""
        classes = sorted(path.name for path in cifar.iterdir())
        for number, path in enumerate(sorted(cifar.rglob("*.jpg"))):
            shift = 1 if how == "shifted" else number
            name = classes[(classes.index(path.parent.name) + shift) % len(classes)]
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{number}.jpg").symlink_to(path)
        model = shared / "reference/mlperf_tiny_tflite/image_classification/trained_models/pretrainedResnet.tflite"
        findings = examine(asked(model, tmp_path, preprocess=Preprocess(32, 32), task="classification"))
        assert list(findings) == ["labels"]
        assert "of 192 samples, no more than by chance" in findings["labels"]

    def test_folders_that_are_no_classes_are_no_wrong_labels(self, shared: Path, cifar: Path, tmp_path: Path) -> None:
        for number, path in enumerate(sorted(cifar.rglob("*.jpg"))[:400]):
            folder = tmp_path / ("val2017" if number % 2 else "train2017")
            folder.mkdir(exist_ok=True)
            (folder / f"{number}.jpg").symlink_to(path)
        model = shared / "reference/mlperf_tiny_tflite/image_classification/trained_models/pretrainedResnet.tflite"
        assert examine(asked(model, tmp_path, preprocess=Preprocess(32, 32), task="classification")) == {}


def test_chance_is_told_from_few_labels() -> None:
    rare = [0] * 59 + [1]
    assert not by_chance(np.array(rare), rare)
    assert not by_chance(np.zeros(60, int), [1] * 60)  # of one label nothing is told
    assert by_chance(np.array([0, 1] * 30), [1, 0] * 30)
    assert by_chance(np.array([0, 1] * 30), [0, 0, 1, 1] * 15)
    assert not by_chance(np.array([0, 1] * 30), [0, 1, 0, 1, 1, 0] * 10)  # 80 % of two classes


@pytest.mark.shared
@pytest.mark.parametrize("range_", ["0..1", "-1..1"])
def test_a_louder_range_is_not_a_better_one(shared: Path, tmp_path: Path, range_: str) -> None:
    """Visual wake words, trained on 0..1: fed with 0..255 it is surer of everything, and pictures have no labels."""
    model = shared / "models/vww_mobilenetv1_h5_keras2/vww_96.h5"
    opened = opening.open_source(model, open_model(model).form, tmp_path, trust_code=False)
    (tmp_path / "float.tflite").write_bytes(opened.lower(opened.inputs)[0])
    mean, std = RANGES[range_]
    spec = Preprocess(96, 96, mean=(mean,) * 3, std=(std,) * 3)
    findings = examine(
        asked(tmp_path / "float.tflite", shared / "data/coco128_dev/images", preprocess=spec, task="classification")
    )
    said = [text.rsplit(": ", 1)[1] for name, text in findings.items() if name == "range"]
    assert said == ([] if range_ == "0..1" else ["was the model trained with range 0..1?"])


@pytest.mark.parametrize("range_", list(RANGES))
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_and_sounds_are_not_taken_for_normalised_twice(range_: str, channels: int) -> None:
    mean, std = RANGES[range_]
    assert trial.normalised_twice(-mean / std, (255 - mean) / std, channels) is None
    sound = np.random.default_rng(1).uniform(0, 0.0039, (8, 8, 1)).astype(np.float32)
    assert trial.normalised_twice(0.0, 0.0039, 1, sound) is None
    digits = (np.random.default_rng(1).integers(0, 256, (8, 8, 1)) / 255**2).astype(np.float32)
    assert trial.normalised_twice(0.0, 255 / 255**2, 1, digits) == "0..1 and then to 0..1"
    assert trial.normalised_twice(-4.0, 3.0, channels) is None


def test_arrays_that_look_like_no_pictures_are_not_tried() -> None:
    noise = np.random.default_rng(0)
    spectrogram = [noise.normal(0, 9, (49, 10, 1)).astype(np.float32) for _ in range(20)]
    small = [noise.uniform(0, 26, (49, 40, 1)).astype(np.float32) for _ in range(20)]
    assert trial.reading(spectrogram, None) is None
    assert trial.reading(small, None) is None
    read = trial.reading([noise.uniform(-1, 1, (32, 32, 3)).astype(np.float32)], None)
    assert read == Preprocess(32, 32, mean=(127.5,) * 3, std=(127.5,) * 3)


@pytest.mark.shared
class TestImageNet:
    """MobileNetV1 0.25, trained on -1..1 and RGB: with 0..1 its accuracy is hardly lower, and yet it is found out."""

    @pytest.fixture(scope="class")
    def mobilenet(self, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("mobilenet")
        model = shared / "models/imagenet_mobilenetv1_025_224_h5_keras2/mobilenet_v1_0.25_224.h5"
        opened = opening.open_source(model, open_model(model).form, folder, trust_code=False)
        (folder / "float.tflite").write_bytes(opened.lower(opened.inputs)[0])
        return folder / "float.tflite"

    @pytest.fixture(scope="class")
    def unlabelled(self, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("unlabelled")
        for path in (shared / "data/imagenet1k_sample_dev").glob("*.jpg"):
            (folder / path.name).symlink_to(path)
        return folder

    @pytest.mark.parametrize(
        ("labels", "range_", "color", "found"),
        [
            (True, "-1..1", "RGB", None),
            (True, "0..1", "RGB", "was the model trained with range -1..1?"),
            (False, "-1..1", "RGB", None),
            (False, "0..1", "RGB", "was the model trained with range -1..1?"),
            (False, "0..255", "RGB", "was the model trained with range -1..1?"),
            (False, "-1..1", "BGR", "was the model trained with color RGB?"),
        ],
    )
    def test_range_and_colour_order(
        self, shared: Path, mobilenet: Path, unlabelled: Path, labels: bool, range_: str, color: str, found: str | None
    ) -> None:
        data = shared / "data/imagenet1k_sample_dev" if labels else unlabelled
        mean, std = RANGES[range_]
        spec = Preprocess(224, 224, color=color, mean=(mean,) * 3, std=(std,) * 3)
        findings = examine(asked(mobilenet, data, preprocess=spec, task="classification"))
        said = [text for name, text in findings.items() if name in ("range", "color-order")]
        assert [text.rsplit(": ", 1)[1] for text in said] == ([] if found is None else [found])
        assert findings.keys() - {"range", "color-order"} == set()


def test_the_colour_order(colours: Converted, pictures: Path) -> None:
    """The model tells blue from red; with the two swapped it is always wrong."""
    spec = colours.record.preprocess
    assert spec is not None
    request = asked(
        Files.of(colours.path).float, pictures, preprocess=spec, task="classification", labels=colours.record.labels
    )
    assert examine(request).keys() & {"color-order", "range"} == set()
    swapped = examine(replace(request, preprocess=replace(spec, color="BGR")))
    assert "was the model trained with color RGB?" in swapped["color-order"]


@pytest.mark.parametrize(("color", "found"), [("RGB", []), ("BGR", ["color-order"])])
def test_also_where_mean_and_std_became_a_part_of_the_model(
    models: Path, pictures: Path, board: DeviceProfile, tmp_path: Path, color: str, found: list[str]
) -> None:
    record = convert.convert(
        models / "colours.keras", profile=board, data=pictures, output=tmp_path / "m.tflite", log=tmp_path / "log",
        declaration=declare(mean=[120.0, 127.5, 130.0], std=[127.0, 127.5, 128.0], color=color),
    )  # fmt: skip
    assert record.preprocess is not None
    assert record.preprocess.std == (1.0, 1.0, 1.0)
    assert [
        one.name for one in record.findings if one.name in ("color-order", "range", "double-normalisation")
    ] == found


def test_a_conversion_keeps_what_was_found(models: Path, pictures: Path, board: DeviceProfile, tmp_path: Path) -> None:
    record = convert.convert(
        models / "colours.keras",
        profile=board,
        data=pictures,
        output=tmp_path / "m.tflite",
        declaration=declare(range="-1..1", color="BGR"),
        held_out=pictures,
        log=tmp_path / "log",
    )
    assert [finding.name for finding in record.findings][:1] == ["color-order"]
    assert "leakage" not in [finding.name for finding in record.findings]  # the same data twice is said elsewhere
    text = Files.of(tmp_path / "m.tflite").calibration.read_text()
    kept = schema.load_json(CalibrationRecord, text, "calibration.json")
    assert hashlib.sha256("".join(kept.samples).encode()).hexdigest() == record.provenance.calibration.digest
    assert sorted(kept.samples) == sorted(
        hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures.rglob("*.png")
    )
    assert (kept.count, kept.skipped, kept.findings[0]) == (60, 0, "color-order")


class TestData:
    @pytest.fixture
    def rows(self) -> np.ndarray:
        return np.random.default_rng(0).normal(0, 1, (64, 6)).astype(np.float32)

    @pytest.fixture
    def model(self) -> Path:
        """[1, 6] to [1, 6], in float."""
        return Path(__file__).parents[1] / "fixtures/models/fixed.tflite"

    def diagnosed(
        self, model: Path, rows: np.ndarray, folder: Path, held_out: np.ndarray | None = None
    ) -> dict[str, str]:
        np.save(folder / "rows.npy", rows)
        if held_out is None:
            return examine(asked(model, folder / "rows.npy"))
        np.save(folder / "held_out.npy", held_out)
        return examine(asked(model, folder / "rows.npy", held_out=str(folder / "held_out.npy")))

    def test_good_data_have_no_finding(self, model: Path, rows: np.ndarray, tmp_path: Path) -> None:
        assert self.diagnosed(model, rows[:40], tmp_path, rows[40:]) == {}

    def test_duplicates(self, model: Path, rows: np.ndarray, tmp_path: Path) -> None:
        found = self.diagnosed(model, np.concatenate([rows, rows[:5]]), tmp_path)
        assert found["duplicates"].startswith("5 of 69 calibration samples are there twice")

    def test_leakage(self, model: Path, rows: np.ndarray, tmp_path: Path) -> None:
        found = self.diagnosed(model, rows[:40], tmp_path, rows[38:])
        assert found["leakage"].startswith("2 of the held-out samples are in the calibration data")

    def test_constant_samples(self, model: Path, rows: np.ndarray, tmp_path: Path) -> None:
        rows[:32] = 0.5
        rows[:32] += np.arange(32, dtype=np.float32)[:, None] / 100
        assert self.diagnosed(model, rows, tmp_path)["constant"].startswith("32 of 64 samples hold one value only")

    def test_inputs_of_one_value_are_no_constants(self) -> None:
        seen = Survey(None)
        for number in range(20):
            value = np.array([number], np.float32)
            seen.add(Sample(str(number), str(number), (value,), None))
        assert [finding.name for finding in seen.findings()] == []

    def test_a_label_of_two_classes_is_told(self) -> None:
        assert quantize._repeated(["crane", "owl", "crane"]) == ("labels that stand for more than one class: crane",)
        assert quantize._repeated(["crane", "owl"]) == quantize._repeated(None) == ()

    def test_a_state_that_begins_at_zero_is_no_constant_calibration(self) -> None:
        samples._require_change([[(0.0, 0.0), (-1.0, 1.0)], [(0.0, 0.0), (-1.0, 2.0)]])
        with pytest.raises(UserError, match="0 throughout, in all 2 samples"):
            samples._require_change([[(0.0, 0.0), (1.0, 1.0)]] * 2)

    def test_outliers(self, model: Path, rows: np.ndarray, tmp_path: Path) -> None:
        rows[7] *= 100
        assert self.diagnosed(model, rows, tmp_path)["outliers"].startswith("1 of 64 samples reach 4 times beyond")

    def test_ranges_that_half_of_the_samples_does_not_tell(self, model: Path, rows: np.ndarray, tmp_path: Path) -> None:
        rows *= np.where(np.arange(64) == 7, 3.9, 1).astype(np.float32)[:, None]
        found = self.diagnosed(model, rows, tmp_path)
        assert "tensors reach 1.5 times as far in one half" in found["unstable-ranges"]

    def test_samples_whose_range_has_not_settled(self, model: Path, tmp_path: Path) -> None:
        """Ten samples, of which each reaches a little further than the one before, and ten that soon reach all."""
        row = np.random.default_rng(0).normal(0, 1, 6).astype(np.float32)
        for steps, found in ((np.linspace(1, 1.45, 10), False), (np.r_[[1.0] * 9, 1.4], True)):
            grown = np.array([row * step * sign for step, sign in zip(steps, [1, -1] * 5, strict=True)], np.float32)
            grown[:2] = [row, -row]
            np.save(tmp_path / "rows.npy", grown)
            order = open_dataset(tmp_path / "rows.npy").order(0)
            np.save(tmp_path / "rows.npy", grown[np.argsort(order)])  # used in this order
            assert ("too-few" in examine(asked(model, tmp_path / "rows.npy"))) == found

    @pytest.mark.parametrize(("count", "alike", "told"), [(1, False, False), (64, True, False), (64, False, True)])
    def test_how_many_samples_are_enough(
        self, model: Path, rows: np.ndarray, tmp_path: Path, count: int, alike: bool, told: bool
    ) -> None:
        np.save(tmp_path / "rows.npy", np.repeat(rows[:1], count, axis=0) if alike else rows[:count])
        found = doctor.examine(asked(model, tmp_path / "rows.npy"), lambda *_: None)
        assert (found.enough is not None) == told

    @pytest.mark.parametrize(("count", "far"), [(64, 7), (8, 3), (40, None)])
    def test_what_calibration_has_seen_is_not_computed_again(
        self,
        model: Path,
        rows: np.ndarray,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        count: int,
        far: int | None,
    ) -> None:
        """Alone and within a conversion the doctor finds the same; `far` is the sample that reaches farther."""
        rows = rows[:count]
        order = open_dataset(_saved(tmp_path / "rows.npy", rows)).order(0)
        rows[order[0] if far is None else far] *= 3.9
        data = _saved(tmp_path / "rows.npy", rows)
        alone = doctor.examine(asked(model, data), lambda *_: None)
        seen = integer.calibrate(model.read_bytes(), lambda: ([rows[index][None]] for index in order))
        assert seen.ranges is not None
        ranges = _saved(tmp_path / "ranges.npy", seen.ranges)
        monkeypatch.delattr(layers, "Tensors")
        found = doctor.examine(asked(model, data, ranges=str(ranges)), lambda *_: None)
        assert [str(finding) for finding in found.findings] == [str(finding) for finding in alone.findings]
        assert "unstable-ranges" in [finding.name for finding in found.findings]
        assert found.enough == alone.enough
        seen.ranges[0] = np.nan  # of a picture that got corners
        rest = doctor.examine(
            asked(model, data, ranges=str(_saved(tmp_path / "ranges.npy", seen.ranges))), lambda *_: None
        )
        assert ("unstable-ranges" in [finding.name for finding in rest.findings]) == (far is not None)

    def test_an_input_that_never_changes(self, model: Path, rows: np.ndarray, tmp_path: Path) -> None:
        found = self.diagnosed(model, np.full_like(rows, 0.5), tmp_path)
        assert found["constant-input"].startswith("input 0 is 0.5 throughout, in all 64 samples")
        assert "constant" not in found


class TestPictures:
    """A classifier is not needed: what looks alike is told from the pixels."""

    def survey(self, folder: Path) -> Survey:
        spec = Preprocess(32, 32, mean=(127.5,) * 3, std=(127.5,) * 3)
        seen = Survey(spec)
        for sample in open_dataset(folder).stream((TensorSpec("x", (-1, 32, 32, 3), "float32"),), spec):
            seen.add(sample)
        return seen

    def names(self, seen: Survey) -> list[str]:
        return [finding.name for finding in seen.findings()]

    @pytest.fixture
    def owls(self, tmp_path: Path) -> Path:
        """Pictures of smooth noise, all different."""
        for number in range(12):
            small = np.random.default_rng(number).integers(0, 256, (5, 5, 3)).astype(np.uint8)
            Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
        return tmp_path

    def test_different_pictures_are_none(self, owls: Path) -> None:
        assert self.names(self.survey(owls)) == []

    def test_a_recompressed_and_resized_copy_is_a_near_duplicate(self, owls: Path) -> None:
        Image.open(owls / "3.png").resize((50, 50)).save(owls / "copy.jpg", quality=60)
        findings = self.survey(owls).findings()
        assert [finding.name for finding in findings] == ["near-duplicates"]
        assert "3.png" in findings[0].seen
        assert "copy.jpg" in findings[0].seen

    def test_a_held_out_copy_is_a_leak(self, owls: Path, tmp_path: Path) -> None:
        held_out = tmp_path / "held_out"
        held_out.mkdir()
        Image.open(owls / "3.png").save(held_out / "3.jpg", quality=60)
        Image.effect_noise((40, 40), 90).convert("RGB").save(held_out / "other.png")
        calibration = Survey(Preprocess(32, 32, mean=(127.5,) * 3, std=(127.5,) * 3))
        for sample in self.stream_of(owls, held_out):
            calibration.add(sample)
        assert [finding.seen for finding in leaked(calibration, self.survey(held_out))] == [
            "1 of the held-out samples look like one of the calibration data"
        ]

    def stream_of(self, folder: Path, without: Path) -> list[Sample]:
        spec = Preprocess(32, 32, mean=(127.5,) * 3, std=(127.5,) * 3)
        stream = open_dataset(folder).stream((TensorSpec("x", (-1, 32, 32, 3), "float32"),), spec)
        return [sample for sample in stream if not sample.name.startswith(without.name)]

    @pytest.mark.shared
    @pytest.mark.parametrize("folder", ["imagenet1k_sample_dev", "coco128_dev/images"])
    def test_real_pictures_are_not_alike(self, shared: Path, folder: str) -> None:
        assert self.names(self.survey(shared / "data" / folder)) == []


class TestNormalisation:
    @pytest.mark.parametrize("kind", ["rescaling", "normalization"])
    @pytest.mark.parametrize(("declared", "found"), [("0..255", False), ("0..1", True), ("-1..1", True)])
    def test_that_is_done_in_the_graph_and_before_it(
        self, pictures: Path, normalising: dict[str, Path], kind: str, declared: str, found: bool
    ) -> None:
        mean, std = RANGES[declared]
        spec = Preprocess(16, 16, mean=(mean,) * 3, std=(std,) * 3)
        findings = examine(asked(normalising[kind], pictures, preprocess=spec))
        assert ("double-normalisation" in findings) == found
        if found:
            factor = {"rescaling": "127.5", "normalization": "60"}[kind]
            assert f"divides its input by {factor} itself" in findings["double-normalisation"]

    @pytest.fixture(scope="class")
    def normalising(self, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
        """Float models that make -1..1 of pixels, or take a mean and a standard deviation of 60 from them."""
        import keras
        import tensorflow as tf

        made = {}
        for name, layer in (
            ("rescaling", keras.layers.Rescaling(1 / 127.5, offset=-1)),
            ("normalization", keras.layers.Normalization(mean=[120.0, 115, 110], variance=[3600.0] * 3)),
        ):
            picture = keras.Input((16, 16, 3), batch_size=1)
            model = keras.Model(picture, keras.layers.Conv2D(2, 3, padding="same")(layer(picture)))
            made[name] = tmp_path_factory.mktemp(name) / "float.tflite"
            made[name].write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        return made


def _saved(path: Path, rows: np.ndarray) -> Path:
    np.save(path, rows)
    return path
