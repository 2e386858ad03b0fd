"""Known host keys, in OpenSSH's format (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): read strictly, remembered atomically.

Read here and not with Paramiko's HostKeys, which passes over `@revoked` and knows no patterns.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from edgekit.errors import UserError
from edgekit.transport.errors import ChangedHostKey, RevokedHostKey, UnknownHostKey

Known = Literal["none", "known", "changed", "revoked"]
_FILE_LIMIT = 16 << 20


@dataclass(frozen=True)
class HostKey:
    """The key that a board showed.

    Attributes:
        board: as the user typed it.
        name: what known_hosts calls it, such as `[pi.local]:2222`.
        type: such as `ssh-ed25519`.
        blob: the public key, in SSH wire format.
        known: whether it was trusted before.
        trusted: fingerprints trusted for `name` so far.
        where: file and line of what decided `known`.
        files: where another key stands for `name`, when it is changed.
    """

    board: str
    name: str
    type: str
    blob: bytes
    known: Known = "none"
    trusted: tuple[str, ...] = ()
    where: str = ""
    files: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, as `ssh-keygen -l` shows it."""
        return fingerprint(self.blob)

    def require_trust(self) -> None:
        """Raises: UnknownHostKey, ChangedHostKey or RevokedHostKey unless the key is known."""
        if self.known == "none":
            raise UnknownHostKey(self.board, self.type, self.fingerprint)
        if self.known == "changed":
            raise ChangedHostKey(self.board, self.type, self.fingerprint, self.trusted, self.where)
        if self.known == "revoked":
            raise RevokedHostKey(self.board, self.type, self.fingerprint, self.where)


@dataclass(frozen=True)
class Entry:
    """One line of a known_hosts file."""

    marker: str
    patterns: str
    type: str
    blob: bytes
    where: str

    def matches(self, name: str) -> bool:
        """Whether the line is about the host that known_hosts calls `name`."""
        if self.patterns.startswith("|"):
            return _hashed(self.patterns, name)
        found = False
        for pattern in self.patterns.split(","):
            if pattern.startswith("!") and _glob(pattern[1:], name):
                return False
            found = found or _glob(pattern, name)
        return found


@dataclass(frozen=True)
class KnownHosts:
    """The lines of every known_hosts file that counts for a board."""

    entries: tuple[Entry, ...]

    @classmethod
    def read(cls, files: Sequence[Path]) -> KnownHosts:
        """Files that do not exist count as empty; lines that cannot be read are passed over, as ssh does."""
        return cls(tuple(entry for file in files for entry in _entries(file)))

    def types(self, name: str) -> list[str]:
        """Key types trusted for `name`, to be asked for first: a second type is not an unknown board."""
        kept = [entry.type for entry in self.entries if not entry.marker and entry.matches(name)]
        return list(dict.fromkeys(kept))

    def judge(self, key: HostKey) -> HostKey:
        """`key` with `known`, `trusted` and `where` filled in."""
        mine = [entry for entry in self.entries if entry.matches(key.name)]
        for entry in mine:
            if entry.marker == "@revoked" and entry.blob == key.blob:
                return _judged(key, "revoked", [entry])
        plain = [entry for entry in mine if not entry.marker]
        same = [entry for entry in plain if entry.blob == key.blob]
        if same:
            return _judged(key, "known", same)
        return _judged(key, "changed" if plain else "none", plain)


