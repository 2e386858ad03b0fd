"""What decoding and selecting boxes costs: the runtime's NumPy against TFLite_Detection_PostProcess, in one run.

Both get the same raw heads of the shared detector in INT8 for real pictures: NumPy as they come out of it, the operator
as real numbers and behind a LOGISTIC, as it would stand in the model. Of the operator only `invoke` is timed, of NumPy
everything.

`.venv/bin/python -m benchmarks.detection [MODEL.tflite]` needs the models and data beside the repository in ../shared;
it prints the table of docs/detection.md.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import detect, quant
from edgekit_runtime.detect import Detections, Heads
from edgekit_runtime.engine import Engine
from numpy.typing import NDArray
from PIL import Image

from edgekit.conversion.convert import convert
from edgekit.conversion.record import Conversion, Files
from edgekit.profiles import profile
from tests.deploy.agreement import SHARED

EXPORT = SHARED / "models/odapi_ssd_mnv2_fpnlite320_frozen_tf2sm/frozen_inference_graph.pb"
PICTURES = SHARED / "data/coco128_dev/images"
ROUNDS, SHOWN = 12, 24
Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """The score from which boxes count, and by how much all predictions (logits) are raised before."""

    name: str
    threshold: float
    raised: float = 0.0


CASES = (
    Case("score 0.5 or more", 0.5),
    Case("score 0.3 or more", 0.3),
    Case("all, as exported", 1e-8),
    Case("score 0.3 or more, a crowd", 0.3, 2.0),
    Case("score 0.3 or more, a larger crowd", 0.3, 4.0),
)


class Operator:
    """TFLite_Detection_PostProcess behind a detector's two stored heads, as a model of its own."""

    def __init__(self, heads: Heads) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=postprocess(heads), num_threads=1)
        self._interpreter.allocate_tensors()
        self._heads = heads

    def give(self, boxes: Array, scores: Array) -> None:
        for detail, value in zip(self._interpreter.get_input_details(), (boxes, scores), strict=True):
            self._interpreter.set_tensor(detail["index"], value[None])

    def run(self) -> None:
        self._interpreter.invoke()

    def found(self) -> Detections:
        """With boxes cut to the picture and ids from the label map, as the runtime gives them."""
        outputs = sorted(self._interpreter.get_output_details(), key=lambda detail: str(detail["name"]))
        boxes, classes, scores, count = (self._interpreter.get_tensor(detail["index"])[0] for detail in outputs)
        clipped = np.clip(boxes[: int(count)], 0, 1)
        seen = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        ids = np.array(self._heads.detection.class_ids)[classes[: int(count)].astype(np.int64)]
        return Detections(clipped[seen], ids[seen], scores[: int(count)][seen])


