"""Plan: with how many threads, interpreters and samples at once a model runs best on this board. Measured by tune.

`plan.json` lies beside the release that it was measured with and goes with it. Standard library only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Optional, Tuple

from edgekit_runtime import schema
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import InputError, UserError

if TYPE_CHECKING:
    from edgekit_runtime.environment import Environment
    from edgekit_runtime.integrity import Location

SCHEMA = 1
PLAN = "plan.json"
GOALS = ("latency", "throughput")
MOST = 1024  # threads, interpreters, samples at once
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Plan:
    """`num_threads` of each interpreter, how many interpreters, samples in one inference, and whether XNNPACK runs."""

    num_threads: int
    num_interpreters: int = 1
    batch_size: int = 1
    xnnpack: bool = True

    def __post_init__(self) -> None:
        sizes = (self.num_threads, self.num_interpreters, self.batch_size)
        if min(sizes) < 1 or max(sizes) > MOST:
            raise ValueError(f"num_threads, num_interpreters and batch_size are 1 to {MOST}")

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
    """What tune found. It holds for that model, runtime and CPU only; `invalid` says why it may not be used at all,
    `warnings` with what else its figures have to be read."""

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
    warnings: Tuple[str, ...] = ()
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"plan of schema {self.schema}; this runtime reads {SCHEMA}")
        measured = {item.plan for item in self.candidates if item.sample_ms is not None}
        if not {self.latency, self.throughput} <= measured:
            raise ValueError("a plan was chosen that was not measured")
        if any(one.num_threads * one.num_interpreters > self.cores for one in measured - {self.default}):
            raise ValueError(f"a plan has more threads than there are cores ({self.cores})")

    def of(self, plan: Plan) -> Candidate:
        """What was measured of `plan`."""
        return next(item for item in self.candidates if item.plan == plan)

    def goal(self, name: str) -> Plan:
        """The plan for one of GOALS."""
        return self.latency if name == "latency" else self.throughput


def require_count(name: str, number: Any, most: Optional[int] = MOST) -> None:
    """Raises InputError unless the option `name` is a whole number from 1 to `most`."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1 or (most is not None and number > most):
        wanted = "a whole number of at least 1" if most is None else f"1 to {most}"
        raise InputError(f"{name} is {wanted}, not {number!r}")


def require_sizes(sizes: Any) -> None:
    """Raises InputError unless `sizes` is a list of batch sizes."""
    if not isinstance(sizes, (list, tuple)):
        raise InputError(f"allowed_batch_sizes is a list, not {sizes!r}", hint="[4], also for one")
    for size in sizes:
        require_count("each of allowed_batch_sizes", size)


def key(around: Environment) -> Tuple[str, str, int]:
    """Of what a plan depends on beside the model: runtime, CPU, and the cores that may be used."""
    cpu = " ".join(filter(None, (around.board, around.cpu, around.architecture)))
    return f"{around.runtime} {around.runtime_version}", cpu, around.cores


def stored(directory: Location, model_sha256: str) -> "Tuple[Optional[Tuning], Optional[str]]":
    """The tuning beside a release when it holds here; else None and, where there is one, why it does not."""
    path = os.path.join(directory, PLAN)
    try:
        if not os.path.isfile(path):  # reading a pipe would never end
            return None, "the plan is not used: it is no file" if os.path.exists(path) else None
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise UserError(f"'{path}' is larger than {MAX_BYTES} bytes")
        found = schema.load_json(Tuning, text, path)
    except (OSError, UserError) as error:
        return None, f"the plan is not used: {error}"
    if found.model_sha256 != model_sha256:
        return None, "the plan is not used: it is of another model"
    if found.invalid is not None:
        return None, f"the plan is not used: {found.invalid}"
    from edgekit_runtime import environment

    if (found.runtime, found.cpu, found.cores) != key(environment.read()):
        return None, f"the plan is not used: it was measured with {found.runtime} on {found.cores} cores of {found.cpu}"
    return found, None


def choose(directory: Location, default: Plan, model_sha256: str, goal: Optional[str]) -> Tuple[Plan, Optional[str]]:
    """The plan to run a release with: the stored one's for `goal`, else the default, and why a stored one is not used.

    Raises InputError for a goal that there is not.
    """
    if goal not in (None, *GOALS):
        raise InputError(f"goal is one of {', '.join(GOALS)}, not '{goal}'")
    tuning, note = stored(directory, model_sha256) if goal is not None else (None, None)
    return (default if goal is None or tuning is None else tuning.goal(goal)), note


def store(directory: Location, tuning: Tuning) -> None:
    """Write it beside the release, whole or not at all. Raises UserError."""
    path = os.path.join(directory, PLAN)
    part = f"{path}.part"
    try:
        with open(part, "w", encoding="ascii") as file:
            file.write(schema.dump_json(tuning))
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}", path=path) from error
