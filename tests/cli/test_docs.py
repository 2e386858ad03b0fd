"""The pages say what the program does: every command, every figure of a report, every error."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import edgekit_runtime
import pytest
from edgekit_runtime.benchreport import BenchReport, Latency, Memory, Soak, Stages, Validity
from edgekit_runtime.environment import Environment, Sensors

import edgekit
from edgekit.errors import CheckFailed, DeviceError, EdgekitError, UserError

ROOTS = (CheckFailed, UserError, DeviceError)


def modules() -> Iterator[str]:
    """Every module of both packages that can be imported without running something."""
    for package in (edgekit, edgekit_runtime):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield found.name


def errors() -> dict[str, type[EdgekitError]]:
    """The public classes that can end a command, by name."""
    found: dict[str, type[EdgekitError]] = {}
    for name in modules():
        for label, value in vars(importlib.import_module(name)).items():
            if inspect.isclass(value) and issubclass(value, ROOTS) and not label.startswith("_"):
                assert found.setdefault(value.__name__, value) is value, f"two classes are called {label}"
    return found


def test_the_command_reference_is_up_to_date(repository: Path) -> None:
    argv = [sys.executable, str(repository / "scripts/cli-reference"), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("schema", [BenchReport, Latency, Stages, Memory, Soak, Environment, Sensors, Validity])
def test_every_field_of_a_report_is_explained(schema: type, repository: Path) -> None:
    text = (repository / "docs/report.md").read_text("utf-8")
    rows = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert [field.name for field in dataclasses.fields(schema) if f"`{field.name}`" not in rows] == []


def test_every_field_that_is_explained_exists(repository: Path) -> None:
    text = (repository / "docs/report.md").read_text("utf-8")
    known = {
        field.name
        for schema in (BenchReport, Latency, Stages, Memory, Soak, Environment, Sensors, Validity)
        for field in dataclasses.fields(schema)
    }
    named = {
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert named - known == set()


class TestTroubleshooting:
    @pytest.fixture
    def entries(self, repository: Path) -> dict[str, str]:
        """The page's text below each heading of one word."""
        parts = re.split(
            r"^### (\w+)$", (repository / "docs/troubleshooting.md").read_text("utf-8"), flags=re.MULTILINE
        )
        return dict(zip(parts[1::2], parts[2::2], strict=True))

    def test_there_are_errors_to_explain(self) -> None:
        assert {"UserError", "CheckFailed", "DeviceError", "UnknownHostKey", "BundleError", "ModelError"} <= set(
            errors()
        )

    def test_every_error_has_an_entry(self, entries: dict[str, str]) -> None:
        assert sorted(set(errors()) - set(entries)) == []

    def test_no_entry_is_of_an_error_that_is_gone(self, entries: dict[str, str]) -> None:
        assert sorted(set(entries) - set(errors())) == []

    def test_each_says_the_exit_code(self, entries: dict[str, str]) -> None:
        for name, kind in errors().items():
            assert entries[name].strip().startswith(f"Exit code {kind.exit_code}."), name

    def test_links_lead_somewhere(self, repository: Path) -> None:
        for page in (repository / "docs").glob("*.md"):
            for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
                file, _, anchor = target.partition("#")
                if "://" in target:
                    continue
                there = (page.parent / file) if file else page
                assert there.is_file(), f"{page.name}: {target}"
                headings = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert not anchor or anchor in anchors, f"{page.name}: {target}"
