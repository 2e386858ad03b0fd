"""Class scores: the best k are found on the stored values, and only those are dequantised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Sequence, Tuple

import numpy as np

from edgekit_runtime import quant
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import UserError
from edgekit_runtime.manifest import TensorSpec
from edgekit_runtime.plan import require_count

if TYPE_CHECKING:
    from edgekit_runtime.quant import Array

_FEW = 10


class LabelsError(UserError):
    """The labels are not text, or not as many as the model has classes."""


@dataclass(frozen=True)
class ClassScore:
    """One class: its index, its label if there are labels, and the score as the model gives it (real value)."""

    index: int
    label: Optional[str]
    score: float


def top_k(scores: Array, spec: TensorSpec, k: int, labels: Optional[Sequence[str]] = None) -> Tuple[ClassScore, ...]:
    """The best `k` of one sample's stored scores (any shape, taken flat), best first; ties go to the lower index."""
    require_count("top_k", k, None)
    flat = scores.reshape(-1)
    best = _best(flat, k)
    reals = quant.dequantize(flat[best], spec)
    return tuple(
        ClassScore(int(index), labels[index] if labels is not None else None, float(real))
        for index, real in zip(best, reals)
    )


def _best(flat: Array, k: int) -> Array:
    """The indices of the `k` highest; of equals the lower comes first, NaN last."""
    if k > _FEW or flat.dtype.itemsize > 1:
        # Negated in a wider type, since -(-128) does not fit int8; the stable sort settles ties.
        keys = np.negative(flat.astype(np.int16 if flat.dtype.itemsize == 1 else np.float64))
        return np.argsort(keys, kind="stable")[:k]
    # To sort a thousand takes 0.1 ms right after an inference, when its code is in no cache any more.
    left = flat.astype(np.int16)
    best = np.empty(min(k, len(left)), np.int64)
    for place in range(len(best)):
        best[place] = index = left.argmax()
        left[index] = -32768
    return best


def parse_labels(data: bytes, where: str) -> Tuple[str, ...]:
    """Labels from UTF-8 text, one a line. Raises LabelsError."""
    try:
        return tuple(line.strip() for line in data.decode("utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise LabelsError(f"{where} is not UTF-8 text", where=where) from error


def check_labels(labels: Sequence[str], spec: TensorSpec) -> None:
    """Raises LabelsError unless there is one label for each class of the output."""
    sizes = spec.shape[1:] if spec.shape[:1] in ((), (1,), (-1,)) else spec.shape  # of one sample
    classes = int(np.prod([size for size in sizes if size > 0]))
    if len(labels) != classes:
        raise LabelsError(
            f"{len(labels)} labels for the {classes} classes of output '{spec.name}'",
            hint="one label a line, in the order of the model's classes",
            labels=len(labels),
            classes=classes,
        )
