"""A Raspberry Pi 4 Model B as its programs see it: Debian 12 on four Cortex-A72 cores."""

from __future__ import annotations

from boards import namespace
from boards.kind import BoardKind

CORES = 4

# The tools that Raspberry Pi OS Lite has and edgekit may meet; dash, libatomic1 and libstdc++6 are named because an
# unpack-only userland has no essential packages by itself.
PACKAGES = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "findutils", "grep"),
    *("gzip", "hostname", "libatomic1", "libstdc++6", "login", "mawk", "mount", "netbase", "openssh-client"),
    *("openssh-server", "openssh-sftp-server", "passwd", "procps", "python3", "python3-numpy", "sed", "tar"),
    "util-linux",
)

# Linux 6.6 on the board itself; 0x41 0xd08 r0p3 is the BCM2711's Cortex-A72, revision c03114 a 4 GB board.
_CORE = """\
processor\t: {core}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
_BOARD = """\
Revision\t: c03114
Serial\t\t: 1000000000000000
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""

_CPU = "devices/system/cpu"
_POLICY = f"{_CPU}/cpufreq/policy0"


def _sys() -> dict[str, str]:
    """Clock limits in kHz and heat in thousandths of a degree, as Linux writes them."""
    cores = f"0-{CORES - 1}"
    together = " ".join(str(core) for core in range(CORES))
    files = {
        **{f"{_CPU}/{name}": cores for name in ("online", "possible", "present")},
        f"{_CPU}/kernel_max": "255",
        f"{_CPU}/offline": "",
        f"{_POLICY}/affected_cpus": together,
        f"{_POLICY}/related_cpus": together,
        f"{_POLICY}/cpuinfo_cur_freq": "1500000",
        f"{_POLICY}/cpuinfo_max_freq": "1500000",
        f"{_POLICY}/cpuinfo_min_freq": "600000",
        f"{_POLICY}/scaling_available_governors": "conservative ondemand userspace powersave performance schedutil",
        f"{_POLICY}/scaling_cur_freq": "1500000",
        f"{_POLICY}/scaling_driver": "cpufreq-dt",
        f"{_POLICY}/scaling_governor": "ondemand",
        f"{_POLICY}/scaling_max_freq": "1500000",
        f"{_POLICY}/scaling_min_freq": "600000",
        "class/thermal/thermal_zone0/temp": "48199",
        "class/thermal/thermal_zone0/type": "cpu-thermal",
        "devices/platform/soc/soc:firmware/get_throttled": "0",
        "firmware/devicetree/base/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
        "firmware/devicetree/base/model": "Raspberry Pi 4 Model B Rev 1.4",
    }
    for core in range(CORES):
        folder = f"{_CPU}/cpu{core}"
        files |= {
            f"{folder}/cpufreq": "->../cpufreq/policy0",
            f"{folder}/online": "1",
            f"{folder}/regs/identification/midr_el1": "0x00000000410fd083",
            f"{folder}/topology/cluster_cpus_list": cores,
            f"{folder}/topology/core_cpus_list": str(core),
            f"{folder}/topology/core_id": str(core),
            f"{folder}/topology/core_siblings_list": cores,
            f"{folder}/topology/package_cpus_list": cores,
            f"{folder}/topology/physical_package_id": "0",
            f"{folder}/topology/thread_siblings_list": str(core),
        }
    return files


ARM64 = BoardKind(
    name="arm64",
    form=namespace,
    suite="bookworm",
    architecture="arm64",
    triplet="aarch64-linux-gnu",
    emulator="qemu-aarch64",
    cpu="cortex-a72",
    cores=CORES,
    python="3.11",
    packages=PACKAGES,
    cpuinfo="".join(_CORE.format(core=core) for core in range(CORES)) + _BOARD,
    sys=_sys(),
)
