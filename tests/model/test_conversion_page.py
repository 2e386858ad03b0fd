"""The page about a conversion: one file that shows where the error comes from, examples, and what else was tried."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from edgekit_runtime.manifest import Preprocess
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit.conversion import evidence, examples
from edgekit.conversion.candidate import Candidate
from edgekit.conversion.evidence import Evidence
from edgekit.conversion.examples import Answer, Box, Confusion, Disagreement, Examples, Found, Mask
from edgekit.conversion.finding import Finding
from edgekit.conversion.layers import BINS, Histogram, LayerError, LayerReport, _Tails, errors, ranges
from edgekit.conversion.record import Files
from edgekit.models.operators import operators
from edgekit.reports import conversion_page
from edgekit.validation.validate import validate_conversion
from tests.model.conftest import COLOURS, Converted

HOSTILE = "<script>alert('x')</script>\"&\udcff"


@pytest.fixture(scope="module")
def seen(colours: Converted, pictures: Path) -> Evidence:
    return evidence.gather(colours.path, colours.record, calibration=pictures, data=pictures, seed=0)


@pytest.fixture(scope="module")
def layers(seen: Evidence) -> LayerReport:
    return seen.layers


def test_the_error_of_every_layer(layers: LayerReport) -> None:
    """In the model's order, each with what it adds to the error before it."""
    names = [layer.operator for layer in layers.errors]
    assert names.index("CONV_2D") < names.index("FULLY_CONNECTED")
    assert all(0 <= layer.own <= layer.error < 0.2 for layer in layers.errors)
    stored = [layer for layer in layers.errors if layer.tensor in layers.chosen]
    assert len(stored) >= 2
    for layer in stored:
        low, high = layers.ranges[layer.tensor]
        least, largest = layers.chosen[layer.tensor]
        step = (largest - least) / 255
        assert least - step <= low <= high <= largest + step


def test_every_value_of_a_layer_is_in_its_histogram(layers: LayerReport) -> None:
    assert layers.histograms.keys() == {layer.tensor for layer in layers.errors}
    for name, held in layers.histograms.items():
        assert len(held.counts) == BINS
        assert held.low <= layers.ranges[name][0] <= layers.ranges[name][1] <= held.high
    convolved = next(layer.tensor for layer in layers.errors if layer.operator == "CONV_2D")
    assert sum(layers.histograms[convolved].counts) == 16 * 16 * 16 * 6  # samples, height, width, channels


def test_values_that_are_no_numbers_are_left_out() -> None:
    """Float itself may have some, such as the square root of -1."""
    content = (Path(__file__).parents[1] / "fixtures/models/poisonous.tflite").read_bytes()
    sample = [np.array([[-1, -4, 0, 1, 4, 9]], np.float32)]
    seen = ranges(content, operators(content), [sample], 100)
    (root,) = [one for one in seen.values() if one.largest == 3.0]
    assert (root.low, root.least) == (0.0, 0.0)
    wrong, histograms = errors(content, content, operators(content), [sample], seen)
    assert all(layer.error == 0 for layer in wrong)
    assert sorted(sum(held.counts) for held in histograms.values())[0] == 4


def test_what_is_taken_for_what(seen: Evidence) -> None:
    """All 60 pictures are in a cell, those that are taken for their own class in the diagonal."""
    found = seen.examples.confusion
    assert found is not None
    assert (found.classes, found.left_out, seen.examples.samples) == (COLOURS, 0, 60)
    for kind in (found.float, found.int8):
        assert [sum(row) for row in kind] == [20, 20, 20]
        assert sum(row[index] for index, row in enumerate(kind)) >= 58


def test_of_many_classes_the_most_confused_are_told() -> None:
    names = tuple(f"kind {number}" for number in range(100))
    answers = {(truth, truth): 5 for truth in range(100)}
    counters = [Counter({**answers, (90, 7): 3, (90, 8): 1}), Counter({**answers, (90, 7): 4})]
    found = examples._confusion(counters, names)
    assert found is not None
    assert len(found.classes) == examples.CLASSES
    assert found.left_out == 100 - examples.CLASSES
    assert {"kind 7", "kind 8", "kind 90"} <= set(found.classes)
    row, column = found.classes.index("kind 90"), found.classes.index("kind 7")
    assert (found.float[row][column], found.int8[row][column]) == (3, 4)


def test_where_float_and_int8_differ_without_labels(colours: Converted, tmp_path: Path) -> None:
    """Pictures without a strongest colour are a matter of rounding."""
    frames = np.random.default_rng(5).integers(0, 60, (200, 16, 16, 3)).astype(np.uint8)
    np.save(tmp_path / "grey.npy", frames)
    record, files = colours.record, Files.of(colours.path)
    asked = examples.Request(
        float=str(files.float),
        int8=str(colours.path),
        data=str(tmp_path / "grey.npy"),
        preprocess=record.preprocess,
        labels=record.labels,
        task=record.task,
        seed=0,
    )
    found = examples.look(asked)
    assert found.confusion is None
    assert found.disagreed > 0
    assert len(found.disagreements) == min(found.disagreed, examples.DISAGREEMENTS)
    for one in found.disagreements:
        assert one.truth is None
        assert one.float.label != one.int8.label
        assert one.picture is not None
        with Image.open(io.BytesIO(base64.b64decode(found.pictures[one.picture]))) as picture:
            assert (picture.format, picture.size) == ("JPEG", (16, 16))


