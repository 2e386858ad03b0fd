"""Files through an Engine: what `edgekit-runtime run` does."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from edgekit_runtime import batch, quant, schema, stream
from edgekit_runtime.classify import ClassScore
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import InputError, UserError
from edgekit_runtime.npy import DAMAGED

if TYPE_CHECKING:
    from edgekit_runtime.detect import Detections
    from edgekit_runtime.engine import Engine
    from edgekit_runtime.quant import Array, Floats


@dataclass(frozen=True)
class Result:
    """One sample: where it came from, its classes, what was detected, and the outputs' real values by name.

    `classes` are of a classification model only, `detections` of a detector.
    """

    source: str
    classes: Tuple[ClassScore, ...]
    outputs: Dict[str, "Floats"]
    detections: Optional["Detections"] = None
    names: Tuple[Optional[str], ...] = ()  # of the detections' classes


def run(engine: Engine, sources: Sequence[str], top_k: int = 5) -> Iterator[Result]:
    """Each file through the engine, in order: a picture is one sample, an .npy holds many. Raises UserError.

    An .npy has shape (N, ...): uint8 frames (grey or RGB) for a model that takes pictures, else real values.
    """
    answers = stream.ordered(lambda source: _answer(engine, source, top_k), sources, engine.num_interpreters + 1)
    return itertools.chain.from_iterable(answers)


def _answer(engine: Engine, source: str, top_k: int) -> List[Result]:
    results = []
    stored = _load(engine, source)
    outputs = engine.infer([stored])
    classes: Sequence[Tuple[ClassScore, ...]] = [()] * len(stored)
    if engine.task == "classification":
        classes = engine.top_k(outputs[0], top_k)
    detections: Sequence[Optional[Detections]] = [None] * len(stored)
    if engine.task == "detection":
        detections = engine.detections(outputs)
    reals = [quant.dequantize(out, spec) for out, spec in zip(outputs, engine.outputs)]
    for number, (found, seen) in enumerate(zip(classes, detections)):
        name = source if len(classes) == 1 else f"{source}[{number}]"
        named = {spec.name: real[number] for spec, real in zip(engine.outputs, reals)}
        names = engine.class_names(seen) if seen is not None else ()
        results.append(Result(name, found, named, seen, names))
    return results


def to_dict(result: Result) -> Dict[str, Any]:
    """For JSON: the classes, the detections under the Object Detection API's names, or a raw model's outputs."""
    if result.detections is not None:
        found = result.detections
        return {
            "source": result.source,
            "num_detections": len(found),
            "detection_boxes": found.boxes.tolist(),
            "detection_classes": found.classes.tolist(),
            "detection_class_names": list(result.names),
            "detection_scores": found.scores.tolist(),
        }
    if result.classes:
        return {"source": result.source, "classes": schema.plain(result.classes)}
    return {"source": result.source, "outputs": {name: values.tolist() for name, values in result.outputs.items()}}


def lines(result: Result, top_k: int = 5) -> List[str]:
    """For people; of detections the best `top_k`."""
    if result.detections is not None:
        found = list(zip(result.detections.scores, result.detections.classes, result.names, result.detections.boxes))
        text = "  {:8.4f}  {}  {:.3f} {:.3f} {:.3f} {:.3f}"
        rows = [text.format(score, name or f"class {kind}", *box) for score, kind, name, box in found[:top_k]]
        return [result.source, *(rows or ["  nothing"])]
    if result.classes:
        scores = [f"  {item.score:8.4f}  {item.label or f'class {item.index}'}" for item in result.classes]
        return [result.source, *scores]
    return [result.source] + [
        f"  {name} {list(values.shape)} min {values.min():.6g} mean {values.mean():.6g} max {values.max():.6g}"
        for name, values in result.outputs.items()
    ]


def write_npz(path: Path, found: Iterable[Result]) -> List[Result]:
    """Write `source` (N) and `output_0`, ... (N, ...) as float32; the file is whole or not there. Raises UserError."""
    results = list(found)
    names = list(results[0].outputs)
    arrays: Dict[str, Array] = {"source": np.array([result.source for result in results])}
    for number, name in enumerate(names):
        arrays[f"output_{number}"] = np.stack([result.outputs[name] for result in results])
    part = path.with_name(path.name + ".part")
    try:
        with open(str(part), "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the names are never allow_pickle
        os.replace(str(part), str(path))
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}", path=str(path)) from error
    return results


def _load(engine: Engine, source: str) -> Array:
    if not source.endswith(".npy"):
        return engine.prepare(source)[None]
    if len(engine.inputs) != 1:
        raise InputError(f"an .npy file is for a model with one input, this one has {len(engine.inputs)}")
    try:
        with open(source, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except DAMAGED as error:
        raise InputError(f"cannot read '{source}': {error}", source=source) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or not array.shape or not len(array):
        raise InputError(f"'{source}' holds no samples: expected numbers of shape (N, ...)", source=source)
    if engine.preprocess is not None and array.dtype == np.uint8:
        return batch.stack([engine.prepare(frame) for frame in array])
    return quant.quantize(array, engine.inputs[0])
