"""Run a release's own runtime on the board: for anything, and for figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from edgekit_runtime import benchreport, schema
from edgekit_runtime.benchreport import BenchReport
from edgekit_runtime.plan import Tuning

from edgekit.board.control import status
from edgekit.board.errors import UnknownRelease, explain
from edgekit.board.firstboot import require_running
from edgekit.board.session import Board
from edgekit.errors import CheckFailed, DeviceError, EdgekitError, UserError
from edgekit.transport import Completed, RemotePath, TransferFailed

_SILENCE = 600.0  # seconds; a measurement says nothing until it is done
_ROOTS: dict[int, type[EdgekitError]] = {1: CheckFailed, 2: UserError, 3: DeviceError}
_MAKE_FOLDER = 'umask 077; mkdir -p "$1/cache" && mktemp -d "$1/cache/bench.XXXXXX"'


def run_runtime(
    board: Board,
    argv: Sequence[str],
    *,
    release_id: str | None = None,
    stdin: bytes | BinaryIO | None = None,
    timeout: float = _SILENCE,
    on_stderr: Callable[[str], None] | None = None,
) -> Completed:
    """`edgekit-runtime ARGV` of the current release (or `release_id`) on the board, whatever its status.

    Raises UnknownRelease, PythonMissing, Damaged and NotRunning when it cannot be started.
    """
    require_running(board, "run a release")
    words = ["exec", *([] if release_id is None else [release_id]), "--", *argv]
    done = board.start(words, stdin=stdin, timeout=timeout, on_stderr=on_stderr)
    stderr = done.stderr.decode("utf-8", "replace")
    if done.status and stderr.startswith("edgekit-board: "):
        raise explain(board.name, done.status, stderr, {})
    return done


def bench(
    board: Board,
    argv: Sequence[str] = (),
    *,
    release_id: str | None = None,
    timeout: float = _SILENCE,
    on_stderr: Callable[[str], None] | None = None,
) -> BenchReport:
    """Measure the current release (or `release_id`) on the board. `argv` are options of `edgekit-runtime bench`."""
    words = ["bench", "--json", *argv]
    return _report(board, run_runtime(board, words, release_id=release_id, timeout=timeout, on_stderr=on_stderr))


def bench_file(
    board: Board,
    model: Path,
    argv: Sequence[str] = (),
    *,
    timeout: float = _SILENCE,
    on_stderr: Callable[[str], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> BenchReport:
    """Measure a model file from a temporary folder on the board; no release changes.

    The runtime is that of the current release, else of the newest staged. Raises UnknownRelease when there is none.
    """
    require_running(board, "measure a model")
    found = status(board)
    release = found.current or found.staged or next(iter(found.releases), None)
    if release is None:
        raise UnknownRelease(
            f"{board.name}: no release is there whose runtime could measure {model.name}",
            hint="push a bundle first",
            board=board.name,
        )
    with temporary_folder(board) as folder:
        target = folder / "model.tflite"
        try:
            with model.open("rb") as source:
                size = source.seek(0, 2)
                board.transport.put(source, target, size=size, progress=progress)
        except OSError as error:
            raise UserError(f"{model}: cannot be read: {error.strerror or error}", path=str(model)) from error
        words = ["bench", "--json", "--model", str(target), *argv]
        return _report(board, run_runtime(board, words, release_id=release.id, timeout=timeout, on_stderr=on_stderr))


def tune(board: Board, max_secs: float, *, on_stderr: Callable[[str], None] | None = None) -> Tuning:
    """Measure the plans of the current release; the board keeps the best. `on_stderr` hears of each measurement."""
    words = ["tune", "--json", "--max-secs", str(max_secs)]
    done = run_runtime(board, words, timeout=_SILENCE + max_secs, on_stderr=on_stderr)
    if done.status:
        raise runtime_error(board.name, done)
    return schema.load_json(Tuning, done.stdout, f"{board.name}: tune")


@contextmanager
def temporary_folder(board: Board) -> Iterator[RemotePath]:
    """A folder on the board that is gone afterwards. Raises DeviceError."""
    board.install()
    made = board.transport.check(["sh", "-c", _MAKE_FOLDER, "sh", board.root])
    path = made.text.rstrip("\n")
    if not path.startswith(f"{board.root}/cache/bench."):
        raise TransferFailed(f"{board.name}: no temporary folder could be made: {path[:200]}", board=board.name)
    try:
        yield RemotePath(path)
    finally:
        # With the link gone it stays; gc and boot on the board remove it.
        with suppress(DeviceError):
            board.transport.run(["rm", "-rf", path])


def _report(board: Board, done: Completed) -> BenchReport:
    if done.status:
        raise runtime_error(board.name, done)
    return benchreport.loads(done.stdout, f"{board.name}: bench")


def runtime_error(board: str, done: Completed) -> EdgekitError:
    """The runtime's own error, from its JSON on standard output or its talk on standard error."""
    kind = _ROOTS.get(done.status, DeviceError)
    with suppress(ValueError):
        told = json.loads(done.text)
        if isinstance(told, dict) and isinstance(told.get("message"), str):
            fields = told.get("fields") if isinstance(told.get("fields"), dict) else {}
            hint = told.get("hint") if isinstance(told.get("hint"), str) else None
            return kind(f"{board}: {told['message']}", hint=hint, runtime_fields=fields, status=done.status)
    tail = done.stderr.decode("utf-8", "replace").strip()[-2000:]
    return kind(f"{board}: the runtime ended with status {done.status}: {tail}", status=done.status, stderr=tail)
