"""The measurements of the page, each a Markdown table; goals are named beside what was measured."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from benchmarks.performance import peers, plans, starts
from benchmarks.performance.peers import Times, ms, ratio, turns, workers
from benchmarks.performance.subjects import SIZES, Subject, Subjects

CORES = len(os.sched_getaffinity(0))
NUMPY, OPENCV, PILLOW = "edgekit, `linear`, NumPy", "edgekit, `linear`, OpenCV", "edgekit, `bilinear`, Pillow"
BARE, MEDIAPIPE, TASKS = "bare `invoke()`", "MediaPipe Tasks", "TFLite Task Library"
OPENVINO, SCRIPT = "Pillow + OpenVINO", "documentation script"
WAYS = (NUMPY, OPENCV, PILLOW, MEDIAPIPE, TASKS, OPENVINO, SCRIPT)
Wanted = dict[str, tuple[str, str, dict[str, Any]]]


@dataclass(frozen=True)
class Effort:
    """Rounds of turns, runs in each turn, fresh processes for each figure, runs in each of these."""

    rounds: int
    runs: int
    processes: int
    first_runs: int


FULL, QUICK = Effort(15, 15, 15, 300), Effort(3, 5, 3, 100)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def goal(value: float, limit: float, reason: str, unit: str = "") -> str:
    return f"{limit:g}{unit}: met" if value <= limit else f"{limit:g}{unit}: missed: {reason}"


def overhead(subjects: Subjects, effort: Effort) -> str:
    """Several processes for each model: two interpreters in one differ by where their memory happens to lie."""
    rows = []
    for subject, threads in ((subject, threads) for subject in subjects for threads in (1, CORES)):
        options = {"release": str(subject.release), "frame": str(subject.frame), "threads": threads}
        times: Times = {}
        for _ in range(3):
            with workers({"": ("litert", "overhead", options)}) as (made, _missing):
                for name, found in turns(made, effort.rounds, 30).items():
                    times.setdefault(name, []).extend(found)
        base, share = ms(times, " bare"), ratio(times, " edgekit", " bare")
        added = (share - 1) * base * 1e3
        after = ms(times, " after") * 1e3
        what = "selecting boxes" if subject.task == "detection" else "the best five classes"
        stored = f"storing the frame {ms(times, ' before') * 1e3:.0f} us"
        reason = f"{added:.0f} us, {20 * base if base > 2 else 60:.0f} allowed; {what} {after:.0f} us, {stored}"
        met = goal(round(share, 3), 1.02, reason) if base > 2 else goal(round(added), 60, reason, " us")
        rows.append([f"{subject.name}, {threads}", f"{share:.3f}", f"{added:.0f} us", f"{base:.3f} ms", met])
    return table(["model, threads", "to bare `invoke()`", "added", "bare `invoke()`", "goal"], rows)


def ends(subjects: Subjects, effort: Effort) -> str:
    """What a model's own QUANTIZE and DEQUANTIZE cost."""
    rows = []
    for subject in (subjects.small, subjects.tiny, subjects.detector):
        files = {"int8": subject.model, "others": subject.other_ends}
        with workers(
            {name: ("litert", "bare", {"model": str(file), "threads": 1}) for name, file in files.items()}
        ) as (made, _missing):
            times = turns(made, effort.rounds, 30)
        share = f"{ratio(times, 'others', 'int8'):.2f}"
        rows.append([subject.name, f"{ms(times, 'int8'):.3f} ms", f"{ms(times, 'others'):.3f} ms", share])
    return table(["model", "int8 in and out", "uint8 in, float32 out", "ratio"], rows)


def cameras(subjects: Subjects, effort: Effort) -> str:
    """Each model and number of threads by all ways, and what prevented some."""
    rows: list[list[str]] = []
    goals: list[list[str]] = []
    reasons: dict[str, None] = {}
    for subject in (subjects.large, subjects.small, subjects.tiny, subjects.detector):
        for threads, frame in product((1, CORES), product(SIZES, ("RGB", "NV12"))):
            found = _camera(subjects, subject, frame, threads, effort)
            rows.append(found.row)
            reasons |= dict.fromkeys(found.missing)
            if (subject, frame, threads) == (subjects.large, ("1920x1080", "RGB"), 1):
                goals = [found.goal(NUMPY, 1.20), found.goal(OPENCV, 1.05)]
    shown = table(["model, threads", "frame", "bare `invoke()`, 1 thread", *WAYS, "answers"], rows)
    missing = "\n".join(f"- {reason}" for reason in reasons)
    return "\n\n".join(filter(None, [shown, missing, table(["1920x1080 RGB, one thread", "is", "goal"], goals)]))


