"""The resolver: the right wheels or a refusal, and a tree that runs with nothing else."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import shutil
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from edgekit_runtime.release import is_member_name
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import CheckFailed, UserError
from edgekit.profiles import profile
from edgekit.runtimes import resolve, wheelhouse
from edgekit.runtimes.table import INTERPRETERS, SERVERS, WHEELS, Wheel


@pytest.fixture(scope="session")
def board() -> profile.DeviceProfile:
    return profile.find("raspberry-pi-4b")


@pytest.fixture(scope="session")
def cache() -> Path:
    """The user's own cache: a wheel is fetched once a machine, not once a run."""
    return wheelhouse.cache_root()


def test_the_tree_of_an_arm_board_holds_arm_code(board: profile.DeviceProfile, cache: Path) -> None:
    tree = resolve.resolve(board, cache=cache)
    libraries = [file for file in tree.files if ".so" in file.name]
    names = {file.name for file in libraries}
    assert "ai_edge_litert/_pywrap_litert_interpreter_wrapper.so" in names
    assert "ai_edge_litert/libpywrap_litert_common.so" in names
    assert any(name.startswith("numpy.libs/") for name in names)
    for file in libraries:
        header = file.path.read_bytes()[:20]
        assert header[:4] == b"\x7fELF"
        assert header[4] == 2  # ELFCLASS64
        assert int.from_bytes(header[18:20], "little") == 183, file.name  # EM_AARCH64


def test_a_tree_is_what_a_release_can_hold(board: profile.DeviceProfile, cache: Path) -> None:
    tree = resolve.resolve(board, cache=cache)
    names = [file.name for file in tree.files]
    assert names == sorted(set(names))
    assert all(is_member_name(f"runtime/{name}") for name in names)
    assert "edgekit_runtime/release.py" in names
    assert {name for name in names if name.startswith("edgekit_runtime/")} == {
        file.name for file in resolve.own_files()
    }
    assert not [name for name in names if "/tests/" in name or name.endswith((".pyi", ".h", ".pyc"))]
    assert [name for name in names if "licenses/" in name or name.endswith("LICENSE.txt")]
    for file in tree.files:
        assert wheelhouse.hash_file(file.path) == (file.sha256, file.size)
    assert tree.total_size == sum(file.path.stat().st_size for file in tree.files)


def test_the_boards_own_numpy_is_not_sent(board: profile.DeviceProfile, cache: Path) -> None:
    tree = resolve.resolve(dataclasses.replace(board, numpy="board"), cache=cache)
    assert tree.numpy is None
    assert (tree.numpy_range, tree.own_numpy) == (">=1.19.5", ">=1.19.5")
    assert not [file for file in tree.files if file.name.startswith("numpy")]


def test_a_board_that_no_server_fits_still_infers(
    board: profile.DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "SERVERS", ())
    assert [wheel.package for wheel in resolve.choose(board)] == ["ai-edge-litert", "numpy"]


