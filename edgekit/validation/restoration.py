"""Restoration (picture to picture: denoising, super-resolution and the like): PSNR against the right pictures."""

from dataclasses import replace
from typing import Any

import numpy as np
from edgekit_runtime.manifest import Preprocess
from edgekit_runtime.preprocess import load_pixels
from numpy.typing import NDArray

from edgekit.datasets.dataset import Sample
from edgekit.datasets.truth import ArrayTruth, PictureTruth, Truth
from edgekit.errors import UserError
from edgekit.validation import metric
from edgekit.validation.metric import Metric

Array = NDArray[Any]
WHITE = 255.0


class Restoration:
    """The mean over pictures of their PSNR. Pictures are compared as pixels, the output having the input's range; other
    arrays in the output's own units, the peak being the range of all their values.
    """

    def __init__(self, truth: Truth, preprocess: Preprocess | None) -> None:
        self.notes = list(truth.notes)
        if not isinstance(truth, PictureTruth | ArrayTruth):
            raise UserError(
                f"{truth.path}: boxes are no truth for a restoration",
                hint="give a folder of pictures, or a .npy",
                truth=str(truth.path),
            )
        self._truth = truth
        self._pictures = isinstance(truth, PictureTruth) or (preprocess is not None and truth.array.dtype == np.uint8)
        if self._pictures and preprocess is None:
            raise UserError(f"{truth.path}: pictures, but the model takes none", truth=str(truth.path))
        self._preprocess = preprocess
        self._peak = WHITE
        if isinstance(truth, ArrayTruth) and not self._pictures:
            self._peak = float(truth.array.max()) - float(truth.array.min())
        if not self._peak > 0:
            raise UserError(f"{truth.path}: holds one value only, so that there is no peak", truth=str(truth.path))
        self._values: tuple[list[float], list[float]] = ([], [])

    def add(self, sample: Sample, wanted: list[Array], got: list[Array]) -> None:
        right = self._right(sample, wanted[0][0])
        for values, out in zip(self._values, (wanted, got), strict=True):
            values.append(metric.psnr(self._seen(out[0][0]), right, self._peak))

    def metrics(self) -> tuple[Metric, ...]:
        return (metric.of_means("PSNR", *self._values, metric.DECIBELS),)

    def _right(self, sample: Sample, output: Array) -> Array:
        truth = self._truth
        found = truth.row(sample.name) if isinstance(truth, ArrayTruth) else truth.pixels(sample.name)
        if not self._pictures:
            if found.size != output.size:
                raise self._unfit(sample, found.shape, output.shape)
            return found.reshape(output.shape)
        if output.ndim not in (2, 3) or found.shape[:2] not in (sample.size, output.shape[:2]):
            raise self._unfit(sample, found.shape, output.shape)
        return load_pixels(found, self._spec(output)).reshape(output.shape)

    def _spec(self, output: Array) -> Preprocess:
        """The input's preprocessing, in the output's size and colours."""
        assert self._preprocess is not None  # mypy: checked in __init__
        spec = self._preprocess
        grey = output.ndim == 2 or output.shape[2] == 1
        color = "GRAY" if grey else spec.color if spec.channels == 3 else "RGB"
        channels = 1 if grey else 3
        size = {"height": output.shape[0], "width": output.shape[1]}
        same = channels == spec.channels
        mean, std = (values if same else values[:1] * channels for values in (spec.mean, spec.std))
        return replace(spec, color=color, mean=mean, std=std, **size)

    def _seen(self, output: Array) -> Array:
        """An output as pixels."""
        if not self._pictures:
            return output
        spec = self._spec(output)
        shape = output.shape if output.ndim == 3 else (*output.shape, 1)
        pixels = output.reshape(shape) * np.asarray(spec.std) + np.asarray(spec.mean)
        clipped: Array = np.clip(pixels, 0, WHITE).reshape(output.shape)
        return clipped

    def _unfit(self, sample: Sample, found: tuple[int, ...], output: tuple[int, ...]) -> UserError:
        return UserError(
            f"{self._truth.path}: the truth of {sample.name} is {list(found)}, the model's output {list(output)}",
            hint="a picture has the size of its sample or of the output, an array the shape of the output",
            truth=str(self._truth.path),
        )