@dataclass(frozen=True)
class _Camera:
    """One row: each way's median to bare `invoke()` in one thread, and what each answered."""

    row: list[str]
    missing: list[str]
    times: Times

    def goal(self, name: str, limit: float) -> list[str]:
        bare, share = ms(self.times, BARE), ratio(self.times, name, BARE)
        spent = f"{(share - 1) * bare:.2f} ms are spent, {(limit - 1) * bare:.2f} allowed"
        scaling = f"{ms(self.times, f'{name} scaled'):.2f} ms of it scale and store the frame"
        return [name, f"{share:.2f}", goal(round(share, 2), limit, f"{spent}; {scaling}")]


def _camera(subjects: Subjects, subject: Subject, frame: tuple[str, str], threads: int, effort: Effort) -> _Camera:
    one: dict[str, Any] = {"frame": str(subjects.frames[frame]), "format": frame[1]}
    ways = _ways(subject, {**one, "threads": threads})
    if subject is subjects.large:
        ways |= {f"{name} scaled": (ways[name][0], "scaled", ways[name][2]) for name in (NUMPY, OPENCV)}
    with workers(ways) as (made, missing):
        # One thread is what all are measured by, however many they take.
        times = turns(made, effort.rounds, effort.runs)
    answers = Counter(str(worker.answer) for worker in made.values() if worker.answer is not None)
    told = next(iter(answers)) if len(answers) == 1 else ", ".join(f"{answer} ({n})" for answer, n in answers.items())
    shares = [f"{ratio(times, name, BARE):.2f}" if name in made else "-" for name in WAYS]
    return _Camera(
        [f"{subject.name}, {threads}", " ".join(frame), f"{ms(times, BARE):.2f} ms", *shares, told],
        [f"{name}: {why}" for name, why in missing.items()],
        times,
    )


def _ways(subject: Subject, given: dict[str, Any]) -> Wanted:
    ours = {"release": str(subject.release), **given}
    described = {"model": str(subject.described), **given}
    plain = {"model": str(subject.for_peers), **given, "mean": subject.mean, "std": subject.std}
    ways: Wanted = {
        BARE: ("litert", "bare", {"model": str(subject.model), "threads": 1}),
        NUMPY: ("litert", "edgekit", {**ours, "filter": "linear"}),
        OPENCV: ("opencv", "edgekit", {**ours, "filter": "linear"}),
        PILLOW: ("litert", "edgekit", {**ours, "filter": "bilinear"}),
        MEDIAPIPE: ("mediapipe", "mediapipe", {**described, "task": subject.task}),
    }
    if subject.task == "classification":
        ways |= {
            TASKS: ("task-library", "task_library", described),
            OPENVINO: ("openvino", "openvino", plain),
            SCRIPT: ("opencv", "script", plain),
        }
    return ways


def files(subjects: Subjects, effort: Effort) -> str:
    """A run is all pictures several times, so that a stream is long enough to be one."""
    rows = []
    for size, pictures in subjects.files.items():
        given = {"files": [str(file) for file in pictures] * 5}
        for threads in (1, CORES):
            with workers(_file_ways(subjects, given, threads)) as (made, missing):
                times = turns(made, effort.rounds, 1)
            title = [size, str(threads)]
            for name in made:
                rate = 1e3 * len(given["files"]) / ms(times, name)
                rows.append([*title, name, f"{1 / ratio(times, name, SEED):.2f}", f"{rate:.0f}"])
            rows += [[*title, name, "-", why] for name, why in missing.items()]
            rows.append([*title, _parts(times), "", ""])
    return table(["JPEG", "threads", "way", "to the seed pipeline", "pictures/s"], rows)


SEED = "seed: TensorFlow, float"
LEAN = "edgekit's preprocessing, TensorFlow, float"
SINGLE = "edgekit, INT8, one after the other"
STREAM = "edgekit, INT8, `stream` with the plan of `tune`"