def postprocess(heads: Heads) -> bytes:
    """The `.tflite`: LOGISTIC, and the operator with the detection's limits."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as fb

    anchors = heads.anchors
    shapes = [(1, len(anchors), size) for size in (4, heads.detection.first_column + len(heads.detection.class_ids))]
    most = heads.detection.max_detections
    graph = fb.SubGraphT()
    graph.tensors = [
        _tensor(fb, "boxes", shapes[0]),
        _tensor(fb, "scores", shapes[1]),
        _tensor(fb, "shares", shapes[1]),
        _tensor(fb, "anchors", anchors.shape, buffer=1),
        *(_tensor(fb, f"out {n}", shape) for n, shape in enumerate([(1, most, 4), (1, most), (1, most), (1,)])),
    ]
    graph.inputs, graph.outputs = [0, 1], [4, 5, 6, 7]
    graph.operators = [_operator(fb, 0, [1], [2]), _operator(fb, 1, [0, 2, 3], [4, 5, 6, 7], _options(heads))]
    model = fb.ModelT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [fb.BufferT(), fb.BufferT()]
    model.buffers[1].data = np.frombuffer(anchors.astype("<f4").tobytes(), np.uint8)
    codes = (fb.BuiltinOperator.LOGISTIC, fb.BuiltinOperator.CUSTOM)
    model.operatorCodes = [fb.OperatorCodeT() for _ in codes]
    for code, number in zip(model.operatorCodes, codes, strict=True):
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    model.operatorCodes[1].customCode = "TFLite_Detection_PostProcess"
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(fb: Any, name: str, shape: Sequence[int], buffer: int = 0) -> Any:
    tensor = fb.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), fb.TensorType.FLOAT32, buffer
    return tensor


def _operator(fb: Any, code: int, inputs: list[int], outputs: list[int], options: bytes | None = None) -> Any:
    operator = fb.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    if options is not None:
        operator.customOptions = np.frombuffer(options, np.uint8)
    return operator


def _options(heads: Heads) -> bytes:
    from flatbuffers import flexbuffers

    wanted, builder = heads.detection, flexbuffers.Builder()
    with builder.Map():
        for key, value in (("max_detections", wanted.max_detections), ("max_classes_per_detection", 1)):
            builder.Int(key, value)
        builder.Int("detections_per_class", wanted.max_per_class)
        builder.Int("num_classes", len(wanted.class_ids))
        builder.Bool("use_regular_nms", True)
        builder.Float("nms_score_threshold", wanted.score_threshold)
        builder.Float("nms_iou_threshold", wanted.iou_threshold)
        for name, scale in zip(("y_scale", "x_scale", "h_scale", "w_scale"), wanted.box_scales, strict=True):
            builder.Float(name, scale)
    return bytes(builder.Finish())


@dataclass(frozen=True)
class Row:
    """Medians in ms of one picture; of the boxes of either side how many the other one has, too."""

    case: Case
    above: float
    numpy_ms: float
    operator_ms: float
    boxes: int
    same: int


def measure(case: Case, heads: Heads, frames: Sequence[tuple[Array, Array]]) -> Row:
    """NumPy and the operator in turns, picture by picture."""
    zero_point, scale = heads.scores.zero_point, heads.scores.scale
    assert zero_point is not None
    assert scale is not None
    raised = replace(heads.scores, zero_point=zero_point - round(case.raised / scale))
    detection = replace(heads.detection, boxes=0, scores=1, score_threshold=case.threshold)
    heads = replace(heads, detection=detection, scores=raised)
    operator = Operator(heads)
    times: tuple[list[float], list[float]] = ([], [])
    total = same = above = 0
    for number in range(ROUNDS * len(frames)):
        boxes, scores = frames[number % len(frames)]
        operator.give(quant.dequantize(boxes, heads.boxes), quant.dequantize(scores, heads.scores))
        works: tuple[Callable[[], Any], ...] = (partial(heads.find, [boxes[None], scores[None]]), operator.run)
        for which in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            answer = works[which]()
            times[which].append((time.perf_counter() - started) * 1e3)
            if which == 0:
                (found,) = answer
        if number < len(frames):
            real = heads._scores(scores[:, heads.detection.first_column :])
            above += int(np.count_nonzero(real >= case.threshold))
            total += max(len(found), len(operator.found()))
            same += in_common(found, operator.found())
    numpy_ms, operator_ms = (statistics.median(each) for each in times)
    return Row(case, above / len(frames), numpy_ms, operator_ms, total, same)


def in_common(one: Detections, other: Detections) -> int:
    """How many boxes both have: the same class, score and place."""
    free, count = np.ones(len(other), bool), 0
    for box, kind, score in zip(one.boxes, one.classes, one.scores, strict=True):
        fits = free & (other.classes == kind) & (np.abs(other.scores - score) < 1e-5)
        fits &= detect.iou(box, other.boxes) > 0.999
        if fits.any():
            free[fits.argmax()] = False
            count += 1
    return count


def frames(model: Path) -> tuple[Heads, list[tuple[Array, Array]], float]:
    """A converted detector's heads, what they hold for each picture, and the median of one inference in ms."""
    record, anchors = Conversion.load(model), Files.of(model).anchors
    assert record.detection is not None
    detector = (record.detection, detect.parse_anchors(anchors.read_bytes(), "anchors"))
    with Engine.load(model, preprocess=record.preprocess, task="detection", detector=detector) as engine:
        files = sorted((PICTURES / "val2017").glob("*.jpg"))[:SHOWN]
        rows = [engine.prepare(np.asarray(Image.open(file).convert("RGB"))) for file in files]
        answers, times = [], []
        for row in rows * 4:
            started = time.perf_counter()
            answers.append(engine.infer([row[None]]))
            times.append((time.perf_counter() - started) * 1e3)
        heads = detect.heads(*detector, engine.outputs)
    boxes, scores = record.detection.boxes, record.detection.scores
    return heads, [(answer[boxes][0], answer[scores][0]) for answer in answers[:SHOWN]], statistics.median(times)


def main() -> None:
    """Print the table, for a detector that 'edgekit convert' has made, or the shared one."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(sys.argv[1]) if sys.argv[1:] else Path(folder) / "hands.tflite"
        if not sys.argv[1:]:
            board, log = profile.find("host"), Path(folder) / "log"
            convert(EXPORT, profile=board, data=PICTURES / "train2017", output=model, samples=64, log=log)
        heads, held, frame = frames(model)
    print(
        f"inference of a picture in INT8, one thread: {frame:.1f} ms; {len(heads.anchors)} anchors, {SHOWN} pictures\n"
    )
    print("| boxes that count | how many | NumPy, ms | operator, ms | ratio | NumPy's share of a frame | same boxes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case in CASES:
        row = measure(case, heads, held)
        share = row.numpy_ms / (row.numpy_ms + frame)
        print(
            f"| {case.name} | {row.above:.0f} | {row.numpy_ms:.2f} | {row.operator_ms:.2f} | "
            f"{row.numpy_ms / row.operator_ms:.2f} | {share:.0%} | {row.same} of {row.boxes} |"
        )


if __name__ == "__main__":
    main()
