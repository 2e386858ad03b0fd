"""A detector in one command: cut before its boxes are selected, whatever its export does before and behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime import detect
from edgekit_runtime.detect import Detections
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Preprocess
from PIL import Image

from edgekit.conversion import boxes, convert, examples, measured
from edgekit.conversion.opening import Opened, open_source
from edgekit.conversion.record import Files
from edgekit.datasets import declaration
from edgekit.datasets.declaration import Declaration, declare
from edgekit.errors import CheckFailed, UserError
from edgekit.models.source import recognise
from edgekit.profiles.profile import DeviceProfile
from edgekit.validation.validate import loss, validate_conversion
from tests.model import detector_exports as exports
from tests.model.conftest import Converted

pytestmark = pytest.mark.shared

NAMES = ("open", "closed", "pinch", "point", "face", "tip", "pinch tip")
MODEL_TOML = """
labels = ["open", "closed", "pinch", "point", "face", "tip", "pinch tip"]
range = "-1..1"

[detection]
boxes = "box_encodings"
scores = "class_predictions"
anchors = "mine.npy"
score_converter = "sigmoid"
background = true
box_scales = [10, 10, 5, 5]
iou_threshold = 0.6
"""
LIMITS = {"score_threshold": 1e-8, "iou_threshold": float(np.float32(0.6)), "max_per_class": 100, "max_detections": 100}


@pytest.fixture(scope="module")
def export(shared: Path) -> Path:
    return shared / "models/odapi_ssd_mnv2_fpnlite320_frozen_tf2sm"


@pytest.fixture(scope="module")
def frozen(export: Path) -> Path:
    return export / "frozen_inference_graph.pb"


@pytest.fixture(scope="module")
def pictures(shared: Path) -> Path:
    return shared / "data/coco128_dev/images/val2017"


@pytest.fixture(scope="module")
def hands(
    export: Path, pictures: Path, board: DeviceProfile, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Converted]:
    """The detector, converted with 32 pictures from one of its two forms, once."""
    made: dict[str, Converted] = {}

    def get(form: str) -> Converted:
        if form not in made:
            output = tmp_path_factory.mktemp("hands") / "hands.tflite"
            record = convert.convert(
                export / form,
                profile=board,
                data=pictures,
                output=output,
                declaration=Declaration(labels=NAMES),
                samples=32,
                log=output.with_suffix(".log"),
            )
            made[form] = Converted(output, record)
        return made[form]

    return get


@pytest.fixture(scope="module")
def original(export: Path) -> Callable[[np.ndarray], Detections]:
    """The SavedModel in TensorFlow."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(export / "saved_model")).signatures["serving_default"]

    def answer(pixels: np.ndarray) -> Detections:
        found = {name: value.numpy()[0] for name, value in signature(input_tensor=pixels[None]).items()}
        count = int(found["num_detections"])
        kinds = np.rint(found["detection_classes"][:count]).astype(np.int64)
        return Detections(found["detection_boxes"][:count], kinds, found["detection_scores"][:count])

    return answer


@pytest.fixture(scope="module")
def unseen(shared: Path, pictures: Path) -> list[np.ndarray]:
    files = [shared / "data/coral_images/grace_hopper.bmp", *sorted(pictures.glob("*.jpg"))[:19]]
    return [np.asarray(Image.open(file).convert("RGB").resize((320, 320))) for file in files]


