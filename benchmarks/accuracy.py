"""What INT8 costs on real trained models with real labelled data: writes docs/accuracy.md.

Float and converted model see the same samples, none of which was used for calibration where there are enough, and are
judged by `validate`.

`.venv/bin/python -m benchmarks.accuracy` needs the models and data beside the repository in ../shared.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import detect
from edgekit_runtime.engine import Engine
from numpy.typing import NDArray
from PIL import Image

from benchmarks import weights
from edgekit.conversion import boxes
from edgekit.conversion.convert import convert
from edgekit.conversion.record import Conversion, Files
from edgekit.datasets.dataset import open_dataset
from edgekit.datasets.declaration import Declaration, declare
from edgekit.profiles import profile
from edgekit.validation import validate
from edgekit.validation.metric import PERCENT, Metric
from tests.deploy import agreement
from tests.deploy.agreement import SHARED

PAGE = Path(__file__).parents[1] / "docs/accuracy.md"
PUBLISHED = SHARED / "reference/mlperf_tiny_tflite"
COCO = SHARED / "data/coco128_dev"
LOW_COSINE = 0.98  # around float's mean: below it the page shows what a repair would do
Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A model with data of which it is known what is right.

    Attributes:
        calibration, evaluation: make or name data; without `evaluation` the same data is split: what calibrates is not
            evaluated.
        metrics: by their names.
        truth: makes or names it, of the evaluation data.
        published: somebody else's INT8 file of the same model.
        count: at most so many samples are evaluated.
        remark: what a reader has to know.
    """

    name: str
    model: str
    metrics: tuple[str, ...]
    calibration: Callable[[Path], Path]
    evaluation: Callable[[Path], Path] | None
    declaration: Declaration
    published: str | None = None
    truth: Callable[[Path], Path] | None = None
    foreground: int | None = None
    count: int = 1000
    samples: int = 200
    max_drop: float | None = None
    allow_float: bool = False
    remark: str = ""


@dataclass(frozen=True)
class Row:
    """`over_published` has ours in float's place, and what is published in INT8's."""

    case: Case
    record: Conversion
    metric: Metric
    over_published: Metric | None


def people(folder: Path) -> Path:
    """Visual wake words: a person is there when a box of one covers more than 0.5 % of the picture."""

    def there(name: str) -> int:
        file = COCO / "object_detection/val2017" / f"{Path(name).stem}.txt"
        rows = [line.split() for line in file.read_text().splitlines()] if file.is_file() else []
        return int(any(row[0] == "0" and float(row[3]) * float(row[4]) > 0.005 for row in rows))

    source = agreement.pictures(folder)
    return listed(folder / "people", source, {name: there(name) for name in open_dataset(source).names})


def masks(_: Path) -> Path:
    return COCO / "semantic_segmentation/val2017"


def labelled_words(folder: Path) -> Path:
    with np.load(SHARED / "data/sww_calibration/calibration_samples.npz") as data:
        np.savez(folder / "words.npz", x=data["specs"].astype(np.float32), y=data["labels"].astype(np.int64))
    return folder / "words.npz"


def tones(folder: Path) -> Path:
    """The recording of a sound machine, and again with a tone: one of 128 mel bins 10 dB louder."""
    normal = np.load(agreement.machine_sounds(folder)).astype(np.float32)
    louder = np.where(np.arange(normal.shape[1]) % 128 == 40, np.float32(10), np.float32(0))
    np.savez(folder / "tones.npz", x=np.concatenate([normal, normal + louder]), y=np.repeat([0, 1], len(normal)))
    return folder / "tones.npz"


def coco_train(_: Path) -> Path:
    return COCO / "images/train2017"


