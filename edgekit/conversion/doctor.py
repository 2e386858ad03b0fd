"""The worker's side of the calibration doctor: what is wrong with data and declaration, found with the float model.

Nothing here is certain: a finding says what was seen, and what to try.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import batch, schema
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Preprocess
from numpy.typing import NDArray

from edgekit import worker
from edgekit.conversion import layers, quantize, survey, trial
from edgekit.conversion.finding import Finding
from edgekit.conversion.survey import Survey
from edgekit.datasets.dataset import Sample, Stream, open_dataset
from edgekit.errors import CheckFailed
from edgekit.models.input_scale import input_scale
from edgekit.models.operators import operators
from edgekit.worker import Progress

Array = NDArray[Any]
SAMPLES = 64  # whose tensors are looked at, in float
TRIED = 192  # pictures that are tried with other declarations
HELD_BYTES = 128 * 1024**2  # of them, at most
HELD_OUT = 4096  # held-out samples that are compared with those of the calibration
LIMIT_S = 600.0
# Of the tensors: so many may have a range that one half of the samples does not tell of the other.
UNSTABLE = 0.10
WIDER = 1.5  # times: a range that grows less changes an INT8 step by less than half
SETTLED = 0.80  # of the width that a range has in the end: the rest changes an INT8 step by a quarter at most
FEWEST = 8  # samples: fewer tell nothing of how many are enough
LATE = 0.80  # of the samples: ranges that settle only then have not settled
# A graph that divides its input by this much wants pixels; what it gets by then is below half of that.
PIXELS = 32.0


@dataclass(frozen=True)
class Request:
    """The float model, its task and what calibrates it; `ranges` is the file of what calibration has seen of them."""

    model: str
    data: str
    held_out: str | None
    labels: tuple[str, ...] | None
    preprocess: Preprocess | None
    task: str
    samples: int
    seed: int
    ranges: str | None = None


def diagnose(
    conversion: quantize.Request,
    made: quantize.Quantized,
    held_out: Path | None,
    *,
    log: Path | None,
    progress: Progress | None,
) -> tuple[Finding, ...]:
    """What the doctor finds in a conversion, in a process of its own. That nothing is held out it leaves to others."""
    apart = held_out is not None and held_out.resolve() != Path(conversion.data).resolve()
    seen = Path(conversion.folder) / quantize.RANGES
    request = Request(
        model=str(Path(conversion.folder) / (quantize.FLOAT if made.inside is None else quantize.DECLARED)),
        data=conversion.data,
        held_out=str(held_out) if apart else None,
        labels=None if made.detection else made.labels,
        preprocess=made.inside or made.preprocess,
        task=made.task,
        samples=conversion.samples,
        seed=conversion.seed,
        ranges=str(seen) if seen.is_file() else None,
    )
    what = "examining the calibration data"
    plain = worker.run("doctor", schema.plain(request), what=what, log=log, progress=progress, time_limit_s=LIMIT_S)
    return schema.read(Diagnosis, plain, "diagnosis").findings


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the serious ones first, and how many samples they rest on.

    `enough` is the number of samples from which on nine of ten tensors have four fifths of the range that they have in
    the end; None where fewer than 8 samples, or samples that are all alike, do not tell. Of the first 64 samples only.
    """

    findings: tuple[Finding, ...]
    samples: int = 0
    skipped: int = 0
    enough: int | None = None


@dataclass(frozen=True)
class _Kept:
    """What is kept of a stream: the first samples, and what other declarations are tried on: the pixels of pictures, or
    arrays as they are, with their labels.
    """

    samples: list[Sample]
    tried: list[Array]
    labels: list[int | None]