def test_a_second_call_needs_no_network(
    board: profile.DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[tuple[str, int, int]] = []
    light = dataclasses.replace(board, numpy="board")
    first = resolve.fetch(light, cache=tmp_path, progress=lambda *stage: stages.append(stage))
    wheels = [f"fetch {wheel.package} {wheel.version}" for wheel in resolve.choose(light)]
    assert stages == [(stage, done, 1) for stage in wheels for done in (0, 1)]
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert resolve.resolve(light, cache=tmp_path, offline=True) == first
    assert resolve.resolve(light, cache=tmp_path) == first


def test_offline_with_an_empty_cache_says_what_to_do(board: profile.DeviceProfile, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"ai-edge-litert 2\.3\.0 for aarch64, Python 3\.11 is not in the cache"
    ) as caught:
        resolve.resolve(board, cache=tmp_path, offline=True)
    assert caught.value.hint == "fill the cache while there is a network: edgekit fetch raspberry-pi-4b"
    mine = dataclasses.replace(board, name="mine")
    with pytest.raises(UserError) as caught:
        resolve.resolve(mine, cache=tmp_path, offline=True)
    assert str(caught.value.hint).endswith("edgekit fetch PROFILE")
    assert not list(tmp_path.iterdir())


def test_an_unreachable_index_is_told_without_addresses(
    board: profile.DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(UserError, match="cannot be reached") as caught:
        resolve.resolve(board, cache=tmp_path / "cache")
    assert "127.0.0.1" not in str(caught.value.to_dict())
    assert "edgekit fetch" in str(caught.value.hint)
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_a_wheel_with_another_hash_is_refused(
    board: profile.DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    forged = shelf / "ai_edge_litert-2.3.0-cp311-cp311-manylinux_2_27_aarch64.whl"
    with zipfile.ZipFile(forged, "w") as archive:
        archive.writestr("ai_edge_litert/__init__.py", "raise SystemExit('owned')")
        archive.writestr(
            "ai_edge_litert-2.3.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: ai-edge-litert\nVersion: 2.3.0\n"
        )
        archive.writestr(
            "ai_edge_litert-2.3.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_27_aarch64\n"
        )
        archive.writestr("ai_edge_litert-2.3.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CheckFailed, match="a file whose hash edgekit does not know"):
        resolve.resolve(board, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_a_damaged_cache_mends_itself(board: profile.DeviceProfile, cache: Path, tmp_path: Path) -> None:
    light = dataclasses.replace(board, numpy="board")
    tree = resolve.resolve(light, cache=cache)
    for wheel in resolve.choose(light):
        folder = Path("wheels", f"{wheel.package}-{wheel.version}", "cp311-aarch64")
        shutil.copytree(cache / folder, tmp_path / folder)
    shutil.copytree(cache / "content", tmp_path / "content")
    damaged = next(file for file in tree.files if file.name == "ai_edge_litert/interpreter.py")
    (tmp_path / "content" / damaged.sha256).write_text("altered")
    mended = resolve.resolve(light, cache=tmp_path, offline=True)
    assert {file.name: file.sha256 for file in mended.files} == {file.name: file.sha256 for file in tree.files}
    assert wheelhouse.hash_file(tmp_path / "content" / damaged.sha256) == (damaged.sha256, damaged.size)

    archive = next((tmp_path / "wheels").rglob("ai_edge_litert*.whl"))
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="not in the cache"):
        resolve.resolve(light, cache=tmp_path, offline=True)


def test_two_processes_may_fill_one_cache(board: profile.DeviceProfile, tmp_path: Path) -> None:
    light = dataclasses.replace(board, numpy="board")
    with ProcessPoolExecutor(2) as pool:
        first, second = pool.map(_resolve_in, [light, light], [tmp_path, tmp_path])
    assert first == second
    assert all(wheelhouse.hash_file(file.path) == (file.sha256, file.size) for file in first.files)
    assert not [path for path in tmp_path.rglob(".*") if path.name.startswith((".part-", ".fetch-"))]


def _resolve_in(board: profile.DeviceProfile, cache: Path) -> resolve.RuntimeTree:
    return resolve.resolve(board, cache=cache)


ARMV7 = {
    "architecture": "armv7l",
    "abi": "arm-linux-gnueabihf",
    "runtime": "tflite-runtime",
    "runtime_version": "2.14.0",
}
TFLITE = {"runtime": "tflite-runtime", "runtime_version": "2.14.0"}
REFUSALS = {
    "32-bit ARM has no LiteRT": (
        {"architecture": "armv7l", "abi": "arm-linux-gnueabihf", "python": "3.12"},
        r"ai-edge-litert 2\.3\.0 has no wheel for armv7l",
    ),
    "an old Python has no LiteRT": (
        {"python": "3.9"},
        r"ai-edge-litert 2\.3\.0 has no wheel for Python 3\.9 on aarch64",
    ),
    "an old C library": (
        {"glibc": "2.31"},
        r"ai-edge-litert 2\.3\.0 needs glibc 2\.34 or newer, and the board has 2\.31",
    ),
    "a version that is not locked": ({"runtime_version": "2.2.0"}, r"no locked wheels of ai-edge-litert 2\.2\.0"),
    "32-bit ARM has no NumPy": (
        {**ARMV7, "python": "3.11", "numpy": "wheel"},
        r"numpy 1\.26\.4 or 1\.24\.4 has no wheel for armv7l",
    ),
    "NumPy 2 under tflite-runtime": (
        {**TFLITE, "numpy": "board", "numpy_version": "2.1.0"},
        r"tflite-runtime 2\.14\.0 takes NumPy >=1\.23\.2,<2 and numpy_version says that the board's own is 2\.1\.0",
    ),
    "NumPy 2 on 32-bit ARM": (
        {**ARMV7, "python": "3.11", "numpy": "auto", "numpy_version": "2.1.0"},
        r"the board's own is 2\.1\.0",
    ),
    "a new Python on 32-bit ARM": (
        {**ARMV7, "python": "3.12"},
        r"tflite-runtime 2\.14\.0 has no wheel for Python 3\.12 on armv7l",
    ),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_no_fitting_wheel_is_refused_with_the_reason(
    board: profile.DeviceProfile, changes: dict[str, str], reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        resolve.choose(dataclasses.replace(board, **changes))  # type: ignore[arg-type]  # text fields only
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert caught.value.fields["profile"] == "raspberry-pi-4b"


def test_a_recorded_numpy_is_no_reason_where_another_is_sent_or_found(board: profile.DeviceProfile) -> None:
    recorded = dataclasses.replace(board, **TFLITE, numpy="auto", numpy_version="2.1.0")  # type: ignore[arg-type]  # text fields only
    assert "numpy" in [wheel.package for wheel in resolve.choose(recorded)]
    own = dataclasses.replace(recorded, numpy="board")
    assert resolve.choose(resolve.settle(own, "1.26.4"))
    for version in ("1.26.4", resolve.UNKNOWN, None):
        assert resolve.choose(dataclasses.replace(own, numpy_version=version))


@pytest.mark.parametrize("python", INTERPRETERS[0].pythons)
def test_every_python_of_the_interpreter_has_a_numpy_wheel(board: profile.DeviceProfile, python: str) -> None:
    interpreter, numpy, _ = resolve.choose(dataclasses.replace(board, python=python, glibc="2.34"))
    assert (interpreter.package, numpy.package) == ("ai-edge-litert", "numpy")
    assert python in numpy.pythons


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.lock)
def test_every_row_of_the_table_has_its_lock(wheel: Wheel) -> None:
    # Each combination of a row with compiled code is a wheel of its own, so there are at least as many hashes.
    wheels = 1 if wheel in SERVERS else len(wheel.architectures) * len(wheel.pythons)
    assert len(wheelhouse.locked_hashes(wheel)) >= wheels


@pytest.mark.parametrize("name", [file.name for file in profile.available()])
def test_every_packaged_profile_has_a_runtime(name: str) -> None:
    assert resolve.choose(profile.find(name))


def test_a_wheel_that_lies_about_its_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "forged.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ai_edge_litert/__init__.py", b"altered")
        archive.writestr(
            "ai_edge_litert-2.3.0.dist-info/RECORD",
            "ai_edge_litert/__init__.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,7\n",
        )
    with pytest.raises(CheckFailed, match="not what the wheel's RECORD says"):
        wheelhouse.unpack(INTERPRETERS[0], path, root=tmp_path / "cache")


@pytest.mark.parametrize("name", ["../escape.py", "/etc/passwd", "ai_edge_litert/../../escape", "a/.hidden"])
def test_a_name_outside_the_tree_is_refused(name: str, tmp_path: Path) -> None:
    greedy = dataclasses.replace(INTERPRETERS[0], keep=("*",))
    path = tmp_path / "forged.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"")
        archive.writestr("a-1.dist-info/RECORD", f"{name},sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n")
    with pytest.raises(CheckFailed, match="a name or size"):
        wheelhouse.unpack(greedy, path, root=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@settings(max_examples=300)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_one_altered_byte_is_refused_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, small_wheel: bytes, position: float, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("altered")
    content = bytearray(small_wheel)
    content[int(position * len(content))] ^= flip
    (folder / "altered.whl").write_bytes(content)
    try:
        files = wheelhouse.unpack(INTERPRETERS[0], folder / "altered.whl", root=folder / "cache")
    except CheckFailed:
        return
    found = {file.name: file.path.read_bytes() for file in files}
    assert found.items() <= SMALL.items()


SMALL = {"ai_edge_litert/__init__.py": b"# small\n" * 40, "ai_edge_litert/interpreter.py": b"x = 1\n"}


@pytest.fixture(scope="module")
def small_wheel(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "small.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        record = ""
        for name, content in SMALL.items():
            archive.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            record += f"{name},sha256={digest},{len(content)}\n"
        archive.writestr("ai_edge_litert-2.3.0.dist-info/RECORD", record)
    return path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x00" * 4096])
def test_a_file_that_is_no_wheel_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.whl"
    path.write_bytes(content)
    with pytest.raises(CheckFailed):
        wheelhouse.unpack(INTERPRETERS[0], path, root=tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_the_users_error(board: profile.DeviceProfile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot use the cache") as caught:
        resolve.resolve(board, cache=tmp_path / "file" / "cache")
    assert "EDGEKIT_CACHE" in str(caught.value.hint)
