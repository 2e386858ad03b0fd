"""The worker's side of "what did freezing and pruning spare": the source and what is left of it, both in TensorFlow."""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import schema

from edgekit import worker
from edgekit.conversion import lowering, opening
from edgekit.conversion.record import Conversion
from edgekit.datasets.declaration import Declaration
from edgekit.errors import UserError
from edgekit.models import checkpoint, graph, graph_def, inference, savedmodel
from edgekit.models.graph import FrozenGraph
from edgekit.models.picture_input import PictureInput
from edgekit.models.session import Session, reason
from edgekit.models.source import KERAS, open_model
from edgekit.worker import Progress

LIMIT_S = 600.0
ROUNDS, ROUNDS_S = 30, 4.0
_LEAST = 3
_SEED = 11
_ANY = 256  # a size for inputs that take any
Run = Callable[[], None]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Request:
    """`shapes` are those of the converted model's inputs, by the source's names: for sizes that it leaves open."""

    model: str
    form: str
    size: int
    signature: str | None
    whole: bool
    trust_code: bool
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """Nodes (with those of functions), bytes, and the median milliseconds of one inference in TensorFlow, batch 1."""

    nodes: int
    size: int
    ms: float | None


@dataclass(frozen=True)
class Pruning:
    """The source as it was given, and what of it leads from input to output, with constants for variables.

    `failure` is why there are no times. Of a detector `after` ends at its raw heads.
    """

    before: Part
    after: Part
    failure: str | None = None


def measure(
    model: Path,
    made: Conversion,
    declaration: Declaration,
    *,
    trust_code: bool = False,
    log: Path | None = None,
    progress: Progress | None = None,
) -> Pruning | None:
    """Of the source that `made` was converted from, in a process of its own; None for a `.tflite`, which has no graph.

    Raises UserError for a source that cannot be opened again, CheckFailed when TensorFlow crashes.
    """
    source = open_model(model)
    if source.form == "tflite":
        return None
    shapes = {name: spec.shape for name, spec in zip(made.input_names, made.inputs, strict=True)}
    wanted = Request(
        str(source.path), source.form, source.size, declaration.signature, declaration.keeps_boxes, trust_code, shapes
    )
    what = f"measuring the graph of {model}"
    plain = worker.run("pruning", schema.plain(wanted), what=what, log=log, progress=progress, time_limit_s=LIMIT_S)
    return schema.read(Pruning, plain, "pruning")


