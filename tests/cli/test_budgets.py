"""The profile's budgets are judged by `deploy`: accuracy before anything is sent, latency and memory on the board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from edgekit_runtime import benchreport

from edgekit import deployment
from edgekit.board import PushResult, Status
from edgekit.deployment import Deployment
from edgekit.errors import CheckFailed
from edgekit.profiles.profile import find


@pytest.fixture(scope="module")
def measured(repository: Path) -> benchreport.BenchReport:
    """A real report of this computer."""
    from edgekit.board import local

    model = next((repository / "tests/fixtures/models").glob("*.tflite"))
    return local.bench(model, ["--num-runs", "3", "--min-secs", "0"])


def deployed(report: benchreport.BenchReport) -> Deployment:
    push = PushResult("0" * 64, "m", 0, 0, 0, 0, 0, 0.0)
    status = Status("COMMITTED", None, None, None, None, 0, 0, (), 0, 0)
    return Deployment("pi", "0" * 64, None, None, push, status, report, None)  # type: ignore[arg-type]  # not judged


def test_figures_within_the_budgets_pass(measured: benchreport.BenchReport) -> None:
    deployment.judge(deployed(measured), replace(find("host"), max_latency_ms=1e6))


def test_a_slow_or_large_release_is_a_failed_check(measured: benchreport.BenchReport) -> None:
    strict = replace(find("host"), max_latency_ms=1e-6, max_ram_mb=1)
    with pytest.raises(CheckFailed) as caught:
        deployment.judge(deployed(measured), strict)
    assert "median latency" in caught.value.message
    assert "peak memory" in caught.value.message
    assert "edgekit rollback pi" in str(caught.value.hint)


def test_an_emulated_boards_latency_is_not_judged(measured: benchreport.BenchReport) -> None:
    emulated = replace(measured, validity=benchreport.Validity(False, ("emulated",)))
    deployment.judge(deployed(emulated), replace(find("host"), max_latency_ms=1e-6))
