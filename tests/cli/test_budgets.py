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
from edgekit.validation.metric import Metric


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


@pytest.mark.parametrize(
    ("n", "drop", "half", "held"),
    [
        (100, 0.02, 0.05, True),  # enough of them: the limit is the limit
        (99, 0.02, 0.05, False),
        (99, 0.566, 0.12, True),  # surely beyond it
        (2, 1.0, None, False),
    ],
)
def test_few_samples_are_judged_where_all_of_their_interval_is_beyond_the_limit(
    n: int, drop: float, half: float | None, *, held: bool
) -> None:
    judged = Metric("top-1 accuracy", "%", n, 0.9, 0.9 - drop, drop, half)
    assert deployment.holds((judged,), 0.01) == held


def test_without_labels_no_limit_is_held() -> None:
    assert not deployment.holds((), 0.01)


def test_of_decibels_the_limit_is_a_share_of_float_s() -> None:
    assert deployment.holds((Metric("PSNR", "dB", 20, 40.0, 30.0, 10.0, 2.0),), 0.01)
    assert not deployment.holds((Metric("PSNR", "dB", 20, 40.0, 39.0, 1.0, 2.0),), 0.01)
