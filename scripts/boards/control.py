"""What a person does with a board: up, down, cut, status, rm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit_runtime.errors import DeviceError, UserError

from boards import tree
from boards.kind import BoardKind, Limits
from boards.kinds import needs
from boards.lock import locked
from boards.state import BoardInfo, State, start_of

SCRIPT = Path(__file__).resolve().parents[1] / "board"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where a board is kept: its own state, and the trees that boards share."""

    state: State
    trees: Path


def require(kind: BoardKind) -> None:
    """Stop before anything is done when this machine cannot run a board.

    Raises:
        UserError: not root, packages missing, or no namespaces; what is missing and how to get it.
    """
    if os.geteuid() != 0:
        raise UserError("a board needs root: it mounts and changes root", hint=f"sudo {SCRIPT} up {kind.name}")
    if not sys.platform.startswith("linux") or shutil.which("apt-get") is None:
        raise UserError("a board is made from Debian packages by apt, which this machine lacks", hint="use Debian 12")
    missing = [package for package, here in needs(kind).items() if not here]
    if missing:
        names = " ".join(missing)
        raise UserError(f"Debian packages are missing: {names}", hint=f"apt-get update && apt-get install {names}")
    argv = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise UserError(
            f"this machine lets root make no namespaces: {done.stderr.strip()}",
            hint="in a container: start it privileged",
        )


def up(kind: BoardKind, place: Place, limits: Limits, *, fresh_home: bool, say: Say) -> tuple[BoardInfo, bool]:
    """The running board, and whether it was started by this call.

    Raises:
        UserError: this machine cannot run it.
        DeviceError: it cannot be built or does not answer.
    """
    require(kind)
    state = place.state
    state.folder.mkdir(parents=True, exist_ok=True)
    with locked(state.lock, say=say):
        info = state.running()
        started = info is None
        if info is None:
            root = tree.ensure(kind, place.trees, say)
            state.prepare(kind)
            kind.form.prepare(kind, root, state)
            info = _start(kind, root, state, limits)
        if fresh_home:
            kind.form.empty_home(kind, info)
        return info, started


def down(kind: BoardKind, place: Place) -> BoardInfo | None:
    """Stop the board; what was running, if anything.

    Raises:
        UserError: it belongs to root.
        DeviceError: it cannot be stopped.
    """
    return _end(place.state, "down", (signal.SIGTERM, signal.SIGKILL), kind.form.STOP_SECONDS)


def cut(kind: BoardKind, place: Place) -> BoardInfo | None:
    """Cut the board's power: what it had not written to its disk yet is lost. What was running, if anything.

    Raises:
        UserError: it has no disk of its own, or belongs to root.
        DeviceError: it cannot be stopped.
    """
    info = place.state.running()
    if info is not None and info.image is None:
        raise UserError(f"{kind.name} has no disk of its own to lose anything", hint=f"{SCRIPT} down {kind.name}")
    return _end(place.state, "cut", (signal.SIGKILL,), kind.form.STOP_SECONDS)


def _end(state: State, verb: str, signals: tuple[signal.Signals, ...], seconds: float) -> BoardInfo | None:
    if not state.folder.is_dir():
        return None
    info = state.running()
    if info is None:
        return None
    _need_root(verb)
    with locked(state.lock):
        _stop(info, signals, seconds)
        (state.run / "board.json").unlink(missing_ok=True)
    return info


def remove(kind: BoardKind, place: Place) -> list[Path]:
    """Delete the board and the trees of its kind; the trees kept because other boards run from them.

    Raises:
        UserError: it is up.
    """
    _need_root("rm")
    if place.state.folder.is_dir():
        with locked(place.state.lock):
            if place.state.running():
                raise UserError(f"{kind.name} is up", hint=f"{SCRIPT} down {kind.name}")
            with locked(place.state.held, wait=False):
                _delete_state(place.state)
    return tree.prune(kind, place.trees)


def _delete_state(state: State) -> None:
    """Only what boards make: the folder may have been named by the user."""
    for folder in (state.run, state.home, state.disk, state.keys):
        if folder.is_dir():
            tree.delete(folder)
    state.held.unlink()
    state.lock.unlink()
    if not any(state.folder.iterdir()):
        state.folder.rmdir()


def _need_root(verb: str) -> None:
    if os.geteuid() != 0:
        raise UserError(f"a board belongs to root, who alone can do '{verb}'", hint="put sudo before it")


def _start(kind: BoardKind, root: Path, state: State, limits: Limits) -> BoardInfo:
    argv = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--kill-child", "--propagation", "private"]
    argv += [sys.executable, str(SCRIPT), "_run", kind.name, "--tree", str(root), "--state", str(state.folder)]
    argv += ["--small-size", limits.small_size, "--max-minutes", str(limits.max_minutes)]
    with open(state.log, "wb") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
        )
    try:
        deadline = time.monotonic() + kind.form.START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            info = state.running()
            if info is not None:
                return info
            time.sleep(0.02)
        last = state.log.read_text("utf-8", "replace").splitlines()[-8:]
        raise DeviceError("the board does not start:\n  " + "\n  ".join(last), hint=f"its log: {state.log}")
    except BaseException:
        process.kill()
        process.wait()
        raise


def _stop(info: BoardInfo, signals: tuple[signal.Signals, ...], seconds: float) -> None:
    """End the board's first process by the first signal that does; with it end, by the kernel, all others."""
    try:
        handle = os.pidfd_open(info.pid)
    except ProcessLookupError:
        return
    try:
        leader = os.getsid(info.pid)  # unshare, which waits for the board
        for number in signals:
            if not info.alive():
                break
            signal.pidfd_send_signal(handle, number)
            _wait_gone((info.pid, leader), seconds)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
    if info.alive():
        raise DeviceError(f"process {info.pid} of the board does not end")


def _wait_gone(pids: tuple[int, ...], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(start_of(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
