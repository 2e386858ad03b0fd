"""The worker's side of a repair: builds one candidate of the ladder from what the conversion has left in its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit_runtime import schema

from edgekit.conversion import fence, integer, lowering, quantize
from edgekit.conversion.layers import REPORT, LayerReport
from edgekit.errors import UserError
from edgekit.models import flatbuffer, ranges
from edgekit.models.operators import forming_outputs
from edgekit.worker import Progress

_SHARES = {"float-tenth": 0.1, "float-half": 0.5}


@dataclass(frozen=True)
class Request:
    """`denied` operators stay in float wherever they are; `clip` takes the ranges that `layers` has measured."""

    rung: str
    conversion: quantize.Request
    made: quantize.Quantized
    denied: tuple[str, ...]
    clip: bool
    output: str


def work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Build it; returns what a person should know of it."""
    return {"notes": list(build(schema.read(Request, request, "request"), progress))}


def build(request: Request, progress: Progress) -> tuple[str, ...]:
    """Write `request.output`. Raises UserError and CheckFailed with TensorFlow's reason."""
    progress(request.rung, 0, 1)
    folder = Path(request.conversion.folder)
    with lowering.failures(Path(request.conversion.model)):
        if request.rung in ("dynamic-range", "float16"):
            content = lowering.without_data(folder, half=request.rung == "float16")
        elif request.rung == "int16x8":
            content = integer.int16x8((folder / quantize.CALIBRATED).read_bytes())
        else:
            content = _int8(request, folder)
    content = flatbuffer.real_inputs(flatbuffer.named(content, request.made.input_names))
    Path(request.output).write_bytes(content)
    progress(request.rung, 1, 1)
    found = flatbuffer.parse(content)
    if request.rung == "dynamic-range" and found.quantization == "float":
        raise UserError(
            "none of its weights is large enough for TensorFlow to store them in 8 bits: it is float itself"
        )
    mixed = request.denied or request.rung in ("float-outputs", *_SHARES)
    in_float = mixed and request.rung not in ("dynamic-range", "float16")
    return (quantize.IN_FLOAT + ", ".join(found.float_operators),) if in_float else ()


def _int8(request: Request, folder: Path) -> bytes:
    calibrated = (folder / quantize.CALIBRATED).read_bytes()
    report = LayerReport()
    if (folder / REPORT).is_file():
        report = schema.load_json(LayerReport, (folder / REPORT).read_text("ascii"), REPORT)
    if request.clip:
        calibrated = ranges.clipped(calibrated, report.ranges)
    nodes, fences = set[str](), set[str]()
    if request.rung == "float-outputs":
        nodes = forming_outputs((folder / quantize.FLOAT).read_bytes())
        calibrated, fences = fence.build(calibrated, nodes)
    elif request.rung in _SHARES:
        worst = sorted(report.errors, key=lambda layer: -layer.own)
        nodes = {layer.tensor for layer in worst[: max(1, int(len(worst) * _SHARES[request.rung]))]}
        if not worst:
            raise UserError("no INT8 candidate ran, so that its layers could be compared with float")
    (encoding,) = request.conversion.encodings
    content = integer.quantize(
        calibrated,
        input_dtype=encoding.input_dtype,
        output_dtype="float32" if request.rung == "float-outputs" else encoding.output_dtype,
        dense_per_channel=encoding.dense_per_channel,
        float_operators=request.denied,
        float_nodes=nodes | fences,
    )
    return fence.take_out(content, len(fences))
