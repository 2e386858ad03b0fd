"""The other ways, each in an environment of its own, and the processes that take turns there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).parents[2]
CACHE = Path.home() / ".cache/edgekit/peers"
LITERT = ("ai-edge-litert==2.3.0", "numpy", "pillow")
REQUIREMENTS: Mapping[str, Sequence[str]] = {
    "litert": LITERT,
    "opencv": (*LITERT, "opencv-python-headless"),
    "mediapipe": ("mediapipe",),
    "task-library": ("tflite-support==0.4.4", "numpy<2", "opencv-python-headless<4.12"),
    "openvino": ("openvino", "pillow", "opencv-python-headless"),
}
SHOWN = ("ai-edge-litert", "mediapipe", "tflite-support", "openvino", "opencv-python-headless", "pillow", "numpy")


class PeerError(Exception):
    """A peer cannot be had on this computer, or ended."""


def python(environment: str) -> Path:
    """Its interpreter; the environment is made once. "tensorflow" is the one that this script runs in.

    Raises PeerError when the packages cannot be had for this Python.
    """
    if environment == "tensorflow":
        return Path(sys.executable)
    wanted = "\n".join(REQUIREMENTS[environment])
    folder = CACHE / f"{environment}-{sys.version_info.major}.{sys.version_info.minor}"
    made, program = folder / "requirements.txt", folder / "bin/python"
    if not made.exists() or made.read_text() != wanted:
        venv.create(folder, clear=True, with_pip=True)
        command: list[str | Path] = [program, "-m", "pip", "install", "--quiet", *REQUIREMENTS[environment]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
        made.write_text(wanted)
    return program


def versions(environment: str) -> dict[str, str]:
    """Of the packages worth naming."""
    done = subprocess.run(
        [python(environment), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {each["name"]: each["version"] for each in json.loads(done.stdout) if each["name"] in SHOWN}


def variables(**more: str) -> dict[str, str]:
    """The environment variables of a worker: it sees this repository and nothing else of ours.

    Python may keep what it compiles, as it does when a package is installed.
    """
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'runtime'}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        **more,
    }


class Worker:
    """One contestant in one process: ready once it is made, then told how many times to run.

    `answer` is what it made of its picture. Raises PeerError.
    """

    def __init__(self, environment: str, contestant: str, **options: Any) -> None:
        self._process = subprocess.Popen(
            [python(environment), "-P", "-m", "benchmarks.performance.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables(),
            cwd=REPOSITORY,
        )  # fmt: skip
        self.answer = self._ask({"contestant": contestant, "options": options})["answer"]

    def run(self, times: int) -> dict[str, list[float]]:
        """The milliseconds of each run, by what was run."""
        found: dict[str, list[float]] = self._ask({"run": times})
        return found

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            _, errors = self._process.communicate()
            if self._process.returncode < 0:
                raise PeerError(f"died of signal {-self._process.returncode}")
            raise PeerError((errors.strip().splitlines() or ["ended without a word"])[-1][:300])
        return json.loads(line)


@contextmanager
def workers(
    wanted: Mapping[str, tuple[str, str, dict[str, Any]]],
) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """All that can be made, by name, and why the others cannot."""
    made: dict[str, Worker] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        for name, (environment, contestant, options) in wanted.items():
            try:
                made[name] = Worker(environment, contestant, **options)
            except PeerError as error:
                missing[name] = str(error)
                print(f"    {name}: {error}", file=sys.stderr)
            else:
                stack.callback(made[name].close)
        yield made, missing


Times = dict[str, list[list[float]]]


def turns(made: Mapping[str, Worker], rounds: int, runs: int) -> Times:
    """Each worker `runs` times in each round, first one first and then last one first: times by round."""
    found: Times = {}
    for number in range(rounds + 1):
        names = list(made) if number % 2 else list(made)[::-1]
        for name in names:
            for part, times in made[name].run(runs).items():
                if number:  # the first round warms up
                    found.setdefault(f"{name}{part}", []).append(times)
    return found


def ratio(times: Times, name: str, base: str) -> float:
    """The median of all rounds of the ratio of a round's medians: what slows a whole round cancels out."""
    return median(median(a) / median(b) for a, b in zip(times[name], times[base], strict=True))


def ms(times: Times, name: str) -> float:
    return median(value for each in times[name] for value in each)
