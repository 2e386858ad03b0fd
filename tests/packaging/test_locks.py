"""The locks: exact, hashed, free of addresses, and in step with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ["locks/host.txt", "locks/dev.txt"]
BOARD_LOCKS = sorted((Path(__file__).resolve().parents[2] / "edgekit/wheels").glob("*.txt"))


def pins(text: str) -> dict[str, set[str]]:
    """Locked versions by package; more than one where markers choose."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, flags=re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


@pytest.mark.parametrize("lock", [*LOCKS, *(f"edgekit/wheels/{path.name}" for path in BOARD_LOCKS)])
def test_a_lock_names_versions_and_hashes_and_no_address(repository: Path, lock: str) -> None:
    text = (repository / lock).read_text("ascii")
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|-e|--index|--extra|--find|--trusted|\.|/)", text, flags=re.MULTILINE)
    code = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in code:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^ ]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
    starts = [index for index, line in enumerate(code) if not line.startswith(" ")]
    assert starts
    assert all(code[index + 1].startswith("    --hash=") for index in starts)


def test_the_tests_lock_holds_the_hosts_versions(repository: Path) -> None:
    host, dev = (pins((repository / lock).read_text("ascii")) for lock in LOCKS)
    assert {name: dev.get(name) for name in host} == host
    assert set(dev) > set(host)


def test_every_declared_dependency_is_locked_in_its_range(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))
    groups = project["dependency-groups"]
    host = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["demo"], *groups["build"]]
    for lock, wanted in zip(LOCKS, (host, [*host, *groups["dev"]]), strict=True):
        locked = pins((repository / lock).read_text("ascii"))
        for requirement in map(Requirement, wanted):
            if requirement.name != "edgekit-runtime":
                versions = locked[canonicalize_name(requirement.name)]
                assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_the_enum_backport_stays_where_pip_accepts_it(repository: Path) -> None:
    for lock in LOCKS:
        for version in pins((repository / lock).read_text("ascii"))["backports-strenum"]:
            assert tuple(map(int, version.split("."))) < (1, 3)


def test_both_distributions_have_one_version(repository: Path) -> None:
    host = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    runtime = tomllib.loads((repository / "runtime/pyproject.toml").read_text("utf-8"))["project"]
    assert host["version"] == runtime["version"]
    assert f"edgekit-runtime=={runtime['version']}" in host["dependencies"]
