"""`edgekit deploy` with its boards: connected first, converted for once, delivered to side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit import board as boards
from edgekit import deployment, fleet
from edgekit.board import Board
from edgekit.cli import show
from edgekit.cli.bench import show_reasons, show_warnings
from edgekit.cli.boards import asker, opened, show_first_boot, show_sending
from edgekit.deployment import Deployment, Prepared
from edgekit.errors import CheckFailed
from edgekit.fleet import Outcome
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import resolve

Prepare = Callable[[DeviceProfile, show.ProgressCallback], Prepared]


def deploy(
    names: Sequence[str], facts: DeviceProfile, prepare: Prepare, *, config: Path | None, jobs: int
) -> tuple[Prepared | None, list[Outcome[Deployment]]]:
    """What came of each board, in their order; `prepare` is called once if any of them fits the profile, with the
    profile as it is for these boards: they use their own NumPy only where each has one that fits.

    A board over the profile's budgets has both a value and an error. Raises what `prepare` raises.
    """
    ask = asker()
    numpy: dict[str, str | None] = {}
    finished: list[str] = []
    try:
        with ThreadPoolExecutor(jobs) as executor, ExitStack() as links:  # what a thread waits for ends with its link

            def connect(name: str) -> Board:
                target = links.enter_context(opened(name, config, ask))
                # A board that contradicts the profile is told before minutes go into a conversion.
                found = boards.facts(target)
                boards.require_match(facts, found, name)
                numpy[name] = found.numpy
                return target

            ready = fleet.each(fleet.start(names), connect, executor)
            if all(item.error for item in ready):
                return None, [Outcome(item.board, None, item.error) for item in ready]
            with show.progress() as update:
                prepared = prepare(resolve.settle(facts, *numpy.values()), update)
            with show.deliveries([item.board for item in ready if item.error is None]) as told:

                def deliver(target: Board) -> Deployment:
                    delivered = deployment.deliver(prepared, target, progress=told(target.name))
                    finished.append(target.name)
                    return delivered

                done = fleet.each(ready, deliver, executor)
    except KeyboardInterrupt:
        rest = [name for name in dict.fromkeys(names) if name not in finished]
        if rest and len(names) > 1:
            show.say(f"done: {', '.join(finished) or 'none'}; not done: {', '.join(rest)}")
        raise
    return prepared, [_judged(item, facts) for item in done]


def _judged(item: Outcome[Deployment], facts: DeviceProfile) -> Outcome[Deployment]:
    try:
        if item.value is not None:
            deployment.judge(item.value, facts)
    except CheckFailed as error:
        return replace(item, error=error)
    return item


def show_boards(outcomes: Sequence[Outcome[Deployment]], reports: dict[str, Path]) -> None:
    """A row for each board, then what has to be known of each, and what went wrong with those that failed."""
    rows: list[Sequence[Any]] = []
    for item in outcomes:
        state = "failed" if item.error else "done"
        if item.value is None:
            rows.append((item.board, state, None, None, None, None))
            continue
        done = item.value
        if done.bench is None:
            median = "not measured"
        else:
            median = f"{done.bench.latency.median_ms:.3f}" if done.bench.validity.valid else "not valid"
        rows.append(
            (item.board, state, show.short(done.release), show.size(done.push.sent_bytes), median, reports[item.board])
        )
    show.table("boards", ["board", "", "release", "sent", "median, ms", "report"], rows)
    for item in outcomes:
        if item.value is not None:
            _show_notes(item.value)
        if item.error is not None:
            show.error(item.error, as_json=False)


def _show_notes(done: Deployment) -> None:
    """What `deploy` tells of one board beside its figures."""
    show_sending(done.board, done.push)
    reports = [report for report in (done.bench, done.float_bench) if report is not None]
    show_reasons(reports, f"{done.board}: ")
    show_warnings(reports, f"{done.board}: ")
    if done.first_boot is not None:
        show_first_boot(done.board, done.status, done.first_boot)
