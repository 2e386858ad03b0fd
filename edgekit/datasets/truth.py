"""What the right outputs are, where a class number cannot say it: masks, pictures, arrays or boxes of the samples.

Looked at before anything runs: that each sample has its truth and each truth its sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import picture
from numpy.typing import NDArray

from edgekit.datasets import annotations, arrays, pictures
from edgekit.datasets.annotations import Annotations
from edgekit.datasets.dataset import RepresentativeDataset
from edgekit.errors import EdgekitError, UserError

Array = NDArray[Any]


@dataclass(frozen=True)
class PictureTruth:
    """A picture for each sample, of the same name."""

    path: Path
    files: Mapping[str, Path]
    notes: tuple[str, ...] = ()

    def indices(self, name: str) -> NDArray[np.uint8]:
        """A mask as its pixels' stored values (height, width): of a palette the numbers, not the colours."""
        from PIL import Image

        file = self.files[name]
        try:
            with Image.open(file, formats=picture.FORMATS) as image:
                if image.mode not in ("P", "L", "1"):
                    raise UserError(
                        f"{file}: a mask has one channel of 8 bits (grey or a palette), not {image.mode}",
                        hint="a pixel's value is its class, as in PASCAL VOC's PNG files",
                        truth=str(self.path),
                    )
                return np.asarray(image).astype(np.uint8)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"{file}: cannot read the mask: {error}", truth=str(self.path)) from error

    def pixels(self, name: str) -> Array:
        """A picture as it is seen: uint8 (height, width, 1 or 3)."""
        try:
            return picture.decode(self.files[name])
        except EdgekitError as error:
            raise UserError(error.message, hint=error.hint, truth=str(self.path)) from error


@dataclass(frozen=True)
class ArrayTruth:
    """An array whose first axis is the sample, in the order of the data."""

    path: Path
    rows: Mapping[str, int]
    array: Array = field(repr=False)
    notes: tuple[str, ...] = ()

    def row(self, name: str) -> Array:
        """Of a sample. Raises UserError where there are fewer rows than samples."""
        if name not in self.rows:
            raise UserError(f"{self.path}: has no row for {name}", truth=str(self.path))
        return np.asarray(self.array[self.rows[name]])


Truth = PictureTruth | ArrayTruth | Annotations


def open_truth(path: Path, data: RepresentativeDataset) -> Truth:
    """A folder of pictures named like the samples; a `.npy` or `.npz`; COCO's `.json`; a folder of YOLO's `.txt`.

    Raises UserError (with the field `truth`) for anything else, and where truth and samples are not the same.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder", truth=str(path))
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return _array(path, data)
    if not isinstance(data.source, pictures.Pictures):
        raise UserError(
            f"{path}: goes by the names of picture files, but the data are {data.path.name}",
            hint="give a .npy whose first axis is the sample",
            truth=str(path),
        )
    if suffix == ".json":
        return annotations.coco(path, data.names)
    if path.is_dir():
        names, _ = pictures.walk(path)
        if names:
            return _pictures(path, names, data)
        if any(path.rglob("*.txt")):
            return annotations.yolo(path, data.names)
    raise UserError(
        f"{path}: holds no truth that edgekit reads",
        hint="give a folder of masks or pictures, a .npy, COCO's instances .json, or a folder of YOLO's .txt",
        truth=str(path),
    )


def _pictures(path: Path, names: tuple[str, ...], data: RepresentativeDataset) -> PictureTruth:
    files = {annotations.stem(name): path / name for name in names}
    stems = {name: annotations.stem(name) for name in data.names}
    annotations.require(path, [name for name, key in stems.items() if key not in files], "picture")
    annotations.strays(path, sorted(set(files) - set(stems.values())))
    return PictureTruth(path, {name: files[key] for name, key in stems.items()})


def _array(path: Path, data: RepresentativeDataset) -> ArrayTruth:
    try:
        held = arrays.read(path).held
    except UserError as error:
        raise UserError(error.message, hint=error.hint, truth=str(path)) from error
    if len(held) != 1:
        raise UserError(f"{path}: expected one array, got {', '.join(held)}", truth=str(path))
    (array,) = held.values()
    fits = len(array) <= len(data) if data.source.in_order else len(array) == len(data)
    if not fits:
        raise UserError(
            f"{path}: {len(array)} samples, but the data have {len(data)}",
            hint="the first axis is the sample, in the order of the data",
            truth=str(path),
        )
    return ArrayTruth(path, {name: number for number, name in enumerate(data.names[: len(array)])}, array)
