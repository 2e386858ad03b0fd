"""Which release is current: status, activate, rollback, check, collect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekit_runtime import manifest as manifests
from edgekit_runtime.manifest import MANIFEST, Manifest

from edgekit.board.answers import bad, is_sha256, number
from edgekit.board.errors import NoPreviousRelease, UnknownRelease
from edgekit.board.firstboot import install_unit, require_running
from edgekit.board.session import Board

STATES = ("IDLE", "RECEIVING", "STAGED", "CANARY", "TRIAL", "COMMITTED", "ROLLED_BACK")
_MANIFEST_LIMIT = 4 << 20
_CHECK_SECONDS = 330.0  # the program's own limit is 300


@dataclass(frozen=True)
class BoardRelease:
    """A release on a board: its id and the name in its RELEASE (`?` when that cannot be read)."""

    id: str
    name: str


@dataclass(frozen=True)
class Status:
    """What a board has. `pending` is what its next boot checks and activates, after `starts` attempts so far.

    `locked` says who is at work there now; sizes in KiB.
    """

    state: str
    current: BoardRelease | None
    previous: BoardRelease | None
    trial: BoardRelease | None
    staged: BoardRelease | None
    starts: int
    counter: int
    releases: tuple[BoardRelease, ...]
    store_kb: int
    free_kb: int
    pending: BoardRelease | None = None
    locked: str | None = None


def status(board: Board) -> Status:
    """Ask the board; changes nothing there."""
    return parse(board.ask("status"))


def activate(board: Board, release_id: str | None = None, *, on_stderr: Callable[[str], None] | None = None) -> Status:
    """Check the release on the board and make it current. None takes the newest staged; an id may be shortened.

    A mounted root file system cannot check anything: there the release is left to the next boot, as `pending`.
    `on_stderr` hears the lines of the check. Doing it again changes nothing. Raises CheckRejected (the old release
    stays current), UnknownRelease, Damaged, Locked, PythonMissing.
    """
    words = () if release_id is None else (release_id,)
    if not board.transport.runs:
        install_unit(board)
        return parse(board.call("defer", *words))
    return parse(board.call("activate", *words, timeout=_CHECK_SECONDS, on_stderr=on_stderr))


def rollback(board: Board) -> Status:
    """Take the pending release back, else make the previous one current; needs no Python there.

    Raises NoPreviousRelease, Damaged, Locked.
    """
    found = status(board)
    last = found.pending or found.current
    if last is None:
        raise NoPreviousRelease(
            f"{board.name}: no release is current, so there is none to roll back", hint="activate one", board=board.name
        )
    # Naming where from makes a repeated order harmless: it cannot swap back.
    return parse(board.call("rollback", last.id))


def check(board: Board, release_id: str | None = None) -> dict[str, str]:
    """Run the release's own check on the board, and change nothing else; what it found. Raises as `activate`."""
    require_running(board, "check a release")
    words = () if release_id is None else (release_id,)
    return dict(board.call("check", *words, timeout=_CHECK_SECONDS))


def current_manifest(board: Board) -> Manifest:
    """The manifest of the current release. Raises UnknownRelease when there is none, SchemaError."""
    current = status(board).current
    if current is None:
        raise UnknownRelease(
            f"{board.name}: no release is current", hint="push and activate a bundle first", board=board.name
        )
    text = board.transport.get(board.root / "releases" / current.id / MANIFEST, limit=_MANIFEST_LIMIT)
    return manifests.loads(text, f"{board.name}: {MANIFEST}")


def collect(board: Board) -> int:
    """Remove what no kept release needs, and unfinished uploads; the bytes freed."""
    answer = dict(board.call("gc"))
    return max(0, int(answer["freed"])) if answer.get("freed", "").lstrip("-").isdigit() else 0


def parse(lines: Sequence[tuple[str, str]]) -> Status:
    """Read the program's lines. Raises BadAnswer."""
    answer = dict(lines)
    if answer.get("state") not in STATES:
        raise bad("state", answer.get("state"))
    return Status(
        state=answer["state"],
        current=_release(answer, "current"),
        previous=_release(answer, "previous"),
        trial=_release(answer, "trial"),
        staged=_release(answer, "staged"),
        starts=number(answer, "starts"),
        counter=number(answer, "counter"),
        releases=tuple(_named(value) for key, value in lines if key == "release"),
        store_kb=number(answer, "store_kb"),
        free_kb=number(answer, "free_kb"),
        pending=_release(answer, "pending"),
        locked=answer.get("locked"),
    )


def _release(answer: Mapping[str, str], key: str) -> BoardRelease | None:
    value = answer.get(key, "")
    return None if value.split(" ")[0] == "-" else _named(value)


def _named(value: str) -> BoardRelease:
    sha256, _, name = value.partition(" ")
    if not is_sha256(sha256):
        raise bad("release", value)
    return BoardRelease(sha256, name)
