"""What a conversion costs beside TensorFlow's own converter: writes docs/conversion.md.

Each model is converted by turns with the script of TensorFlow's documentation (`plain_converter.py`), with
`edgekit.convert`, and with the command `edgekit convert`, from the same 200 pictures to the same input and output
types. Every run is a fresh process without a cache; the figures are medians.

`.venv/bin/python -m benchmarks.conversion [RUNS]` needs the models and data beside the repository in ../shared.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit_runtime import environment

from edgekit.conversion.key import computer
from edgekit.datasets.dataset import open_dataset
from edgekit.datasets.pictures import Pictures
from tests.deploy import agreement
from tests.deploy.agreement import SHARED

PAGE = Path(__file__).parents[1] / "docs/conversion.md"
SCRIPT = Path(__file__).with_name("plain_converter.py")
PROFILE = "generic-aarch64"  # int8 in and out: what the script asks for
SAMPLES = 200
RUNS = 5
MB = 1024 * 1024
API = """
import sys; from pathlib import Path; import edgekit
model, data, limits, output, profile = sys.argv[1:]
edgekit.convert(Path(model), profile=edgekit.find_profile(profile), data=Path(data), output=Path(output),
                declaration=edgekit.declare(range=limits))
"""


@dataclass(frozen=True)
class Case:
    """A model of ../shared/models, the range of its pixels, and where its pictures are taken from."""

    name: str
    model: str
    limits: str
    pictures: Callable[[Path], Path]


@dataclass(frozen=True)
class Cost:
    """Wall and processor time in seconds; memory in MiB: of the largest process, and of all at once (shared pages
    counted in each).
    """

    seconds: float
    cpu_seconds: float
    largest_mb: float
    together_mb: float


CASES = (
    Case("CIFAR-10 ResNet8 (.h5)", "cifar10_resnet8_h5_keras2/pretrainedResnet.h5", "0..255", agreement.objects),
    Case(
        "MobileNetV1 0.25 224 (.h5)",
        "imagenet_mobilenetv1_025_224_h5_keras2/mobilenet_v1_0.25_224.h5",
        "-1..1",
        agreement.things,
    ),
    Case("PoseNet MobileNetV1 (SavedModel)", "posenet_mnv1_savedmodel/saved_model", "-1..1", agreement.things),
)
WAYS = ("script", "edgekit.convert", "edgekit convert")


def commands(case: Case, folder: Path) -> dict[str, list[str | Path]]:
    """What is run, by way; the pictures are copied into `folder` so that all read the same and no others."""
    data = _pictures(case.pictures(folder), folder / "pictures")
    listing = folder / "pictures.txt"
    listing.write_text("\n".join(map(str, sorted(data.iterdir()))))
    model, output = SHARED / "models" / case.model, folder / "out.tflite"
    words: list[str | Path] = [model, data, case.limits, output, PROFILE]
    options: list[str | Path] = [
        "-p",
        PROFILE,
        "-c",
        data,
        "--range",
        case.limits,
        "--samples",
        str(SAMPLES),
        "--no-cache",
        "-o",
        output,
    ]
    return {
        "script": [sys.executable, SCRIPT, model, listing, case.limits, output],
        "edgekit.convert": [sys.executable, "-c", API, *words],
        "edgekit convert": [sys.executable, "-P", "-m", "edgekit", "convert", model, *options],
    }


def measure(case: Case, runs: int, folder: Path) -> dict[str, Cost]:
    """The medians of each way, which take turns."""
    ways = commands(case, folder)
    seen: dict[str, list[Cost]] = {way: [] for way in ways}
    for number in range(runs):
        for way, command in ways.items():
            seen[way].append(run(command))
            print(f"{case.name}: {way}, {number + 1} of {runs}: {seen[way][-1]}", file=sys.stderr)
    return {
        way: Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in Cost.__annotations__))
        for way, costs in seen.items()
    }


def run(command: Sequence[str | Path]) -> Cost:
    """Run it to its end. Raises CalledProcessError with what it said."""
    most = 0
    begun = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        ended = threading.Event()

        def watch() -> None:
            nonlocal most
            while not ended.wait(0.1):
                most = max(most, _together(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        # Of the process and all its children that it has waited for, the largest.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        ended.set()
        watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, said.read().decode("utf-8", "replace"))
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, most / MB)


def _together(pid: int) -> int:
    """Resident bytes of a process and all below it."""
    total, found = 0, [pid]
    while found:
        one = found.pop()
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:  # it has just ended
            continue
    return total


def _pictures(source: Path, folder: Path) -> Path:
    data = open_dataset(source)
    assert isinstance(data.source, Pictures)  # mypy: all cases have pictures
    folder.mkdir()
    for number, index in enumerate(data.order(0)[:SAMPLES]):
        path = data.source.root / data.names[index]
        shutil.copyfile(path, folder / f"{number:03d}{path.suffix}")
    return folder


def page(measured: dict[str, dict[str, Cost]], runs: int) -> str:
    """The text of docs/conversion.md."""
    here, versions = environment.read(), computer()["versions"]
    rows = []
    for name, costs in measured.items():
        plain = costs["script"]
        for way in WAYS:
            cost = costs[way]
            rows.append(
                f"| {name} | `{way}` | {cost.seconds:.1f} s | {cost.seconds / plain.seconds:.2f} | "
                f"{cost.cpu_seconds:.1f} s | {cost.cpu_seconds / plain.cpu_seconds:.2f} | "
                f"{cost.largest_mb:.0f} MiB | {cost.largest_mb / plain.largest_mb:.2f} | {cost.together_mb:.0f} MiB |"
            )
    return HEAD.format(
        runs=runs,
        samples=SAMPLES,
        cpu=here.cpu,
        cores=here.cores,
        load=os.getloadavg()[2],
        tensorflow=versions["tensorflow"],
        litert=versions["ai-edge-litert"],
        rows="\n".join(rows),
    )


HEAD = """# What a conversion costs

