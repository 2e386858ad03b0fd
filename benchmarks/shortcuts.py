"""What the shortcuts of preprocessing cost in accuracy: writes docs/preprocessing.md.

One converted model answers the same labelled pictures by each way that the engine has to its input; the shortest way
that reads every pixel is what the others are compared with.

`.venv/bin/python -m benchmarks.shortcuts` needs the models and data beside the repository in ../shared.
"""

from __future__ import annotations

import io
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import resize
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Preprocess
from edgekit_runtime.picture import decode, size
from numpy.typing import NDArray
from PIL import Image

from benchmarks.accuracy import CASES, Case, unused
from edgekit.conversion.convert import convert
from edgekit.datasets.dataset import open_dataset
from edgekit.profiles import profile
from edgekit.validation.metric import Metric, of_means
from tests.deploy.agreement import SHARED
from tests.runtime.test_frames import yuv

PAGE = Path(__file__).parents[1] / "docs/preprocessing.md"
MODELS = ("MobileNetV1 0.25 224", "visual wake words MobileNetV1")
Array = NDArray[Any]


@dataclass(frozen=True)
class Way:
    """From a JPEG file's bytes to a source of the engine in `format`, with a filter."""

    name: str
    filter: str
    source: Callable[[bytes, Preprocess], bytes | Array]
    format: str = "RGB"


def whole(content: bytes, _: Preprocess) -> Array:
    return decode(content)


def draft(content: bytes, _: Preprocess) -> bytes:
    return content


def nv12(content: bytes, _: Preprocess) -> Array:
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    return yuv(pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2], "NV12")


WAYS = (
    Way("`bilinear`, JPEG decoded whole", "bilinear", whole),
    Way("`bilinear`, JPEG decoded small", "bilinear", draft),
    Way("`area`", "area", whole),
    Way("`bicubic`", "bicubic", whole),
    Way("`linear`", "linear", whole),
    Way("`linear`, JPEG decoded small", "linear", draft),
    Way("`linear`, from NV12", "linear", nv12, "NV12"),
    Way("`nearest`", "nearest", whole),
)


def hits(engine: Engine, way: Way, data: Path, count: int) -> tuple[list[float], list[float]]:
    """Of each picture whether the best class is right, and how many of its pixels become one along a side."""
    source = open_dataset(data)
    right, shrinks = [], []
    assert engine.preprocess is not None
    assert source.labels is not None
    for name, label in list(zip(source.names, source.labels, strict=True))[:count]:
        content = (data / name).read_bytes()
        height, width = size(content)
        shrinks.append(resize.window(width, height, engine.preprocess).shrinks)
        given = way.source(content, engine.preprocess)
        scores = engine.answer(given, lambda outputs: outputs[0].reshape(-1).copy(), format=way.format)
        right.append(float(int(scores.argmax()) == label))
    return right, shrinks


def rows(case: Case, folder: Path) -> list[str]:
    data, output = case.calibration(folder), folder / "model.tflite"
    record = convert(
        SHARED / "models" / case.model, profile=profile.find("host"), data=data, output=output,
        declaration=case.declaration, log=folder / "log", samples=case.samples,
    )  # fmt: skip
    evaluation = case.evaluation(folder) if case.evaluation else unused(case, data, folder / "unused")
    assert record.preprocess is not None
    reference: list[float] = []
    lines = []
    for way in WAYS:
        wanted = replace(record.preprocess, filter=way.filter)
        with Engine.load(output, preprocess=wanted, task="classification") as engine:
            right, shrinks = hits(engine, way, evaluation, case.count)
        reference = reference or right
        lines.append(line(case, way, of_means("top-1 accuracy", reference, right), statistics.median(shrinks)))
        print(lines[-1], flush=True)
    return lines


def line(case: Case, way: Way, metric: Metric, shrinks: float) -> str:
    _, accuracy, lost = metric.shown
    return f"| {case.name} | {shrinks:.1f}x | {way.name} | {accuracy} | {lost} |"


def main() -> None:
    lines = []
    for case in CASES:
        if case.name in MODELS and case.max_drop is None:
            with tempfile.TemporaryDirectory() as folder:
                lines += rows(case, Path(folder))
    head, table, tail = PAGE.read_text().split("<!-- table -->\n")
    del table
    PAGE.write_text("<!-- table -->\n".join([head, "\n".join(lines) + "\n", tail]))


if __name__ == "__main__":
    main()
