"""Score: adds up what both models answer against what is right, one task each, and gives its metrics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from edgekit_runtime import batch, detect
from edgekit_runtime.manifest import TensorSpec
from numpy.typing import NDArray

from edgekit.datasets.dataset import RepresentativeDataset, Sample
from edgekit.datasets.truth import open_truth
from edgekit.errors import UserError
from edgekit.validation.anomaly import Anomaly
from edgekit.validation.classification import Classification
from edgekit.validation.detection import Detection
from edgekit.validation.metric import Metric
from edgekit.validation.restoration import Restoration
from edgekit.validation.segmentation import Segmentation
from edgekit.validation.validate import RIGHT, Request

Array = NDArray[Any]


class Score(Protocol):
    """Of one task. `notes` say what could not be judged."""

    notes: list[str]

    def add(self, sample: Sample, wanted: list[Array], got: list[Array]) -> None:
        """One sample with the real outputs of float and of INT8, each with a batch of one. Raises UserError, with the
        field `truth` where that does not fit.
        """
        ...

    def metrics(self) -> tuple[Metric, ...]:
        """The first is the one that a budget is held to; none where nothing could be judged."""
        ...


def open_score(
    request: Request, data: RepresentativeDataset, outputs: Sequence[TensorSpec], middle: float
) -> Score | None:
    """That of the request's task; None where it is not known what is right. From `middle` on a single score stands for
    the second of two classes. Raises UserError for truth that is not the task's.
    """
    if request.truth is None:
        if not data.labelled:
            return None
        if request.task == "classification":
            return Classification(data, int(np.prod(batch.sample_shape(outputs[0]))), middle)
        return Anomaly(data, request.labels) if request.task == "anomaly" else None
    path = Path(request.truth)
    if request.task not in ("segmentation", "detection", "restoration"):
        raise UserError(
            f"{path}: no truth for a model whose task is '{request.task}'", hint=RIGHT[request.task], truth=str(path)
        )
    truth = open_truth(path, data)
    if request.task == "segmentation":
        return Segmentation(truth, outputs[0], request.preprocess, request.labels, request.foreground, middle=middle)
    if request.task == "restoration":
        return Restoration(truth, request.preprocess)
    if request.detection is None or request.anchors is None:
        raise UserError(f"{path}: the detector has no record", hint="convert it again", truth=str(path))
    anchors = detect.parse_anchors(Path(request.anchors).read_bytes(), request.anchors)
    return Detection(truth, request.detection, anchors, outputs, request.labels)
