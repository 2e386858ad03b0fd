"""Loops of a TensorFlow 2 graph (LSTM, GRU), written out step by step: tensor lists and WHILE have no INT8 form.

The graph is run once over symbolic inputs: what depends on no input is computed, so that a loop's condition is known,
and a tensor list is a Python list. TensorFlow is imported inside the functions, which run in the worker.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime.manifest import TensorSpec

from edgekit.errors import UserError
from edgekit.models.graph import FrozenGraph

MAX_STEPS = 1000
_LOOPS = ("While", "StatelessWhile")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def save(path: Path, frozen: FrozenGraph, inputs: Iterable[TensorSpec], folder: Path) -> None:
    """Write a SavedModel of `frozen` without loops, for inputs of these sizes; `path` names it in errors.

    Raises UserError for a loop whose number of steps depends on the input, or is too large.
    """
    import tensorflow as tf

    def serve(**given: Any) -> Any:
        known = {tensor: given[name] for name, tensor in frozen.inputs.items()}
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(frozen.graph, name="")
        functions = {one.signature.name: one for one in frozen.graph.library.function}
        run = _Run(path, functions)
        run.operations(graph, known)
        return {name: run.tensor(known[tensor]) for name, tensor in frozen.outputs.items()}

    specs = {spec.name: tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in inputs}
    function = tf.function(serve, autograph=False).get_concrete_function(**specs)
    tf.saved_model.save(tf.Module(), str(folder), signatures={"serving_default": function})


class _Run:
    """One pass over a graph. A value is a NumPy array where it is known, a symbolic tensor, or a list of such."""

    def __init__(self, path: Path, functions: Mapping[str, Any]) -> None:
        self._path = path
        self._functions = functions
        self._graphs: dict[str, Any] = {}
        self._constants: dict[int, tuple[Any, Any]] = {}
        self._steps = 0

    def operations(self, graph: Any, known: dict[str, Any]) -> None:
        """Add to `known`, by their tensors' names, the values of all that has outputs."""
        for operation in graph.get_operations():
            names = [tensor.name for tensor in operation.outputs]
            if names and names[0] not in known:
                try:
                    given = [known[tensor.name] for tensor in operation.inputs]
                except KeyError as error:  # TensorFlow 1's loops go back
                    raise self._refusal(operation) from error
                known.update(zip(names, self._made(operation, given), strict=True))

    def tensor(self, value: Any) -> Any:
        """`value` in the graph that is built; each array once."""
        import tensorflow as tf

        if not isinstance(value, np.ndarray):
            return value
        if id(value) not in self._constants:
            self._constants[id(value)] = (value, tf.constant(value))
        return self._constants[id(value)][1]

    def _made(self, operation: Any, given: list[Any]) -> list[Any]:
        import tensorflow as tf

        kind = operation.type
        if kind == "Identity":
            return given
        if kind in _LOOPS or kind in _CALLS:
            return self._loop(operation, given) if kind in _LOOPS else self._call(operation.get_attr("f").name, given)
        if kind.startswith("TensorList"):
            return [self._list(operation, given)]
        if any(isinstance(value, list) for value in given):
            raise self._refusal(operation)
        if all(isinstance(value, np.ndarray) for value in given) and not operation.op_def.is_stateful:
            return _computed(operation, given)
        made = _in_pieces(operation, given) or _again(operation, [self.tensor(value) for value in given])
        static = [tf.get_static_value(value) for value in made]
        return [value if array is None else np.asarray(array) for value, array in zip(made, static, strict=True)]

    def _loop(self, operation: Any, given: list[Any]) -> list[Any]:
        condition, body = operation.get_attr("cond").name, operation.get_attr("body").name
        while True:
            (goes_on,) = self._call(condition, given)
            if not isinstance(goes_on, np.ndarray) or self._steps == MAX_STEPS:
                raise self._refusal(operation)
            if not goes_on:
                return given
            self._steps += 1
            given = self._call(body, given)

    def _call(self, name: str, given: list[Any]) -> list[Any]:
        from tensorflow.python.framework import function_def_to_graph  # has no public name

        if name not in self._graphs:
            self._graphs[name] = function_def_to_graph.function_def_to_graph(self._functions[name])
        graph = self._graphs[name]
        known = {tensor.name: value for tensor, value in zip(graph.inputs, given, strict=True)}
        self.operations(graph, known)
        return [known[tensor.name] for tensor in graph.outputs]

    def _list(self, operation: Any, given: list[Any]) -> Any:
        import tensorflow as tf

        match operation.type.removeprefix("TensorList"), given:
            case "Reserve", [_, np.ndarray() as size]:
                return [None] * int(size)
            case "FromTensor", [items, _] if items.shape[0] is not None:
                return tf.unstack(self.tensor(items))
            case "GetItem", [list() as held, np.ndarray() as place, _] if held[int(place)] is not None:
                return held[int(place)]
            case "SetItem", [list() as held, np.ndarray() as place, item]:
                return [item if number == int(place) else one for number, one in enumerate(held)]
            case "Stack", [list() as held, _] if not any(item is None for item in held):
                return tf.stack([self.tensor(item) for item in held])
        raise self._refusal(operation)

    def _refusal(self, operation: Any) -> UserError:
        return UserError(
            f"{self._path}: a loop ({operation.type}) cannot be written out: its number of steps depends on the input, "
            f"or is more than {MAX_STEPS}",
            hint="export the model with a fixed number of steps, or its LSTM or GRU with unroll=True",
            operators=[operation.type],
        )


def _in_pieces(operation: Any, given: list[Any]) -> list[Any]:
    """Split and ReverseV2 by others, which the quantizer handles as it should; empty for all else.

    Of a part that nothing takes (the first step has no state to forget) no range is known; and what is reversed would
    get another scale, though its bytes are copied.
    """
    import tensorflow as tf

    if operation.type == "Split" and isinstance(given[0], np.ndarray) and given[1].shape.is_fully_defined():
        axis, shape, count = int(given[0]), given[1].shape.as_list(), operation.get_attr("num_split")
        shape[axis] //= count
        start = np.eye(len(shape), dtype=np.int32)[axis] * shape[axis]
        return [tf.slice(given[1], start * number, shape) for number in range(count)]
    if operation.type == "ReverseV2" and isinstance(given[1], np.ndarray) and given[0].shape.is_fully_defined():
        turned = given[0]
        for axis in given[1]:
            turned = tf.stack(tf.unstack(turned, axis=axis)[::-1], axis)
        return [turned]
    return []


def _computed(operation: Any, given: list[Any]) -> list[Any]:
    import tensorflow as tf

    if operation.type == "Const":
        return [tf.make_ndarray(operation.get_attr("value"))]
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        return [np.asarray(value) for value in session.run(_again(operation, [tf.constant(value) for value in given]))]


def _again(operation: Any, given: list[Any]) -> list[Any]:
    """The same operation in the graph that is built."""
    import tensorflow as tf

    dtypes = [tensor.dtype for tensor in operation.outputs]
    attributes = dict(operation.node_def.attr)
    graph = tf.compat.v1.get_default_graph()
    return list(graph.create_op(operation.type, given, dtypes, attrs=attributes).outputs)
