"""What INT8 costs on real trained models with real labelled data: writes docs/accuracy.md.

Float and converted model see the same samples, none of which was used for calibration where there are enough, so that
differences are paired: the interval is 1.96 standard errors of the mean of the differences on either side.

`.venv/bin/python -m benchmarks.accuracy` needs the models and data beside the repository in ../shared.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import detect
from edgekit_runtime.engine import Engine
from numpy.typing import NDArray
from PIL import Image

from edgekit.conversion import boxes
from edgekit.conversion.convert import convert
from edgekit.conversion.record import Conversion, Files
from edgekit.datasets.dataset import Sample, open_dataset
from edgekit.datasets.declaration import Declaration, declare
from edgekit.profiles import profile
from edgekit.validation import validate
from tests.deploy import agreement
from tests.deploy.agreement import SHARED

PAGE = Path(__file__).parents[1] / "docs/accuracy.md"
PUBLISHED = SHARED / "reference/mlperf_tiny_tflite"
COCO = SHARED / "data/coco128_dev"
Array = NDArray[Any]
Score = Callable[[Sample, list[Array]], float]


@dataclass(frozen=True)
class Case:
    """A model with labelled data.

    Attributes:
        calibration, evaluation: make or name data; the same data twice is split: what calibrates is not evaluated.
        score: of one sample's outputs, 0 to 1, or what else is said by `metric`.
        published: somebody else's INT8 file of the same model.
        count: at most so many samples are evaluated.
    """

    name: str
    model: str
    metric: str
    calibration: Callable[[Path], Path]
    evaluation: Callable[[Path], Path]
    score: Score
    declaration: Declaration
    published: str | None = None
    count: int = 1000
    samples: int = 200
    max_drop: float | None = None
    allow_float: bool = False
    split: bool = True


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and half its 95 % interval."""

    mean: float
    half: float

    @staticmethod
    def of(one: Array, other: Array) -> Difference:
        apart = one - other
        return Difference(float(apart.mean()), float(1.96 * apart.std(ddof=1) / np.sqrt(len(apart))))


@dataclass(frozen=True)
class Row:
    case: Case
    kind: str
    samples: int
    by_float: float
    ours: float
    loss: Difference
    published: float | None
    over_published: Difference | None


def top1(sample: Sample, outputs: list[Array]) -> float:
    return float(int(outputs[0].ravel().argmax()) == sample.label)


def person(sample: Sample, outputs: list[Array]) -> float:
    """Visual wake words: a person is there when a box of one covers more than 0.5 % of the picture."""
    label = COCO / "object_detection" / "val2017" / f"{Path(sample.name).stem}.txt"
    rows = [line.split() for line in label.read_text().splitlines()] if label.is_file() else []
    there = any(row[0] == "0" and float(row[3]) * float(row[4]) > 0.005 for row in rows)
    return float(int(outputs[0].ravel().argmax()) == there)


def mask_iou(sample: Sample, outputs: list[Array]) -> float:
    """The person's mask at the model's size; NaN where there is nobody."""
    file = COCO / "semantic_segmentation" / "val2017" / f"{Path(sample.name).stem}.png"
    found = outputs[0].squeeze() > 0.5
    with Image.open(file) as mask:
        wanted = np.asarray(mask.resize(found.shape[::-1], Image.Resampling.NEAREST)) == 1
    if not wanted.any():
        return float("nan")
    return float((found & wanted).sum() / (found | wanted).sum())


def reconstruction(sample: Sample, outputs: list[Array]) -> float:
    return float(np.square(sample.inputs[0] - outputs[0].reshape(sample.inputs[0].shape)).mean())


def labelled_words(folder: Path) -> Path:
    with np.load(SHARED / "data/sww_calibration/calibration_samples.npz") as data:
        np.savez(folder / "words.npz", x=data["specs"].astype(np.float32), y=data["labels"].astype(np.int64))
    return folder / "words.npz"


def coco_train(_: Path) -> Path:
    return COCO / "images/train2017"


