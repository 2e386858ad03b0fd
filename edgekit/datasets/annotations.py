"""Known boxes in pictures, for detectors: COCO's `instances*.json`, or YOLO's text files, one a picture."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UserError

MAX_JSON_BYTES = 1024**3
MAX_TEXT_BYTES = 1024**2


@dataclass(frozen=True)
class Annotated:
    """The boxes of one picture: `boxes` (K, 4) as ymin, xmin, ymax, xmax in shares of its height and width; `kinds`
    (K,) ids of classes; `crowd` (K,) whether it stands for many. `size` is height and width in pixels where it is told.
    """

    boxes: NDArray[Any]
    kinds: NDArray[Any]
    crowd: NDArray[Any]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Annotations:
    """By the samples' names. `names` are those of the ids, where the file has them; with `by_column` the ids count the
    model's classes from 0.
    """

    path: Path
    pictures: Mapping[str, Annotated]
    names: Mapping[int, str]
    by_column: bool
    notes: tuple[str, ...] = ()


def coco(path: Path, samples: Sequence[str]) -> Annotations:
    """Raises UserError for what is no COCO file, and where samples have no entry in it."""
    content = _json(path)
    try:
        names = {int(one["id"]): str(one["name"]) for one in content["categories"]}
        images = {one["id"]: (str(one["file_name"]), _size(one)) for one in content["images"]}
        boxes: dict[Any, list[tuple[list[float], int, bool]]] = {number: [] for number in images}
        for one in content["annotations"]:
            if one["image_id"] not in images:
                raise ValueError(f"annotation {one.get('id')} is of the image {one['image_id']}, which is not in it")
            if one["category_id"] not in names:
                raise ValueError(
                    f"annotation {one.get('id')} has the category {one['category_id']}, which is not in it"
                )
            box = _shares(one["bbox"], images[one["image_id"]][1])
            boxes[one["image_id"]].append((box, int(one["category_id"]), bool(one.get("iscrowd", 0))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path}: not COCO annotations: {what}",
            hint='a COCO instances file has "images", "annotations" with "bbox", and "categories"',
            truth=str(path),
        ) from error
    known = {file: _annotated(boxes[number], size) for number, (file, size) in images.items()}
    short = {Path(file).name: found for file, found in known.items()}
    found = {name: known.get(name, short.get(name.rpartition("/")[2])) for name in samples}
    require(path, [name for name, one in found.items() if one is None], "entry")
    unused = len(images) - len(found)
    notes = (f"{unused} of the {len(images)} pictures of {path.name} are not in the data",) if unused > 0 else ()
    return Annotations(path, {name: one for name, one in found.items() if one is not None}, names, False, notes)


def yolo(path: Path, samples: Sequence[str]) -> Annotations:
    """A folder of `NAME.txt`, a box a line: class, centre x, centre y, width, height, in shares; no file: no box.

    Raises UserError for other lines, and for files that no sample has.
    """
    files = {file.relative_to(path).with_suffix("").as_posix(): file for file in sorted(path.rglob("*.txt"))}
    files.pop("classes", None)
    stems = {name: stem(name) for name in samples}
    strays(path, sorted(set(files) - set(stems.values())))
    return Annotations(
        path, {name: _lines(files[key]) if key in files else _annotated([]) for name, key in stems.items()}, {}, True
    )


def stem(name: str) -> str:
    """A sample's name without the file's ending."""
    return Path(name).with_suffix("").as_posix()


def require(path: Path, missing: Sequence[str], what: str) -> None:
    """Raises UserError where samples have no truth."""
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(
            f"{path}: has no {what} for {', '.join(missing[:5])}{more}",
            hint="truth goes by the samples' names: for street/01.jpg it is street/01, with its own ending",
            truth=str(path),
            missing=list(missing),
        )


def strays(path: Path, names: Sequence[str]) -> None:
    """Raises UserError where truth has no sample."""
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise UserError(
            f"{path}: the data have no sample for {', '.join(names[:5])}{more}",
            hint="truth goes by the samples' names: for street/01.jpg it is street/01, with its own ending",
            truth=str(path),
            strays=list(names),
        )


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES} bytes")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}", truth=str(path)) from error


def _size(image: Any) -> tuple[int, int]:
    height, width = int(image["height"]), int(image["width"])
    if min(height, width) < 1:
        raise ValueError(f"the image {image['id']} has no size")
    return height, width


def _shares(box: Sequence[float], size: tuple[int, int]) -> list[float]:
    left, top, width, height = (float(value) for value in box)
    if not all(map(math.isfinite, (left, top, width, height))) or min(width, height) < 0:
        raise ValueError(f"{list(box)} is no box")
    return [top / size[0], left / size[1], (top + height) / size[0], (left + width) / size[1]]


def _lines(path: Path) -> Annotated:
    rows = []
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise ValueError(f"larger than {MAX_TEXT_BYTES} bytes")
        for number, line in enumerate(path.read_text("ascii").splitlines(), 1):
            words = line.split()
            if not words:
                continue
            if len(words) != 5 or not words[0].isdigit():
                raise ValueError(f"line {number} is not CLASS X Y WIDTH HEIGHT")
            x, y, width, height = (float(word) for word in words[1:])
            rows.append((_shares((x - width / 2, y - height / 2, width, height), (1, 1)), int(words[0]), False))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not boxes as YOLO writes them: {error}", truth=str(path)) from error
    return _annotated(rows)


def _annotated(rows: Sequence[tuple[list[float], int, bool]], size: tuple[int, int] | None = None) -> Annotated:
    return Annotated(
        np.array([row[0] for row in rows], np.float64).reshape(-1, 4),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], bool),
        size,
    )