def fingerprint(blob: bytes) -> str:
    """`SHA256:` and the unpadded base64 of the key's SHA-256."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def known_hosts_name(host: str, port: int) -> str:
    """What known_hosts calls a host: bare on port 22, else `[host]:port`."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def recorded(key: HostKey, file: Path) -> tuple[str, ...]:
    """The names under which `file` holds the keys, of every type, that are trusted for this board.

    Raises:
        UserError: one of them stands on a line for hosts unlike each other (`*.lab`), which is not this board's alone.
    """
    entries = [entry for entry in KnownHosts.read([file]).entries if not entry.marker]
    old = {entry.blob for entry in entries if entry.matches(key.name)}
    found: list[str] = []
    for entry in entries:
        if entry.blob in old:
            if set(entry.patterns) & set("*?!"):
                raise UserError(
                    f"{entry.where} trusts the old key for {entry.patterns}, which is more than {key.board}",
                    hint="edit that line yourself, then do it again",
                    where=entry.where,
                )
            found += [entry.patterns] if entry.patterns.startswith("|") else entry.patterns.split(",")
    return tuple(dict.fromkeys(found))


def remember(key: HostKey, file: Path, *, replace: bool = False) -> Path:
    """Trust `key`: write it to `file`, whole or not at all.

    Args:
        replace: also when another key is trusted; it takes the place of the board's keys under all their names, see
            `recorded`.

    Raises:
        RevokedHostKey: the key is revoked, and stays so.
        ChangedHostKey: another key is trusted for this name, and `replace` was not asked for.
        UserError: the file cannot be written, or `replace` would touch other boards.
    """
    current = KnownHosts.read([file]).judge(key)
    if "revoked" in (current.known, key.known):
        raise RevokedHostKey(key.board, key.type, key.fingerprint, key.where or current.where)
    if current.known == "known":
        return file
    if "changed" in (current.known, key.known) and not replace:
        (current if current.known == "changed" else key).require_trust()
    names = recorded(key, file) if replace else ()
    try:
        lines = file.read_text("utf-8", "surrogateescape").splitlines() if file.exists() else []
        old = {entry.blob for entry in map(_plain, lines) if entry and entry.matches(key.name)} if replace else set()
        kept = [line for line in lines if not ((entry := _plain(line)) and entry.blob in old)]
        new = f"{key.type} {base64.b64encode(key.blob).decode()}"
        named = [f"{name} {new}" for name in dict.fromkeys((*names, key.name)) if not _about(name, key.name)]
        _write(file, "".join(f"{line}\n" for line in [*kept, *named, f"{key.name} {new}"]))
    except OSError as error:
        raise UserError(f"cannot remember the host key in {file}: {error.strerror}", path=str(file)) from error
    return file


def _judged(key: HostKey, known: Known, entries: Sequence[Entry]) -> HostKey:
    trusted = tuple(dict.fromkeys(fingerprint(entry.blob) for entry in entries if not entry.marker))
    files = tuple(dict.fromkeys(entry.where.rpartition(":")[0] for entry in entries)) if known == "changed" else ()
    return replace_fields(key, known=known, trusted=trusted, where=entries[0].where if entries else "", files=files)


def _plain(line: str) -> Entry | None:
    entry = _entry(line.strip(), "")
    return None if entry is None or entry.marker else entry


def _about(pattern: str, name: str) -> bool:
    return Entry("", pattern, "", b"", "").matches(name)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _entries(file: Path) -> Iterator[Entry]:
    try:
        if not file.is_file() or file.stat().st_size > _FILE_LIMIT:
            return
        text = file.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}", path=str(file)) from error
    for number, line in enumerate(text.splitlines(), 1):
        entry = _entry(line.strip(), f"{file}:{number}")
        if entry is not None:
            yield entry


def _entry(line: str, where: str) -> Entry | None:
    if not line or line.startswith("#"):
        return None
    words = line.split()
    marker = words.pop(0) if words[0].startswith("@") else ""
    if len(words) < 3:
        return None
    try:
        blob = base64.b64decode(words[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    return Entry(marker, words[0], words[1], blob, where)


def _hashed(pattern: str, name: str) -> bool:
    parts = pattern.split("|")  # |1|salt|hash
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in parts[2:])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), "sha1").digest(), digest)


def _glob(pattern: str, name: str) -> bool:
    # ssh knows * and ? only; the brackets of [host]:port are themselves
    return fnmatchcase(name, re.sub(r"\[", "[[]", pattern.lower()))
