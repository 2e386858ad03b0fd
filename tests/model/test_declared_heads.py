"""A detector's raw heads as `model.toml` declares them: what does not fit is an error that says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime.manifest import Detection, TensorSpec

from edgekit.conversion import boxes, convert
from edgekit.datasets import declaration
from edgekit.datasets.declaration import declare
from edgekit.datasets.heads import DeclaredHeads
from edgekit.errors import UserError
from edgekit.profiles.profile import DeviceProfile

ANCHORS = np.array([[0.5, 0.4, 0.2, 0.1], [0.5, 0.6, 0.1, 0.2], [0.0, 1.0, 1.0, 1.0]], np.float32)
OUTPUTS = (
    TensorSpec("classes", (-1, 3, 5), "float32"),
    TensorSpec("places", (-1, 3, 4), "float32"),
    TensorSpec("image", (-1, 8, 8, 1), "float32"),
)
HEADS: dict[str, Any] = {
    "boxes": "places",
    "scores": "classes",
    "anchors": "anchors.npy",
    "score_converter": "sigmoid",
    "box_scales": (10.0, 10.0, 5.0, 5.0),
}


def test_what_the_manifest_says_of_it() -> None:
    heads = DeclaredHeads(**HEADS, background=True, max_detections=20)
    assert heads.detection(Path("m"), OUTPUTS, ANCHORS, ("a", "b", "c", "d")) == Detection(
        boxes=1,
        scores=0,
        score_converter="sigmoid",
        first_column=1,
        class_ids=(1, 2, 3, 4),
        box_scales=(10.0, 10.0, 5.0, 5.0),
        score_threshold=0.3,
        iou_threshold=0.5,
        max_per_class=20,
        max_detections=20,
    )
    assert DeclaredHeads(**HEADS).detection(Path("m"), OUTPUTS, ANCHORS, None).class_ids == (0, 1, 2, 3, 4)


def test_with_x_first_anchors_and_scales_have_x_first_too(tmp_path: Path) -> None:
    """In the bundle anchors always are y, x, height, width, as float32."""
    np.save(tmp_path / "anchors.npy", ANCHORS[:, [1, 0, 3, 2]].astype(np.float64))
    heads = DeclaredHeads(
        **{**HEADS, "anchors": str(tmp_path / "anchors.npy"), "box_scales": (1.0, 2.0, 3.0, 4.0)}, box_order="xywh"
    )
    read = heads.read_anchors()
    np.testing.assert_array_equal(read, ANCHORS)
    assert read.dtype == np.float32
    detection = heads.detection(Path("m"), OUTPUTS, read, None)
    assert (detection.box_order, detection.box_scales) == ("xywh", (2.0, 1.0, 4.0, 3.0))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scores": "scores"}, "m: has no output 'scores'"),
        ({"boxes": "image"}, r"output 'image' is \[8, 8, 1\] a sample, not \[anchors, 4\]"),
        ({"boxes": "classes", "scores": "places"}, r"output 'classes' is \[3, 5\] a sample, not \[anchors, 4\]"),
        ({"class_ids": (1, 2)}, "2 class_ids for the 5 classes of output 'classes'"),
        ({"background": True, "class_ids": (1, 2, 3, 4, 5)}, "5 class_ids for the 4 classes"),
    ],
)
def test_what_does_not_fit_the_model(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        DeclaredHeads(**{**HEADS, **changes}).detection(Path("m"), OUTPUTS, ANCHORS, None)


def test_labels_and_anchors_that_are_not_as_many() -> None:
    with pytest.raises(UserError, match="2 labels for the 5 classes") as caught:
        DeclaredHeads(**HEADS).detection(Path("m"), OUTPUTS, ANCHORS, ("a", "b"))
    assert caught.value.hint == "background = true when its first column is none"
    with pytest.raises(UserError, match=r"anchors\.npy: 2 anchors, but output 'places' has 3 rows"):
        DeclaredHeads(**HEADS).detection(Path("m"), OUTPUTS, ANCHORS[:2], None)


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (None, "cannot read the anchors: .*No such file"),
        (b"no array", "cannot read the anchors"),
        (np.array([{}], object), "cannot read the anchors"),
        (np.zeros((3, 5), np.float32), r"anchors are float \[N, 4\], not float32 \[3, 5\]"),
        (np.zeros((3, 4), np.int64), r"not int64 \[3, 4\]"),
        (ANCHORS * np.float32("nan"), "NaN or infinite"),
        (ANCHORS.astype(np.float64) * 1e60, "NaN or infinite"),
        (ANCHORS * [1, 1, -1, 1], "not above 0"),
        (ANCHORS * 300, "far outside of the picture: in pixels"),
    ],
)
def test_anchors_that_are_none(tmp_path: Path, held: Any, says: str) -> None:
    path = tmp_path / "anchors.npy"
    if isinstance(held, bytes):
        path.write_bytes(held)
    elif held is not None:
        np.save(path, held, allow_pickle=True)
    with pytest.raises(UserError, match=says) as caught:
        DeclaredHeads(**{**HEADS, "anchors": str(path)}).read_anchors()
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"score_converter": "relu"}, "score_converter 'relu' is not one of sigmoid, softmax, identity"),
        ({"box_order": "corners"}, "box_order 'corners' is not one of yxhw, xywh"),
        ({"box_scales": (0, 1, 1, 1)}, "box_scales are above 0"),
        ({"iou_threshold": 2.0}, "between 0 and 1"),
        ({"max_detections": 0}, "at least 1"),
        ({"scores": "places"}, "boxes and scores are two outputs"),
        ({"anchor": "x"}, "unknown key 'anchor'"),
    ],
)
def test_a_table_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        declare(detection={**HEADS, **changes})


def test_heads_of_something_else_than_a_detector() -> None:
    with pytest.raises(UserError, match=r"\[detection\] and the task 'raw' exclude each other"):
        declare(task="raw", detection=HEADS)


@pytest.mark.parametrize(
    ("converter", "low", "high"), [("identity", -4.0, 3.0), ("sigmoid", 0.0, 1.0), ("softmax", 0.0, 0.9)]
)
def test_scores_tell_when_they_are_none_of_what_was_declared(converter: str, low: float, high: float) -> None:
    detection = replace(DeclaredHeads(**HEADS).detection(Path("m"), OUTPUTS, ANCHORS, None), score_converter=converter)
    values = np.random.default_rng(0).uniform(low, high, (1, 50, 5)).astype(np.float32)
    with pytest.raises(UserError, match=f"score_converter is '{converter}'"):
        boxes.check_scores(detection, values)
    boxes.check_scores(detection, values - 4 if high < 2 else np.clip(values, 0, 1))


def test_a_wrong_declaration_writes_nothing(models: Path, pictures: Path, board: DeviceProfile, tmp_path: Path) -> None:
    np.save(tmp_path / "anchors.npy", ANCHORS)
    (tmp_path / "model.toml").write_text(
        'range = "-1..1"\n[detection]\nboxes = "places"\nscores = "colour"\nanchors = "anchors.npy"\n'
        'score_converter = "sigmoid"\nbox_scales = [10, 10, 5, 5]\n'
    )
    with pytest.raises(UserError, match="has no output 'places'") as caught:
        convert.convert(
            models / "colours.keras",
            profile=board,
            data=pictures,
            output=tmp_path / "m.tflite",
            declaration=declaration.load(tmp_path / "model.toml"),
            log=tmp_path / "log",
        )
    assert caught.value.hint == "its outputs are colour"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anchors.npy", "log", "model.toml"]
