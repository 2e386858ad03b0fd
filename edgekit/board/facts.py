"""BoardFacts: what a board is, and where that contradicts a profile or a release."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

from edgekit_runtime.environment import ARM_CORES
from edgekit_runtime.manifest import RUNTIME, Manifest
from edgekit_runtime.release import Release

from edgekit.board.answers import bad, number
from edgekit.board.errors import BoardMismatch
from edgekit.board.session import Board
from edgekit.profiles import hostfacts
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import resolve
from edgekit.transport import DIRECTORY, DirectoryTransport

_NAMES = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "armv7l"}


@dataclass(frozen=True)
class BoardFacts:
    """What `edgekit-board facts` says. None where the board has or tells none.

    `architecture` is that of the programs (a 32-bit system on a 64-bit kernel is armv7l). `free_kb` (KiB) and
    `writable` are about the file system and folder where `root` is or would be. `numpy` is the version that the
    board's own Python finds. `cores` and `ram_kb` are 0, `features` and `clusters` empty where they are unknown.
    `clusters` groups the processors by their core, processor 0 first; `soc` is the device tree's name of the chip, or
    what the processor calls itself. `how` tells of a field how it was read, with what was read.
    """

    root: str
    hash_tool: str | None
    program: str | None
    architecture: str
    kernel: str
    os: str | None
    libc: str | None
    glibc: str | None
    python: str | None
    numpy: str | None
    cores: int
    ram_kb: int
    board: str | None
    features: tuple[str, ...]
    free_kb: int
    writable: bool
    tools: tuple[str, ...]
    emulated: bool
    clusters: tuple[str, ...] = ()
    soc: str | None = None
    governor: str | None = None
    thermal_zones: tuple[str, ...] = ()
    how: Mapping[str, str] = field(default_factory=dict)

    @property
    def isa(self) -> tuple[str, ...]:
        """The features as profiles name them."""
        return tuple(hostfacts.isa_names(self.features))


_HOW = "how"
_KEYS = tuple(item.name for item in fields(BoardFacts) if item.name != _HOW)
_PATTERNS = {
    "glibc": r"\d+\.\d+",
    "python": r"\d+\.\d+\.\d+",
    "architecture": r"[A-Za-z0-9_]{1,32}",
    "clusters": r"\d{1,4}x0x[0-9a-f]{2}:0x[0-9a-f]{3}( \d{1,4}x0x[0-9a-f]{2}:0x[0-9a-f]{3})*",
    "governor": r"[a-z0-9_-]+(,[a-z0-9_-]+)*",
}


@dataclass(frozen=True)
class Mismatch:
    """One fact on which the two disagree."""

    field: str
    wanted: str
    found: str


def facts(board: Board) -> BoardFacts:
    """Ask the board, or read the files of a mounted one; changes nothing there. Raises DeviceError."""
    if isinstance(board.transport, DirectoryTransport):
        from edgekit.board.treefacts import tree_facts

        return tree_facts(board.transport)
    return parse(board.ask("facts"))


def parse(lines: Sequence[tuple[str, str]]) -> BoardFacts:
    """Read the program's lines. Raises BadAnswer for an unknown, missing or doubled key and for an odd value."""
    told = [value.partition(" ") for key, value in lines if key == _HOW]
    lines = [(key, value) for key, value in lines if key != _HOW]
    answer = dict(lines)
    for key, value in [*lines, *((key, text) for key, _, text in told)]:
        if key not in _KEYS:
            raise bad(key, value)
    if len(lines) != len(_KEYS):
        raise bad("facts", f"of {len(lines)} lines")
    for key, pattern in _PATTERNS.items():
        if answer[key] != "-" and not re.fullmatch(pattern, answer[key]):
            raise bad(key, answer[key])
    return BoardFacts(
        root=answer["root"],
        hash_tool=_known(answer, "hash_tool"),
        program=_known(answer, "program"),
        architecture=_NAMES.get(answer["architecture"], answer["architecture"]),
        kernel=answer["kernel"],
        os=_known(answer, "os"),
        libc=_known(answer, "libc"),
        glibc=_known(answer, "glibc"),
        python=_known(answer, "python"),
        numpy=_known(answer, "numpy"),
        cores=number(answer, "cores"),
        ram_kb=number(answer, "ram_kb"),
        board=_known(answer, "board"),
        features=tuple((_known(answer, "features") or "").split()),
        free_kb=number(answer, "free_kb"),
        writable=_yes(answer, "writable"),
        tools=tuple((_known(answer, "tools") or "").split()),
        emulated=_yes(answer, "emulated"),
        clusters=_clusters((_known(answer, "clusters") or "").split()),
        soc=_known(answer, "soc"),
        governor=_known(answer, "governor"),
        thermal_zones=tuple(zone for zone in (_known(answer, "thermal_zones") or "").split(",") if zone),
        how={key: text for key, _, text in told},
    )


