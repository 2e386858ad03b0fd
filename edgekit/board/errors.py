"""What a board can answer instead of doing what it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.errors import CheckFailed, DeviceError, EdgekitError, UserError
from edgekit.transport import NoSpace, ReadOnlyTarget


class BoardMismatch(UserError):
    """The board is not what the profile says: choose or mend a profile. Field `mismatches`: field, wanted, found."""


class NothingFits(CheckFailed):
    """No runtime that edgekit can send runs on the board. Fields `reason`, `facts`, `server`."""


class UnknownRelease(UserError):
    """The board has no such release."""


class CheckRejected(CheckFailed):
    """The release did not pass its check on the board; the board keeps the release it had. Field `reason`."""


class NotRunning(UserError):
    """The board is a mounted root file system, and what was asked for needs one that runs."""


class NoPreviousRelease(CheckFailed):
    """There is nothing to roll back to."""


class Damaged(CheckFailed):
    """A release, a content or an upload on the board is not what its hash says. Pushing the bundle again repairs it."""


class Locked(DeviceError):
    """Another command is at work on the board. Fields `holder`, `pid`, `seconds`."""


class PythonMissing(DeviceError):
    """The board has no python3, or one older than 3.7."""


class BoardFailed(DeviceError):
    """Any other failure that the board's program explained. Field `code`."""


def explain(board: str, status: int, stderr: str, answer: Mapping[str, str]) -> EdgekitError:
    """The error for `edgekit-board: CODE: sentence`, the first such line of `stderr`. `answer` is standard output."""
    talk = stderr.splitlines()
    marked = [line for line in talk if line.startswith("edgekit-board: ") and line.count(": ") >= 2]
    if not marked:
        tail = stderr.strip()[-2000:]
        return BoardFailed(f"{board}: the board's program ended with status {status}: {tail}", board=board, code="")
    _, code, sentence = marked[0].split(": ", 2)
    reason = "\n".join(line for line in talk if line not in marked)
    fields: dict[str, Any] = {"board": board, "code": code}
    if code == "locked":
        fields |= {key: answer.get(key) for key in ("holder", "pid", "seconds")}
    if code == "check-failed":
        fields["reason"] = reason
        sentence = f"{sentence}: {_last(reason)}" if reason else sentence
    kind, hint = _KINDS.get(code, (_BY_STATUS.get(status, BoardFailed), None))
    return kind(f"{board}: {sentence}", hint=hint, **fields)


def _last(reason: str) -> str:
    """The line that tells why: the runtime's own words, else the last line of a traceback."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("edgekit-runtime: ")]
    return own[-1].removeprefix("edgekit-runtime: ") if own else lines[-1] if lines else ""


_PUSH_AGAIN = "push the bundle again: what is intact on the board is kept"
_KINDS: dict[str, tuple[type[EdgekitError], str | None]] = {
    "locked": (Locked, "wait until it is done; a holder that is gone is noticed by itself"),
    "no-space": (NoSpace, "remove files on the board; edgekit's own leftovers are removed by themselves"),
    "read-only": (ReadOnlyTarget, "mount the file system read-write, or set EDGEKIT_ROOT to a folder of the user's"),
    "no-python": (PythonMissing, "install python3 (3.7 or newer) on the board"),
    "old-python": (PythonMissing, "install Python 3.7 or newer on the board"),
    "check-failed": (CheckRejected, "the board keeps the release it had"),
    "damaged": (Damaged, _PUSH_AGAIN),
    "hash-mismatch": (Damaged, _PUSH_AGAIN),
    "incomplete": (Damaged, _PUSH_AGAIN),
    "no-previous": (NoPreviousRelease, "push and activate a second release first"),
    "no-release": (UnknownRelease, "push and activate a bundle first"),
    "unknown-release": (UnknownRelease, "'edgekit status BOARD' lists the releases"),
    "no-sha256": (BoardFailed, "install coreutils, busybox or openssl on the board"),
    "no-links": (BoardFailed, "choose a file system such as ext4 with EDGEKIT_ROOT"),
    "damaged-state": (BoardFailed, "move that file away: the releases stay, then activate one"),
}
_BY_STATUS: dict[int, type[EdgekitError]] = {1: CheckFailed, 2: UserError}
