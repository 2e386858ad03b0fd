"""The worker's side of `validate`: both models through the Engine, sample by sample, in bounded memory."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import batch, schema
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import TensorSpec
from numpy.typing import NDArray

from edgekit.datasets.dataset import open_dataset
from edgekit.errors import CheckFailed, UserError
from edgekit.models import flatbuffer, operators
from edgekit.validation.classification import TOP, best
from edgekit.validation.fidelity import Fidelity
from edgekit.validation.latency import Race, threads
from edgekit.validation.score import open_score
from edgekit.validation.validate import NO_TASK, Request, Saturation, Validation, spoiled
from edgekit.worker import Progress

Array = NDArray[Any]
SATURATED = 0.01  # share of values out of range that is worth a word


def work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Compare; returns a plain Validation."""
    plain: dict[str, Any] = schema.plain(compare(schema.read(Request, request, "request"), progress))
    return plain


def compare(request: Request, progress: Progress) -> Validation:
    """Run both models on the data. Raises UserError when models and data do not fit each other."""
    reference, int8 = _engine(request, request.float_model), _engine(request, request.int8_model)
    _check_alike(reference, int8)
    data = open_dataset(Path(request.data), request.labels)
    reals = tuple(spec if spec.scale is None else replace(spec, dtype="float32") for spec in reference.inputs)
    stream = data.stream(reals, request.preprocess, count=request.samples, seed=request.seed)
    stored_outputs = flatbuffer.read(Path(request.int8_model)).stored_outputs
    middle = operators.middle(Path(request.float_model).read_bytes())
    parts = operators.parts(Path(request.float_model).read_bytes())
    tally = _Tally(request.task, int8, stored_outputs, middle, parts)
    score = open_score(request, data, int8.outputs, middle)
    race = Race(reference, int8)
    for number, sample in enumerate(stream):
        progress("validate", number, stream.wanted)
        rows = [value[None] for value in sample.inputs]
        wanted, got = race.run(rows)
        tally.add(sample.name, rows, wanted, got)
        if score is not None:
            score.add(sample, wanted, got)
    progress("validate", stream.wanted, stream.wanted)
    metrics = () if score is None else score.metrics()
    notes = () if score is None else tuple(score.notes)
    if data.labelled and request.task == "raw":
        several = f"its {len(int8.outputs)} outputs leave open whose they are"
        notes = (f"the labels are not used, since {several if len(int8.outputs) > 1 else NO_TASK}",)
    saturation = tally.saturation()
    distances = tuple(fidelity.distance() for fidelity in tally.fidelities)
    around = tally.around_mean()
    top1 = tally.share(tally.agree_top1)
    float_model, int8_model = Path(request.float_model).read_bytes(), Path(request.int8_model).read_bytes()
    return Validation(
        samples=len(stream.used),
        skipped=len(stream.skipped),
        task=request.task,
        outputs=distances,
        around_mean=around,
        saturation=saturation,
        top1_agreement=top1,
        top5_agreement=tally.share(tally.agree_top5) if tally.classes > TOP else None,
        metrics=metrics,
        float_sha256=hashlib.sha256(float_model).hexdigest(),
        float_size=len(float_model),
        int8_sha256=hashlib.sha256(int8_model).hexdigest(),
        int8_size=len(int8_model),
        latency=race.latency(),
        notes=spoiled(distances, around, top1, metrics) + notes + _saturated(saturation, int8) + stream.notes(),
    )


