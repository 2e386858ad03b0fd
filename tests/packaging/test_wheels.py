"""The two wheels: complete, and nothing that does not belong."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def build(folder: Path, out: Path) -> dict[str, bytes]:
    """The wheel of the project in `folder`, as names and contents."""
    with zipfile.ZipFile(wheel(folder, out)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def wheel(folder: Path, out: Path) -> Path:
    argv = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def host(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return build(repository, tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def runtime(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return build(repository / "runtime", tmp_path_factory.mktemp("runtime"))


def tracked(repository: Path, folder: str) -> dict[str, bytes]:
    """The files that a wheel must carry: all of a package's folder but what Python leaves there."""
    found = [path for path in (repository / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(repository / folder).as_posix(): path.read_bytes() for path in found}


def test_the_hosts_wheel_carries_the_package_the_board_locks_and_the_profiles(
    repository: Path, host: dict[str, bytes]
) -> None:
    package = {f"edgekit/{name}": content for name, content in tracked(repository, "edgekit").items()}
    profiles = {
        f"edgekit/device_profiles/{n}": content for n, content in tracked(repository, "device_profiles").items()
    }
    assert {"edgekit/py.typed", "edgekit/wheels/ai-edge-litert-2.3.0.txt"} <= set(package)
    assert "edgekit/device_profiles/raspberry-pi-4b.toml" in profiles
    inside = {name: content for name, content in host.items() if ".dist-info/" not in name}
    assert inside == {**package, **profiles}


def test_the_runtimes_wheel_carries_the_runtime_alone(repository: Path, runtime: dict[str, bytes]) -> None:
    inside = {name: content for name, content in runtime.items() if ".dist-info/" not in name}
    package = tracked(repository, "runtime/edgekit_runtime")
    assert inside == {f"edgekit_runtime/{name}": content for name, content in package.items()}


def test_the_runtimes_wheel_is_small(repository: Path, tmp_path: Path) -> None:
    assert wheel(repository / "runtime", tmp_path).stat().st_size <= 150_000


@pytest.mark.parametrize("which", ["host", "runtime"])
def test_a_wheel_says_its_licence_and_its_command(which: str, request: pytest.FixtureRequest) -> None:
    content: dict[str, bytes] = request.getfixturevalue(which)
    (metadata,) = (text for name, text in content.items() if name.endswith(".dist-info/METADATA"))
    (commands,) = (text for name, text in content.items() if name.endswith(".dist-info/entry_points.txt"))
    assert b"License-Expression: Apache-2.0" in metadata
    assert [name for name in content if name.endswith("licenses/LICENSE")]
    assert (b"edgekit-runtime = " if which == "runtime" else b"edgekit = ") in commands


def test_the_runtimes_wheel_asks_for_numpy_only(runtime: dict[str, bytes]) -> None:
    (metadata,) = (text.decode() for name, text in runtime.items() if name.endswith(".dist-info/METADATA"))
    wanted = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert wanted == ["Requires-Dist: numpy"]
    assert "Requires-Python: >=3.7" in metadata
