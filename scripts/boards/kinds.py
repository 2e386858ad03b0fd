"""The table of kinds: another board is one file and one line here."""

from __future__ import annotations

import shutil

from edgekit_runtime.errors import UserError

from boards.arm64 import ARM64
from boards.armv7 import ARMV7
from boards.kind import BoardKind
from boards.vm import VM

KINDS = {kind.name: kind for kind in (ARM64, ARMV7, VM)}


def needs(*kinds: BoardKind) -> dict[str, bool]:
    """The Debian packages that boards of these kinds take, and whether they are here."""
    found = {"mmdebstrap": shutil.which("mmdebstrap") is not None}
    found["openssh-client"] = shutil.which("ssh-keygen") is not None
    for kind in kinds:
        found |= kind.form.needs(kind)
    return found


def find(name: str) -> BoardKind:
    """The kind of that name.

    Raises:
        UserError: there is none.
    """
    if name not in KINDS:
        raise UserError(f"no board '{name}'", hint=f"the boards are: {', '.join(KINDS)}")
    return KINDS[name]
