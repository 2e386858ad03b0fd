"""A Raspberry Pi 3 Model B+ with a 32-bit system around BusyBox and Dropbear, as Buildroot and Yocto make them."""

from __future__ import annotations

from boards import namespace
from boards.kind import BoardKind

CORES = 4

# No coreutils, no bash, no sftp-server: what is not BusyBox's is Python, NumPy and the SSH server.
PACKAGES = (
    *("base-files", "base-passwd", "busybox", "dropbear-bin", "libatomic1", "libc6", "libstdc++6", "netbase"),
    *("python3", "python3-numpy"),
)

# 0x41 0xd03 r0p4 is the BCM2837B0's Cortex-A53, in the words of a 32-bit kernel; revision a020d3 a 3B+ with 1 GB.
_CORE = """\
processor\t: {core}
model name\t: ARMv7 Processor rev 4 (v7l)
BogoMIPS\t: 38.40
Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32
CPU implementer\t: 0x41
CPU architecture: 7
CPU variant\t: 0x0
CPU part\t: 0xd03
CPU revision\t: 4

"""
_BOARD = """\
Hardware\t: BCM2835
Revision\t: a020d3
Serial\t\t: 1000000000000000
Model\t\t: Raspberry Pi 3 Model B Plus Rev 1.3
"""

_CPU = "devices/system/cpu"
_POLICY = f"{_CPU}/cpufreq/policy0"


def _sys() -> dict[str, str]:
    cores = f"0-{CORES - 1}"
    together = " ".join(str(core) for core in range(CORES))
    files = {
        **{f"{_CPU}/{name}": cores for name in ("online", "possible", "present")},
        f"{_CPU}/kernel_max": "3",
        f"{_CPU}/offline": "",
        f"{_POLICY}/affected_cpus": together,
        f"{_POLICY}/related_cpus": together,
        f"{_POLICY}/cpuinfo_max_freq": "1400000",
        f"{_POLICY}/cpuinfo_min_freq": "600000",
        f"{_POLICY}/scaling_cur_freq": "1400000",
        f"{_POLICY}/scaling_driver": "cpufreq-dt",
        f"{_POLICY}/scaling_governor": "powersave",
        f"{_POLICY}/scaling_max_freq": "1400000",
        f"{_POLICY}/scaling_min_freq": "600000",
        "class/thermal/thermal_zone0/temp": "51540",
        "class/thermal/thermal_zone0/type": "cpu-thermal",
        "devices/platform/soc/soc:firmware/get_throttled": "0",
        "firmware/devicetree/base/model": "Raspberry Pi 3 Model B Plus Rev 1.3",
    }
    for core in range(CORES):
        folder = f"{_CPU}/cpu{core}"
        files |= {
            f"{folder}/cpufreq": "->../cpufreq/policy0",
            f"{folder}/online": "1",
            f"{folder}/topology/core_cpus_list": str(core),
            f"{folder}/topology/core_id": str(core),
            f"{folder}/topology/core_siblings_list": cores,
            f"{folder}/topology/physical_package_id": "0",
            f"{folder}/topology/thread_siblings_list": str(core),
        }
    return files


ARMV7 = BoardKind(
    name="armv7",
    form=namespace,
    suite="bookworm",
    architecture="armhf",
    triplet="arm-linux-gnueabihf",
    emulator="qemu-arm",
    cpu="cortex-a15",
    cores=CORES,
    python="3.11",
    packages=PACKAGES,
    cpuinfo="".join(_CORE.format(core=core) for core in range(CORES)) + _BOARD,
    sys=_sys(),
    server="dropbear",
    updates=False,
    busybox=True,
)
