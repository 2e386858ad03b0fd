"""What a process costs that has just begun: the time to its first result, its memory, and its slowest runs."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.performance import peers

# All end with the best class, then the peak of the resident memory; each reads the frame from a file.
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
SMALLEST = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1] + "/model.tflite", num_threads=1)
interpreter.allocate_tensors()
given, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
interpreter.invoke()
frame = np.load(sys.argv[2])[None]
interpreter.set_tensor(given["index"], (frame ^ 128).view(np.int8) if given["dtype"] == np.int8 else frame)
interpreter.invoke()
print(interpreter.get_tensor(output["index"])[0].argsort()[-5:][::-1][0], flush=True)
"""
OURS = """
import sys
import numpy as np
from edgekit_runtime import Engine
engine = Engine.open(sys.argv[1], num_threads=1)
print(engine.classify([np.load(sys.argv[2])])[0][0].index, flush=True)
"""
# The first runs of a process, timed one by one: with and without a warm-up run before.
FIRST = """
import json, sys, time
from pathlib import Path
import numpy as np
frame, times, count = np.load(sys.argv[2]), [], int(sys.argv[3])
{make}
for _ in range(count):
    started = time.perf_counter()
    {run}
    times.append((time.perf_counter() - started) * 1e3)
print(json.dumps(times))
"""
_COLD = FIRST.format(
    make="from ai_edge_litert.interpreter import Interpreter\n"
    'one = Interpreter(model_path=sys.argv[1] + "/model.tflite", num_threads=1)\n'
    'one.allocate_tensors()\ngiven = one.get_input_details()[0]["index"]\n'
    'frame = (frame ^ 128).view(np.int8) if one.get_input_details()[0]["dtype"] == np.int8 else frame',
    run='one.set_tensor(given, frame[None]); one.invoke(); one.get_tensor(one.get_output_details()[0]["index"])',
)
_WARM = FIRST.format(
    make="from edgekit_runtime import Engine\nengine = Engine.open(Path(sys.argv[1]), num_threads=1)",
    run="engine.classify([frame])",
)
VARIANCE = {
    "interpreter, no warm-up": _COLD,
    "interpreter, one warm-up run": _COLD.replace("allocate_tensors()", "allocate_tensors(); one.invoke()"),
    "edgekit (one warm-up run)": _WARM,
}

# What a start consists of, so that each part's cost is seen: a name and the code, run one after the other.
PARTS = (
    ("NumPy", "import numpy as np"),
    ("ai-edge-litert", "from ai_edge_litert.interpreter import Interpreter"),
    ("Python's dataclasses, zlib", "import dataclasses, zlib"),
    ("edgekit's modules", "import edgekit_runtime.engine as module"),
    ("the release: manifest, golden samples, CRC-32, interpreter, warm-up",
     "engine = module.Engine.open(sys.argv[1])"),
    ("a frame to its class", "engine.classify([np.load(sys.argv[2])])"),
)  # fmt: skip
_PARTS = """
import json, sys, time
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
found = []
for code in json.loads(sys.argv[3]):
    before, started = peak(), time.perf_counter()
    exec(code)
    found.append([(time.perf_counter() - started) * 1e3, (peak() - before) / 1024])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Start:
    """Medians: seconds from the process's start to its first result, peak memory in MiB; both beside the smallest."""

    ms: float
    ratio: float
    peak_mb: float
    more_mb: float


@dataclass(frozen=True)
class Spread:
    """Of the first runs of fresh processes: the median run, p99 to it, and the first run to it."""

    median_ms: float
    p99: float
    first: float


def cold(release: Path, frame: Path, runs: int) -> Start:
    """edgekit beside the smallest script, which take turns; the first of each compiles and is not counted."""
    ours, smallest = [], []
    for number in range(runs + 1):
        both = (OURS, SMALLEST) if number % 2 else (SMALLEST, OURS)
        found = {code: _start(code, release, frame) for code in both}
        if number:
            ours.append(found[OURS])
            smallest.append(found[SMALLEST])
    return Start(
        ms=median(one[0] for one in ours),
        ratio=median(a[0] / b[0] for a, b in zip(ours, smallest, strict=True)),
        peak_mb=median(one[1] for one in ours),
        more_mb=median(a[1] - b[1] for a, b in zip(ours, smallest, strict=True)),
    )


def _start(code: str, release: Path, frame: Path) -> tuple[float, float]:
    command: list[str | Path] = [peers.python("litert"), "-P", "-c", code + PEAK, release, frame]
    begun = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=peers.variables()
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        ended = (time.perf_counter() - begun) * 1e3
        peak = process.stdout.readline()
    if process.returncode or not first:
        raise peers.PeerError(f"the script ended with {process.returncode}")
    return ended, int(peak) / 1024


def parts(release: Path, frame: Path, processes: int) -> list[tuple[str, float, float]]:
    """Each of PARTS: its name, ms, and MiB that the peak rose by."""
    codes = json.dumps([code for _, code in PARTS])
    found = [_said(_PARTS, release, frame, codes) for _ in range(processes)]
    return [
        (name, median(run[number][0] for run in found), median(run[number][1] for run in found))
        for number, (name, _) in enumerate(PARTS)
    ]


def _said(code: str, *words: str | Path) -> Any:
    """What a fresh process says as JSON."""
    command: list[str | Path] = [peers.python("litert"), "-P", "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=peers.variables())
    return json.loads(done.stdout)


def spreads(release: Path, frame: Path, processes: int, count: int) -> dict[str, Spread]:
    """Each way in `processes` fresh processes, in turns."""
    runs: dict[str, list[Sequence[float]]] = {name: [] for name in VARIANCE}
    for _ in range(processes):
        for name, code in VARIANCE.items():
            runs[name].append(_said(code, release, frame, str(count)))
    return {name: _spread(each) for name, each in runs.items()}


def _spread(runs: Sequence[Sequence[float]]) -> Spread:
    middles = [median(times) for times in runs]
    high = [sorted(times)[int(0.99 * len(times))] for times in runs]
    return Spread(
        median(middles),
        median(a / b for a, b in zip(high, middles, strict=True)),
        median(times[0] / b for times, b in zip(runs, middles, strict=True)),
    )