SELFIE = "selfie_segmentation_savedmodel/saved_model"
CASES = (
    Case(
        "CIFAR-10 ResNet8", "cifar10_resnet8_h5_keras2/pretrainedResnet.h5", "top-1",
        agreement.objects, agreement.objects, top1, declare(range="0..255"),
        "image_classification/trained_models/pretrainedResnet_quant.tflite",
    ),
    Case(
        "MobileNetV1 0.25 224", "imagenet_mobilenetv1_025_224_h5_keras2/mobilenet_v1_0.25_224.h5", "top-1",
        agreement.things, agreement.things, top1, declare(range="-1..1", task="classification"), samples=100,
    ),
    Case(
        "MobileNetV1 0.25 224, `--max-drop 0.5%`", "imagenet_mobilenetv1_025_224_h5_keras2/mobilenet_v1_0.25_224.h5",
        "top-1", agreement.things, agreement.things, top1, declare(range="-1..1", task="classification"), samples=100,
        max_drop=0.005,
    ),
    Case(
        "visual wake words MobileNetV1", "vww_mobilenetv1_h5_keras2/vww_96.h5", "accuracy",
        coco_train, agreement.pictures, person, declare(range="0..1", task="classification"),
        "visual_wake_words/trained_models/vww_96_int8.tflite",
    ),
    Case(
        "wake word DS-CNN", "marvin_wakeword_h5_keras2/str_ww_ref_model.h5", "top-1 (on the calibration data)",
        agreement.wake_words, labelled_words, top1, declare(task="classification"),
        "streaming_wakeword/trained_models/str_ww_ref_model.tflite", split=False,
    ),
    Case(
        "machine sounds autoencoder", "toycar_autoencoder_h5/ad01.h5",
        "mean squared error, less is better (on the calibration data)",
        agreement.machine_sounds, agreement.machine_sounds, reconstruction, Declaration(),
        "anomaly_detection/trained_models/ad01_int8.tflite", split=False,
    ),
    Case(
        "selfie segmentation, plain INT8", SELFIE, "IoU", coco_train, agreement.pictures, mask_iou,
        declare(range="0..1"), allow_float=True,
    ),
    Case(
        "selfie segmentation, `--max-drop 1%`", SELFIE, "IoU", coco_train, agreement.pictures, mask_iou,
        declare(range="0..1"), max_drop=0.01,
    ),
)  # fmt: skip


def made(case: Case, folder: Path) -> tuple[Path, Conversion, Path]:
    """The converted model, its record, and the data that calibrated it."""
    data, output = case.calibration(folder), folder / "model.tflite"
    record = convert(
        SHARED / "models" / case.model, profile=profile.find("host"), data=data, output=output,
        declaration=case.declaration, max_drop=case.max_drop, allow_float=case.allow_float, log=folder / "log",
        samples=case.samples,
    )  # fmt: skip
    return output, record, data


def measure(case: Case, folder: Path) -> Row:
    output, record, data = made(case, folder)
    evaluation = case.evaluation(folder) if case.evaluation is not case.calibration else data
    options: dict[str, Any] = {"preprocess": record.preprocess}
    engines = [Engine.load(Files.of(output).float, **options), Engine.load(output, **options)]
    if case.published:
        engines.append(Engine.load(PUBLISHED / case.published))
    scores: list[list[float]] = [[] for _ in engines]
    for sample in _samples(case, record, data, evaluation, engines[0]):
        for one, engine in zip(scores, engines, strict=True):
            inputs = [
                value.reshape([1, *engine.inputs[number].shape[1:]]) for number, value in enumerate(sample.inputs)
            ]
            one.append(case.score(sample, [out[0] for out in engine.infer_real(inputs)]))
    known = ~np.isnan(scores[0])
    values = [np.asarray(one)[known] for one in scores]
    return Row(
        case, record.kind, int(known.sum()), float(values[0].mean()), float(values[1].mean()),
        Difference.of(values[0], values[1]),
        float(values[2].mean()) if case.published else None,
        Difference.of(values[1], values[2]) if case.published else None,
    )  # fmt: skip


