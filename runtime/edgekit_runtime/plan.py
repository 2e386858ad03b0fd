"""Plan: with how many threads, interpreters and samples at once a model runs best on this board. Measured by tune.

`plan.json` lies beside the release that it was measured with and goes with it. Standard library only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Tuple

from edgekit_runtime import schema
from edgekit_runtime.errors import UserError

if TYPE_CHECKING:
    from edgekit_runtime.environment import Environment

SCHEMA = 1
PLAN = "plan.json"
GOALS = ("latency", "throughput")


@dataclass(frozen=True)
class Plan:
    """`num_threads` of each interpreter, how many interpreters, samples in one inference, and whether XNNPACK runs."""

    num_threads: int
    num_interpreters: int = 1
    batch_size: int = 1
    xnnpack: bool = True

    def __post_init__(self) -> None:
        if min(self.num_threads, self.num_interpreters, self.batch_size) < 1:
            raise ValueError("num_threads, num_interpreters and batch_size are at least 1")

    def __str__(self) -> str:
        parts = [f"{self.num_interpreters} x {self.num_threads} thread(s)"]
        parts += [f"batch {self.batch_size}"] if self.batch_size > 1 else []
        parts += [] if self.xnnpack else ["no XNNPACK"]
        return ", ".join(parts)


@dataclass(frozen=True)
class Candidate:
    """A plan that was looked at: the median of `calls` of the time of a call for each of its samples. With one
    interpreter and no batch that is the latency. `refused` says why it cannot be, or was not measured."""

    plan: Plan
    calls: int = 0
    sample_ms: Optional[float] = None
    refused: Optional[str] = None

    def __str__(self) -> str:
        if self.sample_ms is None:
            return f"{self.plan}: {self.refused}"
        return f"{self.plan}: {self.sample_ms:.3f} ms a sample, {1e3 / self.sample_ms:.1f} samples/s"


@dataclass(frozen=True)
class Tuning:
    """What tune found. It holds for that model, runtime and CPU only; `invalid` says why it may not be used at all."""

    model_sha256: str
    runtime: str
    cpu: str
    cores: int
    default: Plan
    latency: Plan
    throughput: Plan
    candidates: Tuple[Candidate, ...]
    seconds: float
    invalid: Optional[str] = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"plan of schema {self.schema}; this runtime reads {SCHEMA}")

    def of(self, plan: Plan) -> Candidate:
        """What was measured of `plan`."""
        return next(item for item in self.candidates if item.plan == plan)

    def goal(self, name: str) -> Plan:
        """The plan for one of GOALS."""
        return self.latency if name == "latency" else self.throughput


def key(around: Environment) -> Tuple[str, str, int]:
    """Of what a plan depends on beside the model: runtime, CPU, and the cores that may be used."""
    cpu = " ".join(filter(None, (around.board, around.cpu, around.architecture)))
    return f"{around.runtime} {around.runtime_version}", cpu, around.cores


def stored(directory: Path, model_sha256: str) -> "Tuple[Optional[Tuning], Optional[str]]":
    """The tuning beside a release when it holds here; else None and, where there is one, why it does not."""
    path = Path(directory) / PLAN
    try:
        found = schema.load_json(Tuning, path.read_bytes(), str(path))
    except FileNotFoundError:
        return None, None
    except (OSError, UserError) as error:
        return None, f"the plan is not used: {error}"
    if found.model_sha256 != model_sha256:
        return None, "the plan is not used: it is of another model"
    from edgekit_runtime import environment

    if (found.runtime, found.cpu, found.cores) != key(environment.read()):
        return None, f"the plan is not used: it was measured with {found.runtime} on {found.cores} cores of {found.cpu}"
    return found, None


def store(directory: Path, tuning: Tuning) -> None:
    """Write it beside the release, whole or not at all. Raises UserError."""
    path = Path(directory) / PLAN
    part = path.with_name(PLAN + ".part")
    try:
        part.write_text(schema.dump_json(tuning))
        os.replace(str(part), str(path))
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}", path=str(path)) from error
