"""Does memory grow while a model runs on and on? Resident memory is sampled, and a line laid through it."""

from __future__ import annotations

import time
from typing import Callable, Optional

import numpy as np

from edgekit_runtime import environment
from edgekit_runtime.benchreport import Soak
from edgekit_runtime.errors import DeviceError, InputError

# With fewer the limit would be above 28 bytes an inference: a forgotten object, the smallest that Python has.
LEAST = 5000
SAMPLES = 100
# What allocators may still take in the second half: 16 pages.
SETTLING_KB = 64.0
# One byte an inference is flat, however many there are.
LEAK_KB = 1.0


def run(
    call: Callable[[int], object],
    count: int,
    *,
    memory: Callable[[], Optional[int]] = lambda: environment.memory_kb()[0],
    progress: Callable[[int], None] = lambda _done: None,
) -> Soak:
    """`count` calls, each with its number; nothing is kept of them. `memory` gives KiB, `progress` is told how many are
    done at each sample. Raises InputError for too few, DeviceError where the system does not tell its memory.
    """
    if count < LEAST:
        raise InputError(f"a soak has at least {LEAST} inferences, not {count}")
    places = [round(count * number / SAMPLES) for number in range(SAMPLES + 1)]
    rss = [0] * len(places)
    started = time.perf_counter()
    done = 0
    for number, place in enumerate(places):
        while done < place:
            call(done)
            done += 1
        now = memory()
        if now is None:
            raise DeviceError("this system does not say how much memory the process has", hint="soak on Linux")
        rss[number] = now
        progress(done)
    seconds = time.perf_counter() - started
    # In the first half Python fills its free lists: 2000 tuples of each length.
    half = len(places) // 2
    slope = float(np.polyfit(places[half:], rss[half:], 1)[0]) * 1000
    limit = max(LEAK_KB, SETTLING_KB * 1000 / (count / 2))
    return Soak(
        inferences=count,
        seconds=round(seconds, 3),
        slope_kb_per_1000=round(slope, 4) + 0.0,  # never -0.0
        limit_kb_per_1000=round(limit, 4),
        verdict="growing" if slope > limit else "flat",
        rss_kb=tuple(rss),
    )
