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
    """Runs a float model, on samples that are like `first` in shape: the inputs in the model's order, each with its
    batch. Raises what the interpreter raises.
    """

    def __init__(self, content: bytes, first: Sequence[Array]) -> None:
        from tensorflow.lite.python.interpreter import Interpreter, OpResolverType

        self._content = content
        self._interpreter = Interpreter(
            model_content=content,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            num_threads=_THREADS,
        )
        self._inputs = [detail["index"] for detail in self._interpreter.get_input_details()]
        for index, value in zip(self._inputs, first, strict=True):
            self._interpreter.resize_tensor_input(index, value.shape)
        self._interpreter.allocate_tensors()
        self._made = flatbuffer.activations(content)
        self._tensors = tuple(self._made)
        self._ends = np.tile(_FIRST, (len(self._tensors), 1))
        self._filled = np.zeros(len(self._tensors), bool)  # has had values, numbers or not
        self._kept: list[Array] = []

    @classmethod
    def of(cls, content: bytes, first: Sequence[Array]) -> "Observer | None":
        """None where a run does not leave all tensors behind, or not in as much memory."""
        if not flatbuffer.stateless(content):
            return None
        observer = cls(content, first)
        if observer._bytes() > MOST_BYTES:
            return None
        observer._run(first)  # some sizes are known only then
        return observer if observer._bytes() <= MOST_BYTES else None

    def add(self, inputs: Sequence[Array]) -> None:
        """One sample."""
        self._run(inputs)
        seen = [self._interpreter.tensor(index)() for index in self._tensors]
        self._filled |= [values.size > 0 for values in seen]
        ends = np.array([_ends(values) for values in seen], np.float32).reshape(-1, 2)
        del seen  # views, which hold the interpreter
        self._ends[:, 0] = np.fmin(self._ends[:, 0], ends[:, 0])
        self._ends[:, 1] = np.fmax(self._ends[:, 1], ends[:, 1])
        if len(self._kept) < KEPT:
            self._kept.append(ends)

    def calibrated(self) -> bytes:
        """The model with the range of each tensor, over all samples, written into it: without ends where none of its
        values was a number.

        What was zero throughout (units that never answer) may be up to 1: TensorFlow would give it a scale of 8e-9, and
        XNNPACK runs no convolution that scales by as much.
        """
        dead = (self._ends[:, 0] == 0) & (self._ends[:, 1] == _FIRST[1])
        lost = self._filled & (self._ends[:, 0] == _FIRST[0])
        ends = np.where(dead[:, None], (0.0, 1.0), self._ends)
        ends = np.where(lost[:, None], (-np.inf, np.inf), ends).tolist()
        return ranges.written(self._content, dict(zip(self._tensors, map(tuple, ends), strict=True)))

    def first(self) -> Array:
        """The range of what operators make for each of the first samples: [samples, tensors, 2]; 0 to 0 if empty."""
        kept: Array = np.nan_to_num(np.stack(self._kept)[:, list(self._made.values())])
        return kept

    def _run(self, inputs: Sequence[Array]) -> None:
        for index, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, value)
        self._interpreter.invoke()

    def _bytes(self) -> int:
        """Of all tensors that are no constants of the file, with what operators need beside them."""
        tensors = self._interpreter.get_tensor_details()
        sizes = [np.prod(one["shape"], dtype=np.int64) * np.dtype(one["dtype"]).itemsize for one in tensors]
        return int(sum(sizes)) - len(self._content)


def _ends(values: Array) -> tuple[float, float]:
    """The least and largest that is a number."""
    if not values.size:
        return np.nan, np.nan
    low, high = values.min(), values.max()
    return (low, high) if not np.isnan(low) else (np.fmin.reduce(values, None), np.fmax.reduce(values, None))
