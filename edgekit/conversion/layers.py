"""The worker's side of finding the guilty: each tensor of the float model against the same one in INT8, and its range.

Both run in the interpreter with all tensors kept; what they have in common are the names of the tensors.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import quant, schema
from edgekit_runtime.manifest import Preprocess, TensorSpec
from numpy.typing import NDArray

from edgekit import worker
from edgekit.datasets.dataset import open_dataset
from edgekit.errors import CheckFailed
from edgekit.models import flatbuffer
from edgekit.models.flatbuffer import with_all_outputs
from edgekit.models.operators import Operator, operators
from edgekit.models.ranges import stored_ranges
from edgekit.profiles import hostfacts
from edgekit.worker import Progress

Array = NDArray[Any]
REPORT = "layers.json"
SAMPLES = 16
LIMIT_S = 600.0
PERCENT = 99.99
BINS = 64
_LEAST = 1e-6  # of a tensor's energy: below it there is nothing to be wrong about


@dataclass(frozen=True)
class Request:
    """Two models in `folder`, where REPORT is written. Without `int8` only ranges are measured."""

    float: str
    int8: str | None
    data: str
    preprocess: Preprocess | None
    seed: int
    folder: str


@dataclass(frozen=True)
class LayerError:
    """`error` is the RMS difference of an operator's output divided by the RMS of the float output, over all samples.

    `own` is what of that the operator adds to its worst input: where repair begins.
    """

    tensor: str
    operator: str
    error: float
    own: float


@dataclass(frozen=True)
class Histogram:
    """How many of a tensor's float values lie in each of BINS equal steps from low, the least, to high, the largest."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LayerReport:
    """Of each tensor: errors in the INT8 model's order; where PERCENT of the float values are (`ranges`), and what INT8
    can store (`chosen`), both as (low, high); how the float values lie (`histograms`) where there is an error.
    """

    errors: tuple[LayerError, ...] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    chosen: dict[str, tuple[float, float]] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)


def measure(request: Request, *, log: Path | None = None, progress: Progress | None = None) -> LayerReport:
    """Compare two models layer by layer, in a process of its own. Raises CheckFailed when one of them does not run."""
    what = "comparing layers with float"
    worker.run("layers", schema.plain(request), what=what, log=log, progress=progress, time_limit_s=LIMIT_S)
    return schema.load_json(LayerReport, (Path(request.folder) / REPORT).read_text("ascii"), REPORT)


def work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write REPORT, a LayerReport."""
    asked = schema.read(Request, request, "request")
    float_model = Path(asked.float).read_bytes()
    found = flatbuffer.parse(float_model)
    stream = open_dataset(Path(asked.data)).stream(
        found.inputs, asked.preprocess, count=SAMPLES, seed=asked.seed, skip_limit=1
    )
    samples = [sample.inputs for sample in stream]
    progress("layers", 0, 2)
    try:
        seen = ranges(float_model, operators(float_model), samples, PERCENT)
        progress("layers", 1, 2)
        int8 = Path(asked.int8).read_bytes() if asked.int8 else None
        wrong, histograms = errors(float_model, int8, operators(int8), samples, seen) if int8 else ((), {})
    except (RuntimeError, ValueError) as error:  # the interpreter's own words
        raise CheckFailed(f"its layers cannot be compared with float: {error}") from error
    percentiles = {name: (one.low, one.high) for name, one in seen.items()}
    report = LayerReport(wrong, percentiles, stored_ranges(int8) if int8 else {}, histograms)
    (Path(asked.folder) / REPORT).write_text(schema.dump_json(report), "ascii")
    progress("layers", 2, 2)
    return {}


@dataclass(frozen=True)
class Range:
    """Percentiles of a tensor's values in all samples, with the least and largest of all."""

    low: float
    high: float
    least: float
    largest: float


class Tensors:
    """A model that keeps its tensors: real values by name, after each run.

    With `fast` XNNPACK runs it, in a fraction of the time; its values differ from TFLite's own by float's rounding.
    """

    def __init__(self, content: bytes, operators: Sequence[Operator], *, fast: bool = False) -> None:
        from ai_edge_litert.interpreter import Interpreter

        if fast:
            self._interpreter = Interpreter(model_content=with_all_outputs(content), num_threads=hostfacts.cores())
        else:
            self._interpreter = Interpreter(
                model_content=content,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=_reference_free(),
            )
        self._interpreter.allocate_tensors()
        self._names = {name for operator in operators for name in operator.outputs}
        self._details = {detail["name"]: detail for detail in self._interpreter.get_tensor_details()}

    def run(self, inputs: Sequence[Array]) -> None:
        """One sample of real values, without the batch where the model has one."""
        for detail, value in zip(self._interpreter.get_input_details(), inputs, strict=True):
            shaped = value.reshape(detail["shape"])
            self._interpreter.set_tensor(detail["index"], _stored(shaped, detail))
        self._interpreter.invoke()

    def real(self, name: str) -> Array | None:
        """The tensor's real values; None where this model has none of that name."""
        detail = self._details.get(name)
        if detail is None or name not in self._names or not np.prod(detail["shape"]):
            return None
        value = self._interpreter.get_tensor(detail["index"])
        scale, zero = detail["quantization"]
        if value.dtype.kind == "i" and scale:
            return quant.dequantize(value, TensorSpec(name, value.shape, value.dtype.name, float(scale), int(zero)))
        return np.asarray(value, np.float32) if value.dtype.kind == "f" else None


