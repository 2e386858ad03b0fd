"""A frozen graph that runs, with any of its tensors replaced. TensorFlow is imported inside the functions."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.errors import CheckFailed, UserError


class Session:
    """`path` names the graph in errors."""

    def __init__(self, path: Path, graph_def: Any) -> None:
        import tensorflow as tf

        self._path = path
        self._session = tf.compat.v1.Session(graph=tf.compat.v1.Graph())
        try:
            with self._session.graph.as_default():
                tf.import_graph_def(graph_def, name="")
        except (ValueError, tf.errors.OpError) as error:
            raise CheckFailed(f"{path}: TensorFlow {tf.__version__} cannot load its graph: {reason(error)}") from error

    @classmethod
    def around(cls, path: Path, session: Any) -> "Session":
        """TensorFlow's own session, which somebody else closes."""
        made = cls.__new__(cls)
        made._path, made._session = path, session
        return made

    def run(self, tensors: Sequence[str], feed: Mapping[str, Any]) -> list[NDArray[Any]]:
        """The values of tensors. Raises UserError with TensorFlow's reason."""
        import tensorflow as tf

        try:
            return list(self._session.run(list(tensors), dict(feed)))
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise UserError(f"{self._path}: TensorFlow cannot run its graph: {reason(error)}") from error

    def shapes(self, tensors: Sequence[str], feed: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """The shapes that tensors have for this input."""
        import tensorflow as tf

        with self._session.graph.as_default():
            wanted = {name: tf.shape(self._session.graph.get_tensor_by_name(name)) for name in tensors}
        values = self._session.run(wanted, dict(feed)) if wanted else {}
        return {name: tuple(int(size) for size in value) for name, value in values.items()}

    def static_shape(self, tensor: str) -> list[int] | None:
        """As TensorFlow infers it, -1 for unknown sizes; None for an unknown number of dimensions."""
        shape = self._session.graph.get_tensor_by_name(tensor).shape
        return None if shape.rank is None else [-1 if size is None else size for size in shape.as_list()]

    def dtype(self, tensor: str) -> str:
        """Its dtype's name."""
        name: str = self._session.graph.get_tensor_by_name(tensor).dtype.name
        return name

    def may_end_with(self, tensor: str, last: int) -> bool:
        """Whether it is of real numbers, and its last dimension can have this size."""
        try:
            shape = self.static_shape(tensor)
        except (KeyError, ValueError):  # a node without outputs
            return False
        return self.dtype(tensor) == "float32" and (shape is None or (len(shape) > 1 and shape[-1] in (-1, last)))


def reason(error: Exception) -> str:
    """The one line of TensorFlow's words that says why: behind the node that failed, else the first."""
    lines = [line.strip() for line in str(getattr(error, "message", error)).splitlines() if line.strip()]
    behind = [line for node, line in itertools.pairwise(lines) if node.startswith("Node: ")]
    return next(iter(behind + lines), type(error).__name__)[:300]
