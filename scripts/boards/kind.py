"""What one kind of emulated board is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from boards.state import BoardInfo, State

MARKER = "etc/edgekit-emulated"
USER = "pi"
UID = 1000


@dataclass(frozen=True)
class Limits:
    """What `scripts/board up` may set: size of /mnt/small as tmpfs writes it, and minutes to live (0: no end)."""

    small_size: str = "16M"
    max_minutes: float = 120


class Form(Protocol):
    """How boards of a kind run, one module each: `namespace`, a change of root, or `machine`, a kernel of its own.

    Attributes:
        EMULATION: what of QEMU translates the board's programs.
        RECIPE: the sources on which what `make` returns depends.
        START_SECONDS: how long a board may take until it answers, and `STOP_SECONDS` to end.
    """

    EMULATION: str
    RECIPE: tuple[Path, ...]
    START_SECONDS: int
    STOP_SECONDS: int

    def needs(self, kind: BoardKind, /) -> dict[str, bool]:
        """The Debian packages that it takes, and whether they are here."""

    def make(self, kind: BoardKind, tree: Path, /) -> Path:
        """Turn an unpacked and repaired tree into what boards of the kind run from; where that is."""

    def prepare(self, kind: BoardKind, root: Path, state: State, /) -> None:
        """Make what the board has of its own and is not there yet."""

    def empty_home(self, kind: BoardKind, info: BoardInfo, /) -> None:
        """Empty the board user's home on the running board."""

    def run(self, kind: BoardKind, root: Path, state: State, limits: Limits, /) -> None:
        """Be the board, as process 1, until it ends."""


@dataclass(frozen=True)
class BoardKind:
    """One kind of board.

    Attributes:
        name: what `scripts/board up` is given.
        form: the module that runs it.
        suite: Debian's name of the release.
        architecture: Debian's name of the architecture.
        triplet: the folder of the architecture's libraries.
        emulator: the emulator: the name under which binfmt_misc knows it, or a command.
        cpu: the core that QEMU pretends to be.
        cores: how many of the machine's processors the board gets at most.
        python: the version of the userland's python3.
        packages: what is unpacked, besides what these depend on.
        cpuinfo: the text of /proc/cpuinfo.
        sys: the files of /sys by their path below it; a value that begins with `->` is a link's target.
        server: the SSH server, a name of `servers.SERVERS`.
        updates: with Debian's updates and security suites; some mirrors have them out of step for armhf.
        busybox: every tool is a link to BusyBox, as embedded systems are built.
    """

    name: str
    form: Form = field(repr=False)
    suite: str
    architecture: str
    triplet: str
    emulator: str
    cpu: str
    cores: int
    python: str
    packages: tuple[str, ...]
    cpuinfo: str
    sys: Mapping[str, str]
    server: str = "openssh"
    updates: bool = True
    busybox: bool = False

    @property
    def marker(self) -> str:
        """The line in /etc/edgekit-emulated."""
        return f"{self.form.EMULATION} {self.cpu}"