@pytest.mark.parametrize("form", ["frozen_inference_graph.pb", "saved_model"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_it_finds_what_the_original_finds(
    hands: Callable[[str], Converted],
    original: Callable[[np.ndarray], Detections],
    unseen: list[np.ndarray],
    form: str,
    batch_size: int,
) -> None:
    """Float boxes lie on the original's; INT8 boxes have the same classes and nearly the same place."""
    converted = hands(form)
    wanted = [original(picture) for picture in unseen]
    by_float, by_int8 = (
        boxes.match(wanted, detections(converted, model, unseen, batch_size))
        for model in (Files.of(converted.path).float, converted.path)
    )
    assert by_float.wanted >= 15
    assert (by_float.found, by_int8.found) == (by_float.wanted, by_float.wanted)
    assert by_float.iou >= 0.99
    assert by_int8.iou >= 0.85


def detections(converted: Converted, model: Path, frames: list[np.ndarray], batch_size: int) -> list[Detections]:
    record, anchors = converted.record, Files.of(converted.path).anchors
    assert record.detection is not None
    detector = (record.detection, detect.parse_anchors(anchors.read_bytes(), str(anchors)))
    with Engine.load(
        model, preprocess=record.preprocess, task="detection", detector=detector, max_batch_size=batch_size
    ) as engine:
        assert (engine.batch_size, engine.batch_refused) == (batch_size, None)
        return list(engine.detect(frames))


def test_the_record_says_what_the_graph_did(hands: Callable[[str], Converted]) -> None:
    record = hands("saved_model").record
    assert record.task == "detection"
    assert record.preprocess == Preprocess(320, 320, mean=(127.5,) * 3, std=(127.5,) * 3)
    assert record.labels == NAMES
    (note,) = [note for note in record.notes if "boxes of the original" in note]
    assert "boxes of the original (score 0.3 or more, 32 pictures) INT8 finds" in note
    assert [spec.shape for spec in record.inputs] == [(-1, 320, 320, 3)]
    assert {spec.name for spec in record.outputs} == {"box_encodings", "class_predictions"}
    plain = json.loads(Files.of(hands("saved_model").path).record.read_text())["detection"]
    assert {key: plain[key] for key in LIMITS} == pytest.approx(LIMITS)
    assert plain["class_ids"] == [1, 2, 3, 4, 5, 6, 7]


@pytest.fixture(scope="module")
def cut(frozen: Path, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return opened(frozen, tmp_path_factory.mktemp("cut"))


def opened(model: Path, folder: Path) -> Opened:
    return open_source(model, recognise(model), folder, trust_code=False)


@pytest.mark.parametrize(
    "kind", ["while", "while of one size", "map", "encoded", "map of files", "map of examples", "map of floats"]
)
def test_loops_before_the_network_are_cut_off_and_declared(
    frozen: Path, cut: Opened, tmp_path: Path, kind: str, unseen: list[np.ndarray]
) -> None:
    if kind.startswith("map"):
        model = exports.looped_saved_model(frozen, tmp_path / "export", takes=kind.removeprefix("map").strip())
    else:
        taken = (640, 640) if kind.endswith("one size") else (None, None)  # the exporter's --input_shape
        model = exports.looped(frozen, tmp_path / "looped.pb", encoded=kind == "encoded", taken=taken)
    whole = opened(model, tmp_path)
    found = whole.detector
    assert found is not None
    assert cut.detector is not None
    assert {node.op for node in found.part.graph.node} == {node.op for node in cut.detector.part.graph.node}
    assert found.detection == cut.detector.detection
    np.testing.assert_allclose(found.anchors, cut.detector.anchors, atol=1e-6)
    assert (found.picture.width, found.picture.height, found.picture.color) == (320, 320, "RGB")
    assert found.picture.mean == found.picture.std == (127.5, 127.5, 127.5)
    assert whole.picture == found.picture
    (note,) = [note for note in whole.notes if note.startswith("of the graph's")]
    before, after = (int(word) for word in note.split() if word.isdigit())
    assert 0 < after < before - 400
    one, other = (detector.original.answer(unseen[0]) for detector in (found, cut.detector))
    np.testing.assert_allclose(one.boxes[0], other.boxes[0], atol=1e-4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (exports.scaled_twice, "does more to a picture than to resize it and to scale its pixels"),
        (exports.padded, "makes pictures of another shape fit in a way that the board does not: it crops, pads"),
        (exports.soft, "soft non-maximum suppression"),
        (exports.two_stages, "a detector of two stages"),
    ],
)
def test_what_the_board_does_not_do_is_refused_by_name(
    frozen: Path, tmp_path: Path, make: Callable[[Path, Path], Path], says: str
) -> None:
    model = make(frozen, tmp_path / "export.pb")
    with pytest.raises(UserError, match=says) as caught:
        opened(model, tmp_path)
    assert caught.value.hint


def test_real_pixels_have_the_range_that_is_declared(frozen: Path, cut: Opened, tmp_path: Path) -> None:
    found = opened(exports.unscaled(frozen, tmp_path / "export.pb"), tmp_path)
    assert found.picture is not None
    assert cut.detector is not None
    with pytest.raises(UserError, match="the value range that it was trained on is not declared"):
        measured.given(Declaration(), found.picture)
    declared = declare(range="-1..1")
    found = found.taking(measured.given(declared, found.picture))
    assert found.picture is not None
    assert found.detector is not None
    assert measured.declare(tmp_path, declared, found.picture).mean == (127.5, 127.5, 127.5)
    picture = np.random.default_rng(2).integers(0, 256, (320, 320, 3)).astype(np.uint8)
    ours, original = found.detector.original.answer(picture), cut.detector.original.answer(picture)
    np.testing.assert_allclose(ours.boxes, original.boxes, atol=1e-4)
    np.testing.assert_allclose(ours.scores, original.scores, atol=1e-4)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (declare(range="0..1"), r"the declared range is not what its graph does: \(pixel - 127.5\) / 127.5"),
        (declare(width=300), "declared width 300, but its graph has 320"),
        (declare(color="BGR"), "declared color BGR, but its graph has RGB"),
        (declare(labels=["face"]), "1 labels for a detector of 7 classes"),
    ],
)
def test_a_wrong_declaration_is_an_error(cut: Opened, frozen: Path, declared: Declaration, says: str) -> None:
    assert cut.detector is not None
    assert cut.picture is not None
    detector, picture = cut.detector, cut.picture

    def declared_so() -> None:
        boxes.require_labels(measured.declare(frozen, declared, picture), detector)

    with pytest.raises(UserError, match=says):
        declared_so()
    right = measured.declare(frozen, declare(range="-1..1", width=320), picture)
    assert right.mean == (127.5, 127.5, 127.5)


