"""The runtime's boxes are those of TensorFlow: on the raw heads of a real detector, and through the Engine."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime import detect, quant, ranking, rest, runner
from edgekit_runtime.detect import Detections
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Detection, Preprocess, TensorSpec
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.detection import Operator
from edgekit.conversion.opening import open_source
from edgekit.models import inference

pytestmark = pytest.mark.shared

SCOPE = "m/StatefulPartitionedCall/"
ANCHORS = 12804
# As the graph's own constants state them. This export gives columns 2 and 6 the ids of 1 and 5.
WANTED = Detection(
    boxes=0,
    scores=1,
    score_converter="sigmoid",
    first_column=1,
    class_ids=(1, 1, 3, 4, 5, 5, 7),
    box_scales=(10.0, 10.0, 5.0, 5.0),
    score_threshold=1e-8,
    iou_threshold=0.6,
    max_per_class=100,
    max_detections=100,
)


class Detector:
    """The frozen graph in TensorFlow: its raw heads, and what it makes of them."""

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        v1 = tf.compat.v1
        self.proto = v1.GraphDef.FromString(path.read_bytes())
        self.session = v1.Session(graph=v1.Graph())
        with self.session.graph.as_default():
            tf.import_graph_def(self.proto, name="")

    def heads(self, pixels: np.ndarray) -> list[Any]:
        return list(self.session.run([f"{SCOPE}concat:0", f"{SCOPE}concat_1:0"], {"image_tensor:0": pixels[None]}))

    def answers(self, boxes: np.ndarray, scores: np.ndarray) -> Detections:
        """What TensorFlow selects from raw heads."""
        names = ["detection_boxes", "detection_classes", "detection_scores", "num_detections"]
        blank = np.zeros((1, 320, 320, 3), np.uint8)
        feed = {f"{SCOPE}concat:0": boxes, f"{SCOPE}concat_1:0": scores, "image_tensor:0": blank}
        found = self.session.run([f"{name}:0" for name in names], feed)
        count = int(found[3][0])
        return Detections(found[0][0][:count], found[1][0][:count].astype(np.int64), found[2][0][:count])

    def anchors(self) -> Any:
        """Encodings of zero are the anchors themselves."""
        zeros = np.zeros((1, ANCHORS, 4), np.float32)
        feed = {f"{SCOPE}concat:0": zeros, "image_tensor:0": np.zeros((1, 320, 320, 3), np.uint8)}
        corners = self.session.run("raw_detection_boxes:0", feed)[0]
        return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


@pytest.fixture(scope="module")
def detector(shared: Path) -> Detector:
    return Detector(shared / "models/odapi_ssd_mnv2_fpnlite320_frozen_tf2sm/frozen_inference_graph.pb")


@pytest.fixture(scope="module")
def pictures(shared: Path) -> list[np.ndarray]:
    files = [shared / "data/coral_images/grace_hopper.bmp"]
    files += sorted((shared / "data/coco128_dev/images/val2017").glob("*.jpg"))[:11]
    return [np.asarray(Image.open(file).convert("RGB").resize((320, 320))) for file in files]


def alike(found: Detections, wanted: Detections) -> None:
    assert found.classes.tolist() == wanted.classes.tolist()
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-5)


def test_the_same_detections_as_tensorflow_from_the_same_heads(detector: Detector, pictures: list[np.ndarray]) -> None:
    specs = (TensorSpec("boxes", (1, ANCHORS, 4), "float32"), TensorSpec("scores", (1, ANCHORS, 8), "float32"))
    heads = detect.heads(WANTED, detector.anchors(), specs)
    for picture in pictures:
        outputs = detector.heads(picture)
        (found,) = heads.find(outputs)
        alike(found, detector.answers(*outputs))


def test_a_detector_through_the_engine(detector: Detector, pictures: list[np.ndarray], tmp_path: Path) -> None:
    """Cut before its boxes are decoded, it is a model of two raw heads; the Engine finds what TensorFlow finds."""
    ends = [f"{SCOPE}concat:0", f"{SCOPE}concat_1:0"]
    part = inference.pruned(tmp_path, detector.proto, ["image_tensor:0"], ends, {})
    (tmp_path / "cut.pb").write_bytes(part.SerializeToString())
    opened = open_source(tmp_path / "cut.pb", "graph-def", tmp_path, trust_code=False)
    (tmp_path / "cut.tflite").write_bytes(opened.lower(opened.inputs)[0])
    with Engine.load(
        tmp_path / "cut.tflite",
        preprocess=Preprocess(320, 320),
        labels=("open", "closed", "pinch", "point", "face", "tip", "pinch tip"),
        task="detection",
        detector=(replace(WANTED, boxes=1, scores=0), detector.anchors()),
    ) as engine:
        found = engine.detect(pictures)
        for one, picture in zip(found, pictures, strict=True):
            wanted = detector.answers(*detector.heads(picture))
            sure = int(np.count_nonzero(wanted.scores >= 0.3))
            assert one.classes[:sure].tolist() == wanted.classes[:sure].tolist()
            for box, other in zip(one.boxes[:sure], wanted.boxes[:sure], strict=True):
                assert detect.iou(box, other[None])[0] >= 0.99
        Image.fromarray(pictures[0]).save(tmp_path / "face.png")
        (result,) = runner.run(engine, [str(tmp_path / "face.png")])
        served = predict(engine, pictures[:2])
    assert [row["num_detections"] for row in served] == [len(one) for one in found[:2]]
    assert served[0]["detection_boxes"][0] == pytest.approx(found[0].boxes[0].tolist())
    assert len(served[0]["detection_scores"]) == len(served[1]["detection_scores"])
    said = runner.to_dict(result)
    assert said["detection_classes"][0] == 5
    assert said["detection_class_names"][0] == "face"
    assert said["detection_scores"][0] > 0.9
    assert said["num_detections"] == len(said["detection_boxes"]) <= 100
    assert runner.lines(result, 1)[1].split()[1] == "face"


def predict(engine: Engine, pictures: list[np.ndarray]) -> list[dict[str, Any]]:
    """TensorFlow Serving's request for these pictures, by row."""
    service = rest.Service("hands", max_request_bytes=10_000_000)
    service.ready(engine)
    body = np.stack(pictures).astype(engine.inputs[0].dtype).tobytes()
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/models/hands:predict",
        "CONTENT_TYPE": "application/octet-stream",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    answer = b"".join(service(environ, lambda status, headers: None))  # type: ignore[arg-type]  # no write()
    rows: list[dict[str, Any]] = json.loads(answer)["predictions"]
    return rows


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.floats(0.05, 0.95), st.integers(1, 90), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_suppression_is_tensorflow_s(seed: int, count: int, threshold: float, per_class: int, total: int) -> None:
    import tensorflow as tf

    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 1, (count, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    kinds = generator.integers(0, 3, count)
    scores = np.sort(generator.uniform(0.1, 1, count))[::-1].astype(np.float32)
    wanted = replace(WANTED, iou_threshold=float(np.float32(threshold)), max_per_class=per_class, max_detections=total)
    each = []
    for kind in range(3):
        own = np.flatnonzero(kinds == kind)
        kept = tf.image.non_max_suppression(boxes[own], scores[own], per_class, wanted.iou_threshold).numpy()
        each += own[kept].tolist()
    blocks = [(boxes[at : at + 64], kinds[at : at + 64], scores[at : at + 64]) for at in range(0, count, 64)]
    found = detect.suppress(blocks, wanted)
    every_one: tuple[np.ndarray, ...] = (boxes, kinds, scores)
    for stayed, every in zip(found, every_one, strict=True):
        np.testing.assert_array_equal(stayed, every[sorted(each)[:total]])


@given(
    st.lists(st.integers(-128, 127), min_size=1, max_size=60), st.integers(1, 70), st.integers(-128, 127),
    st.integers(1, 4), st.integers(0, 3),
)  # fmt: skip
def test_the_highest_come_first_and_of_equals_the_lower_index(
    values: list[int], count: int, least: int, columns: int, first: int
) -> None:
    values = values * columns  # rows of `columns` each
    stored = np.array(values, np.int8).reshape(-1, columns)
    counted = [index for index in range(len(values)) if index % columns >= first % columns and values[index] >= least]
    wanted = sorted(counted, key=lambda index: (-values[index], index))
    assert ranking.highest(stored, count, least, first % columns).tolist() == wanted[:count]
    for after in wanted[:1]:
        assert ranking.highest(stored, count, least, first % columns, after).tolist() == wanted[1 : 1 + count]


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 4000), st.integers(1, 9), st.sampled_from(["i1", "f4"]), st.floats(0, 1)
)
@settings(max_examples=60, deadline=None)
def test_very_many_come_in_the_same_order(seed: int, rows: int, columns: int, dtype: str, equal: float) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(0, 60, (rows, columns)).clip(-128, 127).astype(dtype)
    values[random.uniform(size=values.shape) < equal] = values[0, 0]
    least, first = float(random.integers(-128, 10)), int(random.integers(0, columns))
    found = [index for block in ranking.descending(values, least, first) for index in block.tolist()]
    flat = values.reshape(-1)
    counted = [index for index in np.flatnonzero(flat >= least).tolist() if index % columns >= first]
    assert found == sorted(counted, key=lambda index: (-flat[index], index))


