"""The facts of this computer, for profiles that say "host" in place of a fact."""

import os
import platform
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from edgekit.errors import UserError

MB = 1024 * 1024
_MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}
# Linux's names in /proc/cpuinfo for the features that TFLite's kernels choose by.
_FLAGS = {
    "asimd": "neon",
    "neon": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "avx2": "avx2",
    "avx512_vnni": "avx512vnni",
    "avx_vnni": "avxvnni",
}


def isa_names(flags: Iterable[str]) -> list[str]:
    """The profiles' names of Linux's features that matter to integer kernels, sorted; others are left out."""
    return sorted({_FLAGS[flag] for flag in flags if flag in _FLAGS})


def architecture() -> str:
    """The machine's name as wheels spell it: x86_64, aarch64, armv7l."""
    machine = platform.machine().lower()
    return _MACHINES.get(machine, machine)


def abi() -> str:
    """The GNU triplet."""
    return "arm-linux-gnueabihf" if architecture().startswith("arm") else f"{architecture()}-linux-gnu"


def cpu_name() -> str:
    """The processor's name as the kernel tells it."""
    return _cpuinfo("model name") or _cpuinfo("Model") or platform.processor() or architecture()


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def isa() -> list[str]:
    """Instruction-set features that matter to integer kernels, sorted."""
    return isa_names((_cpuinfo("flags") or _cpuinfo("Features")).split())


def ram_mb() -> int:
    """Main memory in MB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MB


def flash_free_mb() -> int:
    """Free space in MB where the user's data lives."""
    return max(1, shutil.disk_usage(Path.home()).free // MB)


def os_name() -> str:
    """The distribution's own name."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform(terse=True)


def glibc() -> str:
    """The C library's version as X.Y. Raises UserError where it is not glibc."""
    name, version = platform.libc_ver()
    if name != "glibc":
        raise UserError("this computer has no glibc", hint="write the board's facts into a profile of its own")
    return ".".join(version.split(".")[:2])


def python() -> str:
    """The running Python as X.Y."""
    return ".".join(platform.python_version_tuple()[:2])


FACTS: dict[str, Callable[[], object]] = {
    "architecture": architecture,
    "abi": abi,
    "cpu": cpu_name,
    "cores": cores,
    "clusters": lambda: [f"{cores()}x {cpu_name()}"],
    "isa": isa,
    "ram_mb": ram_mb,
    "flash_free_mb": flash_free_mb,
    "os": os_name,
    "glibc": glibc,
    "python": python,
    "num_threads": cores,
    "max_ram_mb": lambda: ram_mb() // 2,
}


def fill(data: dict[str, object], where: str) -> dict[str, object]:
    """`data` with each fact that says "host" read from this computer. Raises UserError for one that cannot be read."""
    filled = dict(data)
    for key, value in data.items():
        if value != "host" or key == "name":
            continue
        if key in FACTS:
            filled[key] = FACTS[key]()
        elif key != "description":
            raise UserError(
                f"{where}: '{key}' cannot be read from this computer",
                hint='"host" may stand for: ' + ", ".join(FACTS),
                where=where,
                key=key,
            )
    return filled


def _cpuinfo(key: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == key:
                    return value.strip()
    except OSError:
        pass
    return ""
