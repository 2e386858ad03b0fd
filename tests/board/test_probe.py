"""probe: from what a board answered to a profile, and what the board's program reads under each shell."""

from __future__ import annotations

import itertools
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.board.errors import NothingFits
from edgekit.board.facts import BoardFacts, mismatches, parse
from edgekit.board.probe import describe
from edgekit.profiles import profile
from edgekit.transport import Server
from tests.board.conftest import Program

ROCK = BoardFacts(
    root="/r",
    hash_tool="sha256sum",
    program=None,
    architecture="aarch64",
    kernel="6.1",
    os="Debian GNU/Linux 12 (bookworm)",
    libc="glibc",
    glibc="2.36",
    python="3.11.2",
    numpy="1.24.2",
    cores=8,
    ram_kb=3829 << 10,
    board="Radxa ROCK 5B",
    features=("asimd", "asimddp"),
    free_kb=5 << 20,
    writable=True,
    tools=(),
    emulated=False,
    clusters=("4x cortex-a55", "4x cortex-a76"),
    soc="rockchip,rk3588",
    governor="ondemand",
    thermal_zones=("soc-thermal",),
    how={"ram_kb": "/proc/meminfo, MemTotal: 3920896 kB", "board": "/proc/device-tree/model"},
)
SERVER = Server("SSH-2.0-OpenSSH_9.2p1", sftp=True)


def test_a_board_becomes_a_profile_with_cautious_budgets() -> None:
    found = describe("rock", ROCK, SERVER, "rock")
    made = found.profile
    assert made is not None
    assert (made.name, made.description, made.cpu) == ("rock", "Radxa ROCK 5B", "RK3588")
    assert (made.clusters, made.isa) == (("4x cortex-a55", "4x cortex-a76"), ("dotprod", "neon"))
    assert (made.num_threads, made.ram_mb, made.max_ram_mb, made.max_model_mb) == (4, 3829, 957, 64)
    assert (made.runtime, made.numpy, made.numpy_version) == ("ai-edge-litert", "auto", "1.24.2")
    assert (made.governor, made.thermal_zones) == ("ondemand", ("soc-thermal",))
    assert (made.ssh_server, made.sftp) == ("SSH-2.0-OpenSSH_9.2p1", True)
    assert "\n# /proc/meminfo, MemTotal: 3920896 kB\nram_mb = 3829\n" in found.text
    assert "\n# /proc/device-tree/model: Radxa ROCK 5B\ndescription =" in found.text
    assert not mismatches(made, ROCK)
    noisy = describe("rock", ROCK, Server("dropbear", sftp=False, noise="Welcome!"), "rock")
    assert 'sftp was asked for: a start-up file printed "Welcome!" first\nsftp = false\n' in noisy.text


@pytest.mark.parametrize(
    ("change", "runtime"),
    [
        ({"glibc": "2.31", "python": "3.9.2", "numpy": "1.19.5"}, ("ai-edge-litert", "1.4.0")),
        ({"glibc": "2.28", "python": "3.7.3", "numpy": "1.16.2"}, ("tflite-runtime", "2.11.0")),
        ({"architecture": "armv7l", "features": ("neon",)}, ("tflite-runtime", "2.14.0")),
        # tflite-runtime 2.14 would not take the NumPy of Debian 11, and there is none to send.
        (
            {"architecture": "armv7l", "glibc": "2.31", "python": "3.9.2", "numpy": "1.19.5"},
            ("tflite-runtime", "2.11.0"),
        ),
    ],
)
def test_a_board_gets_the_first_runtime_that_takes_its_numpy_or_to_which_one_is_sent(
    change: dict[str, Any], runtime: tuple[str, str]
) -> None:
    found = replace(ROCK, **change)
    made = describe("rock", found, SERVER, "rock").profile
    assert made is not None
    assert (made.runtime, made.runtime_version) == runtime
    assert not mismatches(made, found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "riscv64"}, "its architecture is riscv64"),
        ({"python": None, "numpy": None}, "it has no python3"),
        ({"glibc": None, "libc": "musl"}, "its C library is musl"),
        ({"architecture": "armv7l", "python": "3.13.1"}, "no interpreter for Python 3.13 on armv7l"),
        ({"architecture": "armv7l", "numpy": "2.1.0"}, "takes NumPy >=1.23.2,<2, and the board has 2.1.0"),
        ({"architecture": "armv7l", "numpy": None}, "takes NumPy >=1.23.2,<2, and the board has none"),
        ({"python": "3.6.9"}, "3.6"),
        ({"glibc": "2.5"}, "glibc"),
    ],
)
def test_where_nothing_fits_the_facts_are_kept_and_the_reason_is_said(change: dict[str, Any], says: str) -> None:
    found = describe("rock", replace(ROCK, **change), SERVER, "rock")
    assert (found.profile, found.facts.board) == (None, "Radxa ROCK 5B")
    assert found.reason is not None
    assert says in found.reason
    with pytest.raises(NothingFits) as caught:
        _ = found.text
    assert caught.value.hint
    assert caught.value.fields["facts"]["board"] == "Radxa ROCK 5B"


