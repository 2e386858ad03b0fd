"""Judge a release on this board before it is activated: load it, replay its golden inputs, compare.

The rule. Kernels round differently from runtime to runtime, so equal bits are not asked for. An output passes when
every value is finite and, over all golden samples and against the float model's outputs,

- its cosine is at most `COSINE_LOSS` below the host INT8's, and
- its mean absolute error is at most `MEAN_FACTOR` times the host INT8's plus `MEAN_STEPS` quantisation steps (for an
  output that is not quantised, plus `FLOAT_PART` of the largest float output).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional, Tuple

import numpy as np

from edgekit_runtime import distance, manifest, quant
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.engine import Engine
from edgekit_runtime.errors import CheckFailed
from edgekit_runtime.integrity import verify
from edgekit_runtime.manifest import MODEL, Distance, TensorSpec

if TYPE_CHECKING:
    from edgekit_runtime.quant import Floats

COSINE_LOSS = 0.05
MEAN_FACTOR = 2.0
MEAN_STEPS = 2.0
FLOAT_PART = 0.01


class ReleaseRejected(CheckFailed):
    """The release's model does not answer here as it should."""


class NotFinite(ReleaseRejected):
    """An output has a value that is no number."""


@dataclass(frozen=True)
class OutputCheck:
    """One output: its distance from the float model here and on the host, and the limits it was held to.

    `max_steps` is the largest difference from the float output in quantisation steps (None when not quantised).
    """

    board: Distance
    host: Distance
    max_steps: Optional[float]
    cosine_limit: float
    mean_abs_limit: float

    @property
    def passed(self) -> bool:
        return self.board.cosine >= self.cosine_limit and self.board.mean_abs <= self.mean_abs_limit


@dataclass(frozen=True)
class Check:
    """What was found. `top1_agreement` is the part (0..1) of golden samples whose best class is the float model's;
    `batch_size` is the largest proven batch, and `batch_refused` says why it is not the manifest's."""

    model: str
    runtime: str
    init_ms: float
    golden: int
    outputs: Tuple[OutputCheck, ...]
    top1_agreement: Optional[float]
    batch_size: int
    batch_refused: Optional[str]


def check(directory: Path, *, max_batch_size: Optional[int] = None, xnnpack: bool = True) -> Check:
    """Load the release in `directory`, run it and compare. Raises what `Engine.open` does, and ReleaseRejected.

    `max_batch_size` instead of the manifest's is proven; without `xnnpack` TFLite's own kernels run everything.
    """
    verify(Path(directory) / MODEL, manifest.read(directory).model_sha256)
    with Engine.open(directory, max_batch_size=max_batch_size, xnnpack=xnnpack, goal=None) as engine:
        assert engine.manifest is not None
        wanted = engine.manifest.golden
        if wanted is not None and len(wanted.distance) != len(engine.outputs):
            raise ReleaseRejected("the manifest does not give the host's distance for each output")
        rows = engine.golden.inputs if engine.golden is not None else engine.samples(1)
        reals = [quant.dequantize(out, spec) for out, spec in zip(engine.infer(rows), engine.outputs)]
        for real, spec in zip(reals, engine.outputs):
            if not np.isfinite(real).all():
                raise NotFinite(f"output '{spec.name}' has values that are not finite", output=spec.name)
        outputs: Tuple[OutputCheck, ...] = ()
        agreement = None
        if engine.golden is not None and wanted is not None:
            outputs = tuple(
                _compare(spec, real, reference, host)
                for spec, real, reference, host in zip(engine.outputs, reals, engine.golden.outputs, wanted.distance)
            )
            if engine.task == "classification":
                agreement = _agreement(reals[0], engine.golden.outputs[0])
        found = Check(
            engine.manifest.name,
            f"{engine.package.name} {engine.package.version}",
            round(engine.startup.init_ms, 3),
            engine.golden.count if engine.golden is not None else 0,
            outputs,
            agreement,
            engine.batch_size,
            engine.batch_refused.message if engine.batch_refused is not None else None,
        )
    judge(found)
    return found


def judge(found: Check) -> None:
    """Raises ReleaseRejected when an output is far worse here than it was on the host."""
    for output in found.outputs:
        board = output.board
        if not output.passed:
            raise ReleaseRejected(
                f"output '{board.output}' is much further from the float model here than on the host: cosine "
                f"{board.cosine:.4f} (at least {output.cosine_limit:.4f}), mean error {board.mean_abs:.4g} "
                f"(at most {output.mean_abs_limit:.4g})",
                hint="this board's runtime computes something else: try another runtime version",
                output=board.output,
                cosine=board.cosine,
                mean_abs=board.mean_abs,
            )


def _compare(spec: TensorSpec, real: Floats, reference: Floats, host: Distance) -> OutputCheck:
    board = distance.measure(spec.name, real, reference)
    step = quant.step(spec)
    slack = MEAN_STEPS * step if step else FLOAT_PART * float(np.abs(reference).max())
    return OutputCheck(
        board,
        host,
        round(board.max_abs / step, 2) if step else None,
        host.cosine - COSINE_LOSS,
        MEAN_FACTOR * host.mean_abs + slack,
    )


def _agreement(real: Floats, reference: Floats) -> float:
    count = len(real)
    same = real.reshape(count, -1).argmax(axis=1) == reference.reshape(count, -1).argmax(axis=1)
    return float(same.mean())
