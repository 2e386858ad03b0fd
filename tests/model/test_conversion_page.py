"""The page about a conversion: one file that shows where the error comes from and what else was tried."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from edgekit.conversion.candidate import Candidate
from edgekit.conversion.finding import Finding
from edgekit.conversion.layers import LayerReport, Request, measure
from edgekit.conversion.record import Files
from edgekit.reports import conversion_page
from edgekit.validation.validate import validate_conversion
from tests.model.conftest import Converted


@pytest.fixture(scope="module")
def layers(colours: Converted, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> LayerReport:
    folder = str(tmp_path_factory.mktemp("layers"))
    float_model = str(Files.of(colours.path).float)
    return measure(Request(float_model, str(colours.path), str(pictures), colours.record.preprocess, 0, folder))


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


def test_the_page(colours: Converted, pictures: Path, layers: LayerReport) -> None:
    tried = (
        Candidate("int8", 4000, "top-1 accuracy", 0.2, 0.5),
        Candidate("int8-clipped", 4000, failure="<b>it crashed</b>"),
        Candidate("float16", 9000, "top-1 accuracy", 0.0, 1.1),
    )
    record = replace(
        colours.record, kind="float16", candidates=tried, findings=(Finding("range", "<seen>", "look & see"),)
    )
    page = conversion_page.render(record, validate_conversion(colours.path, pictures, samples=8), layers)
    assert "&lt;seen&gt;: look &amp; see" in page
    assert "&lt;b&gt;it crashed&lt;/b&gt;" in page
    assert "float16 (taken)" in page
    assert not re.search(r"(src|href)=|<script", page)
    drawn = [ET.fromstring(one) for one in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]  # our own
    assert len(drawn) == 3
    circles = [one for one in drawn[0].iter() if one.tag.endswith("circle")]
    assert len(circles) == 2  # what failed has no place
    heights = [float(one.attrib["cy"]) for one in circles]
    assert heights[0] < heights[1]  # what loses more is further up
    assert len([one for one in drawn[1].iter() if one.tag.endswith("rect")]) == 2 * len(layers.errors)


def test_without_a_repair_there_is_no_frontier(colours: Converted, pictures: Path, layers: LayerReport) -> None:
    page = conversion_page.render(colours.record, validate_conversion(colours.path, pictures, samples=8), layers)
    assert page.count("<svg") == 2
    assert "What was tried" not in page
