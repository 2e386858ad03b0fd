"""What every source of samples gives: one sample as it is stored, before it becomes a model's input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from edgekit_runtime import batch
from edgekit_runtime.manifest import TensorSpec
from numpy.typing import NDArray

from edgekit.errors import UserError

Array = NDArray[Any]


@dataclass(frozen=True)
class Raw:
    """A picture (the bytes of an image file, or uint8 [height, width] or [height, width, channels]), or the model's
    real inputs in its order, without the batch.
    """

    picture: bytes | Array | None = None
    rows: tuple[Array, ...] = ()
    label: int | None = None


Read = Callable[[int], Raw]


class Unreadable(Exception):
    """One sample cannot be read; the text says why. It is skipped and counted."""


class Exhausted(Exception):
    """There are fewer samples than could be known before."""


class Source(Protocol):
    """Where samples come from. `in_order` says that they cannot be had in another order than their own."""

    @property
    def in_order(self) -> bool: ...

    def open(self, inputs: Sequence[TensorSpec]) -> Read:
        """What reads the sample of an index. Raises UserError where inputs and data do not fit."""
        ...

    def shapes(self, inputs: Sequence[TensorSpec]) -> tuple[tuple[int, ...], ...]:
        """The samples' shape for each input, without the batch; empty for pictures. Raises UserError."""
        ...


def check(where: Path | str, shape: tuple[int, ...], dtype: np.dtype[Any], spec: TensorSpec) -> None:
    """Raises UserError where a sample of that shape and dtype does not fit the model's input."""
    expected = batch.sample_shape(spec)
    fits = len(expected) == len(shape) and all(want in (-1, size) for want, size in zip(expected, shape, strict=True))
    if not fits:
        raise UserError(
            f"{where}: input '{spec.name}' expects samples of shape {list(expected)}, got {list(shape)}",
            where=str(where),
            expected=list(expected),
            got=list(shape),
        )
    if (np.dtype(spec.dtype).kind == "f") != (dtype.kind == "f"):
        raise UserError(
            f"{where}: input '{spec.name}' expects {spec.dtype}, got {dtype}",
            hint="pixels are uint8 [N, height, width, channels]; everything else is the model's real input as float32",
            where=str(where),
            expected=spec.dtype,
            got=str(dtype),
        )


def by_name(where: Path | str, held: dict[str, Array], inputs: Sequence[TensorSpec]) -> tuple[Array, ...]:
    """What is held under the inputs' names, in their order; of a single one the name does not matter.

    Raises UserError that names what is expected and what was got.
    """
    if len(inputs) == 1 and len(held) == 1:
        return tuple(held.values())
    if not all(spec.name for spec in inputs):
        raise UserError(
            f"{where}: the model has {len(inputs)} inputs without names, so that nothing says which array is whose",
            hint="give the SavedModel or Keras model that it was made from",
            where=str(where),
        )
    if len(held) != len(inputs) or any(spec.name not in held for spec in inputs):
        raise UserError(
            f"{where}: expected the arrays {', '.join(spec.name for spec in inputs)}, got {', '.join(held)}",
            hint="give one array for each model input, under its name (in one .npz, record or dict)",
            where=str(where),
        )
    return tuple(held[spec.name] for spec in inputs)
