"""Survey: what the samples themselves tell, in one pass that keeps a few numbers of each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from edgekit_runtime.manifest import Preprocess
from numpy.typing import NDArray

from edgekit.conversion.finding import Finding
from edgekit.datasets.dataset import Sample

Array = NDArray[Any]
FAR = 4.0  # times the median of the samples' largest values
CONSTANT = 0.10  # share of the samples that may hold one value only: some pictures are black
# Thumbnails of 8x8 grey pixels: at most so many of 64 bits of the average hash apart, and so many of 255 in the mean.
# Of ImageNet (500), COCO (128) and CIFAR-10 (1,667) no two different pictures were nearer than 10.
BITS = 6
LEVELS = 4.0
COMPARED = 4096  # samples: all pairs of them take a second


class Survey:
    """Samples of one dataset, as they pass by."""

    def __init__(self, preprocess: Preprocess | None) -> None:
        self._preprocess = preprocess
        self.used: list[str] = []
        self._names: list[str] = []
        self._largest: list[list[float]] = []
        self._ends: list[list[tuple[float, float]]] = []
        self._wide: list[bool] = []  # of each input: whether a sample has more than one value of it
        self._thumbnails: list[Array] = []

    def add(self, sample: Sample) -> None:
        """Take note of a sample."""
        self.used.append(sample.sha256)
        self._names.append(sample.name)
        ends = [(float(value.min()), float(value.max())) if value.size else (0.0, 0.0) for value in sample.inputs]
        self._ends.append(ends)
        self._wide = [value.size > 1 for value in sample.inputs]
        self._largest.append([max(abs(low), abs(high)) for low, high in ends])
        if self._preprocess is not None and len(self._thumbnails) < COMPARED:
            self._thumbnails.append(_thumbnail(sample.inputs[0], self._preprocess))

    def largest(self) -> float | None:
        """The largest value of all, without its sign; None without samples."""
        return float(np.max(self._largest)) if self._largest else None

    def reach(self) -> tuple[float, float] | None:
        """The least and the largest value of the first input; None without samples."""
        ends = np.array(self._ends)
        return (float(ends[:, 0, 0].min()), float(ends[:, 0, 1].max())) if len(ends) else None

    def findings(self) -> list[Finding]:
        """Duplicates, constants and outliers."""
        return [*self._repeated(), *self._constant(), *self._outliers()] if self.used else []

    def shared_with(self, other: "Survey") -> tuple[int, int]:
        """How many samples of the other one are here, too, and how many more look the same."""
        here = set(self.used)
        new = [index for index, sha256 in enumerate(other.used) if sha256 not in here]
        near = {index for index in new if index < len(other._thumbnails)}
        if not self._thumbnails or not near:
            return len(other.used) - len(new), 0
        mine = np.stack(self._thumbnails)
        alike = sum(bool(_alike(other._thumbnails[index], mine).any()) for index in near)
        return len(other.used) - len(new), alike

    def _repeated(self) -> list[Finding]:
        again = len(self.used) - len(set(self.used))
        found = []
        if again:
            seen = f"{again} of {len(self.used)} calibration samples are there twice"
            found.append(Finding("duplicates", seen, "they count as one; remove them and add others"))
        alike = self._nearly()
        if alike:
            one, other = (self._names[index] for index in alike[0])
            seen = (
                f"{len(alike)} of {len(self.used)} calibration pictures look like another, such as {one} like {other}"
            )
            found.append(Finding("near-duplicates", seen, "frames of one film tell little more than one of them"))
        return found

    def _nearly(self) -> list[tuple[int, int]]:
        """Pictures that look like an earlier one of another content, and which."""
        found: list[tuple[int, int]] = []
        if not self._thumbnails:
            return found
        every = np.stack(self._thumbnails)
        for index in range(1, len(every)):
            for earlier in np.flatnonzero(_alike(every[index], every[:index])).tolist():
                if self.used[earlier] != self.used[index]:
                    found.append((index, earlier))
                    break
        return found

    def _constant(self) -> list[Finding]:
        found = []
        ends = np.array(self._ends)  # sample, input, low and high
        if len(ends) > 1:
            for number in range(ends.shape[1]):
                if ends[:, number, 0].min() == ends[:, number, 1].max():
                    seen = f"input {number} is {ends[0, number, 0]:g} throughout, in all {len(ends)} samples"
                    found.append(Finding("constant-input", seen, "its range cannot be told; give what it really gets"))
        flat = int((ends[..., 0] == ends[..., 1])[:, self._wide].all(axis=1).sum()) if any(self._wide) else 0
        if not found and flat > CONSTANT * len(ends):
            seen = f"{flat} of {len(ends)} samples hold one value only"
            found.append(Finding("constant", seen, "are these blank pictures, or silence?"))
        return found

    def _outliers(self) -> list[Finding]:
        found = []
        for largest in np.array(self._largest).T:
            far = largest > FAR * max(float(np.median(largest)), 1e-12)
            if far.any():
                name = self._names[int(np.argmax(largest))]
                seen = (
                    f"{int(far.sum())} of {len(largest)} samples reach {FAR:g} times beyond the usual, such as {name}"
                )
                found.append(
                    Finding("outliers", seen, "one takes most INT8 steps from all others; remove it, or repair")
                )
        return found


def leaked(calibration: Survey, held_out: Survey) -> list[Finding]:
    """Held-out samples that have calibrated, too, or look like one that has."""
    both, alike = calibration.shared_with(held_out)
    if not both + alike:
        return []
    seen = f"{both} of the held-out samples are in the calibration data, too" if both else ""
    looks = f"{alike} {'more ' if both else 'of the held-out samples '}look like one of the calibration data"
    seen = ", ".join(part for part in (seen, looks if alike else "") if part)
    return [Finding("leakage", seen, "validation flatters INT8; remove them from one of the two")]


def pixels(value: Array, preprocess: Preprocess) -> Array:
    """The pixels that became a sample's real input: uint8, in its shape."""
    real = value.astype(np.float32)
    real = real if real.ndim == 3 else real[..., None]
    back = real * np.asarray(preprocess.std, np.float32) + np.asarray(preprocess.mean, np.float32)
    return np.clip(np.rint(back), 0, 255).astype(np.uint8)


def _thumbnail(value: Array, preprocess: Preprocess) -> Array:
    """64 grey values (float32), each the mean of a part of the pixels that became this real input."""
    real = value.astype(np.float32, copy=False).reshape(*value.shape[:2], -1)
    weights = np.asarray(preprocess.std, np.float32) / np.float32(preprocess.channels)
    grey = np.einsum("yxc,c->yx", real, weights) + np.float32(np.mean(preprocess.mean))
    for axis in (0, 1):
        cuts = np.arange(8) * grey.shape[axis] // 8
        grey = np.add.reduceat(grey, cuts, axis) / np.maximum(1, np.diff([*cuts, grey.shape[axis]])).reshape(
            (-1, 1) if axis == 0 else (1, -1)
        )
    return np.asarray(grey.ravel(), np.float32)


def _alike(one: Array, others: Array) -> Array:
    """Which of the others [n, 64] look like this one [64]."""
    bits = ((one > one.mean()) != (others > others.mean(axis=1, keepdims=True))).sum(axis=1)
    return np.asarray((bits <= BITS) & (np.abs(others - one).mean(axis=1) < LEVELS))


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The serious ones first."""
    return tuple(sorted(findings, key=lambda finding: not finding.serious))