TEXT = st.text(max_size=30)


@given(
    board=st.none() | TEXT,
    soc=st.none() | TEXT,
    numpy=st.none() | TEXT,
    governor=st.none() | TEXT,
    zones=st.lists(TEXT, max_size=3),
    software=TEXT,
    how=st.dictionaries(st.sampled_from(["ram_kb", "board", "soc", "governor"]), TEXT),
    cores=st.integers(1, 256),
    ram_kb=st.integers(1024, 1 << 34),
)
def test_what_is_written_loads_and_the_board_fits_it(
    tmp_path_factory: pytest.TempPathFactory,
    board: str | None,
    soc: str | None,
    numpy: str | None,
    governor: str | None,
    zones: list[str],
    software: str,
    how: dict[str, str],
    cores: int,
    ram_kb: int,
) -> None:
    odd = replace(ROCK, board=board, soc=soc, numpy=numpy, governor=governor, thermal_zones=tuple(zones), how=how)
    found = replace(odd, cores=cores, ram_kb=ram_kb, clusters=())
    made = describe("b", found, Server(software, sftp=False), "odd")
    path = tmp_path_factory.mktemp("probe") / "odd.toml"
    path.write_text(made.text, "utf-8")
    assert profile.load(path) == made.profile
    assert made.profile is not None
    assert not mismatches(made.profile, found)
    lines = made.text.rstrip("\n").split("\n")
    assert all(before.startswith("# ") for before, line in itertools.pairwise(lines) if line[0] != "#")


CORE = "processor\t: {}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: {}\n\n"
FILES = {
    "devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "devices/system/cpu/cpu2/cpufreq/scaling_governor": "ondemand\n",
    "class/thermal/thermal_zone0/type": "soc-thermal\n",
    "class/thermal/thermal_zone1/type": "big, hot core\n",
    "firmware/devicetree/base/model": "Radxa ROCK 5B\0",
    "firmware/devicetree/base/compatible": "radxa,rock-5b\0rockchip,rk3588\0",
}
IN_NAMESPACE = 'mount --bind "$1" /proc/cpuinfo && mount --rbind "$2" /sys && shift 2 && exec "$@"'


def test_facts_of_another_board_under_each_shell(program: Program, tmp_path: Path) -> None:
    if os.geteuid() or Path("/proc/device-tree").exists():
        pytest.skip("needs root, and a computer without a device tree of its own")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("".join(CORE.format(core, "0xd05" if core < 4 else "0xd0b") for core in range(8)))
    for name, text in FILES.items():
        file = tmp_path / "sys" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    argv = ["unshare", "--mount", "sh", "-c", IN_NAMESPACE, "sh", cpuinfo, tmp_path / "sys", *program.command("facts")]
    # What starts the program needs more tools than the program itself may have.
    argv[8:8] = ["env", f"PATH={program.path}"]
    env = {**program.environment, "PATH": f"{program.path}:{os.environ['PATH']}"}
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, env=env, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = parse([(key, value) for key, _, value in (line.partition(" ") for line in done.stdout.splitlines())])
    assert (found.clusters, found.isa) == (("4x cortex-a55", "4x cortex-a76"), ("dotprod", "neon"))
    assert (found.board, found.soc) == ("Radxa ROCK 5B", "rockchip,rk3588")
    assert (found.governor, found.thermal_zones) == ("ondemand,performance", ("soc-thermal", "big hot core"))
    assert found.how["clusters"].endswith(": 4x0x41:0xd05 4x0x41:0xd0b")
    assert found.how["soc"].endswith("/compatible: radxa,rock-5b rockchip,rk3588")
    assert found.how["ram_kb"].startswith("/proc/meminfo, MemTotal:")
    assert found.how["python"].startswith(f"{program.path.split(':')[0]}/python3, ")
    assert not program.root.exists()
