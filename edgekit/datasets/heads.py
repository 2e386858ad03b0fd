"""A detector's raw heads as its owner declares them: the table `[detection]` of a `model.toml`.

For models that neither decode nor select boxes, so that nothing of it can be measured. Keys: docs/manifest.md.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import batch
from edgekit_runtime.detect import MAX_BYTES
from edgekit_runtime.manifest import BOX_ORDERS, Detection, TensorSpec
from edgekit_runtime.npy import DAMAGED
from numpy.typing import NDArray

from edgekit.errors import UserError

Array = NDArray[Any]
_FAR = 2.0  # shares of the picture from its corner; anchors in pixels are far beyond


@dataclass(frozen=True)
class DeclaredHeads:
    """`boxes` and `scores` are names of outputs, `anchors` is an .npy file. `background` says that the first column of
    the scores is no class. `class_ids` default to the columns' numbers, `max_per_class` to `max_detections`.
    """

    boxes: str
    scores: str
    anchors: str
    score_converter: str
    box_scales: tuple[float, float, float, float]
    box_order: str = BOX_ORDERS[0]
    background: bool = False
    class_ids: tuple[int, ...] | None = None
    score_threshold: float = 0.3
    iou_threshold: float = 0.5
    max_detections: int = 100
    max_per_class: int | None = None

    def __post_init__(self) -> None:
        if self.boxes == self.scores:
            raise ValueError("boxes and scores are two outputs")
        self._detection(0, 1, ())

    def read_anchors(self) -> Array:
        """Anchors [N, 4] float32 as the runtime wants them: centre y, x, height, width. Raises UserError."""
        path = Path(self.anchors)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            held = np.load(path, allow_pickle=False)
        except (*DAMAGED, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: cannot read the anchors: {error}", hint=_HINT, where=str(path)) from error
        if not isinstance(held, np.ndarray) or held.dtype.kind != "f" or held.ndim != 2 or held.shape[1] != 4:
            got = f"{held.dtype} {list(held.shape)}" if isinstance(held, np.ndarray) else "several arrays"
            raise UserError(f"{path}: anchors are float [N, 4], not {got}", hint=_HINT, where=str(path))
        with np.errstate(over="ignore"):  # what float32 does not hold is infinite, and refused
            anchors: Array = self._ordered(held).astype(np.float32)
        if not np.isfinite(anchors).all():
            raise UserError(f"{path}: anchors that are NaN or infinite", hint=_HINT, where=str(path))
        if not (anchors[:, 2:] > 0).all():
            raise UserError(f"{path}: anchors whose height or width is not above 0", hint=_HINT, where=str(path))
        if np.abs(anchors[:, :2]).max(initial=0) > _FAR:
            raise UserError(f"{path}: anchors far outside of the picture: in pixels?", hint=_HINT, where=str(path))
        return anchors

    def detection(
        self, model: Path, outputs: Sequence[TensorSpec], anchors: Array, labels: Sequence[str] | None
    ) -> Detection:
        """What the manifest says of it. Raises UserError where the model's outputs, anchors and labels do not fit."""
        boxes, scores = (self._output(model, outputs, name) for name in (self.boxes, self.scores))
        shapes = [batch.sample_shape(outputs[index]) for index in (boxes, scores)]
        for name, shape, wanted in zip((self.boxes, self.scores), shapes, ("4", "classes"), strict=True):
            if len(shape) != 2 or (wanted == "4" and shape[1] != 4):
                raise UserError(
                    f"{model}: output '{name}' is {list(shape)} a sample, not [anchors, {wanted}]", key=name
                )
            if shape[0] != len(anchors):
                raise UserError(
                    f"{self.anchors}: {len(anchors)} anchors, but output '{name}' has {shape[0]} rows",
                    hint="one anchor for each row of the heads, in their order",
                    key="anchors",
                )
        kinds = tuple(range(self.background, shapes[1][1]))
        for what, given in (("class_ids", self.class_ids), ("labels", labels)):
            if given is not None and len(given) != len(kinds):
                raise UserError(
                    f"{model}: {len(given)} {what} for the {len(kinds)} classes of output '{self.scores}'",
                    hint="background = true when its first column is none" if not self.background else None,
                    key=what,
                )
        return self._detection(boxes, scores, self.class_ids or kinds)

    def _detection(self, boxes: int, scores: int, kinds: tuple[int, ...]) -> Detection:
        scales = self._ordered(np.array([self.box_scales]))[0].tolist()
        return Detection(
            boxes=boxes,
            scores=scores,
            score_converter=self.score_converter,
            first_column=int(self.background),
            class_ids=kinds,
            box_scales=(scales[0], scales[1], scales[2], scales[3]),
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            max_per_class=self.max_detections if self.max_per_class is None else self.max_per_class,
            max_detections=self.max_detections,
            box_order=self.box_order,
        )

    def _ordered(self, values: Array) -> Array:
        return values[:, [1, 0, 3, 2]] if self.box_order == "xywh" else values

    @staticmethod
    def _output(model: Path, outputs: Sequence[TensorSpec], name: str) -> int:
        names = [spec.name for spec in outputs]
        if name not in names:
            raise UserError(
                f"{model}: has no output '{name}'", hint="its outputs are " + ", ".join(names), outputs=names
            )
        return names.index(name)


_HINT = "numpy.save an array [N, 4] of float32: y and x of the centre, height, width, in shares of the picture"
