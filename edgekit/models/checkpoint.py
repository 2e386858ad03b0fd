"""A TensorFlow 1 checkpoint with its graph (`.meta`): the inference part of it, frozen.

What was saved is the graph that trained: with labels, loss, gradients and savers in it, and no signature
(`training_graph` finds the model in it). TensorFlow is imported inside the functions, which run in the worker.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import UserError
from edgekit.models import dropout, graph, inference, moving_average, pipeline, training_graph
from edgekit.models.graph import FrozenGraph
from edgekit.models.source import COPY_AGAIN, checkpoint_prefix
from edgekit.models.training_graph import TrainingGraph


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
    for name in set(meta.collection_def):
        if not name.endswith("variables"):
            del meta.collection_def[name]  # it may name nodes that are removed
    without, dropouts = dropout.remove(pipeline.cut(meta.graph_def))
    settled, averages = moving_average.use(without)
    meta.graph_def.CopyFrom(settled)
    done = (*moving_average.note(averages), *dropout.note(dropouts))
    found = replace(training_graph.find(file, meta), done=done)
    meta.graph_def.CopyFrom(inference.decided(meta.graph_def, found.flags))
    return found


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
    part = inference.pruned(path, constant, inputs.values(), outputs.values(), found.flags)
    return FrozenGraph(part, inputs, outputs, found.notes(), len(graph.all_nodes(found.meta.graph_def)))
