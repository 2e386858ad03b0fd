"""A Python function as a source: it runs when it is asked to, streams, and its failures are its user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime.manifest import Preprocess, TensorSpec

from edgekit.conversion import convert
from edgekit.conversion.record import Conversion
from edgekit.datasets.dataset import open_dataset
from edgekit.errors import UserError
from edgekit.profiles.profile import DeviceProfile

VECTOR_INPUT = (TensorSpec("vector", (-1, 4), "float32"),)
TWO_INPUTS = (TensorSpec("left", (-1, 2), "float32"), TensorSpec("right", (-1, 3), "int32"))
PICTURE_INPUT = (TensorSpec("picture", (-1, 12, 16, 3), "float32"),)
PICTURE = Preprocess(width=16, height=12, mean=(0.0,) * 3, std=(255.0,) * 3)


def write(folder: Path, body: str) -> Path:
    (folder / "data.py").write_text(f"import numpy as np\n\ndef samples():\n{body}\n")
    return folder / "data.py:samples"


def test_samples_come_in_their_order_until_they_end(tmp_path: Path) -> None:
    path = write(tmp_path, "    for n in range(5):\n        yield np.full(4, n, np.float32)")
    stream = open_dataset(path).stream(VECTOR_INPUT, None, seed=7)
    got = list(stream)
    assert [sample.inputs[0][0] for sample in got] == [0, 1, 2, 3, 4]
    assert (got[3].name, stream.wanted) == ("data.py:samples[3]", 5)


def test_an_endless_one_is_left_when_there_are_enough(tmp_path: Path) -> None:
    path = write(tmp_path, "    while True:\n        yield np.zeros(4, np.float32)")
    assert len(list(open_dataset(path).stream(VECTOR_INPUT, None, count=20))) == 20


@pytest.mark.parametrize(
    "sample",
    [
        "[np.ones((1, 2), np.float32), np.ones((1, 3), np.int32)]",
        "(np.ones(2, np.float32), np.ones(3, np.int32))",
        "{'right': np.ones(3, np.int32), 'left': np.ones(2, np.float32)}",
        "{'right': np.ones((1, 3), np.int32), 'left': np.ones((1, 2), np.float32), 'y': 3}",
    ],
)
def test_a_sample_is_one_array_an_input_with_or_without_a_batch_of_one(tmp_path: Path, sample: str) -> None:
    data = open_dataset(write(tmp_path, f"    yield {sample}"))
    (got,) = data.stream(TWO_INPUTS, None)
    assert [row.shape for row in got.inputs] == [(2,), (3,)]
    assert (got.label, data.labelled) == ((3, True) if "'y'" in sample else (None, False))


def test_bytes_of_pixels_are_pictures(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path, "    yield {'x': np.full((30, 20, 3), 51, np.uint8), 'y': 1}"))
    assert data.pixels
    (sample,) = data.stream(PICTURE_INPUT, PICTURE)
    np.testing.assert_allclose(sample.inputs[0], 0.2, atol=1e-6)
    assert sample.label == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("    return 3", "cannot be called: TypeError"),
        ("    yield from ()", "gives no sample"),
        ("    raise KeyError('x')\n    yield", "failed at sample 0: KeyError"),
        ("    import sys\n    sys.exit(0)\n    yield", "failed at sample 0: SystemExit"),
        ("    yield 'text'", "sample 0 is <U4"),
        ("    yield []", "sample 0 is nothing"),
        ("    yield np.zeros(4, np.float32)\n    raise OSError('disk')", "failed at sample 1: OSError: disk"),
        ("    yield np.zeros(5, np.float32)", r"input 'vector' expects samples of shape \[4\], got \[5\]"),
        ("    yield np.zeros(4, np.float32)\n    yield np.zeros(4, np.int32)", "expects float32, got int32"),
    ],
)
def test_its_failures_are_told_without_a_traceback(tmp_path: Path, body: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        list(open_dataset(write(tmp_path, body)).stream(VECTOR_INPUT, None))


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "cannot read it"), ("def other(): pass", "defines no function 'samples'"), ("def (", "cannot read it")],
)
def test_a_function_that_is_not_there(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "data.py").write_text(text)
    for run in (False, True):
        with pytest.raises(UserError, match=says):
            open_dataset(tmp_path / "data.py:samples", run=run)


def test_it_runs_only_where_it_is_asked_to(tmp_path: Path) -> None:
    path = write(tmp_path, f"    open({str(tmp_path / 'ran')!r}, 'w').close()\n    yield np.zeros(4, np.float32)")
    open_dataset(path, run=False)
    assert not (tmp_path / "ran").exists()


def test_a_conversion_is_calibrated_with_it_in_the_worker(tmp_path: Path, models: Path, board: DeviceProfile) -> None:
    (tmp_path / "beside.py").write_text("COUNT = 30\n")
    path = write(
        tmp_path,
        "    import os\n    import beside\n"
        "    assert os.getpid() != PARENT\n"
        "    for n in range(beside.COUNT):\n"
        "        yield [np.random.default_rng(n).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)]",
    )
    import os

    source = tmp_path / "data.py"
    source.write_text(f"PARENT = {os.getpid()}\n" + source.read_text())
    made = convert.convert(models / "colours.keras", profile=board, data=path, output=tmp_path / "m.tflite")
    assert isinstance(made, Conversion)
    assert (made.provenance.calibration.samples, made.preprocess) == (30, None)
