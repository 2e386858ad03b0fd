"""RELEASE: the one text that says what a release is.

Plain ASCII lines, in this order, so that a POSIX shell on the board reads it without JSON and so that one
signature over it covers every byte of the release:

    edgekit-release 1
    name digits
    profile raspberry-pi-4b
    architecture aarch64
    glibc 2.36
    python 3.11
    counter 0
    member SHA256 SIZE NAME        one line for each member, sorted by NAME

The release's id is the SHA-256 of the text.
"""

import hashlib
import re
from typing import Dict, List, Tuple

from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import UserError

FORMAT = 1
MAX_TEXT = 1 << 20
MAX_MEMBERS = 4096
MAX_MEMBER_SIZE = 1 << 31

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,11}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
_HEADER = ("name", "profile", "architecture", "glibc", "python", "counter")


class ReleaseError(UserError):
    """The text is not a RELEASE."""


@dataclass(frozen=True)
class Member:
    """One file of a release: content by its SHA-256, size in bytes, and its path inside the release."""

    sha256: str
    size: int
    name: str

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ReleaseError(f"not a SHA-256: '{self.sha256[:80]}'")
        if not 0 <= self.size <= MAX_MEMBER_SIZE:
            raise ReleaseError(f"member '{self.name[:200]}': size {self.size} is out of range")
        if not is_member_name(self.name):
            raise ReleaseError(f"not a member name: '{self.name[:200]}'")


@dataclass(frozen=True)
class Release:
    """What a bundle holds and for which boards it was made."""

    name: str
    profile: str
    architecture: str
    glibc: str
    python: str
    counter: int
    members: Tuple[Member, ...]

    def __post_init__(self) -> None:
        _check("name", self.name, _NAME)
        _check("profile", self.profile, _NAME)
        _check("architecture", self.architecture, _WORD)
        _check("glibc", self.glibc, _VERSION)
        _check("python", self.python, _VERSION)
        _check("counter", str(self.counter), _NUMBER)
        names = [member.name for member in self.members]
        if not 0 < len(names) <= MAX_MEMBERS:
            raise ReleaseError(f"a release has 1 to {MAX_MEMBERS} members, not {len(names)}")
        if names != sorted(set(names)):
            raise ReleaseError("members must be sorted by name, each once")
        known = set(names)
        for name in names:
            parts = name.split("/")
            if any("/".join(parts[:depth]) in known for depth in range(1, len(parts))):
                raise ReleaseError(f"member '{name}' lies below another member")
        sizes: Dict[str, int] = {}
        for member in self.members:
            if sizes.setdefault(member.sha256, member.size) != member.size:
                raise ReleaseError(f"member '{member.name}': one content with two sizes")

    @property
    def text(self) -> str:
        lines = [f"edgekit-release {FORMAT}"]
        lines += [f"{key} {getattr(self, key)}" for key in _HEADER]
        lines += [f"member {member.sha256} {member.size} {member.name}" for member in self.members]
        return "\n".join(lines) + "\n"

    @property
    def id(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode("ascii")).hexdigest()

    def member(self, name: str) -> Member:
        """The member called `name`; raises ReleaseError when there is none."""
        for member in self.members:
            if member.name == name:
                return member
        raise ReleaseError(f"release '{self.name}' has no member '{name}'")


def is_member_name(name: str) -> bool:
    """Whether `name` is a relative path of plain parts: no '..', no hidden part, no blank, at most 200 characters."""
    return len(name) <= 200 and all(_PART.fullmatch(part) for part in name.split("/"))


def parse(data: bytes) -> Release:
    """Read a RELEASE. Raises ReleaseError unless the bytes are exactly what `Release.text` would write."""
    if len(data) > MAX_TEXT:
        raise ReleaseError(f"RELEASE is larger than {MAX_TEXT} bytes")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise ReleaseError("RELEASE is not ASCII") from error
    lines = text.split("\n")
    if lines[0] != f"edgekit-release {FORMAT}":
        raise ReleaseError(
            f"not a RELEASE of format {FORMAT}: it begins with '{lines[0][:40]}'",
            hint="a newer edgekit may have written it: update edgekit, or make the bundle again",
        )
    header: Dict[str, str] = {}
    for number, key in enumerate(_HEADER, 1):
        word, _, value = lines[number].partition(" ") if number < len(lines) else ("", "", "")
        if word != key:
            raise ReleaseError(f"RELEASE line {number + 1}: expected '{key}', got '{word[:40]}'")
        header[key] = value
    members: List[Member] = []
    for number, line in enumerate(lines[len(_HEADER) + 1 : -1], len(_HEADER) + 2):
        words = line.split(" ")
        if len(words) != 4 or words[0] != "member" or not _NUMBER.fullmatch(words[2]):
            raise ReleaseError(f"RELEASE line {number}: expected 'member SHA256 SIZE NAME', got '{line[:80]}'")
        members.append(Member(words[1], int(words[2]), words[3]))
    if not _NUMBER.fullmatch(header["counter"]):
        raise ReleaseError(f"counter: '{header['counter'][:80]}' is no number")
    release = Release(
        header["name"],
        header["profile"],
        header["architecture"],
        header["glibc"],
        header["python"],
        int(header["counter"]),
        tuple(members),
    )
    if release.text != text:
        raise ReleaseError("RELEASE is not in its one canonical form")
    return release


def _check(key: str, value: str, pattern: "re.Pattern[str]") -> None:
    if not pattern.fullmatch(value):
        raise ReleaseError(f"{key}: '{value[:80]}' is not allowed", hint=f"it must match {pattern.pattern}")
