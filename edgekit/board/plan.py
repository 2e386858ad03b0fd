"""What a push has to send: decided from the release and the board's answer alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit_runtime.release import Release

from edgekit.board.answers import bad, is_sha256, number


@dataclass(frozen=True)
class Send:
    """One content that the board lacks. The first `offset` of its `size` bytes are there already."""

    sha256: str
    size: int
    offset: int


@dataclass(frozen=True)
class Plan:
    """What to send, and the board's space in bytes: `need` for it, `free`, and `reserve` to be left."""

    release_id: str
    sends: tuple[Send, ...]
    need: int
    free: int
    reserve: int

    @property
    def fits(self) -> bool:
        return not self.sends or self.need + self.reserve <= self.free

    @property
    def bytes_to_send(self) -> int:
        return sum(send.size - send.offset for send in self.sends)


def decide(release: Release, answer: Sequence[tuple[str, str]], prefix_sha256: Callable[[str, int], str]) -> Plan:
    """From what `edgekit-board missing` answered.

    `prefix_sha256(content, length)` is the SHA-256 of the first bytes of a content here: a part on the board is
    continued only when its bytes are these. Raises BadAnswer when the answer is not about this release.
    """
    sizes = {member.sha256: member.size for member in release.members}
    sends = []
    table = dict(answer)
    if table.get("release") != release.id:
        raise bad("release", table.get("release"))
    for key, value in answer:
        if key != "missing":
            continue
        words = value.split(" ")
        expected = sizes.pop(words[0], None)
        if len(words) != 4 or words[1] != str(expected):
            raise bad(key, value)
        sha256, prefix = words[0], words[3]
        found = {"size": words[1], "offset": words[2]}
        size, offset = number(found, "size"), number(found, "offset")
        if not 0 <= offset <= size or (offset and not is_sha256(prefix)):
            raise bad(key, value)
        if offset and prefix_sha256(sha256, offset) != prefix:
            offset = 0
        sends.append(Send(sha256, size, offset))
    return Plan(release.id, tuple(sends), number(table, "need"), number(table, "free"), number(table, "reserve"))
