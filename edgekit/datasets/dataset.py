"""RepresentativeDataset: real inputs for calibration and validation, streamed, in a fixed order.

Sources: a folder of pictures (also one folder a class, or with a `labels.csv`), a CSV of `file,label`, `.npy`, `.npz`,
TFRecord files (also TensorFlow Serving's warm-up requests), a Python function.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from edgekit_runtime import batch
from edgekit_runtime.manifest import Calibration, Preprocess, TensorSpec
from edgekit_runtime.picture import size as picture_size
from edgekit_runtime.preprocess import load_pixels, to_real

from edgekit.datasets import arrays, function, pictures, records
from edgekit.datasets.source import Array, Exhausted, Source, Unreadable
from edgekit.errors import EdgekitError, UserError

KINDS = "a folder of pictures, a .csv of file,label, .npy, .npz, TFRecord files, or FILE.py:FUNCTION"
SKIP_LIMIT = 0.10  # share of the wanted samples
NAMED = 10


@dataclass(frozen=True)
class Sample:
    """One real input. `inputs` has one array for each model input, in its shape without the batch and its dtype; `size`
    is the height and width of a picture before its preprocessing.
    """

    name: str
    sha256: str
    inputs: tuple[Array, ...]
    label: int | None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class RepresentativeDataset:
    """Where the samples are. `pixels` says that they are pictures (uint8), so that they need a Preprocess.

    `classes` are the names of the labels when the data name them (class folders); `labels` has one index a sample where
    they are known before the samples are read, and `labelled` says that each sample comes with its own.
    """

    path: Path
    names: tuple[str, ...]
    pixels: bool
    classes: tuple[str, ...]
    labels: tuple[int, ...] | None
    source: Source = field(repr=False)
    labelled: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def order(self, seed: int) -> list[int]:
        """The samples' indices by the SHA-256 of seed and name: the same on every machine and version.

        Those of a function come as it gives them.
        """
        if self.source.in_order:
            return list(range(len(self)))
        keys = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in self.names]
        return sorted(range(len(keys)), key=keys.__getitem__)

    def stream(
        self,
        inputs: Sequence[TensorSpec],
        preprocess: Preprocess | None,
        *,
        count: int | None = None,
        seed: int = 0,
        skip_limit: float = SKIP_LIMIT,
    ) -> "Stream":
        """At most `count` samples for these model inputs. Raises UserError where data and inputs do not fit."""
        return Stream(self, tuple(inputs), preprocess, count=count or len(self), seed=seed, skip_limit=skip_limit)


def open_dataset(path: Path, labels: Sequence[str] | None = None, *, run: bool = True) -> RepresentativeDataset:
    """Look at a dataset without reading its samples.

    `labels` are the model's label names, in order; class folders and label names are matched against them. Without
    `run` a Python function is looked for and not called, so that it is not known what it gives.
    Raises UserError when there is nothing to read, or when it is not what its name says.
    """
    if function.named(path):
        found = function.first(path) if run else function.look(path)
        numbers = range(function.MAX_SAMPLES)
        names = tuple(f"{path.name}[{number}]" for number in numbers)
        return RepresentativeDataset(path, names, found.pixels, (), None, found, found.labelled)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder", hint=f"give {KINDS}")
    if path.suffix.lower() in (".npy", ".npz"):
        held = arrays.read(path)
        names = tuple(f"{path.name}[{index}]" for index in range(held.count))
        return RepresentativeDataset(path, names, held.pixels, (), held.labels, held, held.labels is not None)
    if path.suffix.lower() != ".csv" and not pictures.any_in(path) and (files := records.files(path)):
        recorded = records.listing(path, files)
        return RepresentativeDataset(path, recorded.names, recorded.pixels, (), None, recorded, recorded.labelled)
    if path.is_dir() or path.suffix.lower() == ".csv":
        listing = pictures.listing(path, labels)
        labelled = listing.labels is not None
        return RepresentativeDataset(path, listing.names, True, listing.classes, listing.labels, listing, labelled)
    raise UserError(f"{path}: not a dataset that edgekit reads", hint=f"give {KINDS}", where=str(path))


class Stream(Iterator[Sample]):
    """An iterator of samples that remembers what it gave (`used`) and what it could not read (`skipped`)."""

    def __init__(
        self,
        dataset: RepresentativeDataset,
        inputs: tuple[TensorSpec, ...],
        preprocess: Preprocess | None,
        *,
        count: int,
        seed: int,
        skip_limit: float,
    ) -> None:
        self.dataset = dataset
        self.inputs = inputs
        self.preprocess = preprocess
        self.seed = seed
        self.wanted = min(count, len(dataset))
        self.skipped: list[Skipped] = []
        self.used: list[str] = []
        self._limit = skip_limit * self.wanted
        self._order = iter(dataset.order(seed))
        if dataset.pixels and preprocess is None:
            raise UserError(f"{dataset.path}: the data are pixels, but no preprocessing is declared")
        self._source = dataset.source.open(inputs)

    def __next__(self) -> Sample:
        if len(self.used) >= self.wanted:
            raise StopIteration
        for index in self._order:
            try:
                sample = self._read(index)
            except Exhausted:
                self.wanted = len(self.used)
                break
            except Unreadable as error:
                self.skipped.append(Skipped(self.dataset.names[index], str(error)))
                self._check_limit()
                continue
            self.used.append(sample.sha256)
            return sample
        if not self.used:
            raise UserError(f"{self.dataset.path}: no sample could be read", skipped=[s.name for s in self.skipped])
        raise StopIteration

    def calibration(self) -> Calibration:
        """Which samples were given so far, as it goes into the manifest."""
        digest = hashlib.sha256("".join(self.used).encode()).hexdigest()
        return Calibration(samples=len(self.used), seed=self.seed, digest=digest, skipped=len(self.skipped))

    def notes(self) -> tuple[str, ...]:
        """A line for each sample that was skipped, at most ten."""
        lines = [f"skipped {item.name}: {item.reason}" for item in self.skipped[:NAMED]]
        more = len(self.skipped) - len(lines)
        return (*lines, f"skipped {more} more") if more else tuple(lines)

    def _read(self, index: int) -> Sample:
        name, raw = self.dataset.names[index], self._source(index)
        if raw.picture is not None:
            picture, size = self._pixels(raw.picture)
            return Sample(name, _sha256((raw.picture,)), (picture,), raw.label, size)
        real = tuple(_cast(row, spec) for row, spec in zip(raw.rows, self.inputs, strict=True))
        for row, spec in zip(real, self.inputs, strict=True):
            if row.dtype.kind == "f" and not np.isfinite(row).all():
                raise UserError(f"{name}: input '{spec.name}' holds NaN or infinity")
        return Sample(name, _sha256(raw.rows), real, raw.label)

    def _pixels(self, picture: bytes | Array) -> tuple[Array, tuple[int, int]]:
        assert self.preprocess is not None  # mypy: checked in __init__
        try:
            size = picture_size(picture) if isinstance(picture, bytes) else picture.shape[:2]
            pixels = load_pixels(picture, self.preprocess)
        except EdgekitError as error:
            raise Unreadable(error.message) from error
        real = to_real(pixels, self.preprocess).astype(self.inputs[0].dtype, copy=False)
        return real[..., 0] if len(batch.sample_shape(self.inputs[0])) == 2 else real, size

    def _check_limit(self) -> None:
        if len(self.skipped) <= self._limit:
            return
        named = ", ".join(f"{item.name} ({item.reason})" for item in self.skipped[:5])
        raise UserError(
            f"{self.dataset.path}: {len(self.skipped)} of {self.wanted} wanted samples cannot be read: {named}",
            hint=f"at most {self._limit / max(1, self.wanted):.0%} may be unreadable: mend or remove them",
            skipped=[item.name for item in self.skipped],
        )


def _sha256(content: Sequence[bytes | Array]) -> str:
    """Of a file's bytes, or of arrays with their dtypes and shapes."""
    digest = hashlib.sha256()
    for part in content:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str} {part.shape} ".encode())
            digest.update(part.tobytes())
        else:
            digest.update(part)
    return digest.hexdigest()


def _cast(row: Array, spec: TensorSpec) -> Array:
    cast = row.astype(spec.dtype)
    if row.dtype.kind in "iu" and not np.array_equal(cast, row):
        raise UserError(f"input '{spec.name}' is {spec.dtype}; a value of {row.dtype} does not fit into it")
    return cast
