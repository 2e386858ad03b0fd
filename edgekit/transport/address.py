"""What a user types for a board: `user@host[:port]`, `[ipv6]:port`, an alias of the ssh config, `embedded`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekit.errors import UserError

EMBEDDED = "embedded"
_BRACKETS = re.compile(r"\[([^\[\]]+)\](?::(.*))?\Z")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*\Z|:[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\Z")
_USER = re.compile(r"[^\s@:/\0-][^\s:/\0]*\Z")


@dataclass(frozen=True)
class Address:
    """Host or alias, with the user and port when they were typed."""

    host: str
    user: str | None = None
    port: int | None = None


def parse_address(text: str) -> Address:
    """Read BOARD.

    Raises:
        UserError: it is none of the forms above.
    """
    user, at, rest = text.rpartition("@")
    if at and not _USER.match(user):
        raise _bad(text, f"{user!r} is not a user name")
    bracketed = _BRACKETS.match(rest)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    else:
        host, port = rest, None
    if not _HOST.match(host) or len(host) > 255:
        raise _bad(text, f"{host!r} is not a host")
    return Address(host, user or None, None if port is None else parse_port(port, text))


def parse_port(port: str, where: str) -> int:
    """A TCP port from text.

    Raises:
        UserError: not a number from 1 to 65535.
    """
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise _bad(where, f"{port!r} is not a port")
    return int(port)


def _bad(text: str, why: str) -> UserError:
    return UserError(
        f"not a board: {text!r} ({why})",
        hint="a BOARD is user@host, user@host:port, [ipv6]:port, an alias of ~/.ssh/config, embedded, or dir:FOLDER",
        board=text,
    )
