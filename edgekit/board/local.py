"""bench on this computer: the runtime's own command in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit_runtime import benchreport
from edgekit_runtime.benchreport import BenchReport

from edgekit.board.measure import runtime_error
from edgekit.transport import Completed

TIME_LIMIT_S = 900


def bench(model: Path, argv: Sequence[str] = (), *, timeout: float | None = TIME_LIMIT_S) -> BenchReport:
    """Measure a `.tflite` here. `argv` are options of `edgekit-runtime bench`. Raises what the runtime raises."""
    command = [sys.executable, "-P", "-m", "edgekit_runtime", "bench", "--json", "--model", str(model), *argv]
    ended = subprocess.run(command, capture_output=True, timeout=timeout, check=False)
    if ended.returncode:
        status = ended.returncode if ended.returncode > 0 else 128 - ended.returncode
        raise runtime_error("this computer", Completed(status, ended.stdout, ended.stderr))
    return benchreport.loads(ended.stdout, "this computer: bench")
