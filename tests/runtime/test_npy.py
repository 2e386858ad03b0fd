"""A damaged `.npy`, whatever its header has become, is a typed error wherever one is read."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime import detect, golden
from edgekit_runtime.errors import UserError
from hypothesis import example, given
from hypothesis import strategies as st

from edgekit.datasets import arrays
from edgekit.datasets.heads import DeclaredHeads


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


SOUND = saved(np.zeros((6, 4), np.float32))
CHANGES = st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=6)
OPEN = [(SOUND.index(b")"), ord(" "))]  # a bracket that never closes: NumPy lets Python's TokenError through


def read_golden(path: Path) -> Any:
    return golden.read(path, 1, 0)


def read_anchors(path: Path) -> Any:
    return detect.parse_anchors(path.read_bytes(), str(path))


def read_declared(path: Path) -> Any:
    return DeclaredHeads("b", "s", str(path), "softmax", (10.0, 10.0, 5.0, 5.0)).read_anchors()


READERS = [read_golden, read_anchors, read_declared, arrays.read]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("descr", "shape"),
    [
        ("'<f4'", "(10000000000000000000000000000000, 4)"),
        ("('i1',)", "(6, 4)"),
        ("'<f4'", "(True, 4)"),
        ("'<f4'", "(6,"),
    ],
)
def test_headers_that_no_writer_makes_are_refused(
    tmp_path: Path, read: Callable[[Path], Any], descr: str, shape: str
) -> None:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + bytes(96))
    with pytest.raises(UserError, match=r"x\.npy"):
        read(tmp_path / "x.npy")


@pytest.mark.parametrize("read", READERS)
@given(changes=CHANGES)
@example(changes=OPEN)
@example(changes=[(0, ord("P")), (1, ord("K")), (2, 3), (3, 4)])
def test_changed_bytes_are_read_or_refused(read: Callable[[Path], Any], changes: list[tuple[int, int]]) -> None:
    content = bytearray(SOUND)
    for place, value in changes:
        content[place] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            read(path)
