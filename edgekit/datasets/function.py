"""Samples from a Python function, `FILE.py:FUNCTION`: code that the user has named, and that runs for that reason."""

import ast
import functools
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import batch
from edgekit_runtime.manifest import TensorSpec

from edgekit.datasets.source import Array, Exhausted, Raw, Read, by_name, check
from edgekit.errors import EdgekitError, UserError

LABEL = "y"
MAX_SAMPLES = 10_000  # what is taken of a function that never ends


@dataclass(frozen=True)
class Function:
    """A function without arguments that gives samples, one after the other, each time that it is called.

    `pixels` says that they are pictures (uint8), `labelled` that they come with their class.
    """

    path: Path
    pixels: bool
    labelled: bool
    in_order: bool = True

    def open(self, inputs: Sequence[TensorSpec]) -> Read:
        """What gives the next sample. Raises UserError where it fails, or gives what does not fit the inputs."""
        given = _call(self.path)

        def read(index: int) -> Raw:
            held, label = _next(self.path, given, index)
            if self.pixels:
                picture = next(iter(held.values()))
                if len(held) == 1 and _is_picture(picture):
                    return Raw(picture=picture[0] if picture.ndim == 4 else picture, label=label)
                raise UserError(f"{self.path}: sample {index} is no picture, though the first one is")
            rows = tuple(map(_without_batch, _in_order(self.path, held, inputs), inputs))
            for row, spec in zip(rows, inputs, strict=True):
                check(self.path, row.shape, row.dtype, spec)
            return Raw(rows=rows, label=label)

        return read

    def shapes(self, inputs: Sequence[TensorSpec]) -> tuple[tuple[int, ...], ...]:
        """Those of the first sample; empty for pictures. Raises UserError."""
        return () if self.pixels else tuple(row.shape for row in self.open(inputs)(0).rows)


def named(path: Path) -> bool:
    """Whether a path is `FILE.py:FUNCTION`."""
    file, _, function = path.name.rpartition(":")
    return file.endswith(".py") and function.isidentifier()


def look(path: Path) -> Function:
    """Whether the file defines the function, without running it. Raises UserError."""
    file, name = _parts(path)
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{file}: cannot read it: {getattr(error, 'strerror', None) or error}") from error
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    imported = any(isinstance(node, ast.ImportFrom | ast.Assign | ast.If | ast.Try) for node in tree.body)
    if name not in defined and not imported:
        raise UserError(
            f"{file}: defines no function '{name}'",
            hint=f"it defines {', '.join(sorted(defined))}" if defined else None,
        )
    return Function(path, pixels=False, labelled=False)


def first(path: Path) -> Function:
    """Run the function as far as its first sample. Raises UserError."""
    look(path)
    try:
        held, label = _next(path, _call(path), 0)
    except Exhausted as error:
        raise UserError(f"{path}: gives no sample", hint="yield one sample after the other") from error
    pixels = len(held) == 1 and _is_picture(next(iter(held.values())))
    return Function(path, pixels, label is not None)


def _parts(path: Path) -> tuple[Path, str]:
    file, _, function = path.name.rpartition(":")
    return path.with_name(file), function


def _call(path: Path) -> Iterator[Any]:
    file, name = _parts(path)
    try:
        return iter(getattr(_module(file.resolve()), name)())
    except EdgekitError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(path, "cannot be called", error) from error


@functools.cache
def _module(file: Path) -> Any:
    """The file as a module; what is beside it can be imported, as when Python runs it."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file}: no Python file")
    module = importlib.util.module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec.loader.exec_module(module)
    return module


def _next(path: Path, given: Iterator[Any], index: int) -> tuple[dict[str, Array], int | None]:
    """Arrays by name, or by their number where they have none; and the class."""
    try:
        sample = next(given)
    except StopIteration as error:
        raise Exhausted from error
    except (Exception, SystemExit) as error:
        raise _failed(path, f"failed at sample {index}", error) from error
    if isinstance(sample, dict):
        parts = {str(name): value for name, value in sample.items()}
    elif isinstance(sample, list | tuple):
        parts = {str(number): value for number, value in enumerate(sample)}
    else:
        parts = {"0": sample}
    label = parts.pop(LABEL, None) if len(parts) > 1 else None
    try:
        held = {name: np.asarray(value) for name, value in parts.items()}
        number = None if label is None else int(np.asarray(label).item())
    except (Exception, SystemExit) as error:
        raise _failed(path, f"sample {index} is no array", error) from error
    if not held or any(array.dtype.kind not in "fiub" for array in held.values()):
        got = ", ".join(f"{array.dtype} {list(array.shape)}" for array in held.values()) or "nothing"
        raise UserError(f"{path}: sample {index} is {got}; expected numbers", where=str(path))
    return held, number


def _in_order(path: Path, held: dict[str, Array], inputs: Sequence[TensorSpec]) -> tuple[Array, ...]:
    numbered = list(held) == [str(number) for number in range(len(inputs))]
    return tuple(held.values()) if numbered else by_name(path, held, inputs)


def _is_picture(value: Array) -> bool:
    return value.dtype == np.uint8 and (value.ndim in (2, 3) or (value.ndim == 4 and len(value) == 1))


def _without_batch(row: Array, spec: TensorSpec) -> Array:
    """TensorFlow's representative datasets give a batch of one."""
    batched = row.ndim == len(batch.sample_shape(spec)) + 1 and len(row) == 1
    return row[0] if batched else row


def _failed(path: Path, what: str, error: BaseException) -> UserError:
    return UserError(f"{path}: {what}: {type(error).__name__}: {error}", where=str(path))
