"""What a task is judged by: the figures by their definitions, and both models against what is right."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime.detect import Detections
from edgekit_runtime.manifest import Preprocess
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.datasets import annotations
from edgekit.datasets.annotations import Annotated
from edgekit.datasets.dataset import open_dataset
from edgekit.datasets.truth import open_truth
from edgekit.errors import UserError
from edgekit.validation import comparison, metric
from edgekit.validation.average_precision import AveragePrecision, match, overlaps
from edgekit.validation.metric import Metric
from edgekit.validation.validate import Request, Validation, loss
from tests.fixtures.make_models import SIDE, as_float, as_int8

few = settings(max_examples=60)
shares = st.floats(0, 1, allow_nan=False, width=32)


class TestMeans:
    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
    def test_hits_have_an_interval_however_few(self, pairs: list[tuple[bool, bool]]) -> None:
        one, other = zip(*pairs, strict=True)
        found = metric.of_means("x", one, other)
        assert found.drop == pytest.approx(found.float_value - found.int8_value)
        # Half a sample more of each of the four kinds of pair.
        apart = np.array(one, float) - np.array(other, float)
        more, weights = np.append(apart, [1, -1, 0]), np.append(np.ones(len(pairs)), [0.5, 0.5, 1])
        mean = np.average(more, weights=weights)
        spread = np.average((more - mean) ** 2, weights=weights)
        assert found.half == pytest.approx(1.96 * (spread / weights.sum()) ** 0.5)

    def test_two_equal_samples_prove_no_equality(self) -> None:
        found = metric.of_means("x", [1.0, 1.0], [1.0, 1.0])
        assert found.drop == 0
        assert found.half is not None
        assert found.half > 0.4

    @given(st.lists(st.tuples(shares, shares), min_size=2, max_size=40))
    def test_of_other_values_it_is_that_of_paired_differences(self, pairs: list[tuple[float, float]]) -> None:
        one, other = zip(*((a / 2 + 0.1, b) for a, b in pairs), strict=True)
        apart = np.array(one, float) - np.array(other, float)
        half = metric.of_means("x", one, other).half
        assert half == pytest.approx(1.96 * np.std(apart, ddof=1) / len(pairs) ** 0.5)

    def test_one_sample_tells_no_interval(self) -> None:
        assert metric.of_means("x", [1.0], [0.0]).half is None

    @pytest.mark.parametrize(
        ("found", "shown", "lost"),
        [
            (Metric("x", "%", 500, 0.99, 0.9902, -2e-4, 0.01), ("99.0 %", "99.0 %", "loses 0.0 ± 1.0 points"), -2e-4),
            (Metric("AP", "", 500, 0.5, 0.4, 0.1, 0.02), ("0.500", "0.400", "loses 0.100 ± 0.020"), 0.1),
            (Metric("PSNR", "dB", 500, 30.0, 29.7, 0.3, None), ("30.00 dB", "29.70 dB", "loses 0.30 dB"), 0.01),
        ],
    )  # fmt: skip
    def test_people_see_its_unit(self, found: Metric, shown: tuple[str, str, str], lost: float) -> None:
        assert found.shown == (*shown[:2], f"{shown[2]}, n = 500")
        assert found.lost == pytest.approx(lost)


class TestBootstrap:
    def test_of_a_mean_it_is_nearly_the_standard_error(self) -> None:
        noise = np.random.default_rng(5)
        values = noise.normal(size=(2, 300))

        def mean(row: Any) -> Callable[[Any], float]:
            return lambda weights: float(weights @ row / weights.sum())

        found = metric.of_statistics("x", 300, mean(values[0]), mean(values[1]))
        wanted = metric.of_means("x", *values.tolist())
        assert found.drop == pytest.approx(wanted.drop)
        assert found.half == pytest.approx(wanted.half, rel=0.15)
        assert metric.of_statistics("x", 300, mean(values[0]), mean(values[1])) == found, "the seed is fixed"

    def test_what_is_the_same_has_no_interval(self) -> None:
        area = metric.auc([0.1, 0.9, 0.4, 0.6], [False, True, True, False])
        assert metric.of_statistics("AUC", 4, area, area).half == 0.0


class TestAuc:
    @few
    @given(st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(1, 3)), min_size=2, max_size=25))
    def test_it_is_how_often_a_positive_is_above_a_negative(self, rows: list[tuple[int, bool, int]]) -> None:
        scores, positive, weights = (list(column) for column in zip(*rows, strict=True))
        assume(len(set(positive)) == 2)
        found = metric.auc(scores, positive)
        ups = [(score, weight) for score, is_one, weight in rows if is_one]
        downs = [(score, weight) for score, is_one, weight in rows if not is_one]
        wins = sum(a * b * ((one > other) + (one == other) / 2) for one, a in ups for other, b in downs)
        pairs = sum(a * b for _, a in ups for _, b in downs)
        assert found(np.array(weights, float)) == pytest.approx(wins / pairs)
        turned = metric.auc([-score for score in scores], positive)
        assert turned(np.array(weights, float)) == pytest.approx(1 - wins / pairs)

    def test_without_both_kinds_there_is_none(self) -> None:
        assert np.isnan(metric.auc([1, 2], [True, True])(np.ones(2)))


class TestIou:
    @few
    @given(st.integers(0, 2**32 - 1), st.integers(1, 5))
    def test_it_is_that_of_all_pixels_together(self, seed: int, pictures: int) -> None:
        noise = np.random.default_rng(seed)
        right, found = noise.integers(0, 3, (2, pictures, 30))
        one, other = (pixels[..., None] == np.arange(3) for pixels in (right, found))
        area = metric.mean_iou((one & other).sum(axis=1), (one | other).sum(axis=1), one.sum(axis=1))
        wanted = [
            np.sum((right == kind) & (found == kind)) / np.sum((right == kind) | (found == kind))
            for kind in range(3)
            if (right == kind).any()
        ]
        assert area(np.ones(pictures)) == pytest.approx(np.mean(wanted))


def scene(seed: int, pictures: int = 12, kinds: int = 3, stray: int = 4) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO's annotations of pictures with boxes anywhere, some of crowds, and detections near them and elsewhere."""
    noise = np.random.default_rng(seed)
    images = [
        {"id": number, "file_name": f"{number}.jpg", "width": int(width), "height": int(height)}
        for number, (width, height) in enumerate(noise.integers(50, 400, (pictures, 2)), 1)
    ]
    boxes: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []

    def one(image: dict[str, Any], box: Any, kind: int, **more: Any) -> dict[str, Any]:
        return {"image_id": image["id"], "category_id": kind, "bbox": [float(value) for value in box], **more}

    for image in images:
        size = np.array([image["width"], image["height"]])
        for number in range(int(noise.integers(0, 7)) + stray):
            sides = noise.uniform(5, size / 2)
            box, kind = [*noise.uniform(0, size - sides), *sides], int(noise.integers(1, kinds + 1))
            if number < stray:
                found.append(one(image, box, kind, score=float(noise.random())))
                continue
            more = {"iscrowd": int(noise.random() < 0.15), "area": float(sides.prod())}
            boxes.append(one(image, box, kind, id=len(boxes) + 1, **more))
            for _ in range(int(noise.integers(0, 4))):
                moved = np.array(box) + noise.normal(0, 0.08, 4) * np.tile(sides, 2)
                found.append(one(image, [*moved[:2], *np.maximum(moved[2:], 1)], kind, score=float(noise.random())))
    categories = [{"id": kind, "name": f"kind {kind}"} for kind in range(1, kinds + 1)]
    return {"images": images, "annotations": boxes, "categories": categories}, found