<!-- Written by benchmarks/conversion.py: change it there. -->

Time and memory beside the script that TensorFlow's documentation shows for full INT8
(`benchmarks/plain_converter.py`: load, `TFLiteConverter` with a representative dataset, write), on the same models and
the same {samples} pictures, int8 in and out. Medians of {runs} runs of each, by turns, all in one go, each in
fresh processes and without edgekit's cache. {cpu}, {cores} cores, a load of {load:.1f} at the end (above {cores} others
computed, too: then `CPU` says more than `time`); TensorFlow {tensorflow}, LiteRT {litert}.

```console
$ .venv/bin/python -m benchmarks.conversion
```

| model | way | time | to the script | CPU | to the script | largest process | to the script | all processes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

The goal is at most 1.25 times the script's time and memory. What is faster is the calibration: edgekit's interpreter
keeps its tensors and looks at them after each run, TensorFlow's looks between two operators. (For graphs with states,
branches or loops, and where the tensors of one sample are more than 128 MiB, it is TensorFlow's here, too.)

The script stops when the file is written. `edgekit.convert` also runs the model and the float model on real samples and
keeps golden ones, judges operators and memory for the board, and examines the calibration data (the doctor). The
command `edgekit convert` compares INT8 with float on all pictures besides, and measures both. Each of these is a
process of its own, so that a model that crashes takes nothing with it; the largest is the one with TensorFlow. "All
processes" is the highest sum of their resident memory, seen ten times a second; pages that they share count in each.
`CPU` is the processor time of all of them together, user and system, which other work on the computer disturbs less.

The same conversion again comes from the [cache](manifest.md#several-boards-and-the-same-again), and with several `-p`
all boards share one load and one calibration.
"""


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    measured = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            measured[case.name] = measure(case, runs, Path(folder))
    PAGE.write_text(page(measured, runs), "utf-8")
    print(PAGE.read_text("utf-8"))


if __name__ == "__main__":
    main()
