"""Restoration (picture to picture: denoising, super-resolution and the like): PSNR against the right pictures."""

from dataclasses import replace
from typing import Any

import numpy as np
from edgekit_runtime.manifest import Preprocess
from edgekit_runtime.preprocess import load_pixels
from numpy.typing import NDArray

from edgekit.datasets.dataset import Sample
from edgekit.datasets.declaration import RANGES
from edgekit.datasets.truth import ArrayTruth, PictureTruth, Truth
from edgekit.errors import UserError
from edgekit.validation import metric
from edgekit.validation.metric import Metric

Array = NDArray[Any]
WHITE = 255.0
Range = tuple[tuple[float, ...], tuple[float, ...]]
_INPUTS = "the input's"
_CLEARLY = 3.0  # dB: by less another range is no better explanation


class Restoration:
    """The mean over pictures of their PSNR. Pictures are compared as pixels, the output having the input's range, or
    that of the usual ones by which float comes nearest; other arrays in the output's own units, the peak being the
    range of all their values.
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
        own = None if preprocess is None else (preprocess.mean, preprocess.std)
        usual = {name: ((mean,), (std,)) for name, (mean, std) in RANGES.items()} if self._pictures else {}
        self._ranges: dict[str, Range | None] = {_INPUTS: own, **usual}
        self._values: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in self._ranges}

    def add(self, sample: Sample, wanted: list[Array], got: list[Array]) -> None:
        right = self._right(sample, wanted[0][0])
        for name, lists in self._values.items():
            for values, out in zip(lists, (wanted, got), strict=True):
                values.append(metric.psnr(self._seen(out[0][0], self._ranges[name]), right, self._peak))

    def metrics(self) -> tuple[Metric, ...]:
        means = {name: float(np.mean(one)) for name, (one, _) in self._values.items()}
        best = max(means, key=lambda name: means[name] + (_CLEARLY if name == _INPUTS else 0))
        if best != _INPUTS:
            self.notes.append(
                f"its output is taken for pixels of {best}: by the input's range float is far from the truth"
            )
        return (metric.of_means("PSNR", *self._values[best], metric.DECIBELS),)

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

    def _seen(self, output: Array, range_: Range | None) -> Array:
        """An output of this range (mean and std) as pixels."""
        if not self._pictures or range_ is None:
            return output
        shape = output.shape if output.ndim == 3 else (*output.shape, 1)
        mean, std = (values if len(values) in (1, shape[2]) else values[:1] for values in range_)
        pixels = output.reshape(shape) * np.asarray(std) + np.asarray(mean)
        clipped: Array = np.clip(pixels, 0, WHITE).reshape(output.shape)
        return clipped

    def _unfit(self, sample: Sample, found: tuple[int, ...], output: tuple[int, ...]) -> UserError:
        return UserError(
            f"{self._truth.path}: the truth of {sample.name} is {list(found)}, the model's output {list(output)}",
            hint="a picture has the size of its sample or of the output, an array the shape of the output",
            truth=str(self._truth.path),
        )
