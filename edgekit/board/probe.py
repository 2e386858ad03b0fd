"""probe: a live board -> its facts, and a profile that fits it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgekit_runtime import schema

from edgekit.board.errors import NothingFits
from edgekit.board.facts import BoardFacts, facts
from edgekit.board.firstboot import require_running
from edgekit.board.session import Board
from edgekit.errors import UserError
from edgekit.profiles import writing
from edgekit.profiles.profile import ABIS, DeviceProfile
from edgekit.runtimes import resolve
from edgekit.runtimes.table import INTERPRETERS
from edgekit.transport import Server

# Budgets that a probe writes: shares of the board's memory, so that a release leaves room for everything else.
MODEL_SHARE, RAM_SHARE = 1 / 16, 1 / 4
LEAST_RAM_MB = 128  # of a board with little memory a quarter is not enough for Python, NumPy and an interpreter
MAX_MODEL_MB = 64
MAX_ACCURACY_DROP = 0.01


@dataclass(frozen=True)
class Probe:
    """A board as it was found. `profile` is None where nothing that edgekit can send would run there: see `reason`.

    `how` says of a profile's key where its value comes from; `server` is None where there is no SSH between.
    """

    board: str
    facts: BoardFacts
    server: Server | None
    profile: DeviceProfile | None
    how: Mapping[str, str]
    reason: str | None = None
    hint: str | None = None

    @property
    def text(self) -> str:
        """The profile as a file. Raises NothingFits."""
        if self.profile is None:
            raise NothingFits(
                f"{self.board}: nothing that edgekit can send runs there: {self.reason}",
                hint=self.hint,
                board=self.board,
                reason=self.reason,
                facts=schema.plain(self.facts),
                server=schema.plain(self.server),
            )
        heading = f"Read from {self.board} by edgekit probe; above each line is how. Correct what you know better."
        return writing.text(self.profile, self.how, heading=heading)


def probe(board: Board, name: str = "my-board") -> Probe:
    """Look at a board, which changes nothing there, and describe it as the profile `name`.

    Raises DeviceError, and NotRunning for a mounted root file system.
    """
    require_running(board, "be probed")
    return describe(board.name, facts(board), board.transport.server(), name)


def describe(board: str, found: BoardFacts, server: Server | None, name: str) -> Probe:
    """The profile that fits what was found: facts as they are, the first runtime that runs there, cautious budgets."""
    how = _sources(found, server)
    try:
        profile, why = _choose_runtime(_draft(found, server, name), found)
    except UserError as error:
        return Probe(board, found, server, None, how, reason=error.message, hint=error.hint)
    return Probe(board, found, server, profile, how | why)


def _draft(found: BoardFacts, server: Server | None, name: str) -> DeviceProfile:
    """Everything but the runtime, which is the table's first. Raises UserError for a board that none could fit."""
    if found.architecture not in ABIS:
        raise UserError(f"its architecture is {found.architecture}", hint=f"edgekit knows {', '.join(ABIS)}")
    if found.python is None:
        raise UserError("it has no python3 (3.7 or newer)", hint="install python3 on the board, then probe again")
    if found.glibc is None:
        raise UserError(f"its C library is {found.libc or 'unknown'}", hint="interpreters are built for glibc")
    if not found.cores or found.ram_kb < 1024:
        raise UserError("it does not tell its processors and memory", hint="is /proc mounted there?")
    ram_mb = found.ram_kb // 1024
    return DeviceProfile(
        name=name,
        description=found.board or f"{found.soc or found.architecture}, {found.os or found.kernel}",
        architecture=found.architecture,
        abi=ABIS[found.architecture],
        cpu=_chip(found.soc) or found.architecture,
        cores=found.cores,
        clusters=_cores(found),
        isa=found.isa,
        ram_mb=ram_mb,
        flash_free_mb=max(1, found.free_kb // 1024),
        os=found.os or f"Linux {found.kernel}",
        glibc=found.glibc,
        python=".".join(found.python.split(".")[:2]),
        runtime=INTERPRETERS[0].package,
        runtime_version=INTERPRETERS[0].version,
        numpy="auto",
        input_dtype="int8",
        output_dtype="int8",
        num_threads=_threads(found),
        max_model_mb=max(1, min(MAX_MODEL_MB, int(ram_mb * MODEL_SHARE))),
        max_ram_mb=max(int(ram_mb * RAM_SHARE), min(LEAST_RAM_MB, max(1, ram_mb // 2))),
        max_accuracy_drop=MAX_ACCURACY_DROP,
        numpy_version=found.numpy,
        governor=found.governor,
        thermal_zones=found.thermal_zones or None,
        ssh_server=server.software if server else None,
        sftp=server.sftp if server else None,
    )


def _choose_runtime(draft: DeviceProfile, found: BoardFacts) -> tuple[DeviceProfile, dict[str, str]]:
    """The draft with the first runtime of the table that the board runs. Raises UserError with the reason."""
    own = f"has {found.numpy}" if found.numpy else "has none"
    reasons = []
    for wheel in INTERPRETERS:
        tried = replace(draft, runtime=wheel.package, runtime_version=wheel.version)
        try:
            resolve.choose(replace(tried, numpy_version=None))  # the board's own is judged below
        except UserError:
            continue
        told = f"{wheel.package} {wheel.version} takes NumPy {wheel.numpy}, and the board {own}"
        if resolve.settle(tried, found.numpy).numpy == "wheel" or resolve.takes(tried, found.numpy):
            return tried, {
                "runtime": "chosen: the first of edgekit's table with wheels for this architecture, Python and glibc",
                "runtime_version": "chosen with it",
                "numpy": f"chosen: the board's own where it fits, else one is sent; {told}",
            }
        reasons.append(f"{told}, and there is none to send")
    if reasons:
        raise UserError(reasons[0], hint="install such a NumPy on the board (Debian: python3-numpy), then probe again")
    raise UserError(resolve.what_fits(draft), hint="docs/profiles.md shows which interpreter runs where")


def _cores(found: BoardFacts) -> tuple[str, ...]:
    """The clusters; a kernel that tells one processor only of several alike is understood."""
    if len(found.clusters) == 1:
        return (f"{found.cores}x {found.clusters[0].partition('x ')[2]}",)
    return found.clusters or (f"{found.cores}x {found.soc or found.architecture}",)


def _threads(found: BoardFacts) -> int:
    """As many as the smallest cluster has cores: an inference waits for its slowest thread."""
    return max(1, min(found.cores, *(int(cluster.partition("x ")[0]) for cluster in _cores(found))))


def _chip(soc: str | None) -> str | None:
    """`brcm,bcm2711` as people write it, BCM2711; other names stay."""
    named = re.fullmatch(r"[a-z0-9-]+,([a-z0-9._-]+)", soc or "")
    return named[1].upper() if named else soc


# Key of the profile -> field of the facts that it is made of.
_READ = {
    "description": "board",
    "architecture": "architecture",
    "cpu": "soc",
    "cores": "cores",
    "clusters": "clusters",
    "isa": "features",
    "ram_mb": "ram_kb",
    "flash_free_mb": "free_kb",
    "os": "os",
    "glibc": "glibc",
    "python": "python",
    "numpy_version": "numpy",
    "governor": "governor",
    "thermal_zones": "thermal_zones",
}
_CHOSEN = {
    "name": "chosen: the file's name without .toml",
    "abi": "follows from the architecture",
    "input_dtype": "chosen: what the graph computes in; of a camera's frame one bit is flipped",
    "output_dtype": "chosen: what the graph computes in; only what is asked for becomes a real number",
    "num_threads": "chosen: as many threads as the smallest cluster has cores, for an inference waits for its slowest",
    "max_model_mb": f"chosen: a sixteenth of the memory, at most {MAX_MODEL_MB}",
    "max_ram_mb": f"chosen: a quarter of the memory, or {LEAST_RAM_MB} where that is more and at most half",
    "max_accuracy_drop": "chosen: one point",
}


def _sources(found: BoardFacts, server: Server | None) -> dict[str, str]:
    """How each key was read, with what was read."""
    told = dict(_CHOSEN)
    for key, field in _READ.items():
        value = getattr(found, field)
        raw = " ".join(value) if isinstance(value, tuple) else str(value)
        how = found.how.get(field)
        if how:
            told[key] = how if ": " in how and key != "description" else f"{how}: {raw}"
        elif value:
            told[key] = f"found on the board: {raw}"
        elif key == "description":
            told[key] = "the chip and the system: the board does not tell its model"
        elif key == "clusters":
            told[key] = "the processors, which do not tell their cores"
        else:
            told[key] = "not told by the board"
    if server is not None:
        told["ssh_server"] = f"what the SSH server sent first: {server.software}"
        said = f'a start-up file printed "{server.noise}" first' if server.noise else "refused"
        told["sftp"] = f"the subsystem sftp was asked for: {'it answered' if server.sftp else said}"
    return told