def _samples(case: Case, record: Conversion, data: Path, evaluation: Path, engine: Engine) -> Iterator[Sample]:
    source = open_dataset(evaluation, record.labels)
    used = set()
    if case.split and data == evaluation:
        stream = open_dataset(data, record.labels).stream(engine.inputs, record.preprocess, count=case.samples)
        used = {sample.sha256 for sample in stream}
    count = 0
    for sample in source.stream(engine.inputs, record.preprocess, seed=1):
        if sample.sha256 not in used and count < case.count:
            count += 1
            yield sample


def detector(folder: Path, export: str) -> tuple[str, ...]:
    """A line of the table of detectors: the boxes of pictures that did not calibrate."""
    import tensorflow as tf

    source = SHARED / "models/odapi_ssd_mnv2_fpnlite320_frozen_tf2sm"
    output = folder / "hands.tflite"
    record = convert(
        source / export, profile=profile.find("host"), data=coco_train(folder), output=output, log=folder / "log"
    )
    original = tf.saved_model.load(str(source / "saved_model")).signatures["serving_default"]
    assert record.detection is not None
    assert record.preprocess is not None
    anchors = detect.parse_anchors(Files.of(output).anchors.read_bytes(), "anchors")
    files = [*sorted(agreement.pictures(folder).glob("*.jpg")), SHARED / "data/coral_images/grace_hopper.bmp"]
    frames = [np.asarray(Image.open(file).convert("RGB").resize((320, 320))) for file in files]
    wanted = []
    for frame in frames:
        found = {name: value.numpy()[0] for name, value in original(input_tensor=frame[None]).items()}
        kinds = np.rint(found["detection_classes"]).astype(np.int64)
        wanted.append(detect.Detections(found["detection_boxes"], kinds, found["detection_scores"]))
    cells = [export]
    for model in (Files.of(output).float, output):
        for batch_size in (1, 4):
            with Engine.load(
                model, preprocess=record.preprocess, task="detection", detector=(record.detection, anchors),
                max_batch_size=batch_size,
            ) as engine:  # fmt: skip
                match = boxes.match(wanted, engine.detect(frames))
            cells.append(f"{match.found} of {match.wanted}, {match.iou:.3f}")
    return tuple(cells)


