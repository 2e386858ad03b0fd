"""`edgekit tune`: the plan that a model runs best with on a board."""

from __future__ import annotations

from typing import Annotated

import typer
from edgekit_runtime import schema
from edgekit_runtime.plan import Candidate, Tuning

from edgekit import board as boards
from edgekit.cli import options, show
from edgekit.cli.boards import opened, pass_on
from edgekit.cli.help import Command


def add_to(root: typer.Typer) -> None:
    root.command(cls=Command, rich_help_panel="Boards")(tune)


def tune(
    name: options.BoardName,
    max_secs: Annotated[
        float,
        typer.Option("--max-secs", "--max_secs", metavar="SECONDS", min=1, help="Not to take much longer than this."),
    ] = 40.0,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
) -> None:
    """Measure threads, interpreters, batch and delegate on the board, and keep the best plan with the release.

    One plan is for the latency of a single frame, one for the throughput of many; the runtime uses them from then on.
    On an emulated board nothing is kept, for its times mean nothing.

    Example: edgekit tune pi@raspberrypi.local
    """
    with opened(name, ssh_config) as target:
        found = boards.tune(target, max_secs, on_stderr=pass_on)
    if json:
        show.data(schema.plain(found))
        return
    _show(found)
    for warning in found.warnings:
        show.say(warning, label="warning:", style="yellow")
    if found.invalid is not None:
        show.say(f"no plan is kept: {found.invalid}", label="warning:", style="yellow")
    show.next_step("edgekit", "bench", name)


def _show(found: Tuning) -> None:
    """The plans that were measured, the fastest first; no time of an emulated board."""
    measured = [one for one in found.candidates if one.sample_ms is not None]
    roles = {found.default: "default"}
    for goal, plan in (("throughput", found.throughput), ("latency", found.latency)):
        roles[plan] = ", ".join(filter(None, (roles.get(plan), goal)))
    rows = [
        (str(one.plan), *([] if found.invalid else _figures(one)), roles.get(one.plan, ""))
        for one in sorted(measured, key=lambda one: one.sample_ms or 0.0)
    ]
    columns = ["plan", *([] if found.invalid else ["ms a sample", "samples/s"]), "chosen for"]
    show.table(f"{found.cpu}: {found.runtime}, {found.cores} cores", columns, rows)
    for refused in sorted({one.refused for one in found.candidates if one.refused}):
        show.say(refused)


def _figures(one: Candidate) -> tuple[str, str]:
    assert one.sample_ms is not None
    return f"{one.sample_ms:.3f}", f"{1e3 / one.sample_ms:.1f}"
