"""Observer: the least and largest value of each tensor of a float model, sample by sample, which calibrates it.

TensorFlow's calibrator runs the same kernels and looks at each value between two operators, which takes almost three
times as long for a network of convolutions. Where a sum overwrites one of its addends, it takes the sum's range for
both, in steps that are too coarse. It remains for graphs whose tensors are not those of one run (states, branches,
loops), and for those whose tensors are too large to be kept together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models import flatbuffer, ranges

Array = NDArray[Any]
KEPT = 65  # samples whose ranges are kept one by one
MOST_BYTES = 128 * 1024**2  # of all tensors together
_THREADS = 4  # the calibrator's, on any computer: sums of a convolution depend on their number in the last bits
_FIRST = np.array([np.finfo(np.float32).max, np.finfo(np.float32).tiny])  # what TensorFlow's calibrator begins with


class Observer:
    """Runs a float model, which `can_observe`."""

    def __init__(self, content: bytes) -> None:
        from tensorflow.lite.python.interpreter import Interpreter, OpResolverType

        self._content = content
        self._interpreter = Interpreter(
            model_content=content,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            num_threads=_THREADS,
        )
        self._inputs = [detail["index"] for detail in self._interpreter.get_input_details()]
        self._tensors = tuple(flatbuffer.activations(content))
        self._ends = np.tile(_FIRST, (len(self._tensors), 1))
        self._kept: list[Array] = []

    def add(self, inputs: Sequence[Array]) -> None:
        """One sample: the inputs in the model's order, each with its batch. Raises what the interpreter raises."""
        if not self._kept:
            for index, value in zip(self._inputs, inputs, strict=True):
                self._interpreter.resize_tensor_input(index, value.shape)
            self._interpreter.allocate_tensors()
        for index, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, value)
        self._interpreter.invoke()
        ends = np.array([_ends(self._interpreter.tensor(index)()) for index in self._tensors], np.float32)
        ends = ends.reshape(-1, 2)
        self._ends[:, 0] = np.fmin(self._ends[:, 0], ends[:, 0])
        self._ends[:, 1] = np.fmax(self._ends[:, 1], ends[:, 1])
        if len(self._kept) < KEPT:
            self._kept.append(ends)

    def calibrated(self) -> bytes:
        """The model with the range of each tensor, over all samples, written into it."""
        found = {index: (low, high) for index, (low, high) in zip(self._tensors, self._ends.tolist(), strict=True)}
        return ranges.written(self._content, found)

    def first(self) -> Array:
        """The range of each tensor for each of the first samples: [samples, tensors, 2]; of an empty one 0 to 0."""
        kept: Array = np.nan_to_num(np.stack(self._kept))
        return kept


def can_observe(content: bytes) -> bool:
    """Whether a run leaves all tensors behind, and they fit into memory together."""
    return flatbuffer.stateless(content) and 0 < sum(flatbuffer.activations(content).values()) <= MOST_BYTES


def _ends(values: Array) -> tuple[float, float]:
    """The least and largest that is a number."""
    if not values.size:
        return np.nan, np.nan
    low, high = values.min(), values.max()
    return (low, high) if not np.isnan(low) else (np.fmin.reduce(values, None), np.fmax.reduce(values, None))
