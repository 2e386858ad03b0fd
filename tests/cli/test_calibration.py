"""`edgekit calibration`: what is wrong is a table and an exit code, and nothing is written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgekit_runtime import schema

from edgekit.bundles.bundle import open_bundle
from edgekit.conversion.calibration import CALIBRATION, CalibrationRecord
from edgekit.datasets.dataset import open_dataset
from tests.cli.conftest import Made, Material
from tests.cli.program import Program
from tests.model.tfrecords import example, write


def records(material: Material, path: Path) -> Path:
    """The labelled pictures as tf.train.Example, under another name than their files have."""
    data = open_dataset(material.pictures)
    assert data.labels is not None
    pairs = zip(data.names, data.labels, strict=True)
    return write(
        path,
        (
            example({"image/encoded": (material.pictures / name).read_bytes(), "image/class/label": label})
            for name, label in pairs
        ),
    )


def test_a_colour_order_that_is_wrong(edgekit: Program, material: Material) -> None:
    data: list[str | Path] = ["-c", records(material, edgekit.cwd / "train.tfrecord"), "--range", "-1..1"]
    ended = edgekit("calibration", material.keras, *data)
    assert "60 samples of" in ended.out
    assert "of the 60 samples looked at reach four fifths of the ranges" in ended.out
    failure = edgekit.fails("calibration", material.keras, *data, "--color", "BGR", code=1)
    found = failure["fields"]["diagnosis"]["findings"][0]
    assert (found["name"], found["proposal"]) == ("color-order", "was the model trained with color RGB?")
    assert [path.name for path in edgekit.cwd.iterdir()] == ["train.tfrecord"]


def test_data_that_are_held_out_from_nothing(edgekit: Program, material: Material) -> None:
    told = edgekit.fails(
        "calibration", material.keras, "-c", material.pictures, "-d", material.pictures, "--range", "-1..1", code=1
    )
    (found,) = (one for one in told["fields"]["diagnosis"]["findings"] if one["name"] == "leakage")
    assert found["seen"] == "the held-out data are those of the calibration"


def test_one_sample_does_not_tell_that_it_is_enough(edgekit: Program, material: Material) -> None:
    ended = edgekit("calibration", material.keras, "-c", material.pictures, "--range", "-1..1", "--samples", "1")
    assert "how many samples are enough cannot be told" in ended.out


def test_of_a_converted_model_the_record_counts(edgekit: Program, made: Made, material: Material) -> None:
    leaked = edgekit.fails("calibration", made.int8, "-c", material.pictures, "-d", material.pictures / "red", code=1)
    assert leaked["message"].endswith("spoil the model or its figures: leakage")
    refused = edgekit.fails("calibration", made.int8, "-c", material.pictures, "--range", "0..1")
    assert "stands in its record" in refused["message"]


def test_a_release_says_which_samples_calibrated(made: Made, material: Material) -> None:
    bundle = open_bundle(made.bundle)
    record = schema.load_json(CalibrationRecord, bundle.read(CALIBRATION, 1_000_000), CALIBRATION)
    assert (record.count, record.seed, record.skipped) == (40, 0, 0)
    known = {hashlib.sha256(path.read_bytes()).hexdigest() for path in material.pictures.rglob("*.png")}
    assert set(record.samples) <= known
