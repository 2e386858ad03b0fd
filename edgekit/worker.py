"""Work with models in a process of its own: TensorFlow's and an interpreter's chatter, memory and crashes stay there.

The parent calls `run`; the child is `python -m edgekit.worker JOB`, reads one JSON request from standard input and
answers with JSON lines: progress, then one result or one error. Everything else that the child writes goes to a log.
"""

import contextlib
import ctypes
import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from edgekit.errors import CheckFailed, DeviceError, EdgekitError, UserError

Progress = Callable[[str, int, int], None]
JOBS = {
    "inspect": "edgekit.models.inspection",
    "delegation": "edgekit.models.delegation",
    "convert": "edgekit.conversion.quantize",
    "prove": "edgekit.conversion.prove",
    "rung": "edgekit.conversion.rungs",
    "layers": "edgekit.conversion.layers",
    "pruning": "edgekit.conversion.pruning",
    "examples": "edgekit.conversion.examples",
    "doctor": "edgekit.conversion.doctor",
    "checkup": "edgekit.conversion.checkup",
    "validate": "edgekit.validation.comparison",
    "digits": "edgekit.demo",
}
# Same bytes from the same inputs: fixed hashing, no graphics card, no kernels that depend on oneDNN's choices. One
# thread for NumPy: its own and the interpreter's would wait for each other (11 ms for 18,000 products were seen).
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "KERAS_BACKEND": "tensorflow",
    "TF_USE_LEGACY_KERAS": "0",
    "PYTHONUNBUFFERED": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_ROOTS = {root.kind: root for root in (UserError, CheckFailed, DeviceError)}


FULL = (errno.ENOSPC, errno.EDQUOT)


class WorkerError(RuntimeError):
    """A bug of ours in the child; the text holds the child's traceback."""


def run(
    job: str,
    request: dict[str, Any],
    *,
    what: str,
    log: Path | None = None,
    progress: Progress | None = None,
    time_limit_s: float | None = None,
) -> Any:
    """Do `job` in a child and return its result. `what` names the work in errors, for example "converting x.keras".

    Raises the child's own UserError or CheckFailed; CheckFailed when the child crashes or takes too long.
    """
    with _log_file(log) as output, _temporary() as temporary:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgekit.worker", job],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env={**os.environ, **ENVIRONMENT, "TMPDIR": temporary},
            text=True,
            start_new_session=True,
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            _kill(child)

        timer = threading.Timer(time_limit_s or threading.TIMEOUT_MAX, stop)
        timer.daemon = True
        if time_limit_s is not None:
            timer.start()
        try:
            answer = _converse(child, request, progress)
            code = child.wait()
        finally:
            timer.cancel()
            _kill(child)
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        if "result" in answer:
            return answer["result"]
        if "error" in answer:
            raise _error(answer["error"])
        if "bug" in answer:
            raise WorkerError(answer["bug"])
        if late.is_set():
            raise CheckFailed(f"{what} took longer than {time_limit_s:g} s and was stopped", log=_path(log))
        raise _crash(what, code, output, log)


def no_room(words: str | None = None) -> UserError:
    """The error of a full disk."""
    return UserError(
        "no room left on the device while the model was written; nothing of it is kept",
        hint="make room where the output goes and for temporary files (TMPDIR): several times the model's size",
        words=words,
    )


def is_full(error: Exception) -> bool:
    """Whether a disk, or memory, was full: the caller's machine, and no model's fault."""
    full = isinstance(error, OSError) and error.errno in FULL
    return full or isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def give_back() -> None:
    """Return to the system what has been freed, which GNU's C library keeps, before a long stage begins."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _converse(child: "subprocess.Popen[str]", request: dict[str, Any], progress: Progress | None) -> dict[str, Any]:
    assert child.stdin is not None  # mypy: both are pipes
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(request))
        child.stdin.close()
    for line in child.stdout:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if "progress" not in message:
            return dict(message)
        if progress is not None:
            progress(*message["progress"])
    return {}


def _error(data: dict[str, Any]) -> EdgekitError:
    return _ROOTS[data["error"]](data["message"], hint=data["hint"], **data["fields"])


def _crash(what: str, code: int, output: IO[bytes], log: Path | None) -> CheckFailed:
    if code == -signal.SIGKILL:
        reason = "was killed, probably because memory ran out"
    elif code < 0:
        reason = f"crashed with {signal.Signals(-code).name}"
    else:
        reason = f"ended with exit code {code} and no answer"
    output.flush()
    output.seek(max(0, output.seek(0, os.SEEK_END) - 2000))
    last = output.read().decode("utf-8", "replace").strip().splitlines()
    return CheckFailed(
        f"{what} {reason}",
        hint=f"the log is {log}" if log else "last words: " + " ".join(last[-3:])[-400:],
        log=_path(log),
        exit_code=code,
    )


def _kill(child: "subprocess.Popen[str]") -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextlib.contextmanager
def _log_file(log: Path | None) -> Iterator[IO[bytes]]:
    if log is None:
        with tempfile.TemporaryFile() as file:
            yield file
        return
    try:
        file = log.open("a+b")
    except OSError as error:
        raise UserError(f"{log}: cannot write the log: {error.strerror}", log=str(log)) from error
    with file:
        yield file


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    """A folder for what the child, which may crash, and TensorFlow, which does not clean up, leave behind."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="edgekit-", ignore_cleanup_errors=True)
    except OSError as error:
        raise no_room() if error.errno in FULL else UserError(f"no temporary folder: {error}") from error
    with folder as name:
        yield name


def _path(log: Path | None) -> str | None:
    return None if log is None else str(log)


def main() -> int:
    """The child's side."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def answer(**message: object) -> None:
        answers.write(json.dumps(message) + "\n")

    def progress(stage: str, done: int, total: int) -> None:
        answer(progress=[stage, done, total])

    job = sys.argv[1]
    try:
        request = json.load(sys.stdin)
        work = importlib.import_module(JOBS[job]).work
        answer(result=work(request, progress))
    except EdgekitError as error:
        answer(error=error.to_dict())
    except OSError as error:  # no space, no permission: the caller's machine, not our code
        full = error.errno in FULL
        answer(
            error=no_room().to_dict()
            if full
            else UserError(f"{error.filename or job}: {error.strerror or error}").to_dict()
        )
    except MemoryError:
        answer(error=CheckFailed("memory ran out").to_dict())
    except Exception as error:
        if type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's word for a full disk or memory
            answer(error=no_room(str(error).splitlines()[0]).to_dict())
        else:
            answer(bug=traceback.format_exc())
    return 0


if __name__ == "__main__":
    code = main()
    # All is said and written; TensorFlow would take a second to clean up what ends with the process.
    sys.stderr.flush()
    os._exit(code)