def test_the_page(colours: Converted, pictures: Path, seen: Evidence) -> None:
    tried = (
        Candidate("int8", 4000, "top-1 accuracy", 0.2, 0.5),
        Candidate("int8-clipped", 4000, failure="<b>it crashed</b>"),
        Candidate("float16", 9000, "top-1 accuracy", 0.0, 1.1),
    )
    record = replace(
        colours.record, kind="float16", candidates=tried, findings=(Finding("range", "<seen>", "look & see"),)
    )
    page = conversion_page.render(record, validate_conversion(colours.path, pictures, samples=8), seen)
    assert "&lt;seen&gt;: look &amp; see" in page
    assert "&lt;b&gt;it crashed&lt;/b&gt;" in page
    assert "float16 (taken)" in page
    assert self_contained(page)
    drawn = [ET.fromstring(one) for one in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]  # our own
    assert len(drawn) == 3
    circles = [one for one in drawn[0].iter() if one.tag.endswith("circle")]
    assert len(circles) == 2  # what failed has no place
    heights = [float(one.attrib["cy"]) for one in circles]
    assert heights[0] < heights[1]  # what loses more is further up
    assert len([one for one in drawn[1].iter() if one.tag.endswith("rect")]) == 2 * len(seen.layers.errors)
    stored = [layer for layer in seen.layers.errors if layer.tensor in seen.layers.chosen]
    assert len([one for one in drawn[2].iter() if one.tag.endswith("rect")]) == len(stored)
    assert "<th>blue</th>" in page


def self_contained(page: str) -> bool:
    return not re.search(r"<script|(src|href)=\"(?!data:image/jpeg;base64,[A-Za-z0-9+/=]*\")", page)


def test_without_a_repair_there_is_no_frontier(colours: Converted, pictures: Path, seen: Evidence) -> None:
    page = conversion_page.render(colours.record, validate_conversion(colours.path, pictures, samples=8), seen)
    assert page.count("<svg") == 2
    assert "What was tried" not in page


def test_names_from_models_and_files_are_text_and_nothing_else(colours: Converted, pictures: Path) -> None:
    """Also bytes in the name of a file that are no text."""
    box = Box(HOSTILE, 0.9, (0.1, 0.1, 0.5, 0.5))
    shown = Examples(
        samples=1,
        confusion=Confusion((HOSTILE, "b"), ((1, 0, 0), (0, 1, 0)), ((1, 0, 0), (1, 0, 0)), 3),
        disagreed=1,
        disagreements=(Disagreement(HOSTILE, Answer(HOSTILE, 0.5), Answer("b", 0.6), HOSTILE, "0"),),
        found=(Found(HOSTILE, (box,), (box,), 0, 0, "0"),),
        masks=(Mask(HOSTILE, 0.1, "0", "0", "0"),),
        pictures={"0": "AAAA"},
    )
    layers = LayerReport(
        (LayerError(HOSTILE, "CONV_2D", 0.1, 0.1),), {HOSTILE: (0, 1)}, {HOSTILE: (0, 2)},
        {HOSTILE: Histogram(0, 1, (1,) * BINS)},
    )  # fmt: skip
    record = replace(colours.record, name=HOSTILE, kind=HOSTILE)
    page = conversion_page.render(
        record, validate_conversion(colours.path, pictures, samples=2), Evidence(layers, shown)
    )
    assert self_contained(page)
    assert page.count("&lt;script&gt;") >= 15
    assert "alert('x')" not in page
    page.encode("utf-8")
    for one in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(one)
    assert "AAAA" not in json.dumps(Evidence(layers, shown).facts())


@pytest.mark.shared
def test_masks_are_shown_side_by_side(shared: Path) -> None:
    """A published segmentation model with itself: three pictures each, and no difference."""
    model = str(shared / "reference/mediapipe_selfie_tflite/selfie_segmentation.tflite")
    asked = examples.Request(
        float=model,
        int8=model,
        data=str(shared / "data/coral_images"),
        preprocess=Preprocess(256, 256, std=(255.0,) * 3),
        labels=None,
        task="raw",
        seed=0,
    )
    found = examples.look(asked)
    assert found.masks
    for mask in found.masks:
        assert mask.difference == 0
        assert len({mask.picture, mask.float, mask.int8}) == 3
        assert found.pictures[mask.float] == found.pictures[mask.int8]


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=30, max_size=30), min_size=1, max_size=8))
def test_the_ends_of_a_range_are_percentiles_of_all_samples_together(rows: list[list[float]]) -> None:
    """One value a sample, as a head has, would else have no range at all."""
    values = np.array(rows, np.float32)
    for percent in (100.0, 99.0, 90.0):
        share = (100 - percent) / 200
        held = _Tails(2 + int(share * values.size))
        for row in values:
            held.add(row)
        found = held.range(share)
        wanted = np.percentile(values, [100 * share, 100 - 100 * share])
        np.testing.assert_allclose((found.low, found.high), wanted, rtol=1e-5, atol=1e-4)
        assert (found.least, found.largest) == (values.min(), values.max())
