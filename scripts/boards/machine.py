"""A board that is a machine of its own under qemu-system: kernel, systemd, and a disk that outlives a power cut.

STATE/disk/  board.img, its kernel and initial RAM disk, copied from the kind's once: what one board writes is its own
STATE/run/   console: what the kernel and systemd say
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from edgekit_runtime.errors import DeviceError

from boards import disk, loopback
from boards.kind import BoardKind, Limits
from boards.lock import locked
from boards.state import HOST, BoardInfo, State

EMULATION = "qemu-system"
RECIPE: tuple[Path, ...] = (Path(__file__), Path(disk.__file__))
START_SECONDS = 300
STOP_SECONDS = 90
_POWER_OFF_SECONDS = 60
_TICK_SECONDS = 0.2


def needs(kind: BoardKind) -> dict[str, bool]:
    """The Debian packages that it takes, and whether they are here."""
    commands = {
        "cpio": "cpio",
        "dosfstools": "mkfs.vfat",
        "e2fsprogs": "mkfs.ext4",
        "fdisk": "sfdisk",
        "kmod": "depmod",
        "mtools": "mcopy",
        "qemu-system-arm": kind.emulator,
    }
    return {package: shutil.which(command) is not None for package, command in commands.items()}


def make(_kind: BoardKind, tree: Path) -> Path:
    """What boards of the kind run from: disk, kernel and initial RAM disk."""
    return disk.make(tree)


def prepare(_kind: BoardKind, root: Path, state: State) -> None:
    """The board's own disk, if it has none yet."""
    if state.disk.is_dir():
        return
    with TemporaryDirectory(prefix="disk.", dir=state.folder) as folder:
        part = Path(folder) / "disk"
        part.mkdir()
        for name in (disk.DISK, disk.KERNEL, disk.INITRD):
            argv = ["cp", "--sparse=always", "--reflink=auto", str(root / name), str(part / name)]
            subprocess.run(argv, check=True, timeout=600)
        os.rename(part, state.disk)


def empty_home(_kind: BoardKind, info: BoardInfo) -> None:
    """The home as a new board has it.

    Raises:
        DeviceError: the board does not do it.
    """
    done = _ssh(Path(info.ssh_config), info.name, "/usr/bin/find . -mindepth 1 -delete")
    if done.returncode:
        raise DeviceError(f"the home cannot be emptied: {done.stderr.strip()}", hint="or: rm, and up makes a new board")


def run(kind: BoardKind, _root: Path, state: State, limits: Limits) -> None:
    """Run the board until it is told to stop, its time is over or it powers itself off. Called as process 1."""
    deadline = time.monotonic() + limits.max_minutes * 60 if limits.max_minutes else None
    pid = int(os.readlink("/proc/self"))
    with locked(state.held, wait=False):
        signal.signal(signal.SIGTERM, _stop)
        machine, port = _start(kind, state, limits)
        try:
            info = state.write_info(kind, port, pid, image=state.disk / disk.DISK)
            while machine.poll() is None:
                if deadline is not None and time.monotonic() > deadline:
                    raise SystemExit("board: stopped, its time is over")
                time.sleep(_TICK_SECONDS)
            raise SystemExit("board: it powered itself off")
        finally:
            (state.run / "board.json").unlink(missing_ok=True)
            _power_off(machine, Path(info.ssh_config), info.name)


def _stop(_signal: int, _frame: object) -> None:
    raise SystemExit("board: stopped")


def _start(kind: BoardKind, state: State, limits: Limits) -> tuple[subprocess.Popen[bytes], int]:
    """The machine, once its SSH server answers, and the port where it does: that of its last start if it is free."""
    for wish in (state.last_port(), None, None):
        port = loopback.free_port(wish)
        machine = subprocess.Popen(_qemu(kind, state, limits, port), stdin=subprocess.DEVNULL, cwd=state.folder)
        if loopback.answers(machine, port, START_SECONDS):
            return machine, port
    console = (state.run / "console").read_text("utf-8", "replace").splitlines()[-8:]
    raise DeviceError("the board does not answer; its console:\n  " + "\n  ".join(console))


def _qemu(kind: BoardKind, state: State, limits: Limits, port: int) -> list[str]:
    """Its command line; file names are relative, because QEMU has its own opinion of a comma in one."""
    with TemporaryDirectory(dir=state.run) as folder:
        shutil.copytree(state.keys / "host", Path(folder) / "keys")
        initrd = state.run / disk.INITRD
        initrd.touch(0o600)
        initrd.write_bytes((state.disk / disk.INITRD).read_bytes() + disk.pack(Path(folder)))
    cores = min(kind.cores, len(os.sched_getaffinity(0)))
    argv = [kind.emulator, "-M", "virt", "-cpu", kind.cpu, "-smp", str(cores), "-m", "1G"]
    argv += ["-nodefaults", "-display", "none", "-serial", "file:run/console"]
    argv += ["-kernel", f"disk/{disk.KERNEL}", "-initrd", f"run/{disk.INITRD}"]
    argv += ["-append", f"console=ttyAMA0 net.ifnames=0 quiet edgekit.small={limits.small_size}"]
    argv += ["-drive", f"file=disk/{disk.DISK},format=raw,if=none,id=disk,cache=writeback"]
    argv += ["-device", "virtio-blk-device,drive=disk"]
    argv += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:{HOST}:{port}-:22"]
    return [*argv, "-device", "virtio-net-device,netdev=net"]


def _power_off(machine: subprocess.Popen[bytes], ssh_config: Path, name: str) -> None:
    """As a person does it; a board that does not listen loses its power."""
    if machine.poll() is not None:
        return
    try:
        _ssh(ssh_config, name, "sudo systemctl poweroff")
        machine.wait(_POWER_OFF_SECONDS)
    except subprocess.TimeoutExpired:
        print("board: it did not power off in time, so its power was cut", flush=True)  # to the log
        machine.kill()
        machine.wait()


def _ssh(ssh_config: Path, name: str, command: str) -> subprocess.CompletedProcess[str]:
    argv = ["ssh", "-F", str(ssh_config), "-o", "BatchMode=yes", name, command]
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_POWER_OFF_SECONDS, check=False
    )
