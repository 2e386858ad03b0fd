"""Samples as a float model is calibrated with them: real inputs with their batch, and the whole range of pixels."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np
from edgekit_runtime import batch
from edgekit_runtime.manifest import Preprocess
from edgekit_runtime.preprocess import to_real

from edgekit.conversion.integer import Samples
from edgekit.datasets.dataset import Stream
from edgekit.errors import UserError
from edgekit.worker import Progress


def calibrating(stream: Stream, preprocess: Preprocess | None, progress: Progress) -> Samples:
    """The stream as what TensorFlow calibrates with."""

    def given() -> Iterator[list[Any]]:
        seen = []
        for number, sample in enumerate(stream):
            progress("calibrate", number, stream.wanted)
            values = sample.inputs
            seen.append([(value.min(), value.max()) for value in values if value.dtype.kind == "f" and value.size > 1])
            if number == 0 and widens_first(preprocess):
                values = (_full_range(values[0], preprocess),)
            yield [
                value[None] if batch.has_batch(spec) else value
                for spec, value in zip(stream.inputs, values, strict=True)
            ]
        _require_change(seen)
        progress("calibrate", stream.wanted, stream.wanted)
        progress("quantize", 0, 1)

    return given


def widens_first(preprocess: Preprocess | None) -> TypeGuard[Preprocess]:
    """Whether the first sample gets corners that are not its own: of pictures with one mean and std."""
    return preprocess is not None and len({*preprocess.mean}) == len({*preprocess.std}) == 1


def _require_change(ends: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Raises UserError where nothing that could carry data does; of several inputs one may be a state that begins at 0.

    `ends` are the least and largest value of each real input, sample by sample.
    """
    spans = np.array(ends, np.float64)  # samples, inputs, 2
    if len(spans) < 2 or not spans.size:
        return
    if bool((spans[..., 0].min(axis=0) == spans[..., 1].max(axis=0)).all()):
        raise UserError(
            f"the calibration data are {spans.flat[0]:g} throughout, in all {len(spans)} samples: they tell no range",
            hint="give samples of what the model really gets",
            samples=len(spans),
        )


def _full_range(picture: Any, preprocess: Preprocess) -> Any:
    """One black and one white corner pixel in one picture: the input's range is that of pixels, not of a sample.

    Then a step of the stored input is exactly one pixel value.
    """
    black, white = to_real(np.array([[0], [255]], np.uint8).repeat(preprocess.channels, 1), preprocess)
    changed = picture.copy()
    changed[0, 0], changed[-1, -1] = (black, white) if picture.ndim == 3 else (black[0], white[0])
    return changed