MOBILENET_DROP = 0.005
SELFIE = "selfie_segmentation_savedmodel/saved_model"
SOUNDS = "toycar_autoencoder_h5/ad01.h5", "anomaly_detection/trained_models/ad01_int8.tflite"
SAME = "on the calibration data"
CASES = (
    Case(
        "CIFAR-10 ResNet8", "cifar10_resnet8_h5_keras2/pretrainedResnet.h5", ("top-1 accuracy",),
        agreement.objects, None, declare(range="0..255"),
        "image_classification/trained_models/pretrainedResnet_quant.tflite", count=4800,
    ),
    Case(
        "MobileNetV1 0.25 224", "imagenet_mobilenetv1_025_224_h5_keras2/mobilenet_v1_0.25_224.h5",
        ("top-1 accuracy", "top-5 accuracy"), agreement.things, None,
        declare(range="-1..1", task="classification"), samples=100,
    ),
    Case(
        "MobileNetV1 0.25 224, `--max-drop 0.5%`", "imagenet_mobilenetv1_025_224_h5_keras2/mobilenet_v1_0.25_224.h5",
        ("top-1 accuracy",), agreement.things, None, declare(range="-1..1", task="classification"), samples=100,
        max_drop=MOBILENET_DROP,
    ),
    Case(
        "visual wake words MobileNetV1", "vww_mobilenetv1_h5_keras2/vww_96.h5", ("top-1 accuracy", "AUC"),
        coco_train, people, declare(range="0..1", task="classification"),
        "visual_wake_words/trained_models/vww_96_int8.tflite",
    ),
    Case(
        "wake word DS-CNN", "marvin_wakeword_h5_keras2/str_ww_ref_model.h5", ("top-1 accuracy",),
        agreement.wake_words, labelled_words, declare(task="classification"),
        "streaming_wakeword/trained_models/str_ww_ref_model.tflite", remark=SAME,
    ),
    Case(
        "keyword spotting DS-CNN", "kws_dscnn_savedmodel_tf2/saved_model", ("same best class as float",),
        agreement.speech, agreement.speech, declare(task="classification"),
        "keyword_spotting/trained_models/kws_ref_model.tflite", remark=SAME,
    ),
    Case(
        "machine sounds autoencoder", SOUNDS[0], ("AUC",), agreement.machine_sounds, tones, declare(task="anomaly"),
        SOUNDS[1], remark="anomalies: the calibration data with a tone",
    ),
    Case(
        "machine sounds autoencoder, its input again", SOUNDS[0], ("PSNR",), agreement.machine_sounds,
        agreement.machine_sounds, declare(task="restoration"), SOUNDS[1], truth=agreement.machine_sounds, remark=SAME,
    ),
    Case(
        "selfie segmentation, plain INT8", SELFIE, ("IoU", "IoU of all pixels"), coco_train, agreement.pictures,
        declare(range="0..1", task="segmentation"), truth=masks, foreground=1, allow_float=True,
    ),
    Case(
        "selfie segmentation, `--max-drop 1%`", SELFIE, ("IoU", "IoU of all pixels"), coco_train, agreement.pictures,
        declare(range="0..1", task="segmentation"), truth=masks, foreground=1, max_drop=0.01,
    ),
)  # fmt: skip


def measure(case: Case, folder: Path) -> list[Row]:
    """A row for each metric of the case."""
    data, output = case.calibration(folder), folder / "model.tflite"
    evaluation = case.evaluation(folder) if case.evaluation else unused(case, data, folder / "unused")
    right: dict[str, Any] = {"truth": case.truth(folder) if case.truth else None, "foreground": case.foreground}
    record = convert(
        SHARED / "models" / case.model, profile=profile.find("host"), data=data, output=output,
        declaration=case.declaration, max_drop=case.max_drop, allow_float=case.allow_float, log=folder / "log",
        samples=case.samples, **(right | {"held_out": evaluation} if case.truth else {}),
    )  # fmt: skip
    options: dict[str, Any] = {"preprocess": record.preprocess, "labels": record.labels, "task": record.task, **right}
    if case.metrics == ("same best class as float",):
        evaluation = answered(Files.of(output).float, evaluation, folder / "answered.npz")
    files = [Files.of(output).float, output, *([PUBLISHED / case.published] if case.published else [])]
    compared = [
        validate.validate(one, other, evaluation, samples=case.count, seed=1, **options).metrics
        for one, other in itertools.pairwise(files)
    ]
    by_name = [{metric.name: metric for metric in metrics} for metrics in compared]
    rows = []
    for name in case.metrics:
        found = [one.get(name) or one["top-1 accuracy"] for one in by_name]
        found = [replace(metric, name=name) for metric in found]
        rows.append(Row(case, record, found[0], found[1] if len(found) > 1 else None))
    return rows


def unused(case: Case, data: Path, folder: Path) -> Path:
    """The labelled pictures of `data` that do not calibrate, as links beside a labels.csv."""
    source = open_dataset(data)
    assert source.labels is not None
    rest = source.order(seed=0)[case.samples :][: case.count]
    root = data if data.is_dir() else data.parent
    return listed(folder, root, {source.names[index]: source.labels[index] for index in rest})


