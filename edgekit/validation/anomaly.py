"""Anomaly detection: the area under the ROC curve of the score by which a sample is told from a normal one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.datasets.dataset import RepresentativeDataset, Sample
from edgekit.errors import UserError
from edgekit.validation import metric
from edgekit.validation.metric import Metric

Array = NDArray[Any]
NORMAL = ("normal", "good", "ok")  # "good" as in MVTec AD


class Anomaly:
    """An autoencoder's score is the mean squared difference of output and input; a model of one output is the score."""

    def __init__(self, data: RepresentativeDataset, labels: Sequence[str] | None) -> None:
        self.notes: list[str] = []
        self._normal = _normal(data, labels)
        self._scores: tuple[list[float], list[float]] = ([], [])
        self._strange: list[bool] = []

    def add(self, sample: Sample, wanted: list[Array], got: list[Array]) -> None:
        if sample.label is None:
            return
        self._strange.append(sample.label != self._normal)
        for scores, out in zip(self._scores, (wanted, got), strict=True):
            scores.append(_score(sample.inputs[0], out[0]))

    def metrics(self) -> tuple[Metric, ...]:
        if not self._strange:
            return ()
        if len(set(self._strange)) < 2:
            self.notes.append(f"no AUC: all samples are {'anomalous' if self._strange[0] else 'normal'}")
            return ()
        one, other = (metric.auc(scores, self._strange) for scores in self._scores)
        return (metric.of_statistics("AUC", len(self._strange), one, other),)


def _normal(data: RepresentativeDataset, labels: Sequence[str] | None) -> int:
    """The class number of normal samples: 0, unless the data name their classes."""
    for number, name in enumerate(data.classes):
        if name.lower() in NORMAL:
            return number
    if data.classes and labels is None:
        raise UserError(
            f"{data.path}: none of the classes {', '.join(data.classes[:5])} is called normal",
            hint='call the folder of normal samples "normal" or "good", or declare labels with the normal class first',
            truth=str(data.path),
        )
    return 0


def _score(sample: Array, output: Array) -> float:
    if output.size == 1:
        return float(output.ravel()[0])
    if output.size != sample.size:
        raise UserError(
            f"an anomaly model gives one score or its input again, not {output.size} values for {sample.size}",
            hint="declare another task, such as raw",
            key="task",
        )
    return float(np.square(sample.ravel().astype(np.float64) - output.ravel()).mean())
