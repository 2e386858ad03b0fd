"""The worker's side of the calibration doctor: what is wrong with data and declaration, found with the float model.

Nothing here is certain: a finding says what was seen, and what to try.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import schema
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Preprocess, TensorSpec
from numpy.typing import NDArray

from edgekit import worker
from edgekit.conversion import layers, quantize
from edgekit.conversion.finding import Finding
from edgekit.datasets.dataset import RepresentativeDataset, Sample, open_dataset
from edgekit.datasets.declaration import RANGES
from edgekit.errors import CheckFailed
from edgekit.models.operators import operators
from edgekit.worker import Progress

Array = NDArray[Any]
SAMPLES = 64
LIMIT_S = 600.0
# An ImageNet classifier on wrongly scaled pictures still agrees with itself: better has to be clearly better.
CLEARLY = 0.10
# Of the tensors: so many may have a range that one half of the samples does not tell of the other.
UNSTABLE = 0.10
WIDER = 1.5  # times: a range that grows less changes an INT8 step by less than half
FAR = 4.0  # times the median of the samples' largest values
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True)
class Request:
    """The float model and what calibrates it; `classifies` where its only output has one score a class."""

    model: str
    data: str
    held_out: str | None
    labels: tuple[str, ...] | None
    preprocess: Preprocess | None
    classifies: bool
    samples: int
    seed: int


def diagnose(
    conversion: quantize.Request,
    made: quantize.Quantized,
    held_out: Path | None,
    *,
    log: Path | None,
    progress: Progress | None,
) -> tuple[Finding, ...]:
    """What the doctor finds in a conversion, in a process of its own."""
    request = Request(
        model=str(Path(conversion.folder) / quantize.FLOAT),
        data=conversion.data,
        held_out=str(held_out) if held_out else None,
        labels=None if made.detection else made.labels,
        preprocess=made.preprocess,
        classifies=made.task == "classification",
        samples=conversion.samples,
        seed=conversion.seed,
    )
    what = "examining the calibration data"
    plain = worker.run("doctor", schema.plain(request), what=what, log=log, progress=progress, time_limit_s=LIMIT_S)
    return schema.read(Diagnosis, plain, "diagnosis").findings


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the most serious first."""

    findings: tuple[Finding, ...]


