"""Write a copy of a model with the metadata that MediaPipe Tasks and the TFLite Task Library want.

Runs in MediaPipe's environment, with the order as JSON on stdin.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def main() -> None:
    # The wheel of 1.2 lacks the module that its writer asks for the version that a parser must have.
    missing: Any = ModuleType("_pywrap_metadata_version")
    missing.GetMinimumMetadataParserVersion = lambda _content: "1.5.0"
    parent: Any = ModuleType("python")
    parent._pywrap_metadata_version = missing
    sys.modules.setdefault("mediapipe.tasks.cc.metadata.python", parent)
    from mediapipe.tasks.python.metadata.metadata_writers import image_classifier, metadata_writer

    order = json.load(sys.stdin)
    content = bytearray(Path(order["model"]).read_bytes())
    labels = metadata_writer.Labels().add(order["labels"])
    if order["detection"] is None:
        writer = image_classifier.MetadataWriter.create(content, order["mean"], order["std"], labels)
    else:
        writer = _detector(content, order, labels)
    Path(order["output"]).write_bytes(writer.populate()[0])


def _detector(content: bytearray, order: dict[str, Any], labels: Any) -> Any:
    from mediapipe.tasks.python.metadata.metadata_writers import metadata_info, object_detector

    wanted = order["detection"]
    anchors = np.load(wanted["anchors"]).tolist()
    schema = object_detector.FixedAnchorsSchema([object_detector.FixedAnchor(x, y, w, h) for y, x, h, w in anchors])
    y_scale, x_scale, h_scale, w_scale = wanted["box_scales"]
    decoding = object_detector.TensorsDecodingOptions(
        num_classes=len(order["labels"]), num_boxes=len(anchors), num_coords=4, keypoint_coord_offset=0,
        num_keypoints=0, num_values_per_keypoint=2, x_scale=x_scale, y_scale=y_scale, w_scale=w_scale, h_scale=h_scale,
        apply_exponential_on_box_size=True, sigmoid_score=True,
    )  # fmt: skip
    orders = metadata_info.RawDetectionOutputTensorsOrder
    return object_detector.MetadataWriter.create_for_models_without_nms(
        content, order["mean"], order["std"], labels, object_detector.SsdAnchorsOptions(schema), decoding,
        orders.SCORE_LOCATION if wanted["scores_first"] else orders.LOCATION_SCORE,
    )  # fmt: skip


if __name__ == "__main__":
    main()