def repaired(folder: Path, name: str, model: str, data: Path, declaration: Declaration) -> list[str]:
    """The table of candidates of a repair to 1 %."""
    record = convert(
        SHARED / "models" / model, profile=profile.find("host"), data=data, output=folder / "model.tflite",
        declaration=declaration, max_drop=0.01, log=folder / "log",
    )  # fmt: skip
    lines = [
        f"{name} (float: {record.float_size / 1e3:.0f} kB); taken: `{record.kind}`", "",
        "| candidate | size | loses of its cosine with float | |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for one in record.candidates:
        size = "-" if one.size is None else f"{one.size / 1e3:.0f} kB"
        drop = "-" if one.drop is None else f"{100 * one.drop:.2f} %"
        why = one.failure.rpartition(": ")[2] if one.failure else one.what
        lines.append(f"| `{one.name}` | {size} | {drop} | {why} |")
    return [*lines, ""]


def fidelity(folder: Path, model: agreement.RealModel) -> str:
    """A line of the table of models without labels: the lowest cosine of any output."""
    data, output = model.data(folder), folder / "model.tflite"
    words = dict(zip(model.options[::2], model.options[1::2], strict=False))
    declaration = declare(range=words.get("--range"), task=words.get("--task"))
    convert(
        SHARED / "models" / model.path, profile=profile.find("host"), data=data, output=output,
        declaration=declaration, allow_float="--allow-float" in model.options, log=folder / "log",
    )  # fmt: skip
    found = validate.validate_conversion(output, data, samples=64, seed=1)
    least = min(found.outputs, key=lambda distance: distance.cosine)
    return f"| {model.name} | {found.samples} | {least.cosine:.4f} | {_decibels(least.sqnr_db)} |"


def _decibels(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"


def line(row: Row) -> str:
    plain = "error" in row.case.metric or row.case.metric == "IoU"
    unit = 1 if plain else 100
    loss = f"{unit * row.loss.mean:+.3f} ± {unit * row.loss.half:.3f}"
    other = "-"
    if row.published is not None and row.over_published is not None:
        apart = row.over_published
        other = f"{_figure(row.published, plain)} ({unit * apart.mean:+.3f} ± {unit * apart.half:.3f})"
    scores = f"{_figure(row.by_float, plain)} | {_figure(row.ours, plain)}"
    return f"| {row.case.name} | {row.case.metric} | {row.samples} | {scores} | {loss} | {other} |"


def _figure(value: float, plain: bool) -> str:  # a table's cell
    return f"{value:.3f}" if plain else f"{100 * value:.1f} %"


HEAD = """\
# What INT8 costs

Real trained models on real data, converted by edgekit (LiteRT 2.3.0 on an x86-64 computer). Float and converted model
see the same samples, which have not calibrated it unless the table says so; differences are paired, with their 95 %
interval (in percentage points for accuracies). *Published* is the INT8 file that MLPerf Tiny publishes of the same
model; in brackets what ours has more than it.

| model | metric | n | float | edgekit | float less edgekit | published INT8 |
| --- | --- | --- | --- | --- | --- | --- |
"""
TAIL = """
The CIFAR-10 pictures are JPEG copies, which is why its accuracy is below the published 87 %. Of the detector of the
Object Detection API, from both of its forms: boxes of the original in TensorFlow (score 0.3 or more) that are found
again in the same class, and their mean IoU:

| from | float, batch 1 | float, batch 4 | INT8, batch 1 | INT8, batch 4 |
| --- | --- | --- | --- | --- |
{detectors}

Models without labels here: the output that is farthest from float.

| model | samples | cosine | SQNR |
| --- | --- | --- | --- |
{fidelity}

## Repairs

Two models do not survive plain INT8. What `--max-drop 1%` has tried ([manifest.md](manifest.md#repair)):

{repairs}
## Repeat it

```
.venv/bin/python -m benchmarks.accuracy
```

writes this page, with the models and data beside the repository in `../shared`. `tests/docs/test_accuracy.py` holds the
page to its limits and measures a part of it again.
"""


def main() -> None:
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)

        def fresh() -> Path:
            folder = root / str(len(list(root.iterdir())))
            folder.mkdir()
            return folder

        for case in CASES:
            rows.append(line(measure(case, fresh())))
            print(rows[-1], file=sys.stderr, flush=True)
        detectors = [
            "| " + " | ".join(detector(fresh(), export)) + " |"
            for export in ("frozen_inference_graph.pb", "saved_model")
        ]
        print("\n".join(detectors), file=sys.stderr, flush=True)
        measured = {case.model.split("/")[0] for case in CASES} | {"odapi_ssd_mnv2_fpnlite320_frozen_tf2sm"}
        others = [fidelity(fresh(), one) for one in agreement.MODELS if one.folder not in measured]
        print("\n".join(others), file=sys.stderr, flush=True)
        music = fresh()
        np.save(music / "piano.npy", piano())
        repairs = [
            *repaired(fresh(), "selfie segmentation", SELFIE, coco_train(root), declare(range="0..1")),
            *repaired(music, "basic-pitch", "basic_pitch_savedmodel/saved_model", music / "piano.npy", Declaration()),
        ]
    tail = TAIL.format(detectors="\n".join(detectors), fidelity="\n".join(others), repairs="\n".join(repairs))
    PAGE.write_text(HEAD + "\n".join(rows) + "\n" + tail, encoding="utf-8")


def piano() -> Array:
    from tests.speech import piano_windows

    return piano_windows(SHARED / "data/speech_wavs")


if __name__ == "__main__":
    main()
