"""One board on this machine: its keys, its user's home and, while it runs, how to reach it.

STATE/lock            locked while the board is changed
STATE/held            locked while it runs
STATE/keys/           client key and host key, made once
STATE/home/           the board user's home, kept from run to run; of a machine with a disk of its own STATE/disk/
STATE/run/board.json  there while the board is up; beside it ssh_config, known_hosts, log, and what its form needs
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pwd
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from boards.kind import USER, BoardKind

HOST = "127.0.0.1"


@dataclass(frozen=True)
class BoardInfo:
    """How to reach a running board.

    Attributes:
        name: its Host in `ssh_config`.
        host_key_fingerprint: as OpenSSH shows it, `SHA256:...`.
        pid: the board's first process, as this machine counts; everything in the board ends with it.
        started: the start of that process in clock ticks since this machine's boot, so that no other is taken for it.
        boot: this machine's boot id.
        root: the userland, read-only and shared by all boards of the kind; None in a board with a disk of its own.
        home: the board user's home as this machine sees it; None likewise.
        sys: what the board sees as /sys; written to by tests that change governor or heat. None likewise.
        image: the board's own disk, else None; nobody else may use it while the board is up.
    """

    name: str
    host: str
    port: int
    user: str
    identity_file: str
    ssh_config: str
    known_hosts: str
    host_key_fingerprint: str
    pid: int
    started: int
    boot: str
    log: str
    root: str | None = None
    home: str | None = None
    sys: str | None = None
    image: str | None = None

    def alive(self) -> bool:
        return self.boot == boot_id() and start_of(self.pid) == self.started

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True)
class State:
    """The folder of one board."""

    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def held(self) -> Path:
        return self.folder / "held"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> Path:
        return self.run / "log"

    def kind(self) -> str | None:
        """The kind of board that it was made for: the comment of its key says so."""
        try:
            comment = (self.keys / "identity.pub").read_text("ascii").split()[2]
        except (OSError, ValueError, IndexError):
            return None
        return comment.removeprefix("edgekit-")

    def running(self) -> BoardInfo | None:
        """The board, if it is up."""
        try:
            info = BoardInfo(**json.loads((self.run / "board.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return info if info.alive() else None

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    def write_info(self, kind: BoardKind, port: int, pid: int, **places: Path) -> BoardInfo:
        """Tell the world that the board answers: ssh_config and known_hosts first, board.json last.

        Args:
            places: of `root`, `home`, `sys` and `image` those that it has.
        """
        name = f"edgekit-{kind.name}"
        key = (self.keys / "host/ssh_host_ed25519_key.pub").read_text("ascii").split()[:2]
        known, config, identity = self.run / "known_hosts", self.run / "ssh_config", self.keys / "identity"
        info = BoardInfo(
            name=name,
            host=HOST,
            port=port,
            user=USER,
            identity_file=str(identity),
            ssh_config=str(config),
            known_hosts=str(known),
            host_key_fingerprint=_fingerprint(key[1]),
            pid=pid,
            started=start_of(pid) or 0,
            boot=boot_id(),
            log=str(self.log),
            **{name: str(path) for name, path in places.items()},
        )
        lines = [f"Host {name}", f"  HostName {HOST}", f"  Port {port}", f"  User {USER}"]
        lines += [f'  IdentityFile "{identity}"', "  IdentitiesOnly yes", f'  UserKnownHostsFile "{known}"']
        lines += [f"  HostKeyAlias {name}", "  StrictHostKeyChecking yes"]
        self._publish(known, f"{name},[{HOST}]:{port} {' '.join(key)}\n")
        self._publish(config, "\n".join(lines) + "\n")
        self._publish(self.run / "board.json", info.to_json() + "\n")
        return info

    def prepare(self, kind: BoardKind) -> None:
        """Make keys if there are none; nothing runs yet."""
        for folder in (self.keys, self.run, self.keys / "host"):
            folder.mkdir(parents=True, exist_ok=True)
        identity, host_key = self.keys / "identity", self.keys / "host/ssh_host_ed25519_key"
        for key, comment in ((identity, f"edgekit-{kind.name} client"), (host_key, f"edgekit-{kind.name}")):
            if not key.exists():
                make_key(key, comment)
        authorized = self.keys / "host/authorized_keys"
        authorized.write_bytes(identity.with_name("identity.pub").read_bytes())
        authorized.chmod(0o644)
        give(self.folder, self.keys, identity, self.run)
        (self.run / "board.json").unlink(missing_ok=True)

    def last_port(self) -> int | None:
        """The port of the last run, so that a board can be found where it was."""
        try:
            lines = (self.run / "ssh_config").read_text("utf-8").split()
            return int(lines[lines.index("Port") + 1])
        except (OSError, ValueError, IndexError):
            return None

    def _publish(self, file: Path, text: str) -> None:
        part = file.with_name(f"{file.name}.part")
        part.write_text(text, "utf-8")
        give(part)
        os.rename(part, file)


def make_key(file: Path, comment: str) -> None:
    """An ed25519 key pair; a cut run leaves none or a whole one."""
    part = file.with_name(f"{file.name}.part")
    for old in (part, part.with_name(f"{part.name}.pub")):
        old.unlink(missing_ok=True)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(part)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    os.rename(part.with_name(f"{part.name}.pub"), file.with_name(f"{file.name}.pub"))
    os.rename(part, file)


def default_boards() -> Path:
    """`$EDGEKIT_BOARDS`, else `edgekit/boards` in the user's cache; under sudo that of the user who called it."""
    given = os.environ.get("EDGEKIT_BOARDS")
    if given:
        return Path(given).absolute()
    caller = _caller()
    cache = None if caller else os.environ.get("XDG_CACHE_HOME")
    home = Path(caller.pw_dir) if caller else Path.home()
    return (Path(cache) if cache else home / ".cache") / "edgekit" / "boards"


def give(*paths: Path) -> None:
    """Under sudo, let the user who called it have these: ssh refuses a key that belongs to another."""
    caller = _caller()
    if caller:
        for path in paths:
            os.chown(path, caller.pw_uid, caller.pw_gid)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def start_of(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None when there is none or it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _caller() -> pwd.struct_passwd | None:
    uid = os.environ.get("SUDO_UID", "0")
    return pwd.getpwuid(int(uid)) if os.geteuid() == 0 and uid.isdigit() and int(uid) else None


def _fingerprint(blob: str) -> str:
    digest = hashlib.sha256(base64.b64decode(blob)).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")
