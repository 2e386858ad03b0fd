"""The doctor: wrong declarations and bad calibration data are found before they cost accuracy."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime.manifest import Preprocess

from edgekit.conversion import convert, doctor
from edgekit.conversion.doctor import Request
from edgekit.conversion.record import Files
from edgekit.datasets.declaration import RANGES, declare
from edgekit.profiles.profile import DeviceProfile
from tests.model.conftest import Converted


def examine(request: Request) -> dict[str, str]:
    """The findings by their names."""
    return {finding.name: str(finding) for finding in doctor.examine(request, lambda *_: None)}


def asked(model: Path, data: Path, **changes: object) -> Request:
    return replace(Request(str(model), str(data), None, None, None, False, 200, 0), **changes)  # type: ignore[arg-type]


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

    @pytest.mark.parametrize(("declared", "found"), [("0..255", False), ("-1..1", True), ("0..1", True)])
    def test_the_range_that_a_model_was_trained_on(self, shared: Path, cifar: Path, declared: str, found: bool) -> None:
        model = shared / "reference/mlperf_tiny_tflite/image_classification/trained_models/pretrainedResnet.tflite"
        mean, std = RANGES[declared]
        spec = Preprocess(32, 32, mean=(mean,) * 3, std=(std,) * 3)
        findings = examine(asked(model, cifar, preprocess=spec, classifies=True))
        assert ("range" in findings) == found
        if found:
            assert "with range 0..255 the float model's top-1 accuracy on 64 samples is" in findings["range"]
            assert findings["range"].endswith("was the model trained with range 0..255?")


def test_the_colour_order(colours: Converted, pictures: Path) -> None:
    """The model tells blue from red; with the two swapped it is always wrong."""
    spec = colours.record.preprocess
    assert spec is not None
    request = asked(
        Files.of(colours.path).float, pictures, preprocess=spec, classifies=True, labels=colours.record.labels
    )
    assert examine(request).keys() & {"color-order", "range"} == set()
    swapped = examine(replace(request, preprocess=replace(spec, color="BGR")))
    assert "was the model trained with color RGB?" in swapped["color-order"]


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

    def test_outliers(self, model: Path, rows: np.ndarray, tmp_path: Path) -> None:
        rows[7] *= 100
        assert self.diagnosed(model, rows, tmp_path)["outliers"].startswith("1 of 64 samples reach 4 times beyond")

    def test_ranges_that_half_of_the_samples_does_not_tell(self, model: Path, rows: np.ndarray, tmp_path: Path) -> None:
        rows *= np.where(np.arange(64) == 7, 3.9, 1).astype(np.float32)[:, None]
        found = self.diagnosed(model, rows, tmp_path)
        assert "tensors reach 1.5 times as far in one half" in found["unstable-ranges"]