def test_a_model_that_selects_no_boxes_is_no_detector(
    models: Path, pictures: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="declared as a detector, but it does not select boxes"):
        convert.convert(
            models / "colours.keras",
            profile=board,
            data=pictures,
            output=tmp_path / "m.tflite",
            declaration=declare(task="detection", range="-1..1"),
            log=tmp_path / "log",
        )
    assert not (tmp_path / "m.tflite").exists()


def test_a_cut_that_changes_the_boxes_is_never_written(
    cut: Opened, hands: Callable[[str], Converted], pictures: Path, tmp_path: Path
) -> None:
    """Were the anchors wrong, the float model would not find what the original finds."""
    from edgekit.datasets.dataset import open_dataset

    converted = hands("saved_model")
    record = converted.record
    assert cut.detector is not None
    assert record.detection is not None
    stream: Callable[[], Any] = lambda: open_dataset(pictures).stream(  # noqa: E731  # twice the same
        cut.inputs, record.preprocess, count=12
    )
    boxes.write_original(cut.detector, stream(), tmp_path, lambda *_: None)
    anchors = detect.parse_anchors(Files.of(converted.path).anchors.read_bytes(), "anchors")
    for wrong in (False, True):
        moved = anchors + np.array([0.1 * wrong, 0, 0, 0], np.float32)
        with (
            Engine.load(Files.of(converted.path).float, task="detection", detector=(record.detection, moved)) as one,
            Engine.load(converted.path, task="detection", detector=(record.detection, moved)) as other,
        ):
            if not wrong:
                words, lost = boxes.compare(tmp_path, stream(), one, other, lambda *_: None)
                assert ("INT8 finds" in words, lost) == (True, 0)
                continue
            with pytest.raises(CheckFailed, match="does not find what the original finds"):
                boxes.compare(tmp_path, stream(), one, other, lambda *_: None)


def test_declared_heads_find_what_recognised_ones_find(
    hands: Callable[[str], Converted], pictures: Path, board: DeviceProfile, unseen: list[np.ndarray], tmp_path: Path
) -> None:
    """A model of nothing but raw heads, with what its owner knows of them in model.toml."""
    recognised = hands("saved_model")
    files, model = Files.of(recognised.path), tmp_path / "model"
    model.mkdir()
    shutil.copy(files.float, model / "heads.tflite")
    np.save(model / "mine.npy", np.load(files.anchors).astype(np.float64))
    (model / "model.toml").write_text(MODEL_TOML)
    few = tmp_path / "few"
    few.mkdir()
    for picture in sorted(pictures.glob("*.jpg"))[:8]:
        (few / picture.name).symlink_to(picture)
    declared = declaration.load(model / "model.toml")
    output = tmp_path / "hands.tflite"
    record = convert.convert(
        model / "heads.tflite", profile=board, data=few, output=output, declaration=declared,
        log=tmp_path / "log",
    )  # fmt: skip
    wanted = recognised.record.detection
    assert wanted is not None
    assert record.detection == replace(wanted, score_threshold=0.3, iou_threshold=0.6)
    assert record.task == "detection"
    np.testing.assert_array_equal(np.load(Files.of(output).anchors), np.load(files.anchors))
    (note,) = [note for note in record.notes if "boxes of float" in note]
    assert "INT8 finds" in note
    mine, other = Files.of(output).float, files.float
    found, known = detections(Converted(output, record), mine, unseen, 1), detections(recognised, other, unseen, 1)
    same = boxes.match(known, found)
    assert same.found == same.wanted >= 15
    assert same.iou == pytest.approx(1)


