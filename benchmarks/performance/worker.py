"""What runs in a peer's environment: makes a contestant, then runs it as often as a line asks and answers with times.

One JSON line in, one out. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

from benchmarks.performance import contestants


def timed(call: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        found.append((time.perf_counter() - started) * 1e3)
    return found


def blocks(calls: dict[str, Callable[[], object]], times: int, turn: int) -> dict[str, list[float]]:
    """Each call a few times in a row, in turns: as near to each other as can be, and each with warm caches."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls) if turn % 2 else list(reversed(calls))
    for _ in range(max(1, times // 10)):
        for name in names:
            calls[name]()
            found[name] += timed(calls[name], min(10, times))
    return found


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.readline())
    calls = getattr(contestants, asked["contestant"])(**asked["options"])
    answers = [call() for call in calls.values()]
    print(json.dumps({"answer": answers[0]}), file=out, flush=True)
    for turn, line in enumerate(sys.stdin):
        times = json.loads(line)["run"]
        done = blocks(calls, times, turn) if len(calls) > 1 else {k: timed(call, times) for k, call in calls.items()}
        print(json.dumps(done), file=out, flush=True)


if __name__ == "__main__":
    main()