@pytest.mark.parametrize("stored", ["float32", "int8"])
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.5, 0.97, 1.0])
def test_a_threshold_leaves_the_best_of_all(
    detector: Detector, pictures: list[np.ndarray], threshold: float, stored: str
) -> None:
    """What is left out before decoding is what would be left out behind it."""
    boxes, scores = (head[0] for head in detector.heads(pictures[0]))
    spec = TensorSpec("scores", (-1, *scores.shape), stored)
    if stored == "int8":
        spec = replace(spec, scale=float(np.ptp(scores) / 255), zero_point=3)
        scores = quant.quantize(scores, spec)
    wanted = replace(WANTED, max_detections=4000, max_per_class=4000, score_threshold=0.0)
    every = detect.Heads(wanted, detector.anchors(), TensorSpec("boxes", (-1, *boxes.shape), "float32"), spec)
    some = replace(every, detection=replace(wanted, score_threshold=threshold))
    (all_,), (found,) = (each.find([boxes[None], scores[None]]) for each in (every, some))
    count = int(np.count_nonzero(all_.scores >= threshold))
    np.testing.assert_array_equal(found.scores, all_.scores[:count])
    np.testing.assert_array_equal(found.boxes, all_.boxes[:count])


def test_boxes_may_be_coded_with_x_first(detector: Detector, pictures: list[np.ndarray]) -> None:
    boxes, scores = detector.heads(pictures[0])
    specs = [TensorSpec(name, (-1, ANCHORS, size), "float32") for name, size in (("boxes", 4), ("scores", 8))]
    heads = detect.Heads(replace(WANTED, score_threshold=0.3), detector.anchors(), *specs)
    (wanted,) = heads.find([boxes, scores])
    (found,) = replace(heads, detection=replace(heads.detection, box_order="xywh")).find(
        [boxes[..., [1, 0, 3, 2]], scores]
    )
    alike(found, wanted)


def test_the_boxes_are_those_of_the_operator_that_tflite_has(detector: Detector, pictures: list[np.ndarray]) -> None:
    """TFLite_Detection_PostProcess on the same heads; what is compared in docs/detection.md."""
    specs = [TensorSpec(name, (-1, ANCHORS, size), "float32") for name, size in (("boxes", 4), ("scores", 8))]
    for threshold in (0.3, 1e-8):
        wanted = replace(WANTED, score_threshold=threshold)
        heads = detect.Heads(wanted, detector.anchors(), *specs)
        operator = Operator(heads)
        for picture in pictures[:3]:
            boxes, scores = detector.heads(picture)
            operator.give(boxes[0], scores[0])
            operator.run()
            (found,) = heads.find([boxes, scores])
            alike(found, operator.found())
