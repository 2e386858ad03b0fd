"""bench on this computer: the runtime's own command in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit_runtime import benchreport
from edgekit_runtime.benchreport import BenchReport

from edgekit.board.measure import runtime_error
from edgekit.errors import UserError
from edgekit.transport import Completed

TIME_LIMIT_S = 900


class ModelCrashed(UserError):
    """The interpreter's process died of the model. Fields: `path`, `signal` and `stderr`."""

    def __init__(self, model: Path, number: int, said: str) -> None:
        name = signal.Signals(number).name
        super().__init__(
            f"{model}: crashed its interpreter on this computer with {name}",
            hint="a board would crash too: is the file whole? Convert it again from the model that it was made from",
            path=str(model),
            signal=name,
            stderr=said[-2000:],
        )


def bench(model: Path, argv: Sequence[str] = (), *, timeout: float | None = TIME_LIMIT_S) -> BenchReport:
    """Measure a `.tflite` here. `argv` are options of `edgekit-runtime bench`. Raises what the runtime raises, and
    ModelCrashed.
    """
    command = [sys.executable, "-P", "-m", "edgekit_runtime", "bench", "--json", "--model", str(model), *argv]
    ended = subprocess.run(command, capture_output=True, timeout=timeout, check=False)
    if ended.returncode < 0:
        raise ModelCrashed(model, -ended.returncode, ended.stderr.decode("utf-8", "replace"))
    if ended.returncode:
        raise runtime_error("this computer", Completed(ended.returncode, ended.stdout, ended.stderr))
    return benchreport.loads(ended.stdout, "this computer: bench")