def work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Examine; returns a plain Diagnosis."""
    plain: dict[str, Any] = schema.plain(examine(schema.read(Request, request, "request"), progress))
    return plain


def examine(request: Request, progress: Progress) -> Diagnosis:
    """Look at what calibrates a model. Raises CheckFailed when the float model does not run."""
    progress("examine", 0, 4)
    data = open_dataset(Path(request.data), request.labels)
    engine = Engine.load(Path(request.model))
    content = Path(request.model).read_bytes()
    stream = data.stream(engine.inputs, request.preprocess, count=request.samples, seed=request.seed, skip_limit=1)
    seen = Survey(request.preprocess)
    # The interpreter runs the first samples while the others are read.
    with ThreadPoolExecutor(1) as beside:
        kept, reached = _kept(stream, seen, content, beside, request, tries=_may_classify_pictures(engine, request))
        reach = reached.result()
    before = int(np.isnan(reach[:1]).any())  # the first got black and white corners
    reach = reach[before : before + SAMPLES]
    progress("examine", 1, 4)
    found = [
        *seen.findings(),
        *_leaked(request, seen, engine),
        *_twice(content, seen, engine.inputs[0].shape, kept.samples),
    ]
    progress("examine", 2, 4)
    found += _tried(request, engine, kept, len(data.classes), pixels=data.pixels)
    progress("examine", 3, 4)
    settled = _enough(reach, before)
    enough = None if settled is None else before + settled
    found += _unstable(reach, before) or _late(enough, before + len(reach), len(seen.used))
    progress("examine", 4, 4)
    return Diagnosis(survey.in_order(found), len(seen.used), len(stream.skipped), enough)


def _may_classify_pictures(engine: Engine, request: Request) -> bool:
    """Whether other declarations can be tried; of a model without a task its answers are to show that it classifies."""
    shape = engine.inputs[0].shape
    pictures = len(engine.inputs) == 1 and len(shape) == 4 and shape[3] in (1, 3)
    scores = len(engine.outputs) == 1 and len(engine.outputs[0].shape) == 2 and engine.outputs[0].shape[1] > 1
    if request.task == "raw":
        return pictures and scores
    return request.task == "classification" and (pictures or request.preprocess is not None)


def _kept(
    stream: Stream, seen: Survey, model: bytes, beside: Executor, request: Request, *, tries: bool
) -> tuple[_Kept, "Future[Array]"]:
    """What is kept of the stream, and the `_reach` of its first samples."""
    kept, size, reached = _Kept([], [], []), 0, None
    most = SAMPLES if request.ranges is None else 1
    for sample in stream:
        seen.add(sample)
        if len(kept.samples) < most:
            kept.samples.append(sample)
        elif reached is None:
            reached = beside.submit(_reach, model, kept.samples, request.ranges)
        if tries and len(kept.tried) < TRIED and size < HELD_BYTES:
            spec = stream.preprocess if stream.dataset.pixels else None
            kept.tried.append(sample.inputs[0] if spec is None else survey.pixels(sample.inputs[0], spec))
            kept.labels.append(sample.label)
            size += kept.tried[-1].nbytes
    return kept, reached or beside.submit(_reach, model, kept.samples, request.ranges)


def _tried(request: Request, engine: Engine, kept: _Kept, classes: int, *, pixels: bool) -> list[Finding]:
    """Whether another range or colour order suits the model better than the declared, or than that of the arrays."""
    classifies = request.task == "classification"
    scores = math.prod(batch.sample_shape(engine.outputs[0]))
    if classes and classes != max(2, scores):  # the folders are no classes of its
        kept = replace(kept, labels=[None] * len(kept.labels))
    if pixels and request.preprocess is not None:
        return trial.compare(engine, request.preprocess, kept.tried, kept.labels, classifies=classifies)
    read = trial.reading(kept.tried, request.preprocess)
    if read is None:
        return []
    pictures = [survey.pixels(array, read) for array in kept.tried]
    return trial.compare(engine, read, pictures, kept.labels, classifies=classifies, given=True)


def _leaked(request: Request, calibration: Survey, engine: Engine) -> list[Finding]:
    if request.held_out is None:
        return []
    if Path(request.held_out).resolve() == Path(request.data).resolve():
        return [Finding("leakage", "the held-out data are those of the calibration", "give others with --data")]
    data = open_dataset(Path(request.held_out), request.labels)
    held_out = Survey(request.preprocess)
    for sample in islice(data.stream(engine.inputs, request.preprocess, skip_limit=1), HELD_OUT):
        held_out.add(sample)
    return survey.leaked(calibration, held_out)


def _twice(model: bytes, seen: Survey, shape: Sequence[int], samples: Sequence[Sample]) -> list[Finding]:
    """Whether pixels come scaled down twice, or once though the graph does it, too."""
    reach = seen.reach() if len(shape) == 4 and shape[3] in (1, 3) else None
    ranges = trial.normalised_twice(*reach, shape[3], samples[0].inputs[0]) if reach and samples else None
    if reach is not None and ranges is not None:
        what = f"the values reach from {reach[0]:.4g} to {reach[1]:.4g}, as pixels do that were brought to {ranges}"
        return [Finding("double-normalisation", what, "normalise them once")]
    scale, largest = input_scale(model), seen.largest()
    if scale is None or scale == 0 or scale > 1 / PIXELS or largest is None or largest > PIXELS / 2:
        return []
    what = f"the model divides its input by {1 / scale:.4g} itself, but no value that it gets is above {largest:.4g}"
    return [
        Finding(
            "double-normalisation",
            what,
            "the model wants pixels as they are: declare range 0..255, or give such arrays",
        )
    ]


def _reach(model: bytes, samples: Sequence[Sample], ranges: str | None) -> Array:
    """The least and largest value of each tensor for each sample: [samples, tensors, 2]; of the file where calibration
    has seen them. Raises CheckFailed.
    """
    if ranges is not None:
        known: Array = np.load(ranges)
        return known
    made = operators(model)
    rows = []
    try:
        tensors = layers.Tensors(model, made, fast=True)
        for sample in samples:
            tensors.run(sample.inputs)
            values = (tensors.real(name) for operator in made for name in operator.outputs)
            rows.append([(float(value.min()), float(value.max())) for value in values if value is not None])
    except (RuntimeError, ValueError) as error:
        raise CheckFailed(f"the float model does not run: {error}") from error
    return np.array(rows).reshape(len(rows), -1, 2)


def _enough(reach: Array, before: int) -> int | None:
    """The number of samples from which on the ranges have settled; None where none could have widened them."""
    if before + len(reach) < FEWEST or not np.ptp(reach, axis=0).any():
        return None
    widths = np.maximum.accumulate(reach[..., 1], axis=0) - np.minimum.accumulate(reach[..., 0], axis=0)
    settled = (widths >= SETTLED * widths[-1]).mean(axis=1)
    return int(np.argmax(settled >= 1 - UNSTABLE)) + 1


def _unstable(reach: Array, before: int) -> list[Finding]:
    """Whether half of the samples tells the ranges that the other half has."""
    half = len(reach) // 2
    if before + len(reach) < FEWEST or not reach.size:
        return []
    widths = [part[..., 1].max(axis=0) - part[..., 0].min(axis=0) for part in (reach[:half], reach[half : 2 * half])]
    grown = np.maximum(*widths) > WIDER * np.maximum(np.minimum(*widths), 1e-9)
    if grown.sum() <= UNSTABLE * len(grown):
        return []
    seen = (
        f"{int(grown.sum())} of {len(grown)} tensors reach {WIDER:g} times as far in one half of the samples as in the "
        "other"
    )
    return [Finding("unstable-ranges", seen, "calibrate with more samples (--samples), or with more like each other")]


def _late(enough: int | None, looked_at: int, samples: int) -> list[Finding]:
    """Whether the ranges were still growing with the last samples that there are."""
    if enough is None or looked_at < samples or enough <= LATE * samples:
        return []
    seen = f"the ranges settle only with {enough} of {samples} samples"
    return [Finding("too-few", seen, f"calibrate with more, {2 * samples} for example")]
