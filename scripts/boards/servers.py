"""The SSH servers that boards have: how each is configured in a tree, and started in a board."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit_runtime.errors import DeviceError

from boards.kind import BoardKind

# Bound over in every board: see namespace.py.
KEYS = "etc/ssh/board"
HOST_KEY = f"/{KEYS}/ssh_host_ed25519_key"
LOGIN_SHELL = "usr/sbin/board-shell"

# A session's environment comes from sshd, so the emulated core has to be named here.
_SSHD_CONFIG = """\
HostKey {host_key}
AuthorizedKeysFile /{keys}/authorized_keys .ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UsePAM no
X11Forwarding no
PrintMotd no
MaxStartups 64
AcceptEnv LANG LC_*
SetEnv QEMU_CPU={cpu}
Subsystem sftp /usr/lib/openssh/sftp-server
"""

# Dropbear hands on no environment, so the login shell names the core. Like every login shell it reads ~/.profile.
_LOGIN_SHELL = """\
#!/bin/sh
export QEMU_CPU={cpu} PATH=/usr/bin:/bin
[ ! -r "$HOME/.profile" ] || . "$HOME/.profile"
exec /bin/sh "$@"
"""


@dataclass(frozen=True)
class SshServer:
    """How one SSH server comes to a board.

    Attributes:
        shell: the board user's login shell.
        configure: writes its settings into an unpacked tree.
        prepare: makes what a run needs in the mounted root.
        argv: the command inside the board that serves a port of loopback in the foreground.
        keys_at_home: it looks for authorized keys nowhere but in ~/.ssh.
    """

    shell: str
    configure: Callable[[BoardKind, Path], None]
    prepare: Callable[[Path], None]
    argv: Callable[[str, int], list[str]]
    keys_at_home: bool = False


def _configure_openssh(kind: BoardKind, tree: Path) -> None:
    _write(tree / "etc/ssh/sshd_config", _SSHD_CONFIG.format(host_key=HOST_KEY, keys=KEYS, cpu=kind.cpu))


def _prepare_openssh(root: Path) -> None:
    (root / "run/sshd").mkdir(mode=0o755)


def _openssh(host: str, port: int) -> list[str]:
    return ["/usr/sbin/sshd", "-D", "-e", "-p", str(port), "-o", f"ListenAddress={host}"]


def _configure_dropbear(kind: BoardKind, tree: Path) -> None:
    shell = tree / LOGIN_SHELL
    _write(shell, _LOGIN_SHELL.format(cpu=kind.cpu))
    shell.chmod(0o755)
    _write(tree / "etc/shells", f"/{LOGIN_SHELL}\n")


def _prepare_dropbear(root: Path) -> None:
    """Dropbear has a key format of its own."""
    argv = ["chroot", str(root), "/usr/bin/dropbearconvert", "openssh", "dropbear", HOST_KEY, "/run/dropbear_key"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise DeviceError(f"Dropbear cannot read the host key: {done.stderr.strip()}")


def _dropbear(host: str, port: int) -> list[str]:
    return ["/usr/sbin/dropbear", "-F", "-E", "-m", "-w", "-s", "-p", f"{host}:{port}", "-r", "/run/dropbear_key"]


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(text, "ascii")


SERVERS = {
    "openssh": SshServer("/bin/bash", _configure_openssh, _prepare_openssh, _openssh),
    "dropbear": SshServer(f"/{LOGIN_SHELL}", _configure_dropbear, _prepare_dropbear, _dropbear, keys_at_home=True),
}
