"""validate: a float and an INT8 `.tflite` on the same inputs, both through the Engine that ships."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit_runtime import schema
from edgekit_runtime.manifest import Detection, Distance, Preprocess

from edgekit import worker
from edgekit.conversion.record import Conversion, Files
from edgekit.errors import CheckFailed, UserError
from edgekit.validation.latency import HostLatency
from edgekit.validation.metric import Metric

SCHEMA = 1
JOB = "validate"
REPAIR = "convert with --max-drop 1%, say: a repair keeps in float what INT8 spoils"
# Of the models in docs/accuracy.md only those whose repair it shows are beyond; most lose a tenth of this.
SPOILED_LOSS = 0.05
SPOILED_COSINE = 0.95
SPOILED_AGREEMENT = 0.9
# How to say what is right, by task.
RIGHT = {
    "classification": "give one folder a class, a labels.csv, or 'y' in the .npz",
    "anomaly": "give a folder of normal and one of other samples, a labels.csv, or 'y' in the .npz (0 is normal)",
    "segmentation": "give masks with --truth",
    "detection": "give boxes with --truth: COCO's instances .json, or a folder of YOLO's .txt",
    "restoration": "give the right pictures or arrays with --truth",
    "raw": 'declare a task, such as "classification" for labels, when the model is converted',
}
NO_TASK = f"no task was declared: {RIGHT['raw']}"


@dataclass(frozen=True)
class Saturation:
    """Shares of 1 of the float model's real values that INT8 cannot store: more than a step out of its range.

    Each is None for a tensor that is not quantised.
    """

    inputs: tuple[float | None, ...]
    outputs: tuple[float | None, ...]


@dataclass(frozen=True)
class Validation:
    """What INT8 costs. Agreement is the share of samples whose best class is the same (`top1`), or where float's best
    is among INT8's five best (`top5`; None for at most 5 classes). `around_mean` is each output's cosine around
    float's mean, of one that was joined of parts the least of theirs. Sizes are in bytes. `metrics` are the task's,
    where what is right is known; the first one is what budgets are held to.
    """

    samples: int
    skipped: int
    task: str
    outputs: tuple[Distance, ...]
    around_mean: tuple[float, ...]
    saturation: Saturation
    top1_agreement: float | None
    top5_agreement: float | None
    metrics: tuple[Metric, ...]
    float_sha256: str
    float_size: int
    int8_sha256: str
    int8_size: int
    latency: HostLatency
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA


@dataclass(frozen=True)
class Thresholds:
    """Each may be left out. Drop (of the task's metric) and agreement are shares of 1; cosine and SQNR hold for every
    output.
    """

    min_cosine: float | None = None
    min_sqnr_db: float | None = None
    min_top1_agreement: float | None = None
    max_accuracy_drop: float | None = None


@dataclass(frozen=True)
class Request:
    """What the parent asks the worker for."""

    float_model: str
    int8_model: str
    data: str
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    task: str
    num_threads: int
    samples: int | None
    seed: int
    truth: str | None = None
    foreground: int | None = None
    detection: Detection | None = None
    anchors: str | None = None


def validate(
    float_model: Path,
    int8_model: Path,
    data: Path,
    *,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    task: str = "raw",
    num_threads: int = 1,
    samples: int | None = None,
    seed: int = 0,
    truth: Path | None = None,
    foreground: int | None = None,
    detector: tuple[Detection, Path] | None = None,
    progress: worker.Progress | None = None,
    log: Path | None = None,
    time_limit_s: float | None = None,
) -> Validation:
    """Run both models on at most `samples` samples of `data` (all when None) and compare.

    `truth` is what is right where no label can say it: masks, boxes, pictures (see docs/manifest.md); `foreground` the
    masks' number for the foreground of a model of two classes; `detector` a detection with the file of its anchors.
    `progress` gets the stage "validate". Raises UserError for inputs that do not fit, CheckFailed when a model crashes
    its interpreter: they run in a process of their own.
    """
    for model in (float_model, int8_model):
        if not model.is_file():
            raise UserError(f"{model}: no such .tflite file")
    request = Request(
        float_model=str(float_model),
        int8_model=str(int8_model),
        data=str(data),
        preprocess=preprocess,
        labels=None if labels is None else tuple(labels),
        task=task,
        num_threads=num_threads,
        samples=samples,
        seed=seed,
        truth=None if truth is None else str(truth),
        foreground=foreground,
        detection=detector[0] if detector else None,
        anchors=str(detector[1]) if detector else None,
    )
    plain = worker.run(
        JOB,
        schema.plain(request),
        what=f"validating {int8_model}",
        log=log,
        progress=progress,
        time_limit_s=time_limit_s,
    )
    return schema.read(Validation, plain, "validation")


def validate_conversion(
    model: Path,
    data: Path,
    *,
    num_threads: int = 1,
    samples: int | None = None,
    seed: int = 0,
    truth: Path | None = None,
    foreground: int | None = None,
    progress: worker.Progress | None = None,
    log: Path | None = None,
) -> Validation:
    """`validate` for a `.tflite` that `convert` made: the float model and all else come from its record."""
    record, files = Conversion.load(model), Files.of(model)
    if not files.float.is_file() or _sha256(files.float) != record.float_sha256:
        raise CheckFailed(f"{files.float}: not the float model of this conversion", hint="convert again")
    return validate(
        files.float,
        model,
        data,
        preprocess=record.preprocess,
        labels=record.labels,
        task=record.task,
        num_threads=num_threads,
        samples=samples,
        seed=seed,
        truth=truth,
        foreground=foreground,
        detector=(record.detection, files.anchors) if record.detection else None,
        progress=progress,
        log=log,
    )


def loss(validation: Validation) -> tuple[str, float]:
    """What INT8 loses, as a share of 1, and of what: of the task's metric where it is known what is right, else of
    agreement (the same best class), else of the lowest cosine of any output around its mean.
    """
    if validation.metrics:
        return validation.metrics[0].name, validation.metrics[0].lost
    if validation.top1_agreement is not None:
        return "agreement with float", 1 - validation.top1_agreement
    return "cosine around float's mean", 1 - min(validation.around_mean)


def check(validation: Validation, thresholds: Thresholds) -> None:
    """Raises CheckFailed that lists every threshold that does not hold, UserError for one that cannot be judged."""
    failures = []
    for distance in validation.outputs:
        if thresholds.min_cosine is not None and distance.cosine < thresholds.min_cosine:
            failures.append(f"cosine of '{distance.output}' is {distance.cosine:.6f}, below {thresholds.min_cosine:g}")
        sqnr = math.inf if distance.sqnr_db is None else distance.sqnr_db
        if thresholds.min_sqnr_db is not None and sqnr < thresholds.min_sqnr_db:
            failures.append(f"SQNR of '{distance.output}' is {sqnr:.1f} dB, below {thresholds.min_sqnr_db:g} dB")
    if thresholds.min_top1_agreement is not None:
        if validation.top1_agreement is None:
            raise UserError("agreement can be judged for classification only", task=validation.task)
        if validation.top1_agreement < thresholds.min_top1_agreement:
            failures.append(
                f"top-1 agreement is {validation.top1_agreement:.2%}, below {thresholds.min_top1_agreement:.2%}"
            )
    if thresholds.max_accuracy_drop is not None:
        if not validation.metrics:
            why = "no task was declared" if validation.task == "raw" else "the data have no labels and no truth"
            said = next((note for note in validation.notes if note.startswith("no accuracy")), None)
            ways = "give data whose classes and values are the model's" if said else RIGHT[validation.task]
            raise UserError(
                f"the loss of a {validation.task} model cannot be judged: {said or why}",
                hint=f"{ways}; or leave the threshold out",
                task=validation.task,
            )
        judged = validation.metrics[0]
        if judged.lost > thresholds.max_accuracy_drop:
            failures.append(
                f"{judged.name} falls by {judged.lost:.2%} (of {judged.n} samples), "
                f"more than {thresholds.max_accuracy_drop:.2%}"
            )
    if failures:
        raise CheckFailed(
            "INT8 is too far from float: " + "; ".join(failures),
            hint=REPAIR,
            failures=failures,
        )


def spoiled(
    outputs: Sequence[Distance], around_mean: Sequence[float], agreement: float | None, metrics: Sequence[Metric]
) -> tuple[str, ...]:
    """A word on a model that is much worse than float: no threshold, which only the model's owner can set."""
    least, name = min(zip(around_mean, (distance.output for distance in outputs), strict=True))
    if metrics and metrics[0].lost > SPOILED_LOSS:
        what = f"it loses {metrics[0].lost:.1%} of {metrics[0].name}"
    elif not metrics and agreement is not None and agreement < SPOILED_AGREEMENT:
        what = f"the same best class in {agreement:.1%} only"
    elif not metrics and agreement is None and least < SPOILED_COSINE:
        what = f"the cosine of '{name}' around float's mean is {least:.2f}"
    else:
        return ()
    return (f"the converted model is far from float ({what}): {REPAIR}",)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
