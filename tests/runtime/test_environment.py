"""The circumstances: read from files, whatever is missing, and judged."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgekit_runtime import benchreport, environment, packages
from edgekit_runtime.environment import Sensors

CPUINFO = """processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd08

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    files = {
        "proc/cpuinfo": CPUINFO,
        "proc/meminfo": "MemTotal:        1893132 kB\nMemFree: 1 kB\n",
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "sys/class/thermal/thermal_zone0/type": "gpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "99000\n",
        "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "48200\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    }
    for core in range(4):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        files[f"{folder}/scaling_governor"] = "ondemand\n"
        files[f"{folder}/scaling_cur_freq"] = f"{600000 + core * 100000}\n"
        files[f"{folder}/scaling_max_freq"] = "1800000\n"
    return tree(tmp_path, files)


def test_a_board_describes_itself(pi: Path) -> None:
    found = environment.read(pi)
    assert found.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert found.cpu == "Cortex-A72"
    assert found.cpu_features == ("asimd", "asimddp")
    assert found.ram_mb == 1848
    assert found.os == "Debian GNU/Linux 12 (bookworm)"
    assert not found.emulated
    assert environment.sensors(pi) == Sensors("ondemand", 900.0, 1800.0, 48.2, "50005")


def test_the_marker_says_emulated(pi: Path) -> None:
    tree(pi, {environment.EMULATED: ""})
    assert environment.read(pi).emulated


def test_nothing_there_is_nothing_known(tmp_path: Path) -> None:
    found = environment.read(tmp_path)
    assert (found.board, found.cpu, found.cpu_features, found.ram_mb) == (None, None, (), None)
    assert environment.sensors(tmp_path) == Sensors()


def test_nonsense_in_files_is_nothing_known(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "proc/cpuinfo": "\0\0:::\n: :\n",
            "proc/meminfo": "MemTotal: many\n",
            "sys/class/thermal/thermal_zone0/temp": "hot",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "<unknown>",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "yes",
        },
    )
    assert environment.read(tmp_path).ram_mb is None
    assert environment.sensors(tmp_path) == Sensors()


def test_this_machine(tmp_path: Path) -> None:
    found = environment.read()
    assert found.cores >= 1
    assert found.runtime == "ai_edge_litert"
    assert found.runtime_version == packages.package_version("ai_edge_litert")
    assert found.numpy == __import__("numpy").__version__
    now, peak = environment.memory_kb()
    assert now is not None
    assert peak is not None
    assert 0 < now <= peak


@pytest.mark.parametrize(
    ("emulated", "before", "after", "valid", "word"),
    [
        (False, Sensors("performance", 1800, 1800, 50, "0"), Sensors("performance", 1800, 1800, 52, "0"), True, None),
        (True, Sensors(), Sensors(), False, "emulated"),
        (False, Sensors(throttled="0x0"), Sensors(throttled="0x4"), False, "throttled"),
        (False, Sensors(throttled="0"), Sensors(throttled="20000"), False, "throttled"),
        (False, Sensors(throttled="20000"), Sensors(throttled="20000"), True, None),
        (False, Sensors("ondemand"), Sensors("ondemand"), True, "governor"),
        (False, Sensors(None, 1800), Sensors(None, 1200), True, "clock moved from 1800 to 1200"),
        (False, Sensors(), Sensors(temperature_c=81.0), True, "81 degrees"),
        (False, Sensors(), Sensors(), True, None),
    ],
)
def test_circumstances_are_judged(
    tmp_path: Path, emulated: bool, before: Sensors, after: Sensors, valid: bool, word: str | None
) -> None:
    if emulated:
        tree(tmp_path, {environment.EMULATED: ""})
    found = benchreport.judge(environment.read(tmp_path), before, after)
    assert found.valid is valid
    said = " ".join(found.reasons + found.warnings)
    assert (word in said) if word else said == ""


GIB = 1 << 20  # KiB


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/a/b\n", {}, 2 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/b/memory.current": "4096"}, 2 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": "104857600", "a/b/memory.current": "4194304"}, 96 * 1024),
        ("0::/a/b\n", {"a/memory.max": "104857600", "a/memory.current": "4194304"}, 96 * 1024),
        (
            "0::/\n",
            {"memory.max": "8192", "memory.current": "8192", "memory.stat": "anon 4096\ninactive_file 2048\n"},
            2,
        ),
        ("0::/a\n", {"a/memory.max": "4096", "a/memory.current": "8192"}, 0),
        (
            "3:cpu,cpuacct:/c\n2:memory:/m\n1:name=systemd:/s\n",
            {"memory/m/memory.limit_in_bytes": "104857600", "memory/m/memory.usage_in_bytes": "4194304"},
            96 * 1024,
        ),
    ],
)
def test_a_control_group_s_limit_leaves_less(tmp_path: Path, groups: str, files: dict[str, str], left: int) -> None:
    root = tree(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    tree(root, {"proc/self/cgroup": groups, "proc/meminfo": f"MemTotal: 9 kB\nMemAvailable:    {2 * GIB} kB\n"})
    assert environment.available_kb(root) == left
