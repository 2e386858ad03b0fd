"""`edgekit probe`: what a board is, and its profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgekit_runtime import schema

from edgekit import board as boards
from edgekit.cli import files, options, show
from edgekit.cli.boards import opened, show_noise
from edgekit.cli.help import Command
from edgekit.errors import UserError
from edgekit.profiles import profile

EXAMPLE = "my-board.toml"


def add_to(root: typer.Typer) -> None:
    root.command(cls=Command, rich_help_panel="Profiles")(probe)


def probe(
    name: options.BoardName,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help=f"Write the board's profile, for example {EXAMPLE}."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
) -> None:
    """Look at a live board and write its profile: facts with how each was read, a runtime that fits, cautious budgets.

    Nothing is changed on the board. The interpreter is the first that runs there; where none does, the facts are shown
    and the exit code is 1.
    """
    file = output or Path(EXAMPLE)
    if file.suffix != ".toml" or not profile.is_name(file.stem):
        raise UserError(
            f"{file}: a profile is named like its file: a-z, 0-9, '.', '_', '-', and ends in .toml",
            hint=f"for example -o {EXAMPLE}",
            path=str(file),
        )
    if output and not force:
        _refuse_to_replace(output)
    with opened(name, ssh_config) as target:
        found = boards.probe(target, file.stem)
    if not json:
        _show(found)
        if found.server is not None and found.server.noise:
            show_noise(name, found.server.noise)
    text = found.text
    if output:
        if not force:
            _refuse_to_replace(output)
        files.write(output, text)
        profile.load(output)
    if json:
        show.data({**schema.plain(found), "path": str(output) if output else None})
        return
    if output:
        show.say(f"{name}: its profile is in {output}")
        show.next_step("edgekit", "profiles", "check", output)
        show.next_step("edgekit", "deploy", "MODEL", name, "-p", output, "-c", "DATA")
    else:
        show.next_step("edgekit", "probe", name, "-o", EXAMPLE)


def _refuse_to_replace(file: Path) -> None:
    if file.exists() or file.is_symlink():
        raise UserError(
            f"{file}: is there already", hint="choose another name, or replace it with --force", path=str(file)
        )


def _show(found: boards.Probe) -> None:
    """What was found, and what a profile makes of it."""
    if found.profile is not None:
        facts = schema.plain(found.profile)
    else:
        facts = {key: value for key, value in schema.plain(found.facts).items() if key != "how"}
        facts |= schema.plain(found.server) if found.server else {}
    rows = [
        (key, ", ".join(value) if isinstance(value, list) else value, _how(found, key))
        for key, value in facts.items()
        if value is not None
    ]
    show.table(found.board, ["fact", "value", "how it is known"], rows)


def _how(found: boards.Probe, key: str) -> str | None:
    said = found.how.get(key) if found.profile else found.facts.how.get(key)
    return said if said is None or len(said) <= 100 else f"{said[:97]}..."
