"""Samples and batches: how any number of samples goes through a model, and the proof that a batch may be used.

A tensor whose first size is 1 or -1 has the batch there. Any other tensor is one sample as a whole, and the samples are
stacked along a new first axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple

import numpy as np

from edgekit_runtime.errors import CheckFailed, InputError
from edgekit_runtime.interpreter import Interpreter, InvokeError
from edgekit_runtime.manifest import TensorSpec

if TYPE_CHECKING:
    from random import Random

    from edgekit_runtime.quant import Array

# A float kernel may add up in another order when the batch is larger; integers must be equal.
FLOAT_TOLERANCE = 1e-5
_SEED = 20240229
_BLOCK_BYTES = 1 << 20


class BatchRefused(CheckFailed):
    """A batch above 1 was not proven equal to single runs; the engine stays at 1."""


def has_batch(spec: TensorSpec) -> bool:
    """Whether the tensor's first axis is the batch."""
    return bool(spec.shape) and spec.shape[0] in (1, -1)


def sample_shape(spec: TensorSpec) -> Tuple[int, ...]:
    """The shape of one sample; -1 for sizes that are not fixed."""
    return spec.shape[1:] if has_batch(spec) else spec.shape


def least_shape(spec: TensorSpec) -> Tuple[int, ...]:
    """The shape of one sample, with 1 for sizes that are not fixed."""
    return tuple(max(size, 1) for size in sample_shape(spec))


def noise(specs: Sequence[TensorSpec], count: int) -> List[Array]:
    """`count` seeded rows for each input, in its stored dtype."""
    from random import Random  # a start with golden samples needs none, and numpy.random is slow to import

    generator = Random(_SEED)  # noqa: S311  # nothing secret is made of it
    return [_noise(generator, spec, (count, *least_shape(spec))) for spec in specs]


def count_samples(arrays: Sequence[Array], specs: Sequence[TensorSpec]) -> int:
    """The number of samples in `arrays`, rows (N, ...) in the stored dtype for each of the inputs `specs`.

    Raises InputError for another count of arrays, another shape or dtype, and when N differs.
    """
    require_list(arrays, specs)
    for array, spec in zip(arrays, specs):
        wanted = sample_shape(spec)
        shape = getattr(array, "shape", ())
        same = len(shape) == len(wanted) + 1 and all(w in (-1, g) for w, g in zip(wanted, shape[1:]))
        if not same or array.dtype != spec.dtype or 0 in shape[1:]:
            got = f"{array.dtype} {list(shape)}" if isinstance(array, np.ndarray) else type(array).__name__
            expected = ", ".join(["N", *("any" if size == -1 else str(size) for size in wanted)])
            raise InputError(
                f"input '{spec.name}': expected {spec.dtype} [{expected}], got {got}",
                name=spec.name,
                expected=f"{spec.dtype} [{expected}]",
                got=got,
            )
    counts = {len(array) for array in arrays}
    if len(counts) != 1:
        raise InputError(f"the inputs hold different numbers of samples: {sorted(counts)}")
    return counts.pop()


def require_list(arrays: Any, specs: Sequence[TensorSpec]) -> None:
    """Raises InputError unless `arrays` has one for each of the inputs `specs`, in order."""
    got = len(arrays) if hasattr(arrays, "__len__") else type(arrays).__name__
    if got != len(specs) or isinstance(arrays, (str, bytes, dict, set)):
        names = ", ".join(f"'{spec.name}'" for spec in specs)
        raise InputError(f"expected {len(specs)} input array(s) ({names}), got {got}", got=got)


def chunks(count: int, size: int) -> List[slice]:
    """`count` samples in order as slices of at most `size`."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def shares(parts: Sequence[slice], count: int) -> List[List[slice]]:
    """The parts in order, dealt out evenly to at most `count`, who each get neighbours."""
    ends = [len(parts) * number // count for number in range(count + 1)]
    dealt = [list(parts[ends[number] : ends[number + 1]]) for number in range(count)]
    return [some for some in dealt if some]


def pad(rows: Array, size: int) -> Array:
    """Rows (n, ...) with n <= size as (size, ...), the last row repeated."""
    missing = size - len(rows)
    return rows if missing == 0 else np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])


def join(parts: Sequence[Array]) -> Array:
    """The rows of every part, in order."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def run_one(interpreter: Interpreter, rows: Sequence[Array]) -> List[Array]:
    """One sample, given as one row (1, ...) for each input, to one row for each output."""
    tensors = [row if has_batch(spec) else row[0] for spec, row in zip(interpreter.inputs, rows)]
    outputs = interpreter.run(tensors)
    return [out if has_batch(spec) else out[None] for spec, out in zip(interpreter.outputs, outputs)]


