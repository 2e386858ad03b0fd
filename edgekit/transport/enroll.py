"""The user's public key on a board that so far takes only a password."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.pkey import PublicBlob

from edgekit.errors import UserError
from edgekit.transport.auth import Ask
from edgekit.transport.config import SshTarget, own_identity
from edgekit.transport.dial import Timeouts
from edgekit.transport.ssh import open_ssh

# $1 is "TYPE BASE64"; a line with it that is not a comment counts, whatever its comment says.
_INSTALL = """set -e; umask 077; cd; mkdir -p .ssh; chmod 700 .ssh; f=.ssh/authorized_keys
touch "$f"; chmod 600 "$f"
if grep -v '^[[:space:]]*#' "$f" | grep -qF -e "$1"; then exit 0; fi
if [ -s "$f" ] && [ -n "$(tail -c 1 "$f")" ]; then echo >>"$f"; fi
printf '%s edgekit\\n' "$1" >>"$f"; sync
grep -qF -e "$1" "$f"
"""


def install(target: SshTarget, *, ask: Ask, timeouts: Timeouts | None = None) -> Path:
    """Append a public key to `~/.ssh/authorized_keys` on the board, once, over a login with a password.

    The key is that of the first identity with a `.pub` file; when there is none, edgekit makes one.

    Returns:
        The public key's file.
    """
    public = next((path for path in map(_public, target.identities) if path.is_file()), None)
    if public is None:
        public = _public(own_identity())
        if not public.is_file():
            generate(own_identity())
    words = public.read_text("utf-8").split()
    try:
        PublicBlob.from_string(" ".join(words[:2]))
    except (ValueError, IndexError) as error:
        raise UserError(f"{public} is not a public key", path=str(public)) from error
    with open_ssh(target, ask=ask, timeouts=timeouts, password_only=True) as board:
        board.check(["sh", "-c", _INSTALL, "sh", f"{words[0]} {words[1]}"])
    return public


def generate(path: Path) -> None:
    """A new Ed25519 key, unencrypted and for this user only: `path` and `path.pub`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _replace(path, private, 0o600)
    _replace(_public(path), public + b" edgekit\n", 0o644)


def public_blob(path: Path) -> bytes:
    """The key in `path`.pub in SSH wire format."""
    return base64.b64decode(_public(path).read_text("ascii").split()[1])


def _public(path: Path) -> Path:
    return Path(f"{path}.pub")


def _replace(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as out:
        out.write(content)
    os.replace(temporary, path)
