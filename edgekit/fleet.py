"""Several boards at once: each one's outcome is its own, whatever happens to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgekit.errors import EdgekitError

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Outcome(Generic[A]):
    """What came of a board so far: `value`, and the `error` that ended its part."""

    board: str
    value: A | None = None
    error: EdgekitError | None = None


def start(boards: Sequence[str]) -> list[Outcome[str]]:
    """The boards by name, each once, in their order; nothing has happened to them yet."""
    return [Outcome(name, name) for name in dict.fromkeys(boards)]


def each(outcomes: Sequence[Outcome[A]], work: Callable[[A], B], executor: Executor) -> list[Outcome[B]]:
    """Do `work` with the value of every board that has not failed, as many at once as `executor` takes.

    A failure is its own board's. Anything but an EdgekitError is a bug and is raised, once no work is left waiting.
    """

    if len(outcomes) == 1:
        return [_one(work, outcomes[0])]  # in this thread, where Ctrl-C ends it at once
    futures = [executor.submit(_one, work, outcome) for outcome in outcomes]
    try:
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def worst(outcomes: Sequence[Outcome[A]]) -> int:
    """The exit code for all of them: 0, or the highest of those that failed."""
    return max((outcome.error.exit_code for outcome in outcomes if outcome.error is not None), default=0)


def _one(work: Callable[[A], B], outcome: Outcome[A]) -> Outcome[B]:
    if outcome.error is not None or outcome.value is None:
        return Outcome(outcome.board, None, outcome.error)
    try:
        return Outcome(outcome.board, work(outcome.value))
    except EdgekitError as error:
        return Outcome(outcome.board, None, error)