def work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Examine; returns a plain Diagnosis."""
    plain: dict[str, Any] = schema.plain(Diagnosis(examine(schema.read(Request, request, "request"), progress)))
    return plain


def examine(request: Request, progress: Progress) -> tuple[Finding, ...]:
    """Look at what calibrates a model. Raises CheckFailed when the float model does not run."""
    progress("examine", 0, 4)
    data = open_dataset(Path(request.data), request.labels)
    engine = Engine.load(Path(request.model))
    stream = data.stream(engine.inputs, request.preprocess, count=request.samples, seed=request.seed, skip_limit=1)
    samples = list(islice(stream, SAMPLES))
    used = [*stream.used, *(sample.sha256 for sample in stream)]
    progress("examine", 1, 4)
    found = [*_repeated(used), *_leaked(request, used, engine.inputs), *_strange(samples)]
    progress("examine", 2, 4)
    if request.preprocess is not None and request.classifies:
        found = [*_scale(request, request.preprocess, data, engine), *found]
    progress("examine", 3, 4)
    found += _unstable(Path(request.model).read_bytes(), samples)
    progress("examine", 4, 4)
    return tuple(found)


def _repeated(used: Sequence[str]) -> list[Finding]:
    again = len(used) - len(set(used))
    if again == 0:
        return []
    seen = f"{again} of {len(used)} calibration samples are there twice"
    return [Finding("duplicates", seen, "they count as one; remove them and add others")]


def _leaked(request: Request, used: Sequence[str], inputs: Sequence[TensorSpec]) -> list[Finding]:
    if request.held_out is None or Path(request.held_out).resolve() == Path(request.data).resolve():
        return []
    held_out = open_dataset(Path(request.held_out), request.labels)
    stream = held_out.stream(inputs, request.preprocess, skip_limit=1)
    both = {sample.sha256 for sample in islice(stream, 4096)} & set(used)
    if not both:
        return []
    seen = f"{len(both)} of the held-out samples are in the calibration data, too"
    return [Finding("leakage", seen, "validation flatters INT8; remove them from one of the two")]


def _strange(samples: Sequence[Sample]) -> list[Finding]:
    """Samples without any difference in them, and those far out."""
    found = []
    constant = sum(all(float(np.ptp(value)) == 0 for value in sample.inputs if value.size > 1) for sample in samples)
    if constant * 10 > len(samples):
        seen = f"{constant} of {len(samples)} samples hold one value only"
        found.append(Finding("constant", seen, "are these blank pictures, or silence?"))
    for number in range(len(samples[0].inputs) if samples else 0):
        largest = np.array([float(np.abs(sample.inputs[number].astype(np.float64)).max()) for sample in samples])
        far = largest > FAR * max(float(np.median(largest)), 1e-12)
        if far.any():
            name = samples[int(np.argmax(largest))].name
            seen = f"{int(far.sum())} of {len(samples)} samples reach {FAR:g} times beyond the usual, such as {name}"
            found.append(Finding("outliers", seen, "one takes most INT8 steps from all others; remove it, or repair"))
    return found


def _scale(request: Request, declared: Preprocess, data: RepresentativeDataset, engine: Engine) -> list[Finding]:
    """The declared range and colour order against the usual ones: accuracy with labels, else certainty."""
    tried = {"as declared": declared}
    channels = declared.channels
    for name, (mean, std) in RANGES.items():
        tried[f"range {name}"] = replace(declared, mean=(mean,) * channels, std=(std,) * channels)
    if channels == 3:
        tried["ImageNet's mean and std"] = replace(declared, mean=_IMAGENET[0], std=_IMAGENET[1])
        other = "RGB" if declared.color == "BGR" else "BGR"
        tried[f"color {other}"] = replace(declared, color=other, mean=declared.mean[::-1], std=declared.std[::-1])
    labelled = data.labelled
    scores = {}
    for name, preprocess in tried.items():
        stream = data.stream(engine.inputs, preprocess, count=SAMPLES, seed=request.seed, skip_limit=1)
        scores[name] = _score(engine, list(stream), labelled=labelled)
    best = max(scores, key=lambda name: (scores[name], name == "as declared"))
    if scores[best] - scores["as declared"] <= CLEARLY:
        return []
    what = "top-1 accuracy" if labelled else "mean certainty of the best class"
    seen = (
        f"with {best} the float model's {what} on {min(SAMPLES, len(data))} samples is {scores[best]:.0%}, as declared "
        f"{scores['as declared']:.0%}"
    )
    name = "color-order" if best.startswith("color") else "range"
    return [Finding(name, seen, f"was the model trained with {best}?")]


def _score(engine: Engine, samples: Sequence[Sample], *, labelled: bool) -> float:
    right = []
    for sample in samples:
        scores = engine.infer_real([value[None] for value in sample.inputs])[0].ravel()
        right.append(float(int(scores.argmax()) == sample.label) if labelled else _certainty(scores))
    return float(np.mean(right)) if right else 0.0


def _certainty(scores: Array) -> float:
    """The best probability, of logits after a softmax."""
    if scores.min() < 0 or abs(float(scores.sum()) - 1) > 0.01:
        powers = np.exp(scores - scores.max())
        scores = powers / powers.sum()
    return float(scores.max())


def _unstable(model: bytes, samples: Sequence[Sample]) -> list[Finding]:
    """Whether half of the samples tells the ranges that the other half has."""
    half = len(samples) // 2
    if half < 4:
        return []
    try:
        one, other = (
            layers.ranges(model, operators(model), [sample.inputs for sample in part], 100)
            for part in (samples[:half], samples[half : 2 * half])
        )
    except (RuntimeError, ValueError) as error:
        raise CheckFailed(f"the float model does not run: {error}") from error
    grown = [name for name in one.keys() & other.keys() if _grows(one[name], other[name])]
    if len(grown) <= UNSTABLE * len(one):
        return []
    seen = f"{len(grown)} of {len(one)} tensors reach {WIDER:g} times as far in one half of the samples as in the other"
    return [Finding("unstable-ranges", seen, "calibrate with more samples (--samples), or with more like each other")]


def _grows(one: layers.Range, other: layers.Range) -> bool:
    widths = sorted(((one.largest - one.least), (other.largest - other.least)))
    return widths[1] > WIDER * max(widths[0], 1e-9)
