"""The highest of very many values, best first: a few at a time, in little memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Iterator, Optional

import numpy as np

from edgekit_runtime.resize import Scratch

if TYPE_CHECKING:
    from edgekit_runtime.quant import Array

_SORTED = 256  # values that are sorted at once
_BLOCK = 64  # of which so many are given at once
_SAMPLE = 2048  # values that tell about where the highest begin
_WORK = Scratch()


def descending(values: Array, least: float = -math.inf, first: int = 0) -> Iterator[Array]:
    """The flat indices of all in columns `first` and later of values (N, C) that are not below `least`, highest first,
    at most 64 at once; of equals the lower index comes first.
    """
    after: Optional[int] = None
    while True:
        chosen = highest(values, _SORTED, least, first, after)
        for start in range(0, len(chosen), _BLOCK):
            yield chosen[start : start + _BLOCK]
        if len(chosen) < _SORTED:
            return
        after = int(chosen[-1])


def highest(values: Array, count: int, least: float = -math.inf, first: int = 0, after: Optional[int] = None) -> Array:
    """The first `count` of them all, or of those that come after the index `after`."""
    flat = values.reshape(-1)
    mask = _reach(values, least, first, after)
    left = int(np.count_nonzero(mask))
    if left <= 2 * count:
        chosen = np.flatnonzero(mask)
    else:
        cut = _cut(values, mask, count, left, first)
        chosen = np.flatnonzero(_both(np.greater, flat, cut, mask))
        if len(chosen) < count:
            chosen = np.concatenate([chosen, _lowest(_both(np.equal, flat, cut, mask), count - len(chosen))])
    held = flat[chosen]
    if count < len(chosen):
        last = np.partition(held, len(held) - count)[len(held) - count]
        above, equal = np.flatnonzero(held > last), np.flatnonzero(held == last)
        part = np.concatenate([above, equal[: count - len(above)]])
        chosen, held = chosen[part], held[part]
    return chosen[np.argsort(-held.astype(np.float64), kind="stable")]


def _reach(values: Array, least: float, first: int, after: Optional[int]) -> Array:
    """Which may be chosen, flat."""
    # The whole is compared and a column taken out, since NumPy is ten times slower with rows that have gaps.
    mask = _WORK.get(f"mask {values.shape}", values.shape, np.bool_)
    np.greater_equal(values, least, out=mask)
    mask[:, :first] = False
    flat, chosen = values.reshape(-1), mask.reshape(-1)
    if after is not None:
        last, end = flat[after], after + 1
        chosen[:end] &= np.less(flat[:end], last, out=_spare(end))
        chosen[end:] &= np.less_equal(flat[end:], last, out=_spare(len(flat) - end))
    return chosen


def _cut(values: Array, mask: Array, count: int, left: int, first: int) -> Any:
    """A value that `count` of those in the mask reach, and that few are above, as a sample of them tells."""
    step = max(1, values[:, first:].size // _SAMPLE)
    some = np.sort(values[::step, first:][mask.reshape(values.shape)[::step, first:]])
    rank = 2 * count * len(some) // left + 8
    while rank <= len(some):
        if np.count_nonzero(_both(np.greater_equal, values.reshape(-1), some[-rank], mask)) >= count:
            return some[-rank]
        rank *= 2
    return values.reshape(-1)[mask].min()


def _both(compare: np.ufunc, flat: Array, value: Any, mask: Array) -> Array:
    """The mask and what compares so, until its next call in this thread."""
    found: Array = compare(flat, value, out=_spare(len(flat)))
    found &= mask
    return found


def _lowest(mask: Array, count: int) -> Array:
    """The first `count` indices in the mask."""
    found, start = np.flatnonzero(mask[:_SAMPLE]), _SAMPLE
    while len(found) < count and start < len(mask):
        found = np.concatenate([found, np.flatnonzero(mask[start : start + _SAMPLE]) + start])
        start += _SAMPLE
    return found[:count]


def _spare(size: int) -> Array:
    capacity = 1 << max(size - 1, 0).bit_length()
    return _WORK.get(f"spare {capacity}", (capacity,), np.bool_)[:size]
