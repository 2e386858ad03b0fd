"""The table of kinds: another board is one file and one line here."""

from __future__ import annotations

from edgekit_runtime.errors import UserError

from boards.arm64 import ARM64
from boards.armv7 import ARMV7
from boards.kind import BoardKind

KINDS = {kind.name: kind for kind in (ARM64, ARMV7)}
# Debian packages for every kind; scripts/test installs what `scripts/board needs` prints.
NEEDS = ("mmdebstrap", "openssh-client", "qemu-user-static")


def find(name: str) -> BoardKind:
    """The kind of that name.

    Raises:
        UserError: there is none.
    """
    if name not in KINDS:
        raise UserError(f"no board '{name}'", hint=f"the boards are: {', '.join(KINDS)}")
    return KINDS[name]
