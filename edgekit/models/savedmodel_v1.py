"""A SavedModel of TensorFlow 1: a graph and variables, restored in a session and frozen. Runs in the worker."""

from pathlib import Path

from edgekit.errors import UserError
from edgekit.models import dropout, graph, inference
from edgekit.models.graph import FrozenGraph
from edgekit.models.savedmodel import SERVE_TAG, Graph


def freeze(path: Path, found: Graph) -> FrozenGraph:
    """What leads from the serving signature's inputs to its outputs. Raises UserError."""
    import tensorflow as tf

    v1 = tf.compat.v1
    inputs = {graph.parameter(name): info.name for name, info in sorted(found.serving.inputs.items())}
    outputs = {name: info.name for name, info in sorted(found.serving.outputs.items())}
    try:
        with v1.Graph().as_default() as imported, v1.Session(graph=imported) as session:
            v1.saved_model.load(session, found.tags or [SERVE_TAG], str(path))
            ends = sorted({graph.node_name(name) for name in outputs.values()})
            whole = imported.as_graph_def()
            flags = inference.flags(whole)
            inputs = {name: tensor for name, tensor in inputs.items() if graph.node_name(tensor) not in flags}
            whole = inference.decided(whole, flags)
            constant = v1.graph_util.convert_variables_to_constants(session, whole, ends)
            constant, dropouts = dropout.remove(constant)
            part = inference.pruned(path, constant, inputs.values(), outputs.values(), flags)
    except (tf.errors.OpError, ValueError, KeyError, TypeError, OSError) as error:
        reason = str(getattr(error, "message", error)).strip().splitlines()
        raise UserError(
            f"{path}: TensorFlow {tf.__version__} cannot load it: {reason[0][:300] if reason else error!r}",
            hint="export it again with a current TensorFlow",
        ) from error
    notes = (*inference.note(flags), *dropout.note(dropouts))
    frozen = FrozenGraph(part, inputs, outputs, notes, nodes_before=found.nodes)
    return graph.connected(frozen, part)