def detections(content: dict[str, Any], found: Sequence[dict[str, Any]]) -> list[Detections]:
    by_picture = []
    for image in content["images"]:
        mine = [one for one in found if one["image_id"] == image["id"]]
        corners = np.array([one["bbox"] for one in mine]).reshape(-1, 4)
        size = np.array([image["height"], image["width"]])
        low = corners[:, 1::-1] / size
        high = (corners[:, 1::-1] + corners[:, :1:-1]) / size
        kinds, scores = (np.array([one[key] for one in mine]) for key in ("category_id", "score"))
        by_picture.append(Detections(np.concatenate([low, high], axis=1), kinds, scores))
    return by_picture


def known(content: dict[str, Any], folder: Path) -> list[Annotated]:
    file, names = folder / "instances.json", [image["file_name"] for image in content["images"]]
    file.write_text(json.dumps(content))
    return [annotations.coco(file, names).pictures[name] for name in names]


class TestAveragePrecision:
    @pytest.mark.parametrize(
        ("seed", "stray", "ap", "ap50"),
        [
            (1, 4, 0.2306051118, 0.4122497964),
            (2, 4, 0.1450423926, 0.2572714486),
            (3, 120, 0.0213828982, 0.0435993077),
        ],
    )
    def test_it_is_what_coco_s_own_program_says(
        self, seed: int, stray: int, ap: float, ap50: float, tmp_path: Path
    ) -> None:
        """pycocotools 2.0.11, COCOeval(..., "bbox"), AP and AP50 of all areas with at most 100 detections."""
        content, found = scene(seed, stray=stray)
        score = AveragePrecision(known(content, tmp_path), detections(content, found))
        assert score.ap(np.ones(12)) == pytest.approx(ap, abs=1e-9)
        assert score.ap50(np.ones(12)) == pytest.approx(ap50, abs=1e-9)

    def test_by_hand(self) -> None:
        """Two boxes, one found at once, then one that is not there: precision 1 up to recall 0.5, then nothing."""
        boxes = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
        right = Annotated(boxes, np.array([1, 1]), np.zeros(2, bool))
        far = np.array([[0, 0, 0.5, 0.5], [0, 0.5, 0.5, 1]])
        score = AveragePrecision([right], [Detections(far, np.array([1, 1]), np.array([0.9, 0.8]))])
        assert score.by_threshold(np.ones(1)) == pytest.approx([51 / 101] * 10)

    def test_only_where_boxes_overlap_enough(self) -> None:
        """IoU 0.72: right at 0.50 to 0.70, five thresholds of ten."""
        right = Annotated(np.array([[0, 0, 1, 1.0]]), np.array([1]), np.zeros(1, bool))
        score = AveragePrecision([right], [Detections(np.array([[0, 0, 1, 0.72]]), np.array([1]), np.array([0.9]))])
        assert score.by_threshold(np.ones(1)) == pytest.approx([1] * 5 + [0] * 5)
        assert (score.ap(np.ones(1)), score.ap50(np.ones(1))) == (0.5, 1.0)

    def test_a_crowd_takes_many_and_wants_none(self) -> None:
        wanted, crowd = np.array([[0, 0, 1, 1.0], [0, 0, 0.1, 0.1]]), np.array([True, False])
        found = np.array([[0, 0, 0.1, 0.1], [0.5, 0.5, 0.7, 0.7], [0.6, 0.6, 0.9, 0.9]])
        right, ignored = match(found, wanted, crowd)
        assert right.all(axis=0).tolist() == [True, False, False]
        assert ignored.all(axis=0).tolist() == [False, True, True]

    @few
    @given(st.integers(0, 2**16))
    def test_a_picture_that_counts_twice_is_that_picture_twice(self, seed: int) -> None:
        content, found = scene(seed, pictures=4)
        truth, answers = [Annotated(*_parts(image, content)) for image in content["images"]], detections(content, found)
        weights = np.random.default_rng(seed).integers(0, 3, 4)
        chosen = np.repeat(np.arange(4), weights)
        assume(any(len(truth[one].kinds) > truth[one].crowd.sum() for one in chosen))
        repeated = AveragePrecision([truth[one] for one in chosen], [answers[one] for one in chosen])
        weighted = AveragePrecision(truth, answers).by_threshold(weights.astype(float))
        assert weighted == pytest.approx(repeated.by_threshold(np.ones(len(chosen))))

    @few
    @given(st.integers(0, 2**16))
    def test_the_boxes_themselves_are_perfect_and_a_last_wrong_one_costs_nothing(self, seed: int) -> None:
        content, _ = scene(seed, pictures=3)
        truth = [Annotated(*_parts(image, content)) for image in content["images"]]
        assume(any((~one.crowd).any() for one in truth))
        found = [
            Detections(
                np.concatenate([one.boxes[~one.crowd], [[0, 0, 1e-3, 1e-3]]]),
                np.append(one.kinds[~one.crowd], 1),
                np.append(np.linspace(0.9, 0.5, np.count_nonzero(~one.crowd)), 0.1),
            )
            for one in truth
        ]
        assert AveragePrecision(truth, found).ap(np.ones(3)) == pytest.approx(1)

    @few
    @given(st.lists(st.tuples(shares, shares, shares, shares), min_size=1, max_size=6))
    def test_overlaps_are_shares_and_one_of_the_box_itself(self, corners: list[tuple[float, ...]]) -> None:
        two = np.array(corners).reshape(-1, 2, 2)
        boxes = np.concatenate([two.min(axis=1), two.max(axis=1)], axis=1)
        found = overlaps(boxes, boxes, np.zeros(len(boxes), bool))
        assert ((found >= 0) & (found <= 1)).all()
        assert found == pytest.approx(found.T)
        real = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) > 0
        assert np.diag(found)[real] == pytest.approx(np.ones(real.sum()))


