"""What one kind of emulated board is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MARKER = "etc/edgekit-emulated"
USER = "pi"
UID = 1000


@dataclass(frozen=True)
class BoardKind:
    """One kind of board.

    Attributes:
        name: what `scripts/board up` is given.
        suite: Debian's name of the release.
        architecture: Debian's name of the architecture.
        triplet: the folder of the architecture's libraries.
        emulator: the name under which binfmt_misc knows the emulator.
        cpu: the core that QEMU pretends to be (`QEMU_CPU`).
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
        return f"qemu-user {self.cpu}"
