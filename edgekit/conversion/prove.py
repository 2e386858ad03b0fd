"""The worker's side of the proof after a conversion: both models load and run, and the golden samples are made.

TensorFlow is not imported here: a model that crashes its interpreter ends this process and nothing else.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import batch, detect, quant, schema
from edgekit_runtime.engine import Engine
from edgekit_runtime.golden import GoldenSamples, write
from edgekit_runtime.integrity import ModelError
from edgekit_runtime.manifest import ANCHORS, GOLDEN, Detection, Golden, Preprocess, TensorSpec

from edgekit import worker
from edgekit.conversion import boxes, quantize
from edgekit.datasets.dataset import Sample, open_dataset
from edgekit.errors import CheckFailed
from edgekit.models import delegation
from edgekit.models.delegation import Delegation
from edgekit.validation.fidelity import Fidelity
from edgekit.worker import Progress

MAX_SAMPLES = 8
LIMIT_S = 600.0
MAX_BYTES = 1024 * 1024  # of arrays; .npy adds a hundred bytes each
_OVERHEAD_BYTES = 4096
REPAIR = "convert with --max-drop 1%, say: a repair keeps in float what does not run in INT8"


@dataclass(frozen=True)
class Request:
    """Two models, the data they were made with, and where `golden.npy` is written.

    A detector's anchors and what the original finds are beside it.
    """

    int8: str
    float: str
    data: str
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    task: str
    input_names: tuple[str, ...]
    seed: int
    golden: str
    detection: Detection | None = None


@dataclass(frozen=True)
class Proof:
    """The INT8 model's tensors as the Engine sees them; `golden` is None when one sample is over 1 MiB.

    `notes` say what of the original detector's boxes is found again, `lost` which share of them is not.
    `delegation` is the INT8 model's.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    golden: Golden | None
    notes: tuple[str, ...] = ()
    lost: float | None = None
    delegation: Delegation | None = None


def run(
    conversion: quantize.Request,
    made: quantize.Quantized,
    model: Path,
    *,
    log: Path | None,
    progress: Progress | None,
) -> Proof:
    """Prove `model`, one that was made by this conversion, in a process of its own."""
    folder = Path(conversion.folder)
    request = Request(
        int8=str(model),
        float=str(folder / quantize.FLOAT),
        data=conversion.data,
        preprocess=made.preprocess,
        labels=made.labels,
        task=made.task,
        input_names=made.input_names,
        seed=conversion.seed,
        golden=str(folder / GOLDEN),
        detection=made.detection,
    )
    plain = worker.run(
        "prove",
        schema.plain(request),
        what="running the converted model",
        log=log,
        progress=progress,
        time_limit_s=LIMIT_S,
    )
    return schema.read(Proof, plain, "proof")


def work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Prove; returns a plain Proof."""
    plain: dict[str, Any] = schema.plain(prove(schema.read(Request, request, "request"), progress))
    return plain


def prove(request: Request, progress: Progress) -> Proof:
    """Load and run both models on real samples. Raises CheckFailed with the interpreter's own reason."""
    int8, reference = _engine(request, request.int8, "INT8"), _engine(request, request.float, "float")
    specs = tuple(
        replace(spec, name=name, dtype="float32" if spec.scale is not None else spec.dtype)
        for spec, name in zip(int8.inputs, request.input_names, strict=True)
    )
    _run_blank(int8, specs)
    # How many may be unreadable was judged when they calibrated; here they are few, and one would be too many.
    data = open_dataset(Path(request.data))
    stream = data.stream(specs, request.preprocess, count=MAX_SAMPLES, seed=request.seed, skip_limit=1)
    fidelities = [Fidelity(spec.name) for spec in int8.outputs]
    inputs: list[list[Any]] = [[] for _ in int8.inputs]
    outputs: list[list[Any]] = [[] for _ in int8.outputs]
    size = _OVERHEAD_BYTES
    for number, sample in enumerate(stream):
        progress("prove", number, stream.wanted)
        stored, wanted, got = _run(sample, int8, reference)
        if request.detection is not None:
            boxes.check_scores(request.detection, wanted[request.detection.scores])
        size += sum(array.nbytes for array in (*stored, *wanted))
        if size > MAX_BYTES:
            break
        for fidelity, one, other in zip(fidelities, wanted, got, strict=True):
            fidelity.add(one, other)
        for rows, array in zip((*inputs, *outputs), (*stored, *wanted), strict=True):
            rows.append(array)
    progress("prove", stream.wanted, stream.wanted)
    count = len(inputs[0])
    golden = Golden(count, tuple(fidelity.distance() for fidelity in fidelities)) if count else None
    if count:
        held = GoldenSamples(tuple(map(np.concatenate, inputs)), tuple(map(np.concatenate, outputs)))
        write(Path(request.golden), held)
    shares = delegation.find(Path(request.int8))
    if request.detection is None:
        return Proof(int8.inputs, int8.outputs, golden, delegation=shares)
    stream = data.stream(specs, request.preprocess, seed=request.seed, skip_limit=1)
    note, lost = boxes.compare(Path(request.golden).parent, stream, reference, int8, progress)
    return Proof(int8.inputs, int8.outputs, golden, (note,), lost, shares)


def _engine(request: Request, model: str, kind: str) -> Engine:
    detector = None
    if request.detection is not None:
        path = Path(request.golden).with_name(ANCHORS)
        detector = (request.detection, detect.parse_anchors(path.read_bytes(), str(path)))
    try:
        return Engine.load(
            Path(model),
            preprocess=request.preprocess,
            labels=request.labels,
            task=request.task,
            detector=detector,
        )
    except ModelError as error:
        raise CheckFailed(
            f"the {kind} model was converted but does not run: {error.message}",
            hint=error.hint or (REPAIR if kind == "INT8" else None),
        ) from error


def _run_blank(int8: Engine, specs: tuple[TensorSpec, ...]) -> None:
    """All zeros: silence and covered lenses happen, and some quantised kernels give up on them."""
    blank = [np.zeros((1, *batch.sample_shape(spec)), spec.dtype) for spec in specs]
    try:
        int8.infer_real(blank)
    except ModelError as error:
        raise CheckFailed(
            f"the model was converted but does not run on an input of zeros: {error.message}",
            hint=error.hint or REPAIR,
        ) from error


def _run(sample: Sample, int8: Engine, reference: Engine) -> tuple[list[Any], list[Any], list[Any]]:
    """Stored inputs, then the real outputs of the float and of the INT8 model; one row each."""
    stored = [quant.quantize(value[None], spec) for value, spec in zip(sample.inputs, int8.inputs, strict=True)]
    real = [quant.dequantize(value, spec) for value, spec in zip(stored, int8.inputs, strict=True)]
    try:
        wanted = list(reference.infer_real(real))
        got = [quant.dequantize(out, spec) for out, spec in zip(int8.infer(stored), int8.outputs, strict=True)]
    except ModelError as error:
        raise CheckFailed(
            f"the model was converted but does not run: {error.message}", hint=error.hint or REPAIR
        ) from error
    for spec, one, other in zip(int8.outputs, wanted, got, strict=True):
        if not (np.isfinite(one).all() and np.isfinite(other).all()):
            raise CheckFailed(
                f"output '{spec.name}' is not finite on the sample {sample.name}",
                hint="is the declared range the one that the model was trained on?",
            )
    return stored, wanted, got