def listed(folder: Path, root: Path, labels: dict[str, int]) -> Path:
    folder.mkdir()
    rows = ["file,label"]
    for number, (name, label) in enumerate(labels.items()):
        link = f"{number}{Path(name).suffix}"
        (folder / link).symlink_to((root / name).resolve())
        rows.append(f"{link},{label}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def answered(model: Path, data: Path, file: Path) -> Path:
    """The data with the model's own best classes as labels."""
    rows = np.load(data)
    with Engine.load(model) as engine:
        np.savez(file, x=rows, y=engine.infer_real([rows])[0].argmax(axis=-1))
    return file


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


def repair(name: str, record: Conversion) -> list[str]:
    """The table of candidates."""
    metric = next((one.metric for one in record.candidates if one.metric), "")
    lines = [
        f"{name} (float: {record.float_size / 1e3:.0f} kB); taken: `{record.kind}`", "",
        f"| candidate | size | loses of {metric} | |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for one in record.candidates:
        size = "-" if one.size is None else f"{one.size / 1e3:.0f} kB"
        drop = "-" if one.drop is None else f"{100 * one.drop:.2f} %"
        why = one.failure.rpartition(": ")[2] if one.failure else one.outcome
        lines.append(f"| `{one.name}` | {size} | {drop} | {why} |")
    return [*lines, ""]


def fidelity(folder: Path, model: agreement.RealModel) -> tuple[str, list[str]]:
    """A line of the table of models without labels: the lowest cosine of any output; where that is low its repair."""
    output = folder / "model.tflite"
    _unlabelled(folder, model, output)
    found = validate.validate_conversion(output, model.data(folder), samples=64, seed=1)
    around, least = min(zip(found.around_mean, found.outputs, strict=True), key=lambda pair: pair[0])
    text = f"| {model.name} | {found.samples} | {around:.4f} | {least.cosine:.4f} | {_decibels(least.sqnr_db)} |"
    if around >= LOW_COSINE:
        return text, []
    table = repair(model.name, _unlabelled(folder, model, folder / "repaired.tflite", max_drop=0.01))
    return text, [*table, _weights_alone(folder, Files.of(output).float, model), ""]


def _weights_alone(folder: Path, reference: Path, model: agreement.RealModel) -> str:
    """How much of the loss comes from the weights of convolutions, whatever is done to the activations."""
    record = Conversion.load(folder / "model.tflite")
    losses = {}
    for kinds in (tuple(weights.AXES), ("DEPTHWISE_CONV_2D",)):
        changed = folder / "weights.tflite"
        changed.write_bytes(weights.rounded(reference.read_bytes(), kinds))
        found = validate.validate(
            reference, changed, model.data(folder), preprocess=record.preprocess, samples=64, seed=1
        )
        losses[kinds] = 100 * (1 - min(found.around_mean))
    both, depthwise = losses.values()
    return (
        "With its activations in float, and only the weights of its convolutions rounded to 8 bits, it loses "
        f"{both:.2f} % of the cosine around the mean of its worst output; with those of depthwise convolutions alone "
        f"{depthwise:.2f} %."
    )


def _unlabelled(folder: Path, model: agreement.RealModel, output: Path, *, max_drop: float | None = None) -> Conversion:
    words = dict(zip(model.options[::2], model.options[1::2], strict=False))
    return convert(
        SHARED / "models" / model.path,
        profile=profile.find("host"),
        data=model.data(folder),
        output=output,
        declaration=declare(range=words.get("--range"), task=words.get("--task")),
        allow_float="--allow-float" in model.options,
        max_drop=max_drop,
        log=folder / "log",
    )


def _decibels(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"


def line(row: Row) -> str:
    metric, over = row.metric, row.over_published
    name = row.case.name if metric.name == row.case.metrics[0] else f"{row.case.name}, {metric.name}"
    what = metric.name + (f" ({row.case.remark})" if row.case.remark else "")
    other = "-" if over is None else f"{over.shown[1]} ({_apart(over)})"
    taken = "" if row.record.kind == "int8" else f" (`{row.record.kind}`)"
    shown = f"{metric.shown[0]} | {metric.shown[1]}{taken}"
    return f"| {name} | {what} | {metric.n} | {shown} | {_apart(metric)} | {other} |"


def _apart(metric: Metric) -> str:
    factor = 100 if metric.unit == PERCENT else 1
    return f"{factor * metric.drop:+.3f} ± {factor * (metric.half or 0):.3f}"


HEAD = """\
# What INT8 costs

Real trained models on real data, converted by edgekit (LiteRT 2.3.0 on an x86-64 computer). Float and converted model
see the same samples, which have not calibrated it unless the table says so, and are judged by `edgekit validate`'s
own metrics; differences are paired, with their 95 % interval (in percentage points for accuracies). What a repair has
taken, if not INT8, stands behind its figure. *Published* is the INT8 file that MLPerf Tiny publishes of the same model;
in brackets what ours has more than it.

| model | metric | n | float | edgekit | float less edgekit | published INT8 |
| --- | --- | --- | --- | --- | --- | --- |
"""
TAIL = """
The CIFAR-10 pictures are JPEG copies, which is why its accuracy is below the published 87 %. The few keywords here have
no labels that would tell an accuracy: both INT8 files are compared with float on the same inputs. There is no recording
of a broken machine here either: a tone was added to that of a sound one (one of 128 mel bins 10 dB louder), hard enough
to hear that INT8 could lose it; its samples overlap, so that their intervals are too narrow. The repairs of the
segmentation and of MobileNetV1 are judged on pictures that they are measured on, too.

Of the detector of the Object Detection API, from both of its forms: boxes of the original in TensorFlow (score 0.3 or
more) that are found again in the same class, and their mean IoU. (It finds hands and
faces, which no labels here tell of: there is no average precision.)

| from | float, batch 1 | float, batch 4 | INT8, batch 1 | INT8, batch 4 |
| --- | --- | --- | --- | --- |
{detectors}

Models without labels here: the output that is farthest from float, by its cosine around float's mean
([manifest.md](manifest.md#repair)).

| model | samples | around the mean | cosine | SQNR |
| --- | --- | --- | --- | --- |
{fidelity}

## Repairs

What `--max-drop` has tried ([manifest.md](manifest.md#repair)): 1 % of the metric for most, 0.5 % for MobileNetV1, and
5 % for basic-pitch, of which nothing keeps 1 %. Where the last line of a model says that its weights alone lose as
much, neither 16-bit activations nor clipped ranges can help.

{repairs}
## Repeat it

```
.venv/bin/python -m benchmarks.accuracy
```

writes this page, with the models and data beside the repository in `../shared`. `tests/docs/test_accuracy.py` holds the
page to its limits and measures a part of it again.
"""


def main() -> None:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)

        def fresh() -> Path:
            folder = root / str(len(list(root.iterdir())))
            folder.mkdir()
            return folder

        for case in CASES:
            measured_rows = measure(case, fresh())
            rows.extend(measured_rows)
            print("\n".join(map(line, measured_rows)), file=sys.stderr, flush=True)
        detectors = [
            "| " + " | ".join(detector(fresh(), export)) + " |"
            for export in ("frozen_inference_graph.pb", "saved_model")
        ]
        print("\n".join(detectors), file=sys.stderr, flush=True)
        measured = {case.model.split("/")[0] for case in CASES} | {"odapi_ssd_mnv2_fpnlite320_frozen_tf2sm"}
        plain = [one for one in agreement.MODELS if one.folder not in measured and "--max-drop" not in one.options]
        others = [fidelity(fresh(), one) for one in plain]
        print("\n".join(text for text, _ in others), file=sys.stderr, flush=True)
        music = fresh()
        np.save(music / "piano.npy", piano())
        pitches = convert(
            SHARED / "models/basic_pitch_savedmodel/saved_model", profile=profile.find("host"),
            data=music / "piano.npy", output=music / "model.tflite", max_drop=0.05, log=music / "log",
        )  # fmt: skip
        mobilenet = next(row.record for row in rows if row.case.max_drop == MOBILENET_DROP)
        repairs = [
            *repair("selfie segmentation", rows[-1].record), *repair("MobileNetV1 0.25 224", mobilenet),
            *repair("basic-pitch", pitches),
        ]  # fmt: skip
        repairs += [text for _, table in others for text in table]
    tail = TAIL.format(
        detectors="\n".join(detectors), fidelity="\n".join(text for text, _ in others), repairs="\n".join(repairs)
    )
    PAGE.write_text(HEAD + "\n".join(map(line, rows)) + "\n" + tail, encoding="utf-8")


def piano() -> Array:
    from tests.speech import piano_windows

    return piano_windows(SHARED / "data/speech_wavs")


if __name__ == "__main__":
    main()
