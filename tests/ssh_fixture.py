"""A real OpenSSH server on loopback, as the user who runs the tests: own keys, own config, free port."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SSHD = shutil.which("sshd") or next((p for p in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if Path(p).exists()), None)


@dataclass
class SshBoard:
    """How to reach it. `alias` is its Host in `ssh_config`, whose known_hosts holds its key."""

    port: int
    user: str
    identity: Path
    ssh_config: Path
    known_hosts: Path
    host_key: Path
    root: Path
    log: Path
    alias: str = "board"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def stop(self) -> None:
        """End the listener and every session of it."""
        if self.process is None:
            return
        children = _descendants(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in children:
            try:
                os.kill(child, 9)
            except ProcessLookupError:
                continue
        self.process = None


@contextmanager
def start_sshd(
    tmp_path: Path,
    *,
    alias: str = "board",
    key_type: str = "ed25519",
    options: Sequence[str] = (),
    client_options: Sequence[str] = (),
    sftp: bool = True,
    wrapper: Sequence[str] = (),
    address: str = "127.0.0.1",
) -> Iterator[SshBoard]:
    """Run sshd until the block ends.

    Args:
        tmp_path: a folder of its own.
        options: more lines for sshd_config.
        client_options: more lines for the Host block in `ssh_config`.
        sftp: with an sftp subsystem.
        wrapper: a command that starts sshd in its own place, such as `unshare --mount`.
        address: where it listens.
    """
    if SSHD is None:
        raise RuntimeError("the tests need OpenSSH's sshd (Debian: openssh-server)")
    folder = tmp_path / f"sshd-{alias}"
    folder.mkdir(mode=0o700, parents=True)
    root = folder / "root"
    root.mkdir()
    host_key, identity = make_key(folder / "host_key", key_type), make_key(folder / "identity")
    authorized = folder / "authorized_keys"
    authorized.write_bytes(Path(f"{identity}.pub").read_bytes())
    authorized.chmod(0o600)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # privilege separation
    port = free_port()
    config = folder / "sshd_config"
    lines = [
        *options,
        f"Port {port}",
        f"ListenAddress [{address}]" if ":" in address else f"ListenAddress {address}",
        f"HostKey {host_key}",
        f"PidFile {folder / 'pid'}",
        f"AuthorizedKeysFile {authorized}",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "LogLevel VERBOSE",
        f"SetEnv EDGEKIT_ROOT={root}",
        *(["Subsystem sftp internal-sftp"] if sftp else []),
    ]
    config.write_text("\n".join(lines) + "\n")
    known = folder / "known_hosts"
    kind, blob = Path(f"{host_key}.pub").read_text().split()[:2]
    known.write_text(f"[{address}]:{port} {kind} {blob}\n")
    client = folder / "ssh_config"
    block = [
        f"Host {alias}",
        f"  HostName {address.replace('%', '%%')}",
        f"  Port {port}",
        f"  User {getpass.getuser()}",
        f"  IdentityFile {identity}",
        "  IdentitiesOnly yes",
        f"  UserKnownHostsFile {known}",
        *(f"  {line}" for line in client_options),
    ]
    client.write_text("\n".join(block) + "\n")
    log = folder / "log"
    with open(log, "wb") as out:
        process = subprocess.Popen([*wrapper, SSHD, "-D", "-e", "-f", str(config)], stdout=out, stderr=out)
    board = SshBoard(
        port, getpass.getuser(), identity, client, known, host_key, root, log, alias=alias, process=process
    )
    try:
        _wait_for(board)
        yield board
    finally:
        board.stop()


@dataclass(frozen=True)
class Account:
    """Users of a board that this computer does not have: a mount namespace has its own /etc/passwd and /etc/shadow.

    `wrapper` starts sshd there. Needs root.
    """

    folder: Path

    def wrapper(self, name: str, shell: str, home: str, *, uid: int = 0, password: str = "x") -> list[str]:
        """The wrapper for a server that knows `name`; the line comes first, so that uid 0 is `name` too."""
        self.folder.mkdir(parents=True, exist_ok=True)
        passwd, shadow = self.folder / "passwd", self.folder / "shadow"
        crypt = subprocess.run(["openssl", "passwd", "-6", password], check=True, capture_output=True, text=True)
        passwd.write_text(f"{name}:x:{uid}:{uid}::{home}:{shell}\n" + Path("/etc/passwd").read_text())
        shadow.write_text(f"{name}:{crypt.stdout.strip()}:20000:0:99999:7:::\n" + Path("/etc/shadow").read_text())
        passwd.chmod(0o644)
        script = 'mount --bind "$1" /etc/passwd; mount --bind "$2" /etc/shadow; shift 2; exec "$@"'
        return ["unshare", "--mount", "sh", "-ec", script, "sh", str(passwd), str(shadow)]


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A key pair by ssh-keygen."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)], check=True, timeout=60
    )
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_for(board: SshBoard) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if board.process is None or board.process.poll() is not None:
            raise RuntimeError(f"sshd did not start: {board.log.read_text()}")
        if "Server listening on" in board.log.read_text("utf-8", "replace"):
            return
        time.sleep(0.02)
    raise RuntimeError("sshd does not answer")


def _descendants(pid: int) -> list[int]:
    """Process numbers below `pid`, read from /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(after_name[1])
    found = [pid]
    for parent in found:
        found.extend(child for child, of in parents.items() if of == parent)
    return found[1:]
