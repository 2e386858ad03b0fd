"""A profile as text: a line for each fact, and beside it where the fact comes from."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping

from edgekit_runtime import schema

from edgekit.profiles.profile import DeviceProfile

_COMMENT_LIMIT = 300


def text(profile: DeviceProfile, comments: Mapping[str, str], *, heading: str) -> str:
    """The TOML of a profile; keys without a value are left out. `comments` tell of a key where its value comes from."""
    lines = [_comment(heading)]
    for key, value in schema.plain(profile).items():
        if value is None:
            continue
        if key in comments:
            lines.append(_comment(comments[key]))
        lines.append(f"{key} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """JSON's texts, numbers, booleans and lists are TOML's, once DEL is escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(said: str) -> str:
    """One line: control characters, which TOML forbids in comments, become blanks."""
    plain = " ".join(
        "".join(" " if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter for letter in said).split()
    )
    return f"# {plain if len(plain) <= _COMMENT_LIMIT else plain[: _COMMENT_LIMIT - 3] + '...'}"