class _Tally:
    """The counts that make up a Validation."""

    def __init__(
        self,
        task: str,
        int8: Engine,
        stored_outputs: Sequence[TensorSpec],
        middle: float,
        parts: Sequence[Sequence[operators.Region]],
    ) -> None:
        self.samples = 0
        # What INT8 does to a small part of an output, beside a large one, only the part itself tells.
        self._parts = [
            [(_cut(part), Fidelity(spec.name)) for part in some] for spec, some in zip(int8.outputs, parts, strict=True)
        ]
        self._middle = middle
        self.classes = int(np.prod(batch.sample_shape(int8.outputs[0]))) if task == "classification" else 0
        self.agree_top1 = self.agree_top5 = 0
        self.fidelities = [Fidelity(spec.name) for spec in int8.outputs]
        self._ends = ([_Range(spec) for spec in int8.inputs], [_Range(spec) for spec in stored_outputs])

    def add(self, name: str, rows: list[Array], wanted: list[Array], got: list[Array]) -> None:
        """One sample: real inputs, float outputs, INT8 outputs (dequantised). Raises UserError when float's are not
        finite, CheckFailed when INT8's are not.
        """
        self.samples += 1
        for values, ranges in zip((rows, wanted), self._ends, strict=True):
            for value, end in zip(values, ranges, strict=True):
                end.add(value)
        for fidelity, one, other in zip(self.fidelities, wanted, got, strict=True):
            if not np.isfinite(one).all():
                raise UserError(
                    f"float's output '{fidelity.output}' is not finite on the sample {name}",
                    hint="is the declared range the one that the model was trained on?",
                    sample=name,
                )
            if not np.isfinite(other).all():
                raise CheckFailed(f"INT8's output '{fidelity.output}' is not finite on the sample {name}", sample=name)
            fidelity.add(one, other)
        for some, one, other in zip(self._parts, wanted, got, strict=True):
            for cut, part in some:
                part.add(one[cut], other[cut])
        if self.classes:
            first, second = best(wanted[0], self._middle), best(got[0], self._middle)
            self.agree_top1 += first[0] == second[0]
            self.agree_top5 += first[0] in second

    def around_mean(self) -> tuple[float, ...]:
        """Of each output that of its worst part."""
        return tuple(min(part.around_mean() for _, part in some) for some in self._parts)

    def share(self, count: int) -> float | None:
        """`count` of all samples, for a classification model."""
        return count / self.samples if self.classes else None

    def saturation(self) -> Saturation:
        """The shares over all samples."""
        inputs, outputs = (tuple(end.share() for end in ranges) for ranges in self._ends)
        return Saturation(inputs, outputs)


def _cut(region: operators.Region) -> tuple[slice, ...]:
    return (slice(None), *(slice(*ends) for ends in region))


class _Range:
    """Counts real values more than a step outside of what a tensor can store.

    A whole step, since TFLite fixes a softmax to 0..255/256: its 1.0 is one step out and loses nothing.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._limits: tuple[float, float] | None = None
        if spec.scale is not None and spec.zero_point is not None:
            limits = np.iinfo(spec.dtype)
            low, high = (float(limit) - spec.zero_point for limit in (limits.min, limits.max))
            self._limits = ((low - 1) * spec.scale, (high + 1) * spec.scale)
        self._outside = self._values = 0

    def add(self, values: Array) -> None:
        if self._limits is not None:
            # A float32 value that sits on the edge is inside.
            slack = 1e-5 * (self._limits[1] - self._limits[0])
            outside = (values < self._limits[0] - slack) | (values > self._limits[1] + slack)
            self._outside += int(np.count_nonzero(outside))
            self._values += values.size

    def share(self) -> float | None:
        return None if self._limits is None else self._outside / max(1, self._values)


def _saturated(saturation: Saturation, int8: Engine) -> tuple[str, ...]:
    sides = (("input", saturation.inputs, int8.inputs), ("output", saturation.outputs, int8.outputs))
    return tuple(
        f"{side} '{spec.name}' saturates: {share:.1%} of its values are outside of what it stores: calibrate with more "
        "samples like these"
        for side, shares, specs in sides
        for share, spec in zip(shares, specs, strict=True)
        if share is not None and share > SATURATED
    )


def _engine(request: Request, model: str) -> Engine:
    return Engine.load(
        Path(model),
        preprocess=request.preprocess,
        labels=request.labels,
        task="raw" if request.task == "detection" else request.task,  # its raw heads are what INT8 changes
        num_threads=threads(request.num_threads),
    )


def _check_alike(reference: Engine, int8: Engine) -> None:
    for kind, one, other in (("inputs", reference.inputs, int8.inputs), ("outputs", reference.outputs, int8.outputs)):
        shapes = [[batch.sample_shape(spec) for spec in specs] for specs in (one, other)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"the two models do not have the same {kind}: {shapes[0]} and {shapes[1]}",
                hint="give the float and the INT8 model of one conversion",
            )
