"""The `edgekit` command."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

import edgekit
from edgekit.cli import bench, boards, deploy, figures, models, probe, profiles, show, tune
from edgekit.cli.help import Group
from edgekit.errors import EdgekitError

NAME = "edgekit"
INTERRUPTED = 130
_ENDS = (signal.SIGTERM, signal.SIGHUP)

app = typer.Typer(
    name=NAME,
    cls=Group,
    help=(
        "From a trained TensorFlow model to a measured INT8 release on an ARM Linux board.\n\n"
        "A BOARD is an SSH destination (user@host, user@host:port, an alias of ~/.ssh/config), 'embedded', "
        "a board that edgekit runs on this computer, or dir:FOLDER, a mounted card. Start with: edgekit demo"
    ),
    epilog=(
        "Results go to standard output (--json for programs), talk to standard error. "
        "Exit codes: 0 done, 1 a check did not hold, 2 wrong input, 3 board or link failed."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"{NAME} {edgekit.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# The order is that of the help.
deploy.add_to(app)
models.add_to(app)
boards.add_to(app)
bench.add_to(app)
tune.add_to(app)
probe.add_to(app)
profiles.add_to(app)


def _end(number: int, _frame: object) -> None:
    """What is half done is cleaned up on the way out."""
    sys.exit(128 + number)


def main() -> None:
    """Run the command line; expected failures end in their exit code, our own bugs in a traceback."""
    for number in _ENDS:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup's choice stays
            signal.signal(number, _end)
    try:
        app(prog_name=NAME)  # a usage error ends here, in Typer's own words
    except SystemExit as end:
        if end.code in (INTERRUPTED, *(128 + number for number in _ENDS)):  # of which Typer says nothing
            show.say("interrupted")
        raise
    except EdgekitError as failure:
        figures.show_refused(failure)
        show.error(failure, as_json="--json" in sys.argv)
        sys.exit(failure.exit_code)