def _parts(image: dict[str, Any], content: dict[str, Any]) -> tuple[Any, Any, Any]:
    mine = [one for one in content["annotations"] if one["image_id"] == image["id"]]
    (found,) = detections({**content, "images": [image]}, [{**one, "score": 0.0} for one in mine])
    return found.boxes, found.classes, np.array([one["iscrowd"] for one in mine], bool)


class TestPsnr:
    @given(st.integers(1, 255))
    def test_of_one_error_everywhere(self, error: int) -> None:
        assert metric.psnr(np.full(9, 1.0 * error), np.zeros(9), 255) == pytest.approx(20 * np.log10(255 / error))

    def test_of_equal_pictures_it_is_bounded(self) -> None:
        assert metric.psnr(np.ones(4), np.ones(4), 255) == 100


PIXELS = Preprocess(SIDE, SIDE)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Models of pictures of SIDE pixels as float and INT8: a mask of red, the strongest colour, the picture again but
    for its brightest pixels, it again as shares of 1, how red it is, and that as a logit.
    """
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("pairs")
    eye = tf.reshape(tf.eye(3), (1, 1, 3, 3))
    functions = {
        "mask": lambda image: tf.sigmoid((image[..., :1] - 128.0) / 8.0),
        "colours": lambda image: tf.nn.conv2d(image, eye, 1, "SAME"),
        "darker": lambda image: tf.nn.relu6(tf.nn.conv2d(image, eye / 32.0, 1, "SAME")) * 32.0,
        "shares": lambda image: tf.nn.conv2d(image, eye / 255.0, 1, "SAME"),
        "logit": lambda image: tf.matmul(tf.reduce_mean(image, [1, 2]), [[1.0], [0.0], [0.0]]) - 128.0,
        "red": lambda image: tf.sigmoid(tf.reduce_mean(image, [1, 2])[:, :1] / 8.0 - 16.0),
    }
    made = {}
    for name, function in functions.items():
        traced = tf.function(function, input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32, name="image")])
        made[name] = folder / f"{name}.tflite", folder / f"{name}_int8.tflite"
        made[name][0].write_bytes(as_float(traced))
        made[name][1].write_bytes(as_int8(traced, "int8", "int8"))
    return made


@pytest.fixture
def judged(pairs: dict[str, tuple[Path, Path]], tmp_path: Path) -> Callable[..., Validation]:
    """What `validate` makes of one of these pairs, a task, and truth in `tmp_path`."""

    def judge(name: str, task: str, data: str = "images", truth: str | None = None, **more: Any) -> Validation:
        one, other = pairs[name]
        right = None if truth is None else str(tmp_path / truth)
        request = Request(
            str(one), str(other), str(tmp_path / data), PIXELS, None, task, 1, None, 0, right, **more,
        )  # fmt: skip
        return comparison.compare(request, lambda *_: None)

    return judge


def pictures(folder: Path, count: int = 6, size: int = SIDE) -> np.ndarray:
    """Noisy pictures 0.png ... in a folder; they are returned."""
    folder.mkdir(parents=True)
    made = np.random.default_rng(8).integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    for number, picture in enumerate(made):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return made


def save(masks: np.ndarray, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"{number}.png")


class TestSegmentation:
    @pytest.mark.parametrize(("values", "more"), [((0, 1), {}), ((0, 255), {}), ((3, 7), {"foreground": 7})])
    def test_of_a_foreground(
        self, values: tuple[int, int], more: dict[str, int], judged: Callable[..., Validation], tmp_path: Path
    ) -> None:
        red = pictures(tmp_path / "images")[..., 0] > 128
        right = red.copy()
        right[:, :2] = ~right[:, :2]  # a quarter of each mask is wrong
        right[0] = False  # nothing in the first one
        save(np.where(right, values[1], values[0]), tmp_path / "masks")
        found = judged("mask", "segmentation", truth="masks", **more)
        shares = [(one & other).sum() / (one | other).sum() for one, other in zip(right[1:], red[1:], strict=True)]
        by_picture, together = found.metrics
        assert (by_picture.name, by_picture.n, together.n) == ("IoU", 5, 6)
        assert by_picture.float_value == pytest.approx(np.mean(shares))
        assert by_picture.int8_value == pytest.approx(np.mean(shares), abs=0.05)
        assert together.float_value == pytest.approx((right & red).sum() / (right | red).sum())
        assert loss(found) == ("IoU", by_picture.drop)

    @pytest.mark.parametrize("form", ["png", "npy"])
    def test_of_classes_with_pixels_that_do_not_count(
        self, form: str, judged: Callable[..., Validation], tmp_path: Path
    ) -> None:
        best = pictures(tmp_path / "images").argmax(axis=-1)
        right = np.where(best == 2, 1, best)
        right[:, 0] = 255
        if form == "npy":
            np.save(
                tmp_path / "images.npy",
                np.stack([np.asarray(Image.open(tmp_path / f"images/{n}.png")) for n in range(6)]),
            )
            np.save(tmp_path / "masks.npy", right)
            found = judged("colours", "segmentation", data="images.npy", truth="masks.npy")
        else:
            save(right, tmp_path / "masks")
            found = judged("colours", "segmentation", truth="masks")
        kept = best[:, 1:], right[:, 1:]
        wanted = [
            np.sum((kept[0] == kind) & (kept[1] == kind)) / np.sum((kept[0] == kind) | (kept[1] == kind))
            for kind in (0, 1)
        ]
        (only,) = found.metrics
        assert (only.name, only.n) == ("mean IoU", 6)
        assert only.float_value == pytest.approx(np.mean(wanted))

    @pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
    def test_masks_go_the_way_of_their_pictures(
        self, resize: str, judged: Callable[..., Validation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "images").mkdir()
        red = np.zeros((16, 40), bool)
        red[4:12, 8:30] = True
        Image.fromarray((red[..., None] * [255, 0, 0]).astype(np.uint8)).save(tmp_path / "images/0.png")
        save(red[None], tmp_path / "masks")
        monkeypatch.setitem(globals(), "PIXELS", replace(PIXELS, resize=resize, filter="nearest", pad=255))
        assert judged("mask", "segmentation", truth="masks").metrics[0].float_value == 1

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda folder: (folder / "3.png").unlink(), "has no picture for 3.png"),
            (lambda folder: save(np.zeros((7, SIDE, SIDE)), folder), "the data have no sample for 6"),
            (lambda folder: save(np.full((6, SIDE, SIDE), 3), folder), "classes that the model does not have: 3"),
            (
                lambda folder: save(np.zeros((6, SIDE, 5)), folder),
                r"the mask of \d.png is \[8, 5\], the model's output",
            ),
            (lambda folder: save(np.zeros((6, SIDE, SIDE, 3)), folder), "a mask has one channel of 8 bits"),
            (lambda folder: (folder / "3.png").write_bytes(b"no"), "cannot read the mask"),
        ],
    )
    def test_masks_that_do_not_fit(
        self, change: Callable[[Path], None], says: str, judged: Callable[..., Validation], tmp_path: Path
    ) -> None:
        pictures(tmp_path / "images")
        save(np.zeros((6, SIDE, SIDE)), tmp_path / "masks")
        change(tmp_path / "masks")
        with pytest.raises(UserError, match=says) as caught:
            judged("colours", "segmentation", truth="masks")
        assert caught.value.hint or "cannot read" in says
        assert caught.value.fields["truth"] == str(tmp_path / "masks")

    def test_a_foreground_must_be_said_where_masks_have_more(
        self, judged: Callable[..., Validation], tmp_path: Path
    ) -> None:
        pictures(tmp_path / "images")
        save(np.full((6, SIDE, SIDE), 2), tmp_path / "masks")
        with pytest.raises(UserError, match="classes that the model does not have: 2") as caught:
            judged("mask", "segmentation", truth="masks")
        assert "--foreground" in (caught.value.hint or "")


class TestRestoration:
    def test_pictures(self, judged: Callable[..., Validation], tmp_path: Path) -> None:
        made = pictures(tmp_path / "images").astype(float)
        right = np.clip(made + np.random.default_rng(1).normal(0, 20, made.shape), 0, 255).astype(np.uint8)
        save(right, tmp_path / "right")
        found = judged("darker", "restoration", truth="right")
        errors = np.square(np.minimum(made, 192) - right).mean(axis=(1, 2, 3))
        (only,) = found.metrics
        assert (only.name, only.unit, only.n) == ("PSNR", "dB", 6)
        assert only.float_value == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), abs=1e-3)
        assert only.int8_value == pytest.approx(only.float_value, abs=0.5)
        assert loss(found) == ("PSNR", only.drop / only.float_value)

    def test_an_output_of_another_range_than_the_input_is_seen(
        self, judged: Callable[..., Validation], tmp_path: Path
    ) -> None:
        """Pixels of 0 to 255 go in, and what comes out is 0 to 1."""
        made = pictures(tmp_path / "images").astype(float)
        save(made.astype(np.uint8), tmp_path / "right")
        found = judged("shares", "restoration", truth="right")
        assert found.metrics[0].float_value > 60
        (note,) = [note for note in found.notes if "pixels of" in note]
        assert note.startswith("its output is taken for pixels of 0..1")

    def test_arrays_have_their_own_units(self, judged: Callable[..., Validation], tmp_path: Path) -> None:
        made = pictures(tmp_path / "images").astype(np.float32)
        np.save(tmp_path / "images.npy", made)
        np.save(tmp_path / "right.npy", made + 2)
        (only,) = judged("colours", "restoration", data="images.npy", truth="right.npy").metrics
        assert only.float_value == pytest.approx(10 * np.log10(np.ptp(made) ** 2 / 4), abs=1e-3)

    def test_what_does_not_fit(self, judged: Callable[..., Validation], tmp_path: Path) -> None:
        pictures(tmp_path / "images")
        np.save(tmp_path / "few.npy", np.zeros((5, SIDE, SIDE, 3), np.float32))
        np.save(tmp_path / "small.npy", np.random.default_rng(0).random((6, 3)).astype(np.float32))
        pictures(tmp_path / "wide", size=SIDE * 3)
        for truth, says in (("few.npy", "5 samples, but the data have 6"), ("small.npy", "is .3."), ("wide", "24")):
            with pytest.raises(UserError, match=says):
                judged("colours", "restoration", truth=truth)


class TestClasses:
    def test_one_score_stands_for_two(self, judged: Callable[..., Validation], tmp_path: Path) -> None:
        made = pictures(tmp_path / "images/a", 8)
        for number in range(8):
            lit = np.clip(made[number].astype(int) + (number * 8 - 20), 0, 255).astype(np.uint8)
            Image.fromarray(lit).save(tmp_path / f"images/a/{number}.png")
        (tmp_path / "images/b").mkdir()
        for number in (3, 5, 6, 7):
            (tmp_path / f"images/a/{number}.png").rename(tmp_path / f"images/b/{number}.png")
        accuracy, area = judged("red", "classification").metrics
        files = sorted((tmp_path / "images").rglob("*.png"))
        red = np.array([np.asarray(Image.open(file))[..., 0].mean() for file in files])
        second = np.array([file.parent.name == "b" for file in files])
        assert (accuracy.name, area.name, area.n) == ("top-1 accuracy", "AUC", 8)
        assert accuracy.float_value == np.mean((red > 128) == second)
        assert area.float_value == np.mean(red[second][:, None] > red[~second])

    def test_a_logit_stands_for_the_second_from_0_on(self, judged: Callable[..., Validation], tmp_path: Path) -> None:
        made = pictures(tmp_path / "images/a", 8)
        (tmp_path / "images/b").mkdir()
        for number in (1, 2, 5):
            (tmp_path / f"images/a/{number}.png").rename(tmp_path / f"images/b/{number}.png")
        found = judged("logit", "classification")
        red = made[..., 0].mean(axis=(1, 2)) - 128 > 0
        second = np.isin(np.arange(8), (1, 2, 5))
        assert found.metrics[0].float_value == np.mean(red == second)
        assert any("a logit: from 0 on" in note for note in found.notes)

    def test_anomalies_are_what_an_autoencoder_does_not_give_again(
        self, judged: Callable[..., Validation], tmp_path: Path
    ) -> None:
        for kind, top in (("bright", 256), ("normal", 200)):
            (tmp_path / "images" / kind).mkdir(parents=True)
            for number in range(5):
                picture = np.random.default_rng(number).integers(0, top, (SIDE, SIDE, 3)).astype(np.uint8)
                Image.fromarray(picture).save(tmp_path / f"images/{kind}/{number}.png")
        (only,) = judged("darker", "anomaly").metrics
        assert (only.name, only.n, only.float_value, only.int8_value) == ("AUC", 10, 1.0, 1.0)
        (tmp_path / "images/normal").rename(tmp_path / "images/usual")
        with pytest.raises(UserError, match="none of the classes bright, usual is called normal"):
            judged("darker", "anomaly")

    def test_truth_is_of_tasks_that_take_it(self, judged: Callable[..., Validation], tmp_path: Path) -> None:
        pictures(tmp_path / "images")
        for task, hint in (("classification", "a class"), ("anomaly", "normal"), ("raw", "declare a task")):
            with pytest.raises(UserError, match=f"whose task is '{task}'") as caught:
                judged("red", task, truth="masks")
            assert hint in (caught.value.hint or "")


class TestBoxes:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        pictures(tmp_path / "images", 3)
        return tmp_path

    def test_yolo(self, folder: Path) -> None:
        (folder / "labels").mkdir()
        (folder / "labels/1.txt").write_text("2 0.5 0.25 0.2 0.1\n\n0 0.5 0.5 1 1\n")
        found = open_truth(folder / "labels", open_dataset(folder / "images"))
        assert isinstance(found, annotations.Annotations)
        assert found.by_column
        one = found.pictures["1.png"]
        assert one.kinds.tolist() == [2, 0]
        assert one.boxes == pytest.approx(np.array([[0.2, 0.4, 0.3, 0.6], [0, 0, 1, 1]]))
        assert len(found.pictures["0.png"].kinds) == 0

    @pytest.mark.parametrize(
        ("text", "says"),
        [("0 1 2 3", "line 1 is not CLASS"), ("0 a b c d", "could not convert"), ("0 0 0 nan 1", "no box")],
    )
    def test_yolo_s_lines_that_are_none(self, text: str, says: str, folder: Path) -> None:
        (folder / "labels").mkdir()
        (folder / "labels/1.txt").write_text(text)
        with pytest.raises(UserError, match=says):
            open_truth(folder / "labels", open_dataset(folder / "images"))

    @pytest.mark.parametrize(
        ("key", "value", "says"),
        [
            ("categories", None, "the key 'categories' is missing"),
            ("images", [{"id": 1, "file_name": "0.png"}], "the key 'height' is missing"),
            ("annotations", [{"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1]}], "of the image 9"),
            ("annotations", [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1]}], "the category 7"),
            ("annotations", [{"image_id": 1, "category_id": 1, "bbox": [0, 0, -1, 1]}], "is no box"),
            ("annotations", [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1]}], "not COCO annotations"),
            ("annotations", 5, "not COCO annotations"),
        ],
    )
    def test_coco_s_that_is_none(self, key: str, value: Any, says: str, folder: Path) -> None:
        content: dict[str, Any] = {
            "images": [{"id": n + 1, "file_name": f"val/{n}.png", "width": 8, "height": 8} for n in range(3)],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 2, 4, 4]}],
            "categories": [{"id": 1, "name": "hand"}],
        }
        file, data = folder / "instances.json", open_dataset(folder / "images")
        file.write_text(json.dumps(content))
        found = open_truth(file, data)
        assert isinstance(found, annotations.Annotations)
        assert found.pictures["0.png"].boxes.tolist() == [[0.25, 0, 0.75, 0.5]]
        file.write_text(json.dumps({**content, key: value} if value is not None else {"images": []}))
        with pytest.raises(UserError, match=says) as caught:
            open_truth(file, data)
        assert caught.value.fields["truth"] == str(file)

    def test_anything_else(self, folder: Path) -> None:
        data = open_dataset(folder / "images")
        (folder / "a.json").write_text("{")
        (folder / "empty").mkdir()
        (folder / "b.json").write_text('{"images": [], "annotations": [], "categories": []}')
        for name, says in (
            ("a.json", "not readable as JSON"),
            ("b.json", "has no entry for 0.png, 1.png, 2.png"),
            ("empty", "holds no truth"),
            ("nowhere", "no such file"),
        ):
            with pytest.raises(UserError, match=says):
                open_truth(folder / name, data)
