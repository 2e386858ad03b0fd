"""`edgekit profiles` and `edgekit fetch`: the boards that edgekit knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgekit_runtime import schema

from edgekit.cli import complete, options, show
from edgekit.cli.help import Command, Group
from edgekit.profiles import profile
from edgekit.runtimes import resolve, wheelhouse

PANEL = "Profiles"

app = typer.Typer(
    cls=Group,
    help="List, show and check device profiles: the facts of each board, one TOML file each.",
    no_args_is_help=True,
)


def add_to(root: typer.Typer) -> None:
    root.command("fetch", cls=Command, rich_help_panel=PANEL)(fetch)
    root.add_typer(app, name="profiles", rich_help_panel=PANEL)


@app.command("list", cls=Command)
def list_profiles(profiles: options.Profiles = None, json: show.Json = False) -> None:
    """List the profiles of the search path.

    Folders in order: --profiles, $EDGEKIT_PROFILES, the user's, edgekit's own. The first that has a name wins.
    """
    files = profile.available(profiles or ())
    loaded = [(file, profile.load(file.path)) for file in files]
    if json:
        show.data([{**schema.plain(facts), "path": str(file.path)} for file, facts in loaded])
        return
    show.table(
        None,
        ["profile", "board", "architecture", "clusters", "RAM", "Python", "runtime"],
        [
            (
                facts.name,
                facts.description,
                facts.architecture,
                " + ".join(facts.clusters),
                f"{facts.ram_mb} MiB",
                facts.python,
                f"{facts.runtime} {facts.runtime_version}",
            )
            for _, facts in loaded
        ],
    )
    show.next_step("edgekit", "profiles", "show", "PROFILE")


@app.command("show", cls=Command)
def show_profile(
    name: Annotated[
        str,
        typer.Argument(metavar="PROFILE", help="A profile's name, or a .toml file.", autocompletion=complete.profiles),
    ],
    profiles: options.Profiles = None,
    json: show.Json = False,
) -> None:
    """Show the facts of one profile."""
    facts = profile.find(name, profiles or ())
    if json:
        show.data(facts)
        return
    rows = [(key, ", ".join(value) if isinstance(value, list) else value) for key, value in schema.plain(facts).items()]
    show.table(facts.description, ["key", "value"], rows)
    show.next_step("edgekit", "deploy", "MODEL", "BOARD", "-p", name, "-c", "DATA")


@app.command("check", cls=Command)
def check_profile(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .toml file to check.")], json: show.Json = False
) -> None:
    """Check a profile file: every key known, present and possible, and an interpreter exists for the board."""
    facts = profile.load(file)
    wheels = resolve.choose(facts)
    found = [f"{wheel.package} {wheel.version}" for wheel in wheels]
    if json:
        show.data({"profile": facts.name, "path": str(file), "wheels": found})
        return
    show.line(f"{file}: good ({', '.join(found)})")
    show.next_step("edgekit", "deploy", "MODEL", "BOARD", "-p", file, "-c", "DATA")


def fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="PROFILE", help="Profiles of the boards that will be deployed to.", autocompletion=complete.profiles
        ),
    ],
    profiles: options.Profiles = None,
    json: show.Json = False,
) -> None:
    """Fetch the runtimes that boards of these profiles need; afterwards nothing needs the internet.

    What is there already is not fetched again, so a fetch that was cut goes on. EDGEKIT_CACHE may name a folder on a
    stick, here and on the computer that has no network.

    Example: EDGEKIT_CACHE=/media/stick/edgekit edgekit fetch raspberry-pi-5 generic-armv7
    """
    boards = [profile.find(name, profiles or ()) for name in names]
    for facts in boards:
        resolve.choose(facts)  # a board that nothing fits is told before anything is fetched
    root = wheelhouse.cache_root()
    with show.progress() as update:
        trees = [(facts, resolve.fetch(facts, cache=root, progress=update)) for facts in boards]
    if json:
        show.data(
            [
                {
                    "profile": facts.name,
                    "runtime": f"{tree.package} {tree.version}",
                    "numpy": tree.numpy,
                    "files": len(tree.files),
                    "bytes": tree.total_size,
                    "wheel_bytes": tree.wheel_bytes,
                    "cache": str(root),
                }
                for facts, tree in trees
            ]
        )
        return
    show.table(
        None,
        ["profile", "runtime", "NumPy", "files", "sent to the board", "of wheels"],
        [
            (
                facts.name,
                f"{tree.package} {tree.version}",
                tree.numpy or "the board's own",
                len(tree.files),
                show.size(tree.total_size),
                show.size(tree.wheel_bytes),
            )
            for facts, tree in trees
        ],
    )
    folders = [root / name for name in wheelhouse.FOLDERS]
    held = f"{' and '.join(map(str, folders))} ({show.size(wheelhouse.size(root))})"
    show.say(
        f"for a computer without a network: copy {held} into one folder there, and name that folder in "
        f"{wheelhouse.ENVIRONMENT}"
    )
    show.next_step("cp", "-r", *folders, "STICK")
    show.next_step(
        f"{wheelhouse.ENVIRONMENT}=STICK", "edgekit", "deploy", "MODEL", "BOARD", "-p", names[0], "-c", "DATA"
    )
