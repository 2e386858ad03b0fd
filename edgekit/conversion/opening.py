"""A source in any form as one that can be lowered: what `quantize` starts from. Runs in the worker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit_runtime import batch
from edgekit_runtime.manifest import DTYPES, Preprocess, TensorSpec

from edgekit import worker
from edgekit.conversion.lowering import Lower, Model, first_line, load, of_saved_model, real_dtypes
from edgekit.errors import UserError
from edgekit.models import (
    checkpoint,
    detector,
    flatbuffer,
    graph,
    graph_def,
    inference,
    keras_model,
    picture_input,
    savedmodel,
    savedmodel_v1,
)
from edgekit.models.detector import Detector
from edgekit.models.graph import FrozenGraph
from edgekit.models.operators import codes
from edgekit.models.picture_input import PictureInput
from edgekit.models.session import Session
from edgekit.models.source import KERAS
from edgekit.runtimes import gate


@dataclass(frozen=True)
class Opened:
    """A source that was read: its inputs, and `lower`, which makes the float TFLite model of it.

    A detector is cut to what leads from its scaled picture to its raw heads, and other models that decode or loop over
    pictures to what follows; `picture` is the way there, and `original` gives what the whole graph makes of a picture
    of any size, by the part's outputs, where it takes any. `part` is what is left of a graph that was pruned here; that
    of a SavedModel of TensorFlow 2 TensorFlow's own converter prunes. A `fixed` one takes nothing in front of it.
    """

    inputs: tuple[TensorSpec, ...]
    lower: Lower
    notes: tuple[str, ...] = ()
    detector: Detector | None = None
    picture: PictureInput | None = None
    original: Callable[[Any], dict[str, Any]] | None = None
    part: FrozenGraph | None = None
    fixed: bool = False

    def taking(self, picture: PictureInput) -> "Opened":
        """The same, with its picture as it was declared."""
        found = self.detector
        if found is not None:
            found = replace(found, picture=picture, original=replace(found.original, picture=picture))
        return replace(self, picture=picture, detector=found)


def open_source(
    path: Path,
    form: str,
    folder: Path,
    *,
    trust_code: bool,
    whole: bool = False,
    signature: str | None = None,
    size: tuple[int | None, int | None] = (None, None),
) -> Opened:
    """Read the source; `folder` is for files in between, `whole` leaves detectors as they are, `signature` is that of
    a SavedModel, `size` (height, width) that of the pictures for a Keras model that takes any.

    Raises UserError, CheckFailed.
    """
    if signature is not None and form != "saved-model":
        raise UserError(
            f"{path}: the signature '{signature}' is declared, which only a SavedModel has",
            hint="leave signature out of model.toml",
            key="signature",
        )
    if form == "tflite":
        return _tflite(path)
    if form in KERAS:
        model = keras_model.load(path, form, trust_code=trust_code)
        notes = keras_model.notes(path, form, model)
        try:
            keras_model.export(model, folder / "keras", size)
        except Exception as error:  # Keras and TensorFlow raise whatever the layers do
            if worker.is_full(error):
                raise
            raise UserError(
                f"{path}: Keras cannot export it: {first_line(error)}",
                hint="declare the size of its pictures (--size), or export it yourself: model.export('saved_model')",
            ) from error
        return replace(_saved_model(path, folder / "keras", folder, savedmodel.read(folder / "keras")), notes=notes)
    if form == "saved-model":
        found = savedmodel.read(path, signature)
        _refuse_code(path, found.code, trust_code=trust_code)
        return _open_saved_model(path, found, folder, whole=whole)
    if form == "graph-def":
        frozen = graph_def.read(path)
        _refuse_code(path, graph.code_in(frozen.graph), trust_code=trust_code)
        part = inference.pruned(path, frozen.graph, frozen.inputs.values(), frozen.outputs.values(), {})
        return _frozen(path, graph.connected(frozen, part), folder, whole=whole)
    training = checkpoint.read(path)
    _refuse_code(path, graph.code_in(training.meta.graph_def), trust_code=trust_code)
    return _frozen(path, checkpoint.freeze(path, training), folder, whole=whole)


def _open_saved_model(path: Path, found: savedmodel.Graph, folder: Path, *, whole: bool) -> Opened:
    as_it_is = found.version == 2 and (whole or not found.suppresses) and not found.flagged
    if as_it_is and not found.prepares:
        return _saved_model(path, path, folder, found)
    try:
        frozen = _freeze(path, found)
        if as_it_is and _picture(path, frozen) is None:
            return _saved_model(path, path, folder, found)
    except UserError as refused:
        if found.version == 2 or found.suppresses or found.flagged:
            raise
        # What TensorFlow 1's session cannot freeze TensorFlow 2 may load: conditions that are functions, for example.
        try:
            load(path, path)
        except UserError:
            raise refused from None
        return _saved_model(path, path, folder, found)
    return _frozen(path, frozen, folder, whole=whole)


def _refuse_code(path: Path, operators: Sequence[str], *, trust_code: bool) -> None:
    if not trust_code:
        keras_model.refuse_code(path, tuple(f"operator {name}" for name in operators))


def _freeze(path: Path, found: savedmodel.Graph) -> FrozenGraph:
    if found.prepares:  # it may take files of pictures, which are no numbers
        savedmodel.require_signature(path, found)
    else:
        savedmodel.serving_signature(path, found)
    if found.version == 1:
        return savedmodel_v1.freeze(path, found)
    return replace(savedmodel.freeze(path, load(path, path), found.name), nodes_before=found.nodes)


def _frozen(path: Path, frozen: FrozenGraph, folder: Path, *, whole: bool) -> Opened:
    found = None if whole or not detector.is_detector(frozen) else detector.find(path, frozen)
    picture = found.picture if found else _picture(path, frozen)
    notes = frozen.notes
    if picture is not None and not found:
        frozen, notes = _numbers(path, frozen)
    part = found.part if found else picture.cut(path, frozen) if picture else frozen
    if picture is not None and (found is None or picture.filter is not None):
        notes = (*notes, f"cut off and declared instead: {picture}")
    graph.save(path, part, folder / "frozen")
    opened = _saved_model(path, folder / "frozen", folder, savedmodel.read(folder / "frozen"))
    left = f"of the graph's {part.nodes_before} nodes {len(graph.all_nodes(part.graph))} lead from input to output"
    whole_graph = None if picture is None or picture.filter is None else _original(path, frozen, part, picture)
    return replace(opened, notes=(*notes, left), detector=found, picture=picture, original=whole_graph, part=part)


def _numbers(path: Path, frozen: FrozenGraph) -> tuple[FrozenGraph, tuple[str, ...]]:
    """Without outputs that are no numbers (a key that is passed through, names of classes), and the notes with that."""
    session = Session(path, frozen.graph)
    outputs = {name: tensor for name, tensor in frozen.outputs.items() if session.dtype(tensor) in DTYPES}
    left = sorted(frozen.outputs.keys() - outputs.keys())
    if not outputs:
        raise UserError(
            f"{path}: gives no numbers: {', '.join(left)}", hint="export it with its scores as an output", outputs=left
        )
    notes = frozen.notes + ((f"outputs that are no numbers were left out: {', '.join(left)}",) if left else ())
    return replace(frozen, outputs=outputs, notes=notes), notes


def _original(
    path: Path, frozen: FrozenGraph, part: FrozenGraph, picture: PictureInput
) -> Callable[[Any], dict[str, Any]]:
    session = Session(path, frozen.graph)

    def answer(pixels: Any) -> dict[str, Any]:
        values = session.run(list(part.outputs.values()), {picture.tensor: picture.feed(pixels)})
        return dict(zip(part.outputs, values, strict=True))

    return answer


def _picture(path: Path, frozen: FrozenGraph) -> PictureInput | None:
    """The picture that a graph prepares itself; a detector that is kept whole is not opened at its front either."""
    return None if detector.suppresses(frozen.graph) else picture_input.find(path, frozen)


def _tflite(path: Path) -> Opened:
    found = flatbuffer.read(path)
    if foreign := gate.foreign(codes(path.read_bytes())):
        raise UserError(
            f"{path}: no interpreter has its custom operators: {', '.join(foreign)}",
            hint="cut them off before the model is made a .tflite, and do their work outside of it",
            operators=list(foreign),
        )
    if found.quantization == "none":
        raise UserError(f"{path}: computes with whole numbers only: there is nothing to quantise", quantization="none")
    if found.quantization != "float":
        raise UserError(
            f"{path}: this TFLite model is quantised already ({found.quantization})",
            hint="give the float model that it was made from",
            quantization=found.quantization,
        )
    free = [spec.name for spec in found.inputs if -1 in batch.sample_shape(spec)]
    if free:
        raise UserError(
            f"{path}: the size of {', '.join(free)} is not fixed",
            hint="give the SavedModel or Keras model that it was made from",
        )
    content = flatbuffer.named(path.read_bytes())
    inputs, content = flatbuffer.parse(content).inputs, flatbuffer.real_inputs(content)

    def lower(inputs: tuple[TensorSpec, ...], normalise: Preprocess | None = None) -> Model:
        assert normalise is None
        return content, real_dtypes(inputs, content)

    return Opened(inputs, lower, fixed=True)


def _saved_model(path: Path, source: Path, folder: Path, found: savedmodel.Graph) -> Opened:
    serving = savedmodel.serving_signature(path, found)
    return Opened(serving.inputs, of_saved_model(path, source, folder, serving))