def prove(single: Interpreter, batched: Interpreter, samples: Sequence[Array], size: int) -> None:
    """Show that `batched` gives for `size` samples at once what `single` gives for each alone.

    `samples` has `size` rows for each input. Leaves `batched` ready for that size. Raises BatchRefused with the
    reason: fixed sizes, a refusal by the runtime, results missing, or results that differ.
    """
    for spec in single.inputs:
        if not spec.shape or spec.shape[0] != -1:
            raise _refused(size, f"input '{spec.name}' has the fixed shape {list(spec.shape)}")
    for spec in single.outputs:
        if not has_batch(spec):
            raise _refused(size, f"output '{spec.name}' of shape {list(spec.shape)} has no batch axis")
    try:
        singles = [run_one(single, [rows[i : i + 1] for rows in samples]) for i in range(size)]
        together = batched.run(samples)
    except InvokeError as error:
        raise _refused(size, error.message) from error
    if all(np.array_equal(a, b) for row in singles[1:] for a, b in zip(singles[0], row)):
        raise _refused(size, "the samples all give the same result, so that nothing would be proven")
    for number, spec in enumerate(single.outputs):
        wanted = np.concatenate([row[number] for row in singles])
        got = together[number]
        if got.shape != wanted.shape:
            raise _refused(size, f"output '{spec.name}' came back as {list(got.shape)}, not {list(wanted.shape)}")
        if not _equal(got, wanted):
            raise _refused(size, f"output '{spec.name}' differs from single runs")


def check_memory(size: int, max_ram_mb: Optional[int]) -> None:
    """Raises BatchRefused when this process, with an interpreter for `size` in it, holds more than it may."""
    if max_ram_mb is None:
        return
    from edgekit_runtime import environment

    used = environment.memory_kb()[0]
    if used is not None and used > max_ram_mb * 1024:
        raise _refused(size, f"with it {used / 1024:.0f} MiB are in use, and {max_ram_mb} MiB (max_ram_mb) are allowed")


def stack(rows: Sequence[Array]) -> Array:
    """Prepared samples of one shape as rows (N, ...); one is not copied. Raises InputError when they differ."""
    if len({row.shape for row in rows}) > 1:
        raise InputError("samples of different shapes cannot go together")
    return rows[0][None] if len(rows) == 1 else np.stack(list(rows))


def _equal(got: Array, wanted: Array) -> bool:
    if got.dtype.kind != "f":
        return np.array_equal(got, wanted)
    finite = np.abs(wanted[np.isfinite(wanted)])
    size = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(got, wanted, rtol=0, atol=FLOAT_TOLERANCE * size, equal_nan=True))


def _noise(generator: Random, spec: TensorSpec, shape: Tuple[int, ...]) -> Array:
    dtype = np.dtype(spec.dtype)
    count = int(np.prod(shape))
    made: Array
    if dtype.kind == "f":
        made = _random(generator, count, np.dtype(np.uint16)) / np.float32(32767.5) - np.float32(1)
    elif dtype.kind == "b" or (dtype.itemsize > 2 and spec.scale is None):
        # Plain wide integers are indices or lengths: only small ones are surely valid.
        made = _random(generator, count, np.dtype(np.uint8)) & 1
    else:
        made = _random(generator, count, dtype)
    return made.astype(dtype).reshape(shape)


def _random(generator: Random, count: int, dtype: np.dtype[Any]) -> Array:
    size = count * dtype.itemsize
    made = np.empty(size, np.uint8)
    for start in range(0, size, _BLOCK_BYTES):  # getrandbits makes at most 2**31 bits at once
        part = made[start : start + _BLOCK_BYTES]
        part[:] = np.frombuffer(generator.getrandbits(8 * len(part)).to_bytes(len(part), "little"), np.uint8)
    return made.view(dtype)


def _refused(size: int, reason: str) -> BatchRefused:
    return BatchRefused(f"batch {size} is not used: {reason}", size=size, reason=reason)
