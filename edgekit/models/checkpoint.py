"""A TensorFlow 1 checkpoint with its graph (`.meta`): the inference part of it, frozen.

What was saved is the graph that trained: with labels, loss, gradients and savers in it, and no signature. The rules
that find the model in it are in `ends`. TensorFlow is imported inside the functions, which run in the worker.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.errors import UserError
from edgekit.models import dropout, graph
from edgekit.models.graph import FrozenGraph, is_variable, node_name
from edgekit.models.source import COPY_AGAIN, checkpoint_prefix

# "OP NAME" of what changes variables, writes summaries or is a gradient.
_NOT_MODEL = re.compile(
    r"^(Resource)?(Sparse)?(Assign|Apply|Scatter)|^(NoOp|Assert) |^\w*Summary|[ /]gradients(_\d+)?/"
)
_TRUE_IN_INFERENCE = re.compile(r"infer|eval|test", re.IGNORECASE)


@dataclass(frozen=True)
class TrainingGraph:
    """A MetaGraphDef and where its model is: `flags` are boolean placeholders with their value in inference."""

    meta: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    trained: frozenset[str]
    flags: dict[str, bool]
    unused: tuple[str, ...]
    dropouts: int = 0

    def notes(self) -> tuple[str, ...]:
        """What was decided, for people."""
        said = [f"its ends were inferred: {', '.join(self.inputs)} to {', '.join(self.outputs)}"]
        said += [f"the placeholder {name} is {str(value).lower()} in inference" for name, value in self.flags.items()]
        if self.unused:
            said.append(f"placeholders of the training are left out: {', '.join(self.unused)}")
        return (*said, *dropout.note(self.dropouts))


def read(path: Path) -> TrainingGraph:
    """The graph of a checkpoint, and the ends of its model. Raises UserError."""
    from tensorflow.core.protobuf import meta_graph_pb2

    file = Path(checkpoint_prefix(path) + ".meta")
    if file.stat().st_size > graph.MAX_BYTES:
        raise UserError(f"{file}: larger than {graph.MAX_BYTES} bytes")
    meta = meta_graph_pb2.MetaGraphDef()
    try:
        meta.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError: importing it needs another dependency's name
        raise UserError(
            f"{file}: not a TensorFlow 1 graph: it is cut or damaged ({error})",
            hint=COPY_AGAIN,
        ) from error
    for node in meta.graph_def.node:
        node.attr.pop("_output_shapes", None)  # a hint that later versions take for a contradiction
    inference, dropouts = dropout.remove(meta.graph_def)
    meta.graph_def.CopyFrom(inference)
    return replace(ends(file, meta), dropouts=dropouts)


def ends(path: Path, meta: Any) -> TrainingGraph:
    """Find the model in a training graph. Raises UserError when there is none.

    An input is a placeholder that meets a variable before anything that a variable had a part in: labels meet only
    predictions. A boolean placeholder is a flag of training. What depends on a label, or has lost the batch (a single
    number), is loss, metric or gradient. An output is what no node takes; where all is taken, what labels meet first.
    A node whose trained variables are only some of another's is a leftover.
    """
    order = [node for node in graph.in_order(meta.graph_def) if not _NOT_MODEL.search(f"{node.op} {node.name}")]
    trained = _trained(meta)
    booleans, places = _placeholders(order)
    inputs = _inputs(order, places)
    parts, judged = _parts(order, inputs, set(places) - inputs)
    single = graph.scalars(path, meta.graph_def)
    whole: dict[frozenset[str], list[str]] = {}
    for name, part in parts.items():
        if part & inputs and part & trained and name not in single:
            whole.setdefault(part & trained, []).append(name)
    taken = {node_name(name) for node in order for name in node.input}
    outputs = []
    for learnt, names in whole.items():
        if not any(learnt < other for other in whole):
            outputs += [name for name in names if name not in taken] or [n for n in names if n in judged][:1]
    if not outputs:
        raise UserError(
            f"{path}: no model was found in this training graph: its placeholders are {', '.join(places) or 'none'}",
            hint="export a SavedModel from the code that built the graph",
            placeholders=places,
        )
    used = frozenset().union(*(parts[name] for name in outputs))
    return TrainingGraph(
        meta,
        inputs=tuple(name for name in places if name in used),
        outputs=tuple(sorted(outputs)),
        trained=frozenset(trained),
        flags={name: bool(_TRUE_IN_INFERENCE.search(name)) for name in booleans},
        unused=tuple(name for name in places if name not in used),
    )


def require_values(path: Path) -> None:
    """Raises UserError for a graph without its values."""
    import tensorflow as tf

    prefix = checkpoint_prefix(path)
    named = Path(prefix + ".index").is_file() or Path(prefix).is_file()  # one file in the format of before 2016
    if not named or not tf.compat.v1.train.checkpoint_exists(prefix):
        raise UserError(
            f"{path}: a training graph without its values: its .index and .data files are not beside the .meta",
            hint="copy all files of the checkpoint",
        )


@contextlib.contextmanager
def restored(path: Path, found: TrainingGraph) -> Iterator[Any]:
    """A session of TensorFlow's with the graph and its variables. Raises UserError, also for what is done in it."""
    import tensorflow as tf

    v1, prefix = tf.compat.v1, checkpoint_prefix(path)
    require_values(path)
    try:
        with v1.Graph().as_default() as imported, v1.Session(graph=imported) as session:
            saver = v1.train.import_meta_graph(found.meta, clear_devices=True)
            if saver is None:
                raise UserError(f"{path}: holds no variables")
            saver.restore(session, prefix)
            yield session
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
        raise UserError(f"{path}: the values in its .data file are cut or damaged", hint=COPY_AGAIN) from error
    except (tf.errors.OpError, ValueError, KeyError, TypeError) as error:
        reason = str(getattr(error, "message", error)).strip().splitlines()
        raise UserError(
            f"{path}: TensorFlow {tf.__version__} cannot restore it: {reason[0][:300] if reason else error!r}",
            hint="are its .index and .data files beside it, from the same step?",
        ) from error


