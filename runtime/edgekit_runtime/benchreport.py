"""BenchReport: figures with the circumstances that make them true.

The JSON form is a superset of `litert-benchmark --result_json` (ai-edge-litert 2.3): its names keep their meaning and
unit. Standard library only.
"""

from typing import Optional, Sequence, Tuple

from edgekit_runtime import schema
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.environment import Environment, Sensors
from edgekit_runtime.plan import Plan

SCHEMA = 1
MAX_SAMPLES = 1000
# The Raspberry Pi's firmware lowers the clock from 80 degrees on; other boards' limits are no lower.
HOT_C = 80.0
# Bits of the Raspberry Pi's get_throttled: 0-3 now (voltage, capped, throttled, soft limit), 16-19 since boot.
_NOW, _SINCE_BOOT = 0xF, 0xF0000


@dataclass(frozen=True)
class Latency:
    """Milliseconds. Percentiles are interpolated linearly between the two nearest runs, as litert-benchmark does;
    `std_ms` is the sample's standard deviation; `first_ms` and `warmup_first_ms` are the first inference of all."""

    init_ms: float
    first_ms: float
    warmup_first_ms: float
    warmup_avg_ms: float
    num_warmup_runs: int
    avg_ms: float
    min_ms: float
    max_ms: float
    median_ms: float
    std_ms: float
    p5_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    num_runs: int


@dataclass(frozen=True)
class Memory:
    """Resident memory: growth from the tool's start until the engine was ready and until the end (KiB), peak (MiB)."""

    init_footprint_kb: Optional[int]
    overall_footprint_kb: Optional[int]
    peak_mem_mb: Optional[float]


@dataclass(frozen=True)
class Soak:
    """Resident memory over many inferences: KiB at equal distances, the slope of the line through their second
    half by least squares, and the verdict: 'growing' above the limit, else 'flat'."""

    inferences: int
    seconds: float
    slope_kb_per_1000: float
    limit_kb_per_1000: float
    verdict: str
    rss_kb: Tuple[int, ...]

    def __str__(self) -> str:
        slope = round(self.slope_kb_per_1000, 2) + 0.0  # never -0.0
        return f"{self.verdict}: {slope:+.2f} KiB per 1000 of {self.inferences} inferences"


@dataclass(frozen=True)
class Stages:
    """Medians in milliseconds for one sample or batch: a frame (RGB of the model's size) to the stored input, the
    inference, and its outputs to classes or real values. None where a model has no such stage."""

    preprocess_ms: Optional[float]
    invoke_ms: float
    postprocess_ms: Optional[float]


@dataclass(frozen=True)
class Validity:
    """Whether the figures may be compared: `reasons` make them invalid, `warnings` do not."""

    valid: bool
    reasons: Tuple[str, ...] = ()
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class PlanGain:
    """A stored plan beside what would run without it, in one run: medians in milliseconds, `ratio` plan to default."""

    plan: Plan
    default: Plan
    median_ms: float
    default_median_ms: float
    ratio: float

    def __str__(self) -> str:
        return (
            f"{self.plan}: {self.median_ms:.3f} ms, {self.ratio:.2f} of the default's ({self.default}: "
            f"{self.default_median_ms:.3f} ms)"
        )


@dataclass(frozen=True)
class BenchReport:
    """One run of bench. `throughput_per_s` counts samples; `inputs` is 'golden' or 'noise'.

    `frame` is what `stages.preprocess_ms` was measured with ("1920x1080 NV12") when it is no RGB frame of the model's
    size, `findings` what such frames waste. `plan` is there when a stored plan was measured, `throughput_plan` when one
    for throughput was: its milliseconds are of a sample among many.

    `accelerators`, `signature` and `fully_accelerated` are litert-benchmark's words: edgekit runs on the CPU.
    """

    model: str
    model_size_mb: float
    accelerators: Tuple[str, ...]
    signature: str
    fully_accelerated: bool
    num_threads: int
    latency: Latency
    throughput_mb_s: float
    throughput_per_s: float
    batch_size: int
    inputs: str
    stages: Stages
    memory: Memory
    environment: Environment
    sensors_before: Sensors
    sensors_after: Sensors
    validity: Validity
    model_sha256: str
    release: Optional[str] = None
    samples_ms: Tuple[float, ...] = ()
    soak: Optional[Soak] = None
    frame: Optional[str] = None
    findings: Tuple[str, ...] = ()
    plan: Optional[PlanGain] = None
    throughput_plan: Optional[PlanGain] = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"report of schema {self.schema}; this version reads {SCHEMA}")


def dumps(report: BenchReport) -> str:
    """The report as stable JSON text."""
    return schema.dump_json(report)


def loads(text: "str | bytes", where: str = "bench report") -> BenchReport:
    """Read a report. Raises schema.SchemaError."""
    return schema.load_json(BenchReport, text, where)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The percentile of ascending values, interpolated linearly between the two nearest ranks."""
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    if low + 1 >= len(ordered):
        return ordered[-1]
    return ordered[low] + (place - low) * (ordered[low + 1] - ordered[low])


def judge(environment: Environment, before: Sensors, after: Sensors) -> Validity:
    """Invalid when emulated or throttled during the run; the rest are warnings."""
    reasons, warnings = [], []
    if environment.emulated:
        reasons.append("the board is emulated: its times mean nothing")
    if _throttled(before, after):
        reasons.append(f"the firmware throttled the CPU or saw too low a voltage (get_throttled {after.throttled})")
    if after.governor is not None and after.governor != "performance":
        warnings.append(f"the CPU governor is '{after.governor}', not 'performance'")
    if before.frequency_mhz and after.frequency_mhz:
        moved = abs(after.frequency_mhz - before.frequency_mhz) / before.frequency_mhz
        if moved > 0.05:
            warnings.append(f"the clock moved from {before.frequency_mhz:g} to {after.frequency_mhz:g} MHz")
    if after.temperature_c is not None and after.temperature_c >= HOT_C:
        warnings.append(f"the CPU is at {after.temperature_c:g} degrees Celsius")
    return Validity(not reasons, tuple(reasons), tuple(warnings))


def _throttled(before: Sensors, after: Sensors) -> bool:
    if after.throttled is None:
        return False
    end = int(after.throttled, 16)
    start = int(before.throttled, 16) if before.throttled is not None else end
    return bool(end & _NOW or end & ~start & _SINCE_BOOT)
