"""`scripts/board`: standard output is data, standard error is talk."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

from edgekit_runtime.errors import EdgekitError, UserError

from boards import control, kinds, tree
from boards.kind import Limits
from boards.state import BoardInfo, State, default_boards


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, 2 for what the caller can mend, 3 when the board fails."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
        return 0
    except EdgekitError as error:
        print(f"board: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="board", description="Emulated ARM boards that answer SSH on loopback.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    up = verbs.add_parser("up", help="build the board if need be and start it")
    _board(up)
    up.add_argument("--fresh-home", action="store_true", help="empty the board user's home first")
    up.add_argument("--json", action="store_true", help="print how to reach it as JSON")
    _limits(up)
    up.set_defaults(run=_up)

    down = verbs.add_parser("down", help="stop it")
    _board(down)
    down.set_defaults(run=_down)

    cut = verbs.add_parser("cut", help="cut the power of a board that has a disk of its own")
    _board(cut)
    cut.set_defaults(run=_cut)

    status = verbs.add_parser("status", help="which boards are up")
    _state(status)
    status.add_argument("--json", action="store_true", help="the boards that are up, as JSON")
    status.set_defaults(run=_status)

    remove = verbs.add_parser("rm", help="delete it: userland, keys, home and disk")
    _board(remove)
    remove.set_defaults(run=_remove)

    needs = verbs.add_parser("needs", help="print the Debian packages that boards need")
    needs.set_defaults(run=_needs)

    inside = verbs.add_parser("_run")  # what `up` starts in namespaces of their own
    _board(inside)
    inside.add_argument("--tree", type=Path, required=True)
    _limits(inside)
    inside.set_defaults(run=_inside)
    return parser


def _board(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="BOARD", help=f"one of: {', '.join(kinds.KINDS)}")
    _state(parser)


def _state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", type=Path, help="folder of this board's keys, home and log: a board of its own")


def _limits(parser: argparse.ArgumentParser) -> None:
    limits = Limits()
    parser.add_argument(
        "--small-size", type=_size, default=limits.small_size, help="size of /mnt/small (default %(default)s)"
    )
    parser.add_argument(
        "--max-minutes",
        type=_minutes,
        default=limits.max_minutes,
        help="stop by itself after so long; 0: never (default %(default)s)",
    )


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,11}[KMG]?", text):
        raise argparse.ArgumentTypeError("a size is a number with K, M or G, as 16M")
    return text


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 <= minutes <= 1e6:
        raise ValueError(text)
    return minutes


def _place(arguments: argparse.Namespace) -> control.Place:
    boards = default_boards()
    state = State((arguments.state or boards / arguments.kind).absolute())
    kind = state.kind()
    if kind not in (None, arguments.kind):
        raise UserError(
            f"{state.folder} is the state of a board of the kind {kind}, not {arguments.kind}",
            hint=f"name another folder, or delete that board: {control.SCRIPT} rm {kind} --state {state.folder}",
        )
    return control.Place(state, boards / "trees")


def _say(text: str) -> None:
    print(f"board: {text}", file=sys.stderr, flush=True)


def _up(arguments: argparse.Namespace) -> None:
    kind = kinds.find(arguments.kind)
    limits = Limits(arguments.small_size, arguments.max_minutes)
    info, started = control.up(kind, _place(arguments), limits, fresh_home=arguments.fresh_home, say=_say)
    _say(f"{kind.name} is up" if started else f"{kind.name} is already up")
    if arguments.json:
        print(info.to_json())
    else:
        _show(info)


def _show(info: BoardInfo) -> None:
    print(Path(info.ssh_config).read_text("utf-8"), end="")
    _say(f"log in:   ssh -F {info.ssh_config} {info.name}")
    _say(f"edgekit:  export EDGEKIT_SSH_CONFIG={info.ssh_config}   and the BOARD is {info.name}")
    _say(f"host key: {info.host_key_fingerprint}")


def _down(arguments: argparse.Namespace) -> None:
    kind = kinds.find(arguments.kind)
    info = control.down(kind, _place(arguments))
    _say(f"{kind.name} was not up" if info is None else f"{kind.name} is down")


def _cut(arguments: argparse.Namespace) -> None:
    kind = kinds.find(arguments.kind)
    info = control.cut(kind, _place(arguments))
    _say(f"{kind.name} was not up" if info is None else f"the power of {kind.name} is cut")


def _status(arguments: argparse.Namespace) -> None:
    boards = default_boards()
    states = {name: State(boards / name) for name in kinds.KINDS}
    if arguments.state is not None:
        state = State(arguments.state.absolute())
        states = {name: state for name in kinds.KINDS if name == state.kind()}
        if not states:
            raise UserError(f"{state.folder} is no board's state", hint="'up BOARD --state DIR' makes one")
    running = {name: state.running() for name, state in states.items()}
    if arguments.json:
        print(json.dumps([asdict(info) for info in running.values() if info], indent=2))
        return
    for name, info in running.items():
        if info:
            print(f"{name}  up  {info.host}:{info.port}  pid {info.pid}")
        else:
            built = tree.path(kinds.KINDS[name], boards / "trees").is_dir()
            print(f"{name}  down" if built else f"{name}  not built")


def _remove(arguments: argparse.Namespace) -> None:
    kind = kinds.find(arguments.kind)
    used = control.remove(kind, _place(arguments))
    _say(f"{kind.name} is deleted")
    for kept in used:
        _say(f"kept {kept}: another board runs from it")


def _needs(_arguments: argparse.Namespace) -> None:
    print("\n".join(kinds.needs(*kinds.KINDS.values())))


def _inside(arguments: argparse.Namespace) -> None:
    if arguments.state is None:
        raise UserError("_run needs --state")
    limits = Limits(arguments.small_size, arguments.max_minutes)
    kind = kinds.find(arguments.kind)
    kind.form.run(kind, arguments.tree, State(arguments.state), limits)
