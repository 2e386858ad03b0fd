"""Strict reading of the `key value` lines that the board's program answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.errors import DeviceError

_LIMIT = 10_000  # lines; a release has at most 4096 members


class BadAnswer(DeviceError):
    """What the board answered is not what its program writes. Field `key`."""


def lines_of(text: str) -> list[tuple[str, str]]:
    """The lines as pairs; what is not `key value` is kept with an empty value."""
    pairs = [line.partition(" ") for line in text.splitlines()[:_LIMIT]]
    return [(key, value) for key, _, value in pairs]


def first_words(text: str) -> dict[str, str]:
    """The lines as a table."""
    return dict(lines_of(text))


def number(answer: Mapping[str, str], key: str) -> int:
    """A whole number, 0 or more. Raises BadAnswer."""
    value = answer.get(key, "")
    if not (value.isascii() and value.isdigit() and len(value) <= 15):
        raise bad(key, value)
    return int(value)


def is_sha256(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hexadecimal."""
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)


def bad(key: str, value: Any) -> BadAnswer:
    """The error for a value that cannot be."""
    return BadAnswer(
        f"the board answered '{key} {str(value)[:80]}', which cannot be",
        hint="is something on the board writing to standard output while commands run?",
        key=key,
    )
