"""The inside of a running board: process 1 of namespaces of its own, which mounts, starts sshd and waits.

When it ends, however it ends, the kernel ends every process of the board and drops every mount.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from edgekit_runtime.errors import DeviceError

from boards import loopback, repair, sessions, tree
from boards.kind import UID, USER, BoardKind, Limits
from boards.lock import locked
from boards.servers import KEYS, SERVERS
from boards.state import HOST, BoardInfo, State

EMULATION = "qemu-user"
RECIPE: tuple[Path, ...] = ()
START_SECONDS = 120
STOP_SECONDS = 10
BINFMT = Path("/proc/sys/fs/binfmt_misc")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_ANSWER_SECONDS = 60
_TICK_SECONDS = 0.5


def needs(kind: BoardKind) -> dict[str, bool]:
    """The Debian packages that it takes, and whether they are here."""
    found = {"qemu-user-static": Path(f"/usr/lib/binfmt.d/{kind.emulator}.conf").is_file()}
    if kind.busybox:
        found["busybox-static"] = shutil.which("busybox") is not None  # names the tools that `repair` links
    return found


def make(_kind: BoardKind, tree: Path) -> Path:
    """Boards run from the tree itself, read-only."""
    return tree


def prepare(kind: BoardKind, _root: Path, state: State) -> None:
    """A home if there is none, and what each run has anew."""
    if not state.home.is_dir():
        _empty(kind, state.home, state.keys / "identity.pub")
    (state.run / "cpuinfo").write_text(kind.cpuinfo, "ascii")
    shutil.rmtree(state.run / "sys", ignore_errors=True)
    for name, text in kind.sys.items():
        file = state.run / "sys" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("->"):
            file.symlink_to(text.removeprefix("->"))
        else:
            file.write_text(f"{text}\n", "ascii")


def empty_home(kind: BoardKind, info: BoardInfo) -> None:
    """The home as a new board has it. The folder stays, because the running board has it mounted."""
    _empty(kind, Path(info.home or os.devnull), Path(f"{info.identity_file}.pub"))


def _empty(kind: BoardKind, home: Path, key: Path) -> None:
    """Nothing stays in it, but for the key where the SSH server looks for it nowhere else."""
    home.mkdir(exist_ok=True)
    for entry in os.scandir(home):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    home.chmod(0o755)
    made = [home]
    if SERVERS[kind.server].keys_at_home:
        folder, file = home / ".ssh", home / ".ssh/authorized_keys"
        folder.mkdir(mode=0o700)
        file.write_bytes(key.read_bytes())
        file.chmod(0o600)
        made += [folder, file]
    for path in made:
        os.chown(path, UID, UID)


def run(kind: BoardKind, root: Path, state: State, limits: Limits) -> None:
    """Run the board until it is told to stop, its time is over or sshd ends. Called as process 1."""
    deadline = time.monotonic() + limits.max_minutes * 60 if limits.max_minutes else None
    # The old /proc is still mounted: it tells this process's number on the machine.
    pid = int(os.readlink("/proc/self"))
    with locked(state.held, wait=False), locked(tree.lock_file(root), shared=True):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: kind.cores])
        socket.sethostname(f"edgekit-{kind.name}")
        _emulate(kind)
        _mount_all(root, state, limits)
        signal.signal(signal.SIGTERM, _stop)
        try:
            SERVERS[kind.server].prepare(root)
            sshd, port = _start_sshd(kind, root, state.last_port())
            state.write_info(kind, port, pid, root=root, home=state.home, sys=state.run / "sys")
            _watch(sshd, port, root / "proc", deadline)
        finally:
            (state.run / "board.json").unlink(missing_ok=True)
            _end_all()


def _stop(_signal: int, _frame: object) -> None:
    raise SystemExit("board: stopped")


def _emulate(kind: BoardKind) -> None:
    """Make the kernel run the board's programs with QEMU, as Debian's package would at boot.

    binfmt_misc keeps this until the machine restarts; the flag F opens the emulator now, so a chroot needs none.
    """
    if not (BINFMT / "register").exists():
        _mount("binfmt_misc", "binfmt_misc", BINFMT)
    entry = BINFMT / kind.emulator
    if not entry.exists():
        try:
            (BINFMT / "register").write_bytes(Path(f"/usr/lib/binfmt.d/{kind.emulator}.conf").read_bytes().strip())
        except FileExistsError:
            pass
        except OSError as error:
            raise DeviceError(f"the kernel does not take {kind.emulator} for its programs: {error}") from error
    lines = entry.read_text("ascii").splitlines()
    if "enabled" not in lines or not any(line.startswith("flags:") and "F" in line for line in lines):
        raise DeviceError(f"{entry} is disabled or lacks the flag F", hint="reinstall qemu-user-static")


def _mount_all(root: Path, state: State, limits: Limits) -> None:
    _bind(root, root, read_only=True)
    _mount("proc", "proc", root / "proc")
    _bind(state.run / "cpuinfo", root / "proc/cpuinfo", read_only=True)
    _bind(state.run / "sys", root / "sys", read_only=True)
    _bind(state.keys / "host", root / KEYS, read_only=True)
    _bind(state.home, root / "home" / USER)
    for name, options in (
        ("run", "mode=755,size=64M"),
        ("tmp", "mode=1777,size=1G"),
        ("var/tmp", "mode=1777,size=1G"),
        ("var/log", "mode=755,size=64M"),
        (repair.SMALL, f"mode=755,uid={UID},gid={UID},size={limits.small_size}"),
        (repair.READONLY, f"ro,mode=755,uid={UID},gid={UID},size=1M"),
    ):
        _mount("tmpfs", "tmpfs", root / name, options)
    (root / "run/lock").mkdir()
    (root / "run/lock").chmod(0o1777)
    _devices(root / "dev")


def _devices(dev: Path) -> None:
    _mount("tmpfs", "tmpfs", dev, "mode=755,size=1M")
    for name in _DEVICES:
        (dev / name).touch()
        _bind(Path("/dev") / name, dev / name)
    for name, kind, options in (
        ("pts", "devpts", "newinstance,ptmxmode=666,mode=620,gid=5"),
        ("shm", "tmpfs", "mode=1777,size=256M"),
    ):
        (dev / name).mkdir()
        _mount(kind, kind, dev / name, options)
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
    for name, target in links.items():
        (dev / name).symlink_to(target)


def _mount(kind: str, source: str, target: Path, options: str = "defaults") -> None:
    _call(["mount", "-t", kind, "-o", options, source, str(target)])


def _bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    _call(["mount", "--bind", str(source), str(target)])
    if read_only:
        _call(["mount", "-o", "remount,bind,ro", str(target)])


def _call(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise DeviceError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _start_sshd(kind: BoardKind, root: Path, wish: int | None) -> tuple[int, int]:
    """sshd's process and the port on which it answers: the wished one if it is free."""
    for port in (wish, None, None):
        chosen = loopback.free_port(port)
        argv = ["chroot", str(root), *SERVERS[kind.server].argv(HOST, chosen)]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "QEMU_CPU": kind.cpu}
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=environment, cwd="/")
        if loopback.answers(process, chosen, _ANSWER_SECONDS):
            return process.pid, chosen
    raise DeviceError("the board's sshd does not answer")


def _watch(sshd: int, port: int, proc: Path, deadline: float | None) -> None:
    """Bury the dead and end the sessions that lost their connection."""
    cut: frozenset[int] = frozenset()
    while deadline is None or time.monotonic() < deadline:
        if _reap(sshd):
            raise DeviceError("the board's sshd ended")
        cut = sessions.end_cut(proc, port, cut)
        time.sleep(_TICK_SECONDS)
    raise SystemExit("board: stopped, its time is over")


def _reap(sshd: int) -> bool:
    """Collect ended processes; whether sshd is one of them."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid in {0, sshd}:
            return pid == sshd


def _end_all() -> None:
    """Ask every process of the board to end; the kernel kills the rest when this one is gone."""
    try:
        os.kill(-1, signal.SIGTERM)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            os.waitpid(-1, os.WNOHANG)
            time.sleep(0.02)
    except (ProcessLookupError, ChildProcessError):
        return