def mismatches(
    wanted: Release | DeviceProfile, found: BoardFacts, limits: DeviceProfile | Manifest | None = None
) -> tuple[Mismatch, ...]:
    """Where the board contradicts what the release or the profile was made for; empty when it fits.

    `limits` says what is counted on beyond what a RELEASE tells: features, threads and memory; a profile
    says it itself.
    """
    differences = []
    if found.architecture != wanted.architecture:
        differences.append(Mismatch("architecture", wanted.architecture, found.architecture))
    # Where neither getconf nor ldd is, Python tells the C library: without it that is unknown and not wrong.
    if found.glibc is None and (found.libc is not None or found.python is not None):
        differences.append(Mismatch("glibc", f"{wanted.glibc} or newer", found.libc or "none"))
    elif found.glibc is not None and _version(found.glibc) < _version(wanted.glibc):
        differences.append(Mismatch("glibc", f"{wanted.glibc} or newer", found.glibc))
    if found.python is None:
        differences.append(Mismatch("python", wanted.python, "none"))
    elif _version(found.python)[:2] != _version(wanted.python):
        differences.append(Mismatch("python", wanted.python, found.python))
    if isinstance(wanted, DeviceProfile):
        limits = wanted
    if found.python is not None and not _brings_numpy(wanted, found):
        differences += _numpy(limits, found.numpy)
    return (*differences, *(_shortfalls(limits, found) if limits else ()))


def _shortfalls(limits: DeviceProfile | Manifest, found: BoardFacts) -> Iterator[Mismatch]:
    """What the board has less of than is counted on; what is unknown is not less."""
    if found.features and not set(limits.isa) <= set(found.isa):
        yield Mismatch("isa", " ".join(limits.isa), " ".join(found.isa) or "none of them")
    if found.cores and limits.num_threads > found.cores:
        yield Mismatch("num_threads", str(limits.num_threads), f"{found.cores} cores")
    ram_mb = found.ram_kb // 1024
    if ram_mb and limits.max_ram_mb is not None and limits.max_ram_mb > ram_mb:
        yield Mismatch("max_ram_mb", str(limits.max_ram_mb), f"{ram_mb} MiB of memory")


def require_match(
    wanted: Release | DeviceProfile, found: BoardFacts, board: str, limits: Manifest | None = None
) -> None:
    """Raises BoardMismatch with a table of both sides when the board is not what was expected."""
    differences = mismatches(wanted, found, limits)
    if not differences:
        return
    profile = wanted.profile if isinstance(wanted, Release) else wanted.name
    rows = [("", f"profile {profile}", board)]
    rows += [(item.field, item.wanted, item.found) for item in differences]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    table = "\n".join(f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)
    raise BoardMismatch(
        f"{board} is not what profile '{profile}' describes:\n{table}",
        hint=_hint(differences, board, wanted, limits),
        board=board,
        profile=profile,
        mismatches=[{"field": item.field, "wanted": item.wanted, "found": item.found} for item in differences],
    )


def _numpy(limits: DeviceProfile | Manifest | None, own: str | None) -> Iterator[Mismatch]:
    """The board's own NumPy where it is missing or the interpreter does not take it."""
    wanted = _numpy_range(limits)
    if own is None or (wanted and own != resolve.UNKNOWN and not resolve.in_range(own, wanted)):
        yield Mismatch("numpy", f"the board's own{f', {wanted}' if wanted else ''}", own or "none")


def _numpy_range(limits: DeviceProfile | Manifest | None) -> str:
    """What the interpreter takes; empty where that is not known."""
    if isinstance(limits, DeviceProfile):
        return resolve.numpy_range(limits)
    return (limits.numpy if limits else None) or ""


def _brings_numpy(wanted: Release | DeviceProfile, found: BoardFacts) -> bool:
    """Whether NumPy travels in the release."""
    if isinstance(wanted, DeviceProfile):
        return resolve.settle(wanted, found.numpy).numpy == "wheel"
    return any(member.name == f"{RUNTIME}/numpy/__init__.py" for member in wanted.members)


def _hint(differences: Sequence[Mismatch], board: str, wanted: Release | DeviceProfile, limits: Manifest | None) -> str:
    fields = {item.field: item.found for item in differences}
    if fields == {"python": "none"}:
        return "install python3 on the board"
    if set(fields) == {"numpy"}:
        return resolve.numpy_hint(wanted, _numpy_range(wanted if isinstance(wanted, DeviceProfile) else limits))
    listed = "'edgekit profiles list' shows those there are"
    if board.startswith(DIRECTORY):
        return listed
    return f"'edgekit probe {board} -o my-board.toml' writes its profile; {listed}"


def _clusters(runs: Sequence[str]) -> tuple[str, ...]:
    """`4x0x41:0xd05` as `4x cortex-a55`; a core without a name is its implementer and part."""
    counts: dict[str, int] = {}
    for run in runs:
        count, _, core = run.partition("x")
        implementer, _, part = core.partition(":")
        name = ARM_CORES.get(part) if implementer == "0x41" else None
        kind = name.lower() if name else f"{implementer}-{part}"
        counts[kind] = counts.get(kind, 0) + int(count)
    return tuple(f"{count}x {kind}" for kind, count in counts.items())


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _known(answer: Mapping[str, str], key: str) -> str | None:
    return None if answer[key] == "-" else answer[key]


def _yes(answer: Mapping[str, str], key: str) -> bool:
    if answer[key] not in ("yes", "no"):
        raise bad(key, answer[key])
    return answer[key] == "yes"