def work(plain: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """A plain Pruning."""
    asked = schema.read(Request, plain, "request")
    progress("graph", 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        found = _measured(asked, Path(asked.model), Path(folder))
    progress("graph", 1, 1)
    return dict(schema.plain(found))


def _measured(asked: Request, path: Path, folder: Path) -> Pruning:
    shape = next(iter(asked.shapes.values()), ())
    opened = opening.open_source(
        path,
        asked.form,
        folder,
        trust_code=asked.trust_code,
        whole=asked.whole,
        signature=asked.signature,
        size=(shape[1], shape[2]) if len(shape) == 4 else (None, None),
    )
    picture = opened.picture
    times: tuple[float | None, float | None] = (None, None)
    failure = None
    with contextlib.ExitStack() as stack:
        if opened.part is None or asked.form == "saved-model":
            source = folder / "keras" if asked.form in KERAS else path
            found = savedmodel.read(source, asked.signature)
            loaded = lowering.load(source, path)
            part = opened.part or _pruned(path, savedmodel.freeze(path, loaded, found.name))
            graph.save(path, part, folder / "part")
            nodes, before = found.nodes, _function(loaded, found.name, asked.shapes, picture)
            after = _function(lowering.load(folder / "part", path), savedmodel.SIGNATURE, asked.shapes)
        else:
            part = opened.part
            nodes, before = part.nodes_before, _given(path, asked, picture, stack)
            left = Session(path, part.graph)
            after = _session(left, part.outputs, _feed(left, part.inputs, asked.shapes))
        try:
            times = _medians(before, after)
        except UserError as error:
            failure = error.message
    pruned = Part(len(graph.all_nodes(part.graph)), part.graph.ByteSize(), times[1])
    return Pruning(Part(nodes, asked.size, times[0]), pruned, failure)


def _pruned(path: Path, frozen: FrozenGraph) -> FrozenGraph:
    part = inference.pruned(path, frozen.graph, frozen.inputs.values(), frozen.outputs.values(), {})
    return replace(frozen, graph=part)


def _given(path: Path, asked: Request, picture: PictureInput | None, stack: contextlib.ExitStack) -> Run:
    """A frozen graph, or a checkpoint's graph with its variables, as they are."""
    if asked.form == "graph-def":
        frozen = graph_def.read(path)
        session = Session(path, frozen.graph)
        return _session(session, frozen.outputs, _feed(session, frozen.inputs, asked.shapes, picture))
    found = checkpoint.read(path)
    session = Session.around(path, stack.enter_context(checkpoint.restored(path, found)))
    flags = {f"{name}:0": value for name, value in found.flags.items()}
    feed = _feed(session, graph.short_names(found.inputs), asked.shapes, picture)
    return _session(session, graph.short_names(found.outputs), {**flags, **feed})


def _function(loaded: Any, name: str, shapes: Shapes, picture: PictureInput | None = None) -> Run:
    """A signature of a SavedModel that is loaded."""
    import tensorflow as tf

    specs = loaded.signatures[name].structured_input_signature[1].values()
    feed = {
        spec.name: tf.constant(_value(spec.shape.as_list(), spec.dtype.name, shapes.get(spec.name), picture))
        for spec in specs
    }

    def run() -> None:
        try:
            for value in loaded.signatures[name](**feed).values():  # `loaded` holds the variables
                value.numpy()
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise UserError(f"TensorFlow cannot run it: {reason(error)}") from error

    return run


def _session(session: Session, outputs: Mapping[str, str], feed: Mapping[str, Any]) -> Run:
    wanted = list(outputs.values())

    def run() -> None:
        session.run(wanted, feed)

    return run


def _feed(
    session: Session, inputs: Mapping[str, str], shapes: Shapes, picture: PictureInput | None = None
) -> dict[str, Any]:
    feed = {}
    for name, tensor in inputs.items():
        shape = [None if size == -1 else size for size in session.static_shape(tensor) or ()]
        feed[tensor] = _value(shape, session.dtype(tensor), shapes.get(name), picture)
    return feed


def _value(shape: Sequence[int | None], dtype: str, known: tuple[int, ...] | None, picture: PictureInput | None) -> Any:
    """Noise for an input: batch 1, its other open sizes as they were when it was converted."""
    random = np.random.default_rng(_SEED)
    if picture is not None:
        return picture.feed(random.integers(0, 256, picture.blank().shape, np.uint8))
    if dtype == "string":
        raise UserError("an input takes text")
    if dtype == "bool" and not shape:
        return np.False_  # a flag, as of training
    same = known if known is not None and len(known) == len(shape) else (_ANY,) * len(shape)
    whole = [same[axis] if size is None else size for axis, size in enumerate(shape)]
    if whole and shape[0] is None:
        whole[0] = 1
    if np.dtype(dtype).kind == "f":
        return random.random(whole).astype(dtype)
    return random.integers(0, 2, whole).astype(dtype)  # also indices into the smallest table


def _medians(*runs: Run) -> tuple[float, float]:
    """Of each in milliseconds, in turns, after a warm-up."""
    times: list[list[float]] = [[] for _ in runs]
    for run in (*runs, *runs):
        run()
    end = time.monotonic() + ROUNDS_S
    while len(times[0]) < ROUNDS and (len(times[0]) < _LEAST or time.monotonic() < end):
        for run, taken in zip(runs, times, strict=True):
            begun = time.perf_counter()
            run()
            taken.append(1e3 * (time.perf_counter() - begun))
    before, after = (statistics.median(taken) for taken in times)
    return before, after
