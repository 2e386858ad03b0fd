"""Rules for every test: where things are, what may be skipped, how hypothesis runs.

With CI=true a skipped test is a failed one, unless `allowed-skips.txt` names it and says why.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from fnmatch import fnmatchcase
from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = (REPOSITORY / "../shared").resolve()
IN_CI = os.environ.get("CI") == "true"

# No deadline: no test here may depend on how fast the machine is.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, max_examples=200)
hypothesis.settings.load_profile("ci" if IN_CI else "local")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of models and data beside the repository; tests that use it bear the mark `shared`."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the repository")
    return SHARED


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups = {item.nodeid: _group(item) for item in items}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item.nodeid]))
    # Boards take longest: begun first, they leave no process idle at the end.
    items.sort(key=lambda item: not groups[item.nodeid].startswith("board-"))
    if not SHARED.is_dir():
        for item in items:
            if "shared" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no ../shared beside the repository"))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Without its groups each process would start every board, which is right and takes far too long."""
    grouped = getattr(session.config.option, "loadgroup", False)
    if grouped and not all("@" in item.nodeid for item in session.items):
        raise pytest.UsageError("pytest-xdist has not grouped the tests: it does not know this pytest's node ids")


def _group(item: pytest.Item) -> str:
    """Tests that go to one process when there are several: they share a board, or what their file makes."""
    parameters: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    mark = item.get_closest_marker("emulated")
    kind = parameters.get("board") or parameters.get("sd") or (mark and (mark.args or ("arm64",))[0])
    return f"board-{kind}" if isinstance(kind, str) else item.path.name


def _plain_id(nodeid: str) -> str:
    """The test's id without the group that xdist puts behind it."""
    name, at, group = nodeid.rpartition("@")
    return name if at and not {"]", ":"} & set(group) else nodeid


def allowed_skips(text: str) -> dict[str, str]:
    """Test patterns and the reason of each, from lines `PATTERN | REASON`; '#' begins a comment."""
    allowed = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, bar, reason = (part.strip() for part in line.partition("|"))
            if not bar or not reason:
                raise pytest.UsageError(f"allowed-skips.txt: no reason in '{line}'")
            allowed[pattern] = reason
    return allowed


ALLOWED_SKIPS = allowed_skips((Path(__file__).parent / "allowed-skips.txt").read_text("utf-8"))


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (IN_CI and report.outcome == "skipped") or hasattr(report, "wasxfail"):
        return
    if any(fnmatchcase(_plain_id(report.nodeid), pattern) for pattern in ALLOWED_SKIPS):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"skipped in CI, which tests/allowed-skips.txt does not allow: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report
