"""`edgekit inspect`: what a model is, and whether a board can run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from edgekit_runtime import schema

from edgekit.cli import complete, options, show
from edgekit.conversion import rehearse
from edgekit.conversion.rehearsal import NOT_RUN, PASSED, Rehearsal
from edgekit.errors import CheckFailed, UserError
from edgekit.models import delegation, inspection
from edgekit.profiles import profile
from edgekit.runtimes import gate, resolve
from edgekit.runtimes.gate import Verdict


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Any model file or folder.")],
    profile_name: Annotated[
        str | None,
        typer.Option(
            "--profile",
            "-p",
            metavar="PROFILE",
            help="Say whether a .tflite runs on such a board: exit code 1 when it does not.",
            autocompletion=complete.profiles,
        ),
    ] = None,
    profiles: options.Profiles = None,
    json: show.Json = False,
) -> None:
    """Say what a model is, and with --profile whether it runs on such a board. Nothing is converted."""
    found = inspection.inspect(model)
    verdict = shares = tried = None
    refusal = ""
    if profile_name is not None:
        if found.form != "tflite":
            raise UserError(
                f"{model}: only a .tflite can be judged for a board", hint="convert it: that judges it, too"
            )
        facts = profile.find(profile_name, profiles or ())
        verdict = gate.judge(model, facts, resolve.choose(facts)[0])
        tried = rehearse.load(model, facts)
        try:
            shares = delegation.ask(model)
        except CheckFailed as error:  # of this computer's interpreter; the verdict is about the board's
            refusal = error.message
    if json:
        judged: dict[str, Any] = {}
        if verdict is not None:
            judged["verdict"] = {**schema.plain(verdict), "too_large": verdict.too_large}
            judged["rehearsal"] = schema.plain(tried)
            judged["delegation"] = schema.plain(shares)
        show.data({**schema.plain(found), **judged})
    else:
        _show_inspection(model, found, next_step=verdict is None)
        if verdict is not None and tried is not None:
            _show_verdict(model, verdict, tried, f"takes {shares}" if shares else f"is not judged: {refusal}")
    if verdict is None or tried is None:
        return
    if verdict.problems or verdict.too_large or tried.verdict not in (PASSED, NOT_RUN):
        raise typer.Exit(CheckFailed.exit_code)


def _show_verdict(model: Path, verdict: Verdict, tried: Rehearsal, delegated: str) -> None:
    rows = [(one.operator, one.version, _range(one.known), one.proposal) for one in verdict.problems]
    if rows:
        show.table(f"{verdict.interpreter} does not run it", ["operator", "version", "it has", "proposal"], rows)
    else:
        show.say(f"{verdict.interpreter} has every operator of {model}")
    where = "on this computer"
    if tried.instead_of is not None:
        where += f" in {tried.runtime}, the nearest to {tried.instead_of} that can be had here"
    if tried.verdict == NOT_RUN:
        show.say(f"it was not tried: {tried.runtime} cannot be had here: {tried.reason}", label="note:", style="yellow")
    elif tried.verdict != PASSED and not rows:
        show.say(f"{where}: {tried.verdict}: {tried.reason}", label="does not run:", style="bold red")
    elif tried.instead_of is not None:
        show.say(f"it runs {where}", label="note:", style="yellow")
    if verdict.too_large:
        show.say(verdict.too_large, label="too large:", style="bold red")
    show.say(show.memory(verdict.arena_bytes, verdict.weights_bytes))
    show.say(f"XNNPACK here {delegated}")


def _range(known: tuple[int, int] | None) -> str:
    return "none" if known is None else f"{known[0]} to {known[1]}"


def _show_inspection(model: Path, found: inspection.Inspection, *, next_step: bool) -> None:
    rows: list[tuple[str, Any]] = [
        ("form", found.description),
        ("made with", found.made_with),
        ("size", show.size(found.size)),
        ("parameters", f"{found.parameters:,}" if found.parameters is not None else None),
        ("quantisation", found.quantization),
        ("signatures", ", ".join(found.signatures) or None),
        ("runs code", ", ".join(found.code) or None),
        ("sha256", found.sha256),
    ]
    rows += [("input", show.tensor(spec)) for spec in found.inputs]
    rows += [("output", show.tensor(spec)) for spec in found.outputs]
    rows.append(("operators", ", ".join(f"{count} {name}" for name, count in found.operators.items()) or None))
    show.table(found.name, ["", ""], [row for row in rows if row[1] is not None])
    for note in found.notes:
        show.say(note, label="note:", style="yellow")
    if found.convertible and next_step:
        show.next_step("edgekit", "convert", model, "-p", "PROFILE", "-c", "DATA", "-o", f"{found.name}.tflite")
