"""`edgekit deploy` and `edgekit demo`: the whole chain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from edgekit_runtime import schema

from edgekit import board as boards
from edgekit import deployment, transport
from edgekit.cli import files, fleet, options, show
from edgekit.cli.bench import show_bench
from edgekit.cli.boards import opened, show_first_boot, show_push
from edgekit.cli.figures import FROM_CACHE, show_conversion, show_validation
from edgekit.cli.help import Command
from edgekit.conversion import cache
from edgekit.deployment import Deployment, Prepared
from edgekit.fleet import Outcome, worst
from edgekit.profiles import profile
from edgekit.profiles.profile import DeviceProfile
from edgekit.reports import contact_sheet, report

PICTURES = 24
BATCH = 8


def add_to(root: typer.Typer) -> None:
    for command in (demo, deploy):
        root.command(cls=Command, rich_help_panel="Start here")(command)


def deploy(
    model: options.Model,
    names: options.BoardNames,
    profile_name: options.ProfileName,
    calibrate: options.Calibrate,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where results go; default: edgekit-MODEL.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", min=1, help="At most so many boards at once.")] = 8,
    profiles: options.Profiles = None,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
    declare: options.Declare = None,
    release_name: options.Name = None,
    task: options.Task = None,
    labels: options.Labels = None,
    trust_code: options.TrustCode = False,
    allow_float: options.AllowFloat = False,
    range_: options.Range = None,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    color: options.Color = None,
    resize: options.Resize = None,
    filter_: options.Filter = None,
    pad: options.Pad = None,
    samples: options.Samples = 200,
    seed: options.Seed = 0,
    data: options.HeldOut = None,
    truth: options.Truth = None,
    foreground: options.Foreground = None,
    min_cosine: options.MinCosine = None,
    min_sqnr: options.MinSqnr = None,
    min_agreement: options.MinAgreement = None,
    max_drop: options.Budget = None,
    no_cache: options.NoCache = False,
) -> None:
    """One command from a trained model to a measured release: convert, validate, bundle, push, activate, bench.

    With several boards the model is converted once; each has its own result, the exit code is the worst one.

    Example: edgekit deploy model.keras pi@raspberrypi.local -p raspberry-pi-4b -c photos --range -1..1
    """
    facts = profile.find(profile_name, profiles or ())
    limits = options.thresholds(min_cosine, min_sqnr, min_agreement, max_drop)
    declaration = options.declared(
        declare, labels, size, name=release_name, task=task, range=range_, mean=mean, std=std, color=color,
        resize=resize, filter=filter_, pad=pad,
    )  # fmt: skip
    folder = output or Path(f"edgekit-{model.resolve().stem}")

    def prepare(settled: DeviceProfile, update: show.ProgressCallback) -> Prepared:
        return deployment.prepare(
            model,
            profile=settled,
            data=calibrate,
            held_out=data,
            output=folder,
            declaration=declaration,
            samples=samples,
            seed=seed,
            trust_code=trust_code,
            allow_float=allow_float,
            thresholds=limits,
            truth=truth,
            foreground=foreground,
            cache=None if no_cache else cache.default(),
            progress=update,
        )

    prepared, outcomes = fleet.deploy(names, facts, prepare, config=ssh_config, jobs=jobs)
    pages = _write_reports(outcomes, folder)
    held_out = data not in (None, calibrate)
    if len(outcomes) == 1:
        _finish_one(outcomes[0], prepared, facts, pages, held_out=held_out, json=json)
        return
    if json:
        show.data({"boards": [_plain_outcome(item, prepared, pages) for item in outcomes]})
    else:
        if prepared is not None:
            _show_prepared(prepared, facts, held_out=held_out)
        fleet.show_boards(outcomes, pages)
        running = [item.board for item in outcomes if item.value is None or item.value.first_boot is None]
        if running:
            show.next_step("edgekit", "status", running[0])
    raise typer.Exit(worst(outcomes))


def _finish_one(
    outcome: Outcome[Deployment],
    prepared: Prepared | None,
    facts: DeviceProfile,
    pages: dict[str, Path],
    *,
    held_out: bool,
    json: bool,
) -> None:
    done = outcome.value
    if done is not None and prepared is not None and not json:
        _show_prepared(prepared, facts, held_out=held_out)
        _show_delivered(done)
        show.say(f"report: {pages[done.board]}")
    if outcome.error is not None or done is None or prepared is None:
        raise outcome.error or AssertionError("neither a result nor an error")
    if json:
        show.data(_plain(done, prepared, pages[done.board]))
        return
    if done.first_boot is not None:
        show_first_boot(done.board, done.status, done.first_boot)
        return
    show.next_step("edgekit", "run", done.board, "PICTURE")
    show.next_step("edgekit", "rollback", done.board)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where everything goes.")] = Path(
        "demo-output"
    ),
    json: show.Json = False,
) -> None:
    """Train a small network on real handwritten digits and take it through the chain, to a board on this computer."""
    from edgekit import demo as digits

    board_name = transport.EMBEDDED
    files.make_folder(output)
    facts = profile.find("host")
    with show.progress() as update:
        made = digits.make_digits(output, progress=update)
        prepared = deployment.prepare(
            made.model,
            profile=facts,
            data=made.calibration,
            held_out=made.held_out,
            output=output,
            declaration=digits.declaration(made),
            progress=update,
        )
    key = transport.host_key(board_name)
    # The embedded board is this command's own; there is nobody else to compare the fingerprint with.
    transport.remember(key, replace=key.known == "changed")
    with opened(board_name, None) as target, show.progress() as update:
        done = deployment.deliver(prepared, target, progress=update)
        pictures = digits.pictures(made)
        frames = boards.frames([path for path, _ in pictures], boards.current_preprocess(target))
        answers = boards.predict(target, frames, top_k=1, batch_size=BATCH)
    best = [item.classes[0] for item in answers]
    right = sum(item.label == truth for item, (_, truth) in zip(best, pictures, strict=True))
    predictions = [
        contact_sheet.Prediction(frame, str(item.label), item.score, truth)
        for frame, item, (_, truth) in zip(frames, best, pictures, strict=True)
    ]
    sheet = contact_sheet.contact_sheet(contact_sheet.wrong_first(predictions)[:PICTURES])
    files.write(output / "predictions.png", sheet)
    page = _write_report(done, output, sheet)
    if json:
        show.data({**_plain(done, prepared, page), "board_accuracy": right / len(pictures), "pictures": len(pictures)})
        return
    _show_prepared(prepared, facts, held_out=True)
    _show_delivered(done)
    show.line(f"on the board: {right} of {len(pictures)} held-out digits right, in batches of {BATCH}")
    for item in predictions[:6]:
        show.line(f"  a picture of {item.truth}: the board says {item.label} ({100 * item.score:.1f} %)")
    show.say(f"pictures with predictions: {output / 'predictions.png'}; report: {page}")
    show.next_step("edgekit", "run", board_name, pictures[0][0])
    show.next_step("edgekit", "status", board_name)
    show.next_step("edgekit", "profiles", "list")
    show.say("and with a board of your own: edgekit trust BOARD", style="dim")


def _show_prepared(prepared: Prepared, facts: DeviceProfile, *, held_out: bool) -> None:
    show_conversion(prepared.conversion, facts)
    calibrated = None if held_out else prepared.conversion.provenance.calibration.samples
    show_validation(prepared.validation, calibrated=calibrated, told=prepared.conversion.notes)
    if prepared.cached:
        show.say(FROM_CACHE, style="dim")


def _show_delivered(done: Deployment) -> None:
    show_push(done.board, done.push)
    if done.bench is None:
        show.line("not measured: nothing of the board runs here")
        return
    both = [(done.bench, "INT8"), *([(done.float_bench, "FP32")] if done.float_bench else [])]
    show_bench([report for report, _ in both], [kind for _, kind in both])


def _plain(done: Deployment, prepared: Prepared, page: Path) -> dict[str, object]:
    plain: dict[str, object] = schema.plain(done)
    made = {"model": str(prepared.model), "bundle": str(prepared.bundle), "cached": prepared.cached}
    return {**plain, **made, "report": str(page)}


def _plain_outcome(
    outcome: Outcome[Deployment], prepared: Prepared | None, pages: dict[str, Path]
) -> dict[str, object]:
    """The result of one board among several; `error` is None or what `edgekit --json` says of an error."""
    error = None if outcome.error is None else outcome.error.to_dict()
    if outcome.value is None or prepared is None:
        return {"board": outcome.board, "error": error}
    return {**_plain(outcome.value, prepared, pages[outcome.board]), "error": error}


def _write_reports(outcomes: Sequence[Outcome[Deployment]], folder: Path) -> dict[str, Path]:
    """The page of each board that was measured: report.html, or with several boards report-BOARD.html."""
    pages = {}
    for item in outcomes:
        if item.value is not None:
            name = "report.html" if len(outcomes) == 1 else f"report-{quote(item.board, safe='@')}.html"
            pages[item.board] = _write_report(item.value, folder, None, name)
    return pages


def _write_report(done: Deployment, folder: Path, sheet: bytes | None, name: str = "report.html") -> Path:
    page = folder / name
    files.write(page, report.render(done, sheet=sheet))
    return page
