"""push: send what the board lacks of a bundle, and stage it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from edgekit_runtime.manifest import RUNTIME
from edgekit_runtime.release import Release

from edgekit.board.errors import Damaged
from edgekit.board.facts import BoardFacts, facts, require_match
from edgekit.board.plan import Plan, decide
from edgekit.board.session import Board
from edgekit.bundles.bundle import Bundle
from edgekit.runtimes import resolve
from edgekit.transport import NoSpace, TransferFailed

ATTEMPTS = 5
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PushResult:
    """What a push did. `reused_bytes` were on the board already, `resumed_bytes` of them from a push cut short.

    Counts are of distinct contents; `seconds` is the whole push, wall clock. `sending` is how files travelled (see
    `Transport`), empty when none had to; `noise` is what spoilt SFTP. `spare_bytes`
    of those sent are a NumPy, where the board has one of its own that the interpreter takes.
    """

    release_id: str
    name: str
    sent_files: int
    sent_bytes: int
    reused_files: int
    reused_bytes: int
    resumed_bytes: int
    seconds: float
    sending: str = ""
    noise: str = ""
    spare_bytes: int = 0


def push(
    board: Board,
    bundle: Bundle,
    *,
    found: BoardFacts | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PushResult:
    """Check the bundle, send what is missing, stage the release. Repeating it sends nothing twice.

    Args:
        found: the board's facts, when they are known already.
        progress: bytes of the missing contents that are on the board, and all of them.

    Raises:
        BundleError: the bundle is damaged; nothing was sent.
        BoardMismatch: the release was made for another kind of board; nothing was sent.
        NoSpace: it would not fit; nothing was sent.
        DeviceError: LinkLost and its kin; what arrived is kept.
    """
    started = time.monotonic()
    found = found or facts(board)
    manifest = bundle.manifest()
    require_match(bundle.release, found, board.name, manifest)
    bundle.verify()
    sent: dict[str, int] = {}
    resumed = 0
    for attempt in range(1, ATTEMPTS + 1):
        plan = survey(board, bundle)
        if attempt == 1:
            resumed = sum(send.offset for send in plan.sends)
        try:
            _send(board, bundle, plan, progress, sent)
            board.call("stage", plan.release_id)
            break
        except (Damaged, TransferFailed) as error:
            # Damaged on its way, or by another push of the same content, whose parts are made read-only once they are
            # whole; what is right by now is not sent again. A board that cannot be written says so to the survey.
            if attempt == ATTEMPTS or isinstance(error, NoSpace):
                raise
    result = _result(bundle.release, sent, resumed, time.monotonic() - started)
    if not sent:
        return result
    spare = spare_bytes(bundle.release, manifest.runtime, found.numpy, sent)
    return replace(result, sending=board.transport.sending, noise=board.transport.noise, spare_bytes=spare)


def spare_bytes(release: Release, interpreter: str, own: str | None, sent: Mapping[str, int]) -> int:
    """Bytes of the release's NumPy among those sent by SHA-256, if the board's own suits the interpreter; else 0."""
    taken = resolve.numpy_of(interpreter)
    if own is None or not taken or not resolve.in_range(own, taken):
        return 0
    folders = tuple(f"{RUNTIME}/{name}/" for name in ("numpy", "numpy.libs"))
    return sum(sent.get(sha256, 0) for sha256 in {m.sha256 for m in release.members if m.name.startswith(folders)})


def survey(board: Board, bundle: Bundle) -> Plan:
    """Ask the board what it lacks. Raises NoSpace."""

    def prefix_sha256(sha256: str, length: int) -> str:
        digest = hashlib.sha256()
        with bundle.open_member(sha256) as file:
            while length > 0 and (chunk := file.read(min(length, _CHUNK))):
                digest.update(chunk)
                length -= len(chunk)
        return digest.hexdigest()

    text = bundle.release.text.encode("ascii")
    plan = decide(bundle.release, board.call("missing", stdin=text), prefix_sha256)
    if not plan.fits:
        raise NoSpace(
            f"{board.name}: no space for release {plan.release_id[:12]}: it needs {_mib(plan.need)}, "
            f"{_mib(plan.free)} are free and {_mib(plan.reserve)} of them are left alone",
            hint="remove files on the board; edgekit's own leftovers have been removed already",
            board=board.name,
            path=str(board.root),
            needed=plan.need,
            free=plan.free,
            reserve=plan.reserve,
        )
    return plan


def _send(
    board: Board, bundle: Bundle, plan: Plan, progress: Callable[[int, int], None] | None, sent: dict[str, int]
) -> None:
    total = sum(send.size for send in plan.sends)
    before = 0
    for send in plan.sends:

        def moved(count: int, before: int = before) -> None:
            if progress:
                progress(before + count, total)

        with bundle.open_member(send.sha256) as source:
            target = board.root / "incoming" / send.sha256
            board.transport.put(source, target, size=send.size, offset=send.offset, progress=moved)
        sent[send.sha256] = sent.get(send.sha256, 0) + send.size - send.offset
        before += send.size


def _result(release: Release, sent: dict[str, int], resumed: int, seconds: float) -> PushResult:
    sizes = {member.sha256: member.size for member in release.members}
    sent_bytes = sum(sent.values())
    return PushResult(
        release_id=release.id,
        name=release.name,
        sent_files=len(sent),
        sent_bytes=sent_bytes,
        reused_files=len(sizes) - len(sent),
        reused_bytes=max(0, sum(sizes.values()) - sent_bytes),
        resumed_bytes=resumed,
        seconds=seconds,
    )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
