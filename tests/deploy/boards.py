"""Boards behind one face: the embedded one, a real OpenSSH on this computer, and emulated ARM boards."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.board_fixture import empty_home, start_board
from tests.deploy.kit import EDGEKIT, User
from tests.ssh_fixture import SSHD, make_key, start_sshd

REPOSITORY = Path(__file__).resolve().parents[2]
OLD_PYTHON = "3.6.15"
# A real interpreter that gives itself out as another: the program and the command line see an old board.
_PRETENDING = """\
#!/bin/sh
[ "$1" = -s ] && [ "$2" = -c ] || exit 64
code=$3
shift 3
exec {python} -s -c 'import sys
sys.version_info = ({version}, "final", 0)
exec(sys.argv.pop(1))' "$code" "$@"
"""
# Mounts that this computer never sees: they end with the process.
_IN_NAMESPACE = """\
mount -t tmpfs -o mode=755,size=16M tmpfs "$1"
mount -t tmpfs -o mode=755,size=1M,ro tmpfs "$2"
shift 2
exec "$@"
"""
# A home as `emulated` prepares one.
_NEW_HOME = """\
PATH=/usr/bin
find ~ -mindepth 1 -delete
mkdir ~/bin
ln -s /usr/bin/* ~/bin/
rm ~/bin/python*
ln -s /usr/bin/python3 ~/bin/python3
echo 'PATH=$HOME/bin' >~/.bashrc
"""


@dataclass(frozen=True)
class Shown:
    """What an emulated board is, and what its reports say of it.

    Attributes:
        profile: the packaged profile that fits it.
        startup: the file in its user's home that the login shell reads first.
        runtime: the interpreter's module and version.
    """

    profile: str
    startup: str
    architecture: str
    cpu: str
    board: str
    governor: str | None
    temperature: float | None
    runtime: tuple[str, str]


EMULATED = {
    "arm64": Shown(
        "generic-aarch64", ".bashrc", "aarch64", "Cortex-A72", "Raspberry Pi 4 Model B Rev 1.4", "ondemand", 48.2,
        ("ai_edge_litert", "2.3.0"),
    ),
    "vm": Shown(
        "generic-aarch64", ".bashrc", "aarch64", "Cortex-A72", "linux,dummy-virt", None, None,
        ("ai_edge_litert", "2.3.0"),
    ),
    "armv7": Shown(
        "generic-armv7", ".profile", "armv7l", "Cortex-A53", "Raspberry Pi 3 Model B Plus Rev 1.3", "powersave", 51.5,
        ("tflite_runtime", "2.14.0"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Board:
    """A board to deploy to.

    Attributes:
        kind: embedded, openssh, arm64 or armv7.
        name: what the command line calls it.
        alias: its Host in the user's ssh config; the same board, for OpenSSH's tools and detours.
        profile: what describes it, a packaged profile's name or a file.
        home: its user's home as this computer sees it, and `board_home` as the board does.
        bin: the folder that comes first in its PATH, as this computer sees it; has its python3.
        python: its real interpreter, in the board's words.
        small: a folder of 16 MiB in the board's words, and `readonly` one where nothing can be written; None where
            this computer's user cannot mount.
        pid: its server's process on this computer.
        stash: a folder on the same file system as its home, not in it; beside the home unless given.
    """

    kind: str
    name: str
    alias: str
    port: int
    user: str
    identity: Path
    fingerprint: str
    profile: str
    home: Path
    board_home: str
    bin: Path
    python: str
    small: str | None
    readonly: str | None
    pid: int
    prepare: Callable[[], None] = field(repr=False)
    stash: Path | None = None

    @property
    def emulated(self) -> bool:
        return self.kind in EMULATED

    @property
    def runtime_size(self) -> float:
        """A number of bytes that the interpreter alone has more of."""
        return 4e6 if self.kind == "armv7" else 15e6

    @property
    def root(self) -> Path:
        """edgekit's folder there, as this computer sees it."""
        return self.home / ".local/share/edgekit"

    @property
    def board_root(self) -> str:
        """The same in the board's words."""
        return f"{self.board_home}/.local/share/edgekit"

    @property
    def host_block(self) -> str:
        """For an ssh config; nothing in it trusts the board."""
        lines = [f"Host {self.alias}", "HostName 127.0.0.1", f"Port {self.port}", f"User {self.user}"]
        return "\n  ".join([*lines, f"IdentityFile {self.identity}", "IdentitiesOnly yes"]) + "\n"

    def ssh(self, command: str) -> list[str]:
        """OpenSSH's client for a shell command there."""
        options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        flags = [word for option in options for word in ("-o", option)]
        target = ["-p", str(self.port), "-i", str(self.identity), "-o", "IdentitiesOnly=yes", f"{self.user}@127.0.0.1"]
        return ["ssh", "-F", "none", *flags, *target, command]

    def sh(self, command: str, stdin: str = "") -> str:
        """Standard output of a shell command that must succeed there."""
        done = subprocess.run(self.ssh(command), input=stdin, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def program(self, *words: str) -> str:
        """The line that gives edgekit's program there an order."""
        return shlex.join(["sh", f"{self.board_root}/bin/edgekit-board", *words])

    def reset(self) -> None:
        """A board fresh from its maker."""
        self.prepare()

    def put_root_on(self, folder: str | None) -> None:
        """Let edgekit's folder be another one there, and an empty one."""
        if folder is None:
            pytest.skip("a small and a read-only file system need root")
        self.sh(f"rm -rf {shlex.quote(folder)}/* || :")
        self.root.parent.mkdir(parents=True, exist_ok=True)
        self.root.symlink_to(folder)

    def set_python(self, script: str | None) -> None:
        """Replace its python3, or take it away."""
        target = self.bin / "python3"
        target.unlink()
        if script is not None:
            target.write_text(script)
            target.chmod(0o755)

    def set_old_python(self) -> None:
        version = OLD_PYTHON.replace(".", ", ")
        self.set_python(_PRETENDING.format(python=shlex.quote(self.python), version=version))

    def files(self) -> list[str]:
        """Every file below edgekit's folder; not the journal and other texts of fixed name at its top."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.parent != self.root)

    def parts(self) -> list[str]:
        """What is on its way: uploads, measured files and samples, half a release."""
        found = [path for what in ("incoming/*", "cache/bench.*", "releases/*.tmp") for path in self.root.glob(what)]
        return sorted(str(path.relative_to(self.root)) for path in found)

    def processes(self) -> list[str]:
        """Command lines of edgekit's processes there."""
        if self.kind == "vm":
            lines = self.sh("/usr/bin/ps -eo args=").splitlines()
            return [line for line in lines if self.board_root in line and "ps -eo" not in line]
        found = []
        space = _pid_namespace(self.pid)
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if self.board_root in line and _pid_namespace(int(folder.name)) == space:
                    found.append(line)
            except OSError:
                continue  # it ended, or is not ours to see
        return [line for line in found if "ssh -F none" not in line]

    def wait_until_idle(self) -> None:
        """A command's end there follows the end of its connection by a moment."""
        deadline = time.monotonic() + 30
        lock = self.root / "lock"
        # os.path and not pathlib: what vanishes while sshfs looks at it is not permitted, says sshfs.
        while (self.processes() or os.path.exists(lock)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.processes() == []
        assert not os.path.exists(lock)

    def packages(self) -> str:
        """What pip could have changed."""
        script = (
            "import os, site\n"
            "folders = [*site.getsitepackages(), site.getusersitepackages()]\n"
            "print([sorted(set(os.listdir(f)) - {'__pycache__'}) for f in folders if os.path.isdir(f)])"
        )
        return self.sh("python3 -s -", script)


def write_ssh_config(user: User, *boards: Board, extra: str = "") -> None:
    user.ssh_config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    user.ssh_config.write_text("".join(board.host_block for board in boards) + extra)


@contextmanager
def embedded(user: User) -> Iterator[Board]:
    """`edgekit embedded` of that user, in the background."""
    where = user.home / "embedded"
    wrapper, small, readonly = _mounts(user.home)
    log = user.home / "embedded.log"
    with log.open("w") as talk:
        process = subprocess.Popen(
            [*wrapper, *EDGEKIT, "embedded"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=talk,
            text=True,
            env=user.environment,
        )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(6)]
        config = {words[0]: words[1] for words in lines if len(words) == 2}
        assert "Port" in config, log.read_text()
        python = where / "bin" / "python3"
        original = python.read_text()

        def prepare() -> None:
            shutil.rmtree(where / "home")
            (where / "home").mkdir()
            python.write_text(original)
            python.chmod(0o755)

        yield Board(
            kind="embedded",
            name="embedded",
            alias="edgekit-embedded",
            port=int(config["Port"]),
            user=config["User"],
            identity=Path(config["IdentityFile"].strip('"')),
            fingerprint=fingerprint(where / "host_key.pub"),
            profile="host",
            home=where / "home",
            board_home=str(where / "home"),
            bin=where / "bin",
            python=sys.executable,
            small=small,
            readonly=readonly,
            pid=process.pid,
            prepare=prepare,
        )
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def openssh(folder: Path) -> Iterator[Board]:
    """sshd on this computer whose sessions have a home and a PATH of their own."""
    if SSHD is None:
        pytest.skip("no sshd here (Debian: openssh-server)")
    home, tools = folder / "home", folder / "bin"
    wrapper, small, readonly = _mounts(folder)

    def prepare() -> None:
        for old in (home, tools):
            shutil.rmtree(old, ignore_errors=True)
            old.mkdir()
        for tool in [*Path("/bin").iterdir(), *Path("/usr/bin").iterdir()]:
            if not tool.name.startswith("python") and not (tools / tool.name).is_symlink():
                (tools / tool.name).symlink_to(tool)
        (tools / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        (tools / "python3").chmod(0o755)

    prepare()
    options = [f"SetEnv HOME={home} PATH={tools}"]  # the first of its kind wins
    with start_sshd(folder, options=options, wrapper=wrapper) as server:
        assert server.process is not None
        yield Board(
            kind="openssh",
            name="workbench",
            alias="workbench",
            port=server.port,
            user=getpass.getuser(),
            identity=server.identity,
            fingerprint=fingerprint(Path(f"{server.host_key}.pub")),
            profile="host",
            home=home,
            board_home=str(home),
            bin=tools,
            python=sys.executable,
            small=small,
            readonly=readonly,
            pid=server.process.pid,
            prepare=prepare,
        )


@contextmanager
def emulated(kind: str, folder: Path) -> Iterator[Board]:
    """The emulated board of this test run; its profile leaves NumPy to the board, as half as much is sent."""
    info, profile = start_board(kind), own_numpy(kind, folder)
    startup = EMULATED[kind].startup
    tools = info.home / "bin"

    def prepare() -> None:
        empty_home(info)
        tools.mkdir()
        (info.home / startup).write_text("PATH=$HOME/bin\n")  # its shell reads it for each command
        for tool in (info.root / "usr/bin").iterdir():
            if not tool.name.startswith("python"):
                (tools / tool.name).symlink_to(f"/usr/bin/{tool.name}")
        (tools / "python3").symlink_to("/usr/bin/python3")

    prepare()
    yield Board(
        kind=kind,
        name=kind,
        alias=kind,
        port=info.port,
        user=info.user,
        identity=info.identity_file,
        fingerprint=info.host_key_fingerprint,
        profile=str(profile),
        home=info.home,
        board_home=f"/home/{info.user}",
        bin=tools,
        python="/usr/bin/python3",
        small="/mnt/small",
        readonly="/mnt/readonly",
        pid=info.pid,
        prepare=prepare,
    )


@contextmanager
def machine(folder: Path) -> Iterator[Board]:
    """The board with a kernel and a disk of its own; its files are seen through its SSH server."""
    info, view = start_board("vm"), folder / "view"
    view.mkdir()
    options = "attr_timeout=0,entry_timeout=0,negative_timeout=0,dir_cache=no,reconnect"
    mount = ["sshfs", "-F", str(info.ssh_config), "-o", options, f"{info.name}:/", str(view)]
    subprocess.run(mount, check=True, capture_output=True, timeout=60)

    def prepare() -> None:
        done = info.ssh(_NEW_HOME)
        assert done.returncode == 0, done.stderr

    try:
        prepare()
        yield Board(
            kind="vm",
            name="vm",
            alias="vm",
            port=info.port,
            user=info.user,
            identity=info.identity_file,
            fingerprint=info.host_key_fingerprint,
            profile=str(own_numpy("vm", folder)),
            home=view / "home" / info.user,
            board_home=f"/home/{info.user}",
            bin=view / "home" / info.user / "bin",
            python="/usr/bin/python3",
            small="/mnt/small",
            readonly="/mnt/readonly",
            pid=info.pid,
            prepare=prepare,
            stash=view / "var/tmp",
        )
    finally:
        subprocess.run(["fusermount3", "-u", str(view)], check=False, timeout=60)


def own_numpy(kind: str, folder: Path) -> Path:
    """The profile of an emulated board, but with the board's own NumPy, which must be there."""
    packaged = EMULATED[kind].profile
    text = (REPOSITORY / f"device_profiles/{packaged}.toml").read_text()
    profile = folder / "own-numpy.toml"
    profile.write_text(text.replace(f'"{packaged}"', '"own-numpy"').replace('numpy = "auto"', 'numpy = "board"'))
    return profile


def fingerprint(key: Path) -> str:
    """What ssh-keygen says of a public key."""
    done = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()[1]


def another_key(folder: Path) -> Path:
    """A key pair that no board knows."""
    return make_key(folder / "another")


def _mounts(folder: Path) -> tuple[list[str], str | None, str | None]:
    """A command's beginning that gives it a small and a read-only folder, and where they are."""
    if os.geteuid():
        return [], None, None
    small, readonly = folder / "small", folder / "readonly"
    small.mkdir()
    readonly.mkdir()
    wrapper = ["unshare", "--mount", "sh", "-ec", _IN_NAMESPACE, "sh", str(small), str(readonly)]
    return wrapper, str(small), str(readonly)


def _pid_namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/pid")