def test_a_report_shows_the_boxes_of_both_on_the_worst_pictures(
    hands: Callable[[str], Converted], pictures: Path
) -> None:
    converted = hands("saved_model")
    record, files = converted.record, Files.of(converted.path)
    asked = examples.Request(
        float=str(files.float),
        int8=str(converted.path),
        data=str(pictures),
        preprocess=record.preprocess,
        labels=record.labels,
        task=record.task,
        seed=0,
        detection=record.detection,
        anchors=str(files.anchors),
    )
    found = examples.look(asked)
    assert (found.samples, len(found.found)) == (examples.LOOKED_AT, examples.SHOWN)
    wrong = [one.lost + one.added for one in found.found]
    assert wrong == sorted(wrong, reverse=True)
    for one in found.found:
        assert one.float or one.int8
        assert len(one.float) - one.lost == len(one.int8) - one.added >= 0
        assert {box.label for box in (*one.float, *one.int8)} <= set(NAMES)
        assert all(box.score >= boxes.MIN_SCORE and min(box.corners) >= 0 for box in one.float)
        assert one.picture in found.pictures


def test_its_boxes_are_judged_by_coco_s_average_precision(
    hands: Callable[[str], Converted],
    original: Callable[[np.ndarray], Detections],
    unseen: list[np.ndarray],
    tmp_path: Path,
) -> None:
    """No hand is annotated here: what the original is sure of stands for the truth, so that float finds it all."""
    made, ids = hands("saved_model"), dict(enumerate(NAMES, 1))
    (tmp_path / "pictures").mkdir()
    images, boxes = [], []
    for number, pixels in enumerate(unseen):
        Image.fromarray(pixels).save(tmp_path / f"pictures/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 320, "width": 320})
        found = original(pixels)
        for box, kind, score in zip(found.boxes, found.classes, found.scores, strict=True):
            if score >= 0.5:
                top, left, bottom, right = (float(value) * 320 for value in box)
                # Other ids than the model's: they are matched by name.
                corner = [left, top, right - left, bottom - top]
                boxes.append({"image_id": number, "category_id": 90 - int(kind), "bbox": corner})
    categories = [{"id": 90 - kind, "name": name.upper()} for kind, name in ids.items()] + [{"id": 1, "name": "foot"}]
    boxes.append({"image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9]})
    truth = tmp_path / "instances.json"
    truth.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    result = validate_conversion(made.path, tmp_path / "pictures", truth=truth)
    precision, at_half = result.metrics
    assert (precision.name, at_half.name, precision.n) == ("AP", "AP50", 20)
    assert precision.float_value == pytest.approx(1, abs=1e-6)
    assert 0.5 < precision.int8_value <= 1
    assert at_half.int8_value > 0.9
    assert precision.half is not None
    assert (precision.half > 0) == (precision.int8_value < 1)
    assert loss(result) == ("AP", precision.drop)
    assert "not judged, since the model does not have them: foot" in result.notes
    images[3]["width"] = 100
    truth.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    with pytest.raises(UserError, match=r"3.png is \[320, 100\] .height, width. there, but \[320, 320\]"):
        validate_conversion(made.path, tmp_path / "pictures", truth=truth)
    truth.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "foot"}]}))
    with pytest.raises(UserError, match=r"none of its classes \(foot\) is one of the model's"):
        validate_conversion(made.path, tmp_path / "pictures", truth=truth)


@pytest.mark.parametrize("resize", ["letterbox", "crop"])
def test_boxes_are_shares_of_the_picture_or_refused(
    frozen: Path, shared: Path, board: DeviceProfile, tmp_path: Path, resize: str
) -> None:
    with pytest.raises(UserError, match=f"made to fit by '{resize}'.*not of the picture"):
        convert.convert(
            frozen, profile=board, data=shared / "data/coco128_dev/images/val2017", output=tmp_path / "m.tflite",
            declaration=declare(resize=resize), samples=2, log=tmp_path / "log",
        )  # fmt: skip
