"""The circumstances that make a figure true: board, CPU, clock, heat and software. Standard library only.

Everything is read from files, and what cannot be read is None. `root` stands in front of every path.
"""

import os
import platform
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.packages import package_version, read_text

EMULATED = "etc/edgekit-emulated"
RUNTIMES = ("ai_edge_litert", "tflite_runtime", "tensorflow")
# The features that TFLite's kernels choose by, in Linux's spelling.
_ARM_FEATURES = {"neon", "vfpv4", "asimd", "asimddp", "asimdhp", "fphp", "i8mm", "bf16", "sve", "sve2", "sme"}
_X86_FEATURES = {"ssse3", "sse4_1", "avx", "f16c", "fma", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"}
# Arm's part numbers (implementer 0x41) in the register MIDR: the cores' technical reference manuals; the newer ones
# as util-linux's lscpu and Linux's arm64 cputype.h have them.
ARM_CORES = {
    "0xc05": "Cortex-A5",
    "0xc07": "Cortex-A7",
    "0xc08": "Cortex-A8",
    "0xc09": "Cortex-A9",
    "0xc0d": "Cortex-A17",
    "0xc0e": "Cortex-A17",
    "0xc0f": "Cortex-A15",
    "0xd01": "Cortex-A32",
    "0xd02": "Cortex-A34",
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd06": "Cortex-A65",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd0e": "Cortex-A76AE",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2",
    "0xd4b": "Cortex-A78C",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
    "0xd4f": "Neoverse-V2",
    "0xd80": "Cortex-A520",
    "0xd81": "Cortex-A720",
    "0xd82": "Cortex-X4",
    "0xd85": "Cortex-X925",
    "0xd87": "Cortex-A725",
    "0xd89": "Cortex-A720AE",
}


@dataclass(frozen=True)
class Sensors:
    """What moves while a program runs. MHz and degrees Celsius; `throttled` is the firmware's word, in hexadecimal."""

    governor: Optional[str] = None
    frequency_mhz: Optional[float] = None
    frequency_max_mhz: Optional[float] = None
    temperature_c: Optional[float] = None
    throttled: Optional[str] = None


@dataclass(frozen=True)
class Environment:
    """What stays. `cores` counts the processors that this process may use; `ram_mb` is the whole memory in MiB."""

    board: Optional[str]
    architecture: str
    cpu: Optional[str]
    cpu_features: Tuple[str, ...]
    cores: int
    ram_mb: Optional[int]
    os: Optional[str]
    kernel: str
    libc: Optional[str]
    python: str
    numpy: Optional[str]
    runtime: Optional[str]
    runtime_version: Optional[str]
    emulated: bool


def read(root: Path = Path("/")) -> Environment:
    """The circumstances of this process. Imports neither NumPy nor an interpreter."""
    cpuinfo = _cpuinfo(root)
    runtime = next((name for name in RUNTIMES if find_spec(name) is not None), None)
    return Environment(
        board=_board(root, cpuinfo),
        architecture=platform.machine(),
        cpu=_cpu(cpuinfo),
        cpu_features=_features(cpuinfo),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        ram_mb=_ram_mb(root),
        os=_os_name(root),
        kernel=platform.release(),
        libc=_libc(),
        python=platform.python_version(),
        numpy=package_version("numpy"),
        runtime=runtime,
        runtime_version=package_version(runtime) if runtime else None,
        emulated=(root / EMULATED).exists(),
    )


def sensors(root: Path = Path("/")) -> Sensors:
    """Clock, heat and throttling now; the fastest of the cores and the hottest of the zones."""
    policies = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    governors = sorted({text for text in (read_text(policy / "scaling_governor") for policy in policies) if text})
    current = _largest(policies, "scaling_cur_freq")
    limit = _largest(policies, "scaling_max_freq")
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    heat = _largest([zone for zone in zones if _is_cpu_zone(zone)] or zones, "temp")
    throttled = read_text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    return Sensors(
        governor=",".join(governors) or None,
        frequency_mhz=None if current is None else round(current / 1000, 1),
        frequency_max_mhz=None if limit is None else round(limit / 1000, 1),
        temperature_c=None if heat is None else round(heat / 1000, 1),
        throttled=throttled if throttled and re.fullmatch(r"(0x)?[0-9a-f]{1,8}", throttled) else None,
    )


def memory_kb() -> Tuple[Optional[int], Optional[int]]:
    """Resident memory of this process in KiB: now, and at its peak."""
    status = read_text(Path("/proc/self/status")) or ""
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
    now, peak = (int(found[key]) if key in found else None for key in ("VmRSS", "VmHWM"))
    return now, peak


def available_kb(root: Path = Path("/")) -> Optional[int]:
    """Memory that can still be given out, in KiB: the system's, or less in a control group with a limit."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    left = [int(found.group(1))] if found else []
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):  # version 2, or the memory's of version 1
            group = root / "sys/fs/cgroup" / controllers / path.lstrip("/")
            for folder in (group, *list(group.parents)[: path.count("/")]):
                left += _left_kb(folder)
    return min(left, default=None)


def _left_kb(group: Path) -> List[int]:
    """What a control group's limit leaves. Pages of files that were not touched lately are given back when due."""
    for limit, usage, idle in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, used = read_text(group / limit) or "", read_text(group / usage) or ""
        if most.isdigit() and used.isdigit():
            back = re.search(rf"^{idle} (\d+)$", read_text(group / "memory.stat") or "", re.MULTILINE)
            return [max(0, int(most) - int(used) + (int(back.group(1)) if back else 0)) // 1024]
    return []


def _largest(folders: List[Path], name: str) -> Optional[int]:
    texts = [read_text(folder / name) for folder in folders]
    return max((int(text) for text in texts if text and re.fullmatch(r"-?\d{1,12}", text)), default=None)


def _is_cpu_zone(zone: Path) -> bool:
    return re.search(r"cpu|soc|x86_pkg", (read_text(zone / "type") or "").lower()) is not None


def _cpuinfo(root: Path) -> Dict[str, str]:
    """The last value of each key: on boards of two kinds of cores the large ones come last."""
    pairs = (line.partition(":") for line in (read_text(root / "proc/cpuinfo") or "").splitlines())
    return {key.strip().lower(): value.strip() for key, colon, value in pairs if colon}


def _board(root: Path, cpuinfo: Dict[str, str]) -> Optional[str]:
    names = (
        read_text(root / "proc/device-tree/model"),
        cpuinfo.get("model") if not cpuinfo.get("model", "0").isdigit() else None,
        cpuinfo.get("hardware"),
        read_text(root / "sys/devices/virtual/dmi/id/product_name"),
    )
    return next((name for name in names if name), None)


def _cpu(cpuinfo: Dict[str, str]) -> Optional[str]:
    part = cpuinfo.get("cpu part")
    if cpuinfo.get("cpu implementer") == "0x41" and part in ARM_CORES:
        return ARM_CORES[part]
    return cpuinfo.get("model name") or (f"part {part}" if part else None)


def _features(cpuinfo: Dict[str, str]) -> Tuple[str, ...]:
    words = (cpuinfo.get("features") or cpuinfo.get("flags") or "").split()
    return tuple(sorted((_ARM_FEATURES | _X86_FEATURES).intersection(words)))


def _ram_mb(root: Path) -> Optional[int]:
    found = re.search(r"^MemTotal:\s+(\d+) kB", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) // 1024 if found else None


def _os_name(root: Path) -> Optional[str]:
    found = re.search(r"^PRETTY_NAME=['\"]?([^'\"\n]+)", read_text(root / "etc/os-release") or "", re.MULTILINE)
    return found.group(1) if found else platform.system() or None


def _libc() -> Optional[str]:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        return None
