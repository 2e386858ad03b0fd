"""Detection: COCO's average precision, of the boxes that the Engine finds on a board."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from edgekit_runtime import detect
from edgekit_runtime.detect import Detections
from edgekit_runtime.manifest import Detection as Wanted
from edgekit_runtime.manifest import TensorSpec
from numpy.typing import NDArray

from edgekit.datasets.annotations import Annotated, Annotations
from edgekit.datasets.dataset import Sample
from edgekit.datasets.truth import Truth
from edgekit.errors import UserError
from edgekit.validation import metric
from edgekit.validation.average_precision import AveragePrecision
from edgekit.validation.metric import Metric

Array = NDArray[Any]


class Detection:
    """Boxes of both models, decoded and selected as the manifest says, against known ones."""

    def __init__(
        self,
        truth: Truth,
        wanted: Wanted,
        anchors: Array,
        outputs: Sequence[TensorSpec],
        labels: Sequence[str] | None,
    ) -> None:
        if not isinstance(truth, Annotations):
            raise UserError(
                f"{truth.path}: no truth for a detector",
                hint="give COCO's instances .json, or a folder of YOLO's .txt",
                truth=str(truth.path),
            )
        reals = [replace(spec, dtype="float32", scale=None, zero_point=None) for spec in outputs]
        self.notes = list(truth.notes)
        self._heads = detect.heads(wanted, anchors, reals, labels)
        self._truth = truth
        self._ids = _ids(truth, wanted, labels)
        unknown = sorted(truth.names.get(kind, str(kind)) for kind in _kinds(truth) - set(self._ids))
        if unknown:
            self.notes.append(f"not judged, since the model does not have them: {', '.join(unknown[:10])}")
        self._right: list[Annotated] = []
        self._found: tuple[list[Detections], list[Detections]] = ([], [])

    def add(self, sample: Sample, wanted: list[Array], got: list[Array]) -> None:
        right = self._truth.pictures[sample.name]
        if right.size is not None and right.size != sample.size:
            raise UserError(
                f"{self._truth.path}: {sample.name} is {list(right.size)} (height, width) there, but "
                f"{list(sample.size or ())}",
                hint="give the pictures that were annotated",
                truth=str(self._truth.path),
            )
        known = np.isin(right.kinds, list(self._ids))
        kinds = np.array([self._ids[int(kind)] for kind in right.kinds[known]], np.int64)
        self._right.append(Annotated(right.boxes[known], kinds, right.crowd[known]))
        for found, out in zip(self._found, (wanted, got), strict=True):
            found.extend(self._heads.find(out))

    def metrics(self) -> tuple[Metric, ...]:
        if not any(len(one.kinds) > np.count_nonzero(one.crowd) for one in self._right):
            self.notes.append("no AP: the pictures hold no box of a class that the model has")
            return ()
        one, other = (AveragePrecision(self._right, found) for found in self._found)
        n = len(self._right)
        return metric.of_statistics("AP", n, one.ap, other.ap), metric.of_statistics("AP50", n, one.ap50, other.ap50)


def _kinds(truth: Annotations) -> set[int]:
    return {int(kind) for one in truth.pictures.values() for kind in one.kinds}


def _ids(truth: Annotations, wanted: Wanted, labels: Sequence[str] | None) -> dict[int, int]:
    """The model's class id of each of the truth's: by column, by name where both have names, else by id."""
    if truth.by_column:
        found = dict(enumerate(wanted.class_ids))
        if strange := sorted(_kinds(truth) - set(found)):
            raise UserError(
                f"{truth.path}: classes that the model does not have: {', '.join(map(str, strange[:5]))}",
                hint=f"YOLO's classes are the model's, 0 to {len(found) - 1}, in their order",
                truth=str(truth.path),
            )
        return found
    if labels is None:
        found = {kind: kind for kind in truth.names if kind in wanted.class_ids}
    else:
        ids = {name.casefold(): kind for name, kind in zip(labels, wanted.class_ids, strict=True)}
        found = {kind: ids[name.casefold()] for kind, name in truth.names.items() if name.casefold() in ids}
    if not found:
        names = ", ".join(list(truth.names.values())[:5])
        raise UserError(
            f"{truth.path}: none of its classes ({names}) is one of the model's",
            hint="classes are matched by name where the model has labels (--labels), else by id",
            truth=str(truth.path),
        )
    return found
