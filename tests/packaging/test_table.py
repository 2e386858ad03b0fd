"""The table: for any board a row that really runs there, or the reason why none does."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime.engine import Engine
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UserError
from edgekit.profiles import profile
from edgekit.profiles.profile import ABIS, DeviceProfile
from edgekit.runtimes import resolve, wheelhouse
from edgekit.runtimes.table import INTERPRETERS, NUMPY, Wheel

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = REPOSITORY / "tests/fixtures/models"
PYTHONS = [f"3.{minor}" for minor in range(6, 16)]
ELF = {"aarch64": (2, 183), "armv7l": (1, 40), "x86_64": (2, 62)}  # class and machine

boards = st.builds(
    lambda architecture, python, minor, wheel, numpy: dataclasses.replace(
        profile.find("generic-aarch64"),
        architecture=architecture,
        abi=ABIS[architecture],
        python=python,
        glibc=f"2.{minor}",
        runtime=wheel.package,
        runtime_version=wheel.version,
        numpy=numpy,
    ),
    st.sampled_from(sorted(ABIS)),
    st.sampled_from(PYTHONS),
    st.integers(5, 45),
    st.sampled_from(INTERPRETERS),
    st.sampled_from(["auto", "board", "wheel"]),
)
own_numpy = st.none() | st.sampled_from(["1.16.2", "1.19.5", "1.24.2", "1.26.4", "2.0.0", "2.4.6", "unknown"])


def fits(wheel: Wheel, board: DeviceProfile) -> bool:
    """The rule in its plainest form, against which the resolver is held."""
    minor = int(board.glibc.split(".")[1]) >= int(wheel.glibc.split(".")[1])
    return board.architecture in wheel.architectures and board.python in wheel.pythons and minor


@given(boards)
def test_any_board_gets_wheels_that_fit_it_or_a_reason_and_what_would_fit(board: DeviceProfile) -> None:
    possible = [wheel for wheel in INTERPRETERS if fits(wheel, board)]
    named = [wheel for wheel in possible if (wheel.package, wheel.version) == (board.runtime, board.runtime_version)]
    if not named or (board.numpy, board.architecture) == ("wheel", "armv7l"):
        with pytest.raises(UserError, match=r"has no wheel for|needs glibc") as caught:
            resolve.choose(board)
        hint = str(caught.value.hint)
        if named:
            assert 'numpy = "auto"' in hint
        elif possible:
            assert all(f"{wheel.package} {wheel.version}" in hint for wheel in possible)
            assert "fits this board" in hint
        else:
            assert re.search("there is no interpreter for|every interpreter needs glibc", hint)
        return
    chosen = resolve.choose(board)
    assert chosen[0] in named
    assert all(fits(wheel, board) for wheel in chosen)
    sent = [wheel for wheel in chosen if wheel.package == "numpy"]
    assert len(sent) == (resolve.settle(board).numpy == "wheel")
    assert all(resolve.in_range(wheel.version, chosen[0].numpy) for wheel in sent)


@given(boards, st.lists(own_numpy, max_size=3))
def test_auto_takes_the_boards_numpy_where_all_have_one_that_fits_and_else_sends_one(
    board: DeviceProfile, own: list[str | None]
) -> None:
    settled = resolve.settle(board, *own)
    if board.numpy != "auto":
        assert settled == board
        return
    good = [resolve.takes(board, version) for version in own]
    sendable = any(fits(wheel, board) and resolve.takes(board, wheel.version) for wheel in NUMPY)
    assert settled.numpy == ("board" if (good and all(good)) or not sendable else "wheel")
    assert resolve.settle(settled, *own) == settled


@pytest.mark.parametrize("wheel", [*INTERPRETERS, *NUMPY], ids=lambda wheel: f"{wheel.package}-{wheel.version}")
def test_the_libraries_of_a_row_are_for_its_boards_whatever_their_names_say(wheel: Wheel) -> None:
    root = wheelhouse.cache_root()
    for architecture in wheel.architectures:
        oldest = wheel.pythons[0]
        archive = wheelhouse.obtain(wheel, oldest, architecture, root=root, offline=False, progress=None)
        libraries = [file for file in wheelhouse.unpack(wheel, archive, root=root) if ".so" in file.name]
        assert libraries
        for file in libraries:
            content = file.path.read_bytes()
            assert (content[:4], content[4], int.from_bytes(content[18:20], "little")) == (
                b"\x7fELF",
                *ELF[architecture],
            )
            needed = [tuple(map(int, match.split(b"."))) for match in re.findall(rb"GLIBC_(\d+\.\d+)", content)]
            assert max(needed, default=(0, 0)) <= tuple(map(int, wheel.glibc.split("."))), file.name


def interpreters() -> Iterator[tuple[Wheel, str, Path]]:
    """Rows for this computer, each with the oldest and the newest of its Pythons that are here."""
    for wheel in INTERPRETERS:
        here = [(python, path) for python in wheel.pythons if (path := find_python(python))]
        for python, path in dict.fromkeys([*here[:1], *here[-1:]]):
            if os.uname().machine in wheel.architectures:
                yield wheel, python, path


def find_python(version: str) -> Path | None:
    """That Python, from PATH or pyenv; shims that only name one do not count."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    named = [Path(sys.executable)] if version == own else [Path(shutil.which(f"python{version}") or "/nowhere")]
    for path in [*named, *sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]:
        told = [str(path), "-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        if path.exists() and subprocess.run(told, capture_output=True, text=True, check=False).stdout == f"{version}\n":
            return path
    return None


ALONE = """
import json, sys
tree, good, newer = sys.argv[1:]
sys.path.insert(0, tree)
from pathlib import Path
import numpy
from edgekit_runtime.engine import Engine
from edgekit_runtime.interpreter import UnsupportedOperator
engine = Engine.load(Path(good), num_threads=2, max_batch_size=4)
rows = (numpy.arange(5 * 192) % 251 - 125).astype("int8").reshape(5, 8, 8, 3)
answer = [engine.package.name, engine.package.version, numpy.__version__, engine.batch_size, engine.inputs[0].scale]
try:
    Engine.load(Path(newer))
except UnsupportedOperator as error:
    answer.append(error.message)
print(json.dumps([answer, engine.infer([rows])[0].tolist()]))
numpy.random.default_rng(1).random(3), numpy.linalg.norm(numpy.ones(3)), numpy.fft.fft(numpy.ones(4))
if (Path(tree) / "waitress").exists():
    import waitress.server
names = ("numpy", "ai_edge_litert", "tflite_runtime", "edgekit_runtime", "waitress")
for name, module in list(sys.modules.items()):
    if name.split(".")[0] in names and getattr(module, "__file__", None):
        assert module.__file__.startswith(tree), module.__file__
"""


@pytest.mark.parametrize(
    ("wheel", "python", "path"),
    [pytest.param(*found, id=f"{found[0].package}-{found[0].version}-python{found[1]}") for found in interpreters()],
)
def test_a_tree_alone_runs_a_model_and_names_what_is_too_new(
    wheel: Wheel, python: str, path: Path, newer: Path, tmp_path: Path
) -> None:
    host = profile.find("host")
    board = dataclasses.replace(
        host, python=python, runtime=wheel.package, runtime_version=wheel.version, numpy="wheel"
    )
    tree = resolve.resolve(board)
    for file in tree.files:
        (tmp_path / file.name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, tmp_path / file.name)
    # As `convert` makes it for that row.
    model = MODELS / ("classifier_int8.tflite" if wheel.dense_per_channel else "classifier_int8_per_tensor.tflite")
    # -I and -S: no user site, no site-packages, no PYTHON* variables; only the standard library and the tree.
    done = subprocess.run(
        [str(path), "-I", "-S", "-B", "-c", ALONE, str(tmp_path), str(model), str(newer)],
        env={},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answer, rows = json.loads(done.stdout)
    package = wheel.package.replace("-", "_")
    assert answer[:5] == [package, wheel.version, tree.numpy, 4, 1.0]
    assert answer[5].endswith(f"needs ADD in version 99, which {package} {wheel.version} does not have")
    samples = (np.arange(5 * 192) % 251 - 125).astype("int8").reshape(5, 8, 8, 3)
    with Engine.load(model) as engine:
        here = engine.infer([samples])[0].astype(int)
    assert (np.argmax(rows, axis=1) == here.argmax(axis=1)).all()
    assert np.abs(np.array(rows) - here).max() <= 8  # kernels round differently from runtime to runtime


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose only operator is newer than every interpreter, written with LiteRT's own schema."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str) -> object:
        made = schema.TensorT()
        made.name, made.shape, made.type = name.encode(), [1, 4], schema.TensorType.FLOAT32
        return made

    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 0], [1]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor("x"), tensor("y")], [0], [1], [operator]
    code = schema.OperatorCodeT()
    code.version = 99
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path = tmp_path_factory.mktemp("model") / "newer.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path


def test_the_documentation_shows_the_table() -> None:
    rows = [
        f"| {wheel.package} {wheel.version} | {', '.join(wheel.architectures)} | {wheel.pythons[0]} to "
        f"{wheel.pythons[-1]} | {wheel.glibc} | `{wheel.numpy}` |"
        for wheel in INTERPRETERS
    ]
    text = (REPOSITORY / "docs/profiles.md").read_text("utf-8")
    table = text.partition("| interpreter | architecture |")[2].partition("\n\n")[0].splitlines()[2:]
    assert table == rows