def errors(
    float_model: bytes,
    int8_model: bytes,
    operators: Sequence[Operator],
    samples: Iterable[Sequence[Array]],
    seen: Mapping[str, Range],
) -> tuple[tuple[LayerError, ...], dict[str, Histogram]]:
    """The error behind each operator of the INT8 model, in their order, and how the float values lie in the ranges that
    were `seen`. Raises RuntimeError as the interpreter does.
    """
    reference, int8 = Tensors(float_model, operators), Tensors(int8_model, operators)
    sums: dict[str, list[float]] = {}
    counts: dict[str, Array] = {}
    for sample in samples:
        for model in (reference, int8):
            model.run(sample)
        for name in (name for operator in operators for name in operator.outputs):
            wanted, got = reference.real(name), int8.real(name)
            if wanted is not None and got is not None and wanted.shape == got.shape:
                # The logarithm of nothing, for example, tells nothing; what is lost in INT8 alone is all of its value.
                known = np.isfinite(wanted)
                wanted, got = wanted[known], np.nan_to_num(got[known], nan=0.0, posinf=0.0, neginf=0.0)
                added = sums.setdefault(name, [0.0, 0.0])
                added[0] += float(np.square(wanted - got, dtype=np.float64).sum())
                added[1] += float(np.square(wanted, dtype=np.float64).sum())
                if name in seen and seen[name].largest > seen[name].least:
                    ends = (seen[name].least, seen[name].largest)
                    counts[name] = counts.get(name, 0) + np.histogram(wanted, BINS, ends)[0]
    found = {name: float(np.sqrt(wrong / energy)) for name, (wrong, energy) in sums.items() if energy > _LEAST}
    histograms = {
        name: Histogram(seen[name].least, seen[name].largest, tuple(counts[name].tolist()))
        for name in found
        if name in counts
    }
    return tuple(_layers(operators, found)), histograms


def _layers(operators: Sequence[Operator], found: dict[str, float]) -> Iterator[LayerError]:
    for operator in operators:
        for name in operator.outputs:
            if name in found:
                before = max((found.get(given, 0.0) for given in operator.inputs), default=0.0)
                yield LayerError(name, operator.name, found[name], max(0.0, found[name] - before))


def ranges(
    float_model: bytes, operators: Sequence[Operator], samples: Sequence[Sequence[Array]], percent: float
) -> dict[str, Range]:
    """Of each operator's output: `percent` of its values, of all samples together, lie between low and high.

    Memory is that of one sample, and of the values beyond the two ends.
    """
    model = Tensors(float_model, operators)
    share = (100 - percent) / 200
    tails: dict[str, _Tails] = {}
    for sample in samples:
        model.run(sample)
        for name in (name for operator in operators for name in operator.outputs):
            value = model.real(name)
            value = None if value is None else value[np.isfinite(value)]
            if value is not None and value.size:
                tails.setdefault(name, _Tails(2 + int(share * value.size * len(samples)))).add(value)
    return {name: held.range(share) for name, held in tails.items()}


class _Tails:
    """The `most` least and largest of many values, in order; enough of them for a percentile near the ends."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._least = self._largest = np.zeros(0, np.float32)

    def add(self, values: Array) -> None:
        self._count += values.size
        self._least = np.sort(_first(np.concatenate([self._least, values]), self._most))
        self._largest = np.sort(-_first(-np.concatenate([self._largest, values]), self._most))

    def range(self, share: float) -> Range:
        """The values with `share` of all below and above them, as numpy.percentile interpolates."""
        place = share * (self._count - 1)
        low, high = (np.interp(place, np.arange(end.size), end) for end in (self._least, self._largest[::-1]))
        return Range(float(low), float(high), float(self._least[0]), float(self._largest[-1]))


def _first(values: Array, count: int) -> Array:
    """The `count` least, in no order."""
    return values if values.size <= count else np.partition(values, count - 1)[:count]


def _reference_free() -> Any:
    """Kernels without delegates: a delegate keeps no tensors of its own."""
    from ai_edge_litert.interpreter import OpResolverType

    return OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def _stored(value: Array, detail: dict[str, Any]) -> Array:
    scale, zero = detail["quantization"]
    kind = np.dtype(detail["dtype"]).name
    if not scale or value.dtype.kind != "f":
        return value.astype(kind)
    return quant.quantize(value, TensorSpec(detail["name"], value.shape, kind, float(scale), int(zero)))
