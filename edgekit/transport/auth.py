"""Getting let in: keys of the config and the agent, then a password when there is someone to ask."""

from __future__ import annotations

import base64
import copy
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from paramiko.pkey import PublicBlob

from edgekit.transport import agents
from edgekit.transport.config import SshTarget
from edgekit.transport.dial import Link, Timeouts
from edgekit.transport.errors import AuthenticationFailed

Ask = Callable[[str], str]
_KEY_TYPES: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_MAX_AGENT_KEYS = 5  # an OpenSSH server ends the conversation after six refusals
_PASSPHRASE_TRIES = 3
_MAGIC = b"openssh-key-v1\0"
_OPENED: dict[Path, paramiko.PKey] = {}  # what was unlocked stays so for this process
_ASKING = threading.Lock()


@dataclass
class _Attempts:
    """What was tried on one link, and what the board would take."""

    link: Link
    limit: float
    tried: list[str] = field(default_factory=list)
    offered: list[str] = field(default_factory=list)
    locked: list[Path] = field(default_factory=list)  # key files whose passphrase nobody told
    made: int = 0
    over: bool = False  # the board has had enough of us

    def attempt(self, name: str, step: Callable[[], object]) -> bool:
        """One step; True when the board has let us in."""
        try:
            with self.link.watchdog.guard(f"authenticating at {self.link.target.host}", limit=self.limit) as guard:
                try:
                    step()
                except paramiko.BadAuthenticationType as error:
                    self.offered = list(error.allowed_types)
                except paramiko.AuthenticationException:
                    if guard.verdict or (not self.link.transport.is_active() and not self.made):
                        raise
                except (paramiko.SSHException, EOFError, OSError):
                    if guard.verdict or not self.made:
                        raise
                    self.over = True
        finally:
            if name:
                self.tried.append(name)
                self.made += 1
        self.over = self.over or not self.link.transport.is_active()
        return self.link.transport.is_authenticated()

    def fail(self) -> AuthenticationFailed:
        target = self.link.target
        locked = self.locked[0] if self.locked else None
        return AuthenticationFailed(
            target.board, target.user, target.where, tried=self.tried, offered=self.offered, locked=locked
        )


def authenticate(link: Link, timeouts: Timeouts, ask: Ask | None, *, password_only: bool = False) -> None:
    """Log in at the end of `link`.

    Args:
        ask: shows a prompt and gives what was typed, unseen; None when nobody can be asked.

    Raises:
        AuthenticationFailed, LinkLost.
    """
    target, transport = link.target, link.transport
    attempts = _Attempts(link, timeouts.auth)
    if attempts.attempt("", lambda: transport.auth_none(target.user)):
        return
    if "publickey" in attempts.offered and not password_only:
        for name, key in _keys(target, ask, attempts):
            if attempts.attempt(name, lambda key=key: transport.auth_publickey(target.user, key)):  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                return
            if attempts.over:
                raise attempts.fail()
    if ask is not None and {"password", "keyboard-interactive"} & set(attempts.offered):
        password = ask(f"password of {target.user}@{target.host}: ")
        if attempts.attempt("password", lambda: transport.auth_password(target.user, password)):
            return
    raise attempts.fail()


def load_key(path: Path, passphrase: str | None = None) -> paramiko.PKey:
    """A private key from a file.

    Raises:
        paramiko.PasswordRequiredException: it is encrypted.
        paramiko.SSHException, OSError, ValueError: it cannot be used.
    """
    last: Exception = paramiko.SSHException(f"{path} holds no key that can be used")
    for kind in _KEY_TYPES:
        try:
            return kind.from_private_key_file(str(path), passphrase)
        except paramiko.PasswordRequiredException:
            raise
        except (paramiko.SSHException, ValueError, TypeError, IndexError) as error:
            last = error
    raise paramiko.SSHException(f"{path} holds no key that can be used: {last}")