def _file_ways(subjects: Subjects, given: dict[str, Any], threads: int) -> Wanted:
    subject = subjects.small
    ours = {"release": str(subject.release), **given, "filter": "linear"}
    seed = {"saved_model": str(subjects.saved_model), **given, "threads": threads}
    script = {"model": str(subject.for_peers), **given, "threads": threads, "mean": subject.mean, "std": subject.std}
    ways: Wanted = {
        SEED: ("tensorflow", "seed", seed),
        LEAN: ("tensorflow", "seed", {**seed, "lean": str(subject.release)}),
        SINGLE: ("litert", "edgekit_files", {**ours, "threads": threads}),
        "documentation script, INT8": ("litert", "script_files", script),
        "MediaPipe Tasks, INT8": ("mediapipe", "mediapipe_files", {"model": str(subject.described), **given}),
    }
    if threads > 1:  # beside the thread that infers a stream always has one that prepares
        ways[STREAM] = ("litert", "edgekit_stream", ours)
    return ways


def _parts(times: Times) -> str:
    """What each step of the way from the seed pipeline gains."""
    parts = [f"lean preprocessing {ratio(times, SEED, LEAN):.2f}", f"INT8 {ratio(times, LEAN, SINGLE):.2f}"]
    if STREAM in times:
        parts.append(f"plan {ratio(times, SINGLE, STREAM):.2f}")
    return f"*of the gain, as factors: {', '.join(parts)}*"


def cold(subjects: Subjects, effort: Effort) -> str:
    rows = []
    for subject in (subjects.tiny, subjects.small, subjects.large):
        found = starts.cold(subject.release, subject.frame, effort.processes)
        rows.append(
            [
                subject.name,
                f"{found.ratio:.2f}",
                f"{found.ms:.0f} ms",
                goal(round(found.ratio, 2), 1.10, f"{found.ms - found.ms / found.ratio:.0f} ms more, see below"),
                f"{found.more_mb:+.1f} MiB",
                f"{found.peak_mb:.0f} MiB",
                goal(round(found.more_mb, 1), 4, "see below"),
            ]
        )
    parts = starts.parts(subjects.small.release, subjects.small.frame, effort.processes)
    what = [[name, f"{ms:.1f} ms", f"{mb:+.1f} MiB"] for name, ms, mb in parts]
    found_at = table(["what is done, in turn", "time", "peak memory"], what)
    return _starts(rows) + "\n\nWhere it goes, one after the other in a process of its own:\n\n" + found_at


def _starts(rows: Iterable[Sequence[str]]) -> str:
    return table(["model", "to the script", "edgekit", "goal", "memory to the script", "edgekit", "goal, MiB"], rows)


def variance(subjects: Subjects, effort: Effort) -> str:
    rows = []
    for subject in (subjects.tiny, subjects.small, subjects.large):
        found = starts.spreads(subject.release, subject.frame, max(3, effort.processes // 2), effort.first_runs)
        rows += [
            [subject.name, name, f"{each.p99:.2f}", f"{each.first:.2f}", f"{each.median_ms:.3f} ms"]
            for name, each in found.items()
        ]
    return table(["model", "way", "p99 to median", "first run to median", "median"], rows)


def tuned(subjects: Subjects, effort: Effort) -> str:
    """What tune chooses for throughput beside the defaults and the best of every plan there is."""
    rows = []
    for subject in (subjects.large, subjects.small, subjects.tiny, subjects.detector):
        found = plans.measure(subject.release, max(3, effort.rounds // 3))
        reached = found.tuned / found.best
        rows.append(
            [
                subject.name,
                str(found.chosen),
                f"{found.tuned:.0f}/s",
                f"{found.tuned / found.default:.2f}",
                f"{found.tuned / found.all_cores:.2f}",
                f"{reached:.2f}",
                "0.97: met" if reached >= 0.97 else f"0.97: missed: {found.best_plan} was faster",
                f"{found.plans}",
                f"{found.seconds:.0f} s",
            ]
        )
    head = ["model", "tuned", "pace", "to one thread", "to all cores", "to the best", "goal", "of plans", "tune took"]
    return table(head, rows)


def versions() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name in peers.REQUIREMENTS:
        try:
            found[name] = ", ".join(f"{package} {version}" for package, version in peers.versions(name).items())
        except peers.PeerError as error:
            found[name] = f"cannot be had for this Python: {error}"
    return found
