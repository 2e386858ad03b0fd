"""What the shell offers after TAB: names of profiles, boards and choices. No board is called for it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from edgekit.profiles import profile
from edgekit.transport import EMBEDDED


def profiles(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the search path; files are the shell's own business."""
    folders = [Path(folder) for folder in ctx.params.get("profiles") or ()]
    return _starting((file.name for file in profile.available(folders)), incomplete)


def boards(ctx: typer.Context, incomplete: str) -> list[str]:
    """`embedded` and the aliases of the ssh config."""
    given = ctx.params.get("ssh_config") or os.environ.get("EDGEKIT_SSH_CONFIG")
    return _starting((EMBEDDED, *_aliases(Path(given or Path.home() / ".ssh" / "config"))), incomplete)


def choices(*values: str) -> Callable[[str], list[str]]:
    """A completion with fixed words."""

    def complete(incomplete: str) -> list[str]:
        return _starting(values, incomplete)

    return complete


def _aliases(config: Path) -> list[str]:
    try:
        lines = config.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        key, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if key.lower() == "host":
            try:
                found += [name for name in shlex.split(rest, comments=True) if not set(name) & set("*?!")]
            except ValueError:  # an open quote; the config's own reader will say so
                continue
    return found


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})