def _keys(target: SshTarget, ask: Ask | None, attempts: _Attempts) -> Iterator[tuple[str, paramiko.PKey]]:
    """Keys in the order to try: the agent's copies of the files, open files, the agent's others, locked files.

    `attempts` hears of those that could not be.
    """
    agent = {key.asbytes(): key for key in agents.keys(target.agent)} if target.agent else {}
    used: set[bytes] = set()
    locked: list[Path] = []
    for path in target.identities:
        held = agent.get(public_blob(path) or b"")
        if held is not None:
            used.add(held.asbytes())
            yield f"agent key {held.fingerprint}", held
            continue
        try:
            key = _OPENED.get(path) or load_key(path)
        except paramiko.PasswordRequiredException:
            locked.append(path)
        except OSError as error:
            attempts.tried.append(f"key {path} ({error.strerror})")
        except (paramiko.SSHException, ValueError):
            attempts.tried.append(f"key {path} (not a key that can be used)")
        else:
            if key.asbytes() not in used:
                used.add(key.asbytes())
                yield from _certified(target, path, key)
                yield f"key {path}", agent.get(key.asbytes(), key)
    if not target.identities_only:
        others = [key for blob, key in agent.items() if blob not in used]
        for key in others[:_MAX_AGENT_KEYS]:
            yield f"agent key {key.fingerprint}", key
    for path in locked:
        opened = None if ask is None else _unlock(path, ask)
        if opened is None:
            attempts.tried.append(f"key {path} (encrypted, not opened)")
            attempts.locked.append(path)
        else:
            yield from _certified(target, path, opened)
            yield f"key {path}", opened


def _certified(target: SshTarget, path: Path, key: paramiko.PKey) -> Iterator[tuple[str, paramiko.PKey]]:
    """`key` with each certificate for it: those that the config names, and the one beside its file."""
    for file in (*target.certificates, Path(f"{path}-cert.pub")):
        try:
            blob = PublicBlob.from_file(str(file))
        except (OSError, ValueError, IndexError):
            continue
        if blob.key_type.startswith(key.get_name()) and _certifies(bytes(blob.key_blob), key):
            certified = copy.copy(key)
            certified.public_blob = blob
            yield f"certificate {file}", certified


def _certifies(blob: bytes, key: paramiko.PKey) -> bool:
    """Whether a certificate is about `key`: after its type and a nonce come the numbers of the public key."""
    certificate, public = paramiko.Message(blob), paramiko.Message(key.asbytes())
    certificate.get_string()
    certificate.get_string()
    public.get_string()
    numbers = public.get_remainder()
    return certificate.get_remainder()[: len(numbers)] == numbers


def _unlock(path: Path, ask: Ask) -> paramiko.PKey | None:
    """Asks once for each file, however many connections this process makes."""
    with _ASKING:
        if path in _OPENED:
            return _OPENED[path]
        for _ in range(_PASSPHRASE_TRIES):
            passphrase = ask(f"passphrase of {path}: ")
            if not passphrase:
                return None
            try:
                return _OPENED.setdefault(path, load_key(path, passphrase))
            except (paramiko.SSHException, OSError, ValueError):
                continue
    return None


def public_blob(path: Path) -> bytes | None:
    """The public key of an identity without opening it: of `path`.pub, `path` itself, or the head of a locked file."""
    for file in (Path(f"{path}.pub"), path):
        try:
            text = file.read_text("utf-8")
            if text.startswith("-----BEGIN OPENSSH PRIVATE KEY-----"):
                return _head(base64.b64decode("".join(text.split("-----")[2].split())))
            return bytes(PublicBlob.from_string(" ".join(text.split()[:2])).key_blob)
        except (OSError, ValueError, IndexError, paramiko.SSHException):
            continue
    return None


def _head(data: bytes) -> bytes:
    """The first public key of an `openssh-key-v1` file (OpenSSH's PROTOCOL.key), which is never encrypted."""
    if not data.startswith(_MAGIC):
        raise ValueError("not an OpenSSH private key")
    message = paramiko.Message(data[len(_MAGIC) :])
    for _ in ("cipher", "key derivation", "its options"):
        message.get_string()
    message.get_int()
    return bytes(message.get_string())