def freeze(path: Path, found: TrainingGraph) -> FrozenGraph:
    """Restore the variables and leave what inference needs. Raises UserError."""
    import tensorflow as tf

    with restored(path, found) as session:
        constant = tf.compat.v1.graph_util.convert_variables_to_constants(
            session, session.graph.as_graph_def(), list(found.outputs)
        )
    inputs, outputs = graph.short_names(found.inputs), graph.short_names(found.outputs)
    part = graph.pruned(path, constant, inputs.values(), outputs.values(), found.flags)
    return FrozenGraph(part, inputs, outputs, found.notes(), len(graph.all_nodes(found.meta.graph_def)))


def _trained(meta: Any) -> set[str]:
    from tensorflow.core.framework import variable_pb2

    listed = set()
    for content in meta.collection_def["trainable_variables"].bytes_list.value:
        listed.add(node_name(variable_pb2.VariableDef.FromString(content).variable_name))
    return listed or {node.name for node in meta.graph_def.node if is_variable(node)}


def _placeholders(order: list[Any]) -> tuple[list[str], list[str]]:
    """The boolean ones, and the others but those that have a default."""
    import tensorflow as tf

    all_of_them = sorted((node for node in order if node.op in ("Placeholder", "PlaceholderV2")), key=lambda n: n.name)
    booleans = [node.name for node in all_of_them if node.attr["dtype"].type == tf.bool.as_datatype_enum]
    return booleans, [node.name for node in all_of_them if node.name not in booleans]


def _parts(order: list[Any], inputs: set[str], labels: set[str]) -> tuple[dict[str, frozenset[str]], set[str]]:
    """Of each node that depends on no label, the inputs and variables that it depends on; and which of them meet one
    that does, or a label, as inputs of the same node.
    """
    spoilt, parts, judged = set(labels), dict[str, frozenset[str]](), set[str]()
    for node in order:
        needs = [node_name(name) for name in node.input]
        if node.name in spoilt or any(name in spoilt for name in needs):
            spoilt.add(node.name)
            judged.update(needs)
            continue
        own = frozenset([node.name]) if node.name in inputs or is_variable(node) else frozenset()
        parts[node.name] = own.union(*(parts.get(name, frozenset()) for name in needs))
    return parts, judged - spoilt


def _inputs(order: list[Any], places: list[str]) -> set[str]:
    fed = {name: frozenset([name]) for name in places}
    learnt = {node.name for node in order if is_variable(node)}
    inputs: set[str] = set()
    for node in order:
        needs = [node_name(name) for name in node.input]
        fed[node.name] = fed.get(node.name, frozenset()).union(*(fed.get(name, frozenset()) for name in needs))
        variables = [name for name in needs if name in learnt]
        if variables:
            learnt.add(node.name)
            if not any(fed.get(name) for name in variables):
                inputs.update(fed[node.name])
    return inputs
