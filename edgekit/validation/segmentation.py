"""Segmentation: intersection over union (IoU) with masks whose pixels are class numbers.

Of several classes the mean over classes of the IoU of all pixels, as PASCAL VOC has it. Of a foreground the mean over
the pictures that have one, since the many pixels of a few pictures hide what happens in the others (G. Csurka and
others, What is a good evaluation measure for semantic segmentation?, BMVC 2013); then that of all pixels, too, which
alone sees a foreground that is found in a picture without one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from edgekit_runtime import batch
from edgekit_runtime.manifest import Preprocess, TensorSpec
from edgekit_runtime.preprocess import load_pixels
from numpy.typing import NDArray

from edgekit.datasets.dataset import Sample
from edgekit.datasets.truth import ArrayTruth, PictureTruth, Truth
from edgekit.errors import UserError
from edgekit.validation import metric
from edgekit.validation.metric import Metric

Array = NDArray[Any]
VOID = 255  # pixels that do not count, as in PASCAL VOC and Cityscapes
LOGIT = "its output is no probability but a logit: from 0 on a pixel is the foreground"


class Segmentation:
    """Of outputs [height, width, classes] (scores), [height, width, 1] (how probable the foreground is, above `middle`
    it is there) or whole numbers [height, width]. `foreground` is the masks' number for the second of two classes, all
    others are the first.
    """

    def __init__(
        self,
        truth: Truth,
        output: TensorSpec,
        preprocess: Preprocess | None,
        labels: Sequence[str] | None,
        foreground: int | None,
        *,
        middle: float,
    ) -> None:
        if not isinstance(truth, PictureTruth | ArrayTruth):
            raise UserError(
                f"{truth.path}: boxes are no truth for a segmentation",
                hint="give a folder of masks, or a .npy of them",
                truth=str(truth.path),
            )
        self.notes = list(truth.notes)
        self._truth, self._preprocess, self._foreground = truth, preprocess, foreground
        self._numbers = output.dtype in ("int32", "int64") and output.scale is None
        self._classes = _classes(output, labels, numbers=self._numbers)
        if foreground is not None and self._classes > 2:
            raise UserError(
                f"a foreground is of two classes, the model has {self._classes}", hint="leave --foreground out"
            )
        self._one = self._classes == 1
        self._middle = middle
        if self._one and middle == 0 and not self._numbers:
            self.notes.append(LOGIT)
        self._counts: list[tuple[list[Array], list[Array]]] = [([], []), ([], [])]  # by model: both, either
        self._wanted: list[Array] = []

    def add(self, sample: Sample, wanted: list[Array], got: list[Array]) -> None:
        maps = [self._map(out[0]) for out in (wanted, got)]
        right = self._mask(sample, maps[0].shape)
        known = right != VOID
        size = max(2, self._classes)
        self._wanted.append(np.bincount(right[known], minlength=size))
        for found, (both, either) in zip(maps, self._counts, strict=True):
            same = np.bincount(right[known & (found == right)], minlength=size)
            both.append(same)
            either.append(self._wanted[-1] + np.bincount(found[known], minlength=size)[:size] - same)

    def metrics(self) -> tuple[Metric, ...]:
        first = 1 if self._one else 0  # of one channel the background is no class
        wanted = np.array(self._wanted)[:, first:]
        if not wanted.any():
            self.notes.append(f"no IoU: {self._truth.path} has no pixel of a class")
            return ()
        counts = [(np.array(both)[:, first:], np.array(either)[:, first:]) for both, either in self._counts]
        one, other = (metric.mean_iou(both, either, wanted) for both, either in counts)
        if not self._one:
            return (metric.of_statistics("mean IoU", len(wanted), one, other),)
        there = wanted[:, 0] > 0
        shares = [(both[there, 0] / either[there, 0]).tolist() for both, either in counts]
        return (
            metric.of_means("IoU", shares[0], shares[1], metric.SHARE),
            metric.of_statistics("IoU of all pixels", len(wanted), one, other),
        )

    def _map(self, output: Array) -> Array:
        """The class of each pixel (height, width)."""
        row = output[0]
        if self._numbers or self._one:
            row = row.reshape(row.shape[:2])
        found: Array = row if self._numbers else row > self._middle if self._one else row.argmax(axis=-1)
        return found.astype(np.int64)

    def _mask(self, sample: Sample, size: tuple[int, ...]) -> Array:
        """What is right, by pixel of the output."""
        stored = self._stored(sample)
        if stored.shape not in (size, sample.size):
            where = "" if sample.size is None else f", its picture {list(sample.size)}"
            raise UserError(
                f"{self._truth.path}: the mask of {sample.name} is {list(stored.shape)}, the model's output "
                f"{list(size)}{where} (height, width)",
                hint="a mask has the size of its picture, or of the model's output",
                truth=str(self._truth.path),
            )
        mask = self._numbered(sample, stored)
        if mask.shape == size or self._preprocess is None:
            return mask
        spec = replace(
            self._preprocess,
            height=size[0],
            width=size[1],
            color="GRAY",
            mean=(0.0,),
            std=(1.0,),
            filter="nearest",
            pad=VOID,
        )
        resized: Array = load_pixels(mask, spec)[..., 0]
        return resized

    def _stored(self, sample: Sample) -> NDArray[np.uint8]:
        if isinstance(self._truth, PictureTruth):
            return self._truth.indices(sample.name)
        row = self._truth.row(sample.name)
        flat = row[..., 0] if row.ndim == 3 and row.shape[2] == 1 else row
        if flat.ndim != 2 or flat.dtype.kind not in "iub" or flat.min() < 0 or flat.max() > VOID:
            raise UserError(
                f"{self._truth.path}: a mask is class numbers (0 to {VOID}) [height, width], not {row.dtype} "
                f"{list(row.shape)}",
                truth=str(self._truth.path),
            )
        stored: NDArray[np.uint8] = flat.astype(np.uint8)
        return stored

    def _numbered(self, sample: Sample, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The stored values as the model's classes and VOID."""
        foreground, values = self._foreground, {int(value) for value in np.unique(stored)}
        if foreground is None and self._one:
            foreground = VOID if VOID in values else 1
            if strange := values - {0, foreground}:
                raise self._strange(sample, strange, "say with --foreground which value is the foreground")
        if foreground is not None:
            mask: NDArray[np.uint8] = (stored == foreground).astype(np.uint8)
            if foreground != VOID:
                mask[stored == VOID] = VOID
            return mask
        if strange := {value for value in values if self._classes <= value != VOID}:
            raise self._strange(sample, strange, f"classes are 0 to {self._classes - 1}; {VOID} does not count")
        return stored

    def _strange(self, sample: Sample, values: set[int], hint: str) -> UserError:
        named = ", ".join(map(str, sorted(values)[:5]))
        return UserError(
            f"{self._truth.path}: the mask of {sample.name} has classes that the model does not have: {named}",
            hint=hint,
            truth=str(self._truth.path),
        )


def _classes(output: TensorSpec, labels: Sequence[str] | None, *, numbers: bool) -> int:
    shape = batch.sample_shape(output)
    if numbers and (len(shape) == 2 or shape[2:] == (1,)):
        return len(labels) if labels else VOID
    if len(shape) == 2:
        return 1
    if len(shape) != 3 or not 0 < shape[2] <= VOID:
        raise UserError(
            f"a segmentation's output is [N, height, width, 1 to {VOID} classes], not {list(output.shape)}",
            hint="declare another task, such as raw",
            key="task",
        )
    return shape[2]
