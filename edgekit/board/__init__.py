"""What the host does on a board: push, activate, status, rollback, check, bench.

The state is owned by `edgekit-board`, a POSIX sh program that is brought along; everything here gives it orders.
"""

from edgekit.board.control import BoardRelease, Status, activate, check, collect, current_manifest, rollback, status
from edgekit.board.errors import (
    BoardFailed,
    BoardMismatch,
    CheckRejected,
    Damaged,
    Locked,
    NoPreviousRelease,
    NothingFits,
    NotRunning,
    PythonMissing,
    UnknownRelease,
)
from edgekit.board.facts import BoardFacts, Mismatch, facts, mismatches, require_match
from edgekit.board.firstboot import FirstBoot, first_boot
from edgekit.board.measure import bench, bench_file, run_runtime, runtime_error, tune
from edgekit.board.predict import Answer, current_preprocess, frames, predict
from edgekit.board.probe import Probe, probe
from edgekit.board.push import PushResult, push
from edgekit.board.session import Board, open_board

__all__ = [
    "Answer",
    "Board",
    "BoardFacts",
    "BoardFailed",
    "BoardMismatch",
    "BoardRelease",
    "CheckRejected",
    "Damaged",
    "FirstBoot",
    "Locked",
    "Mismatch",
    "NoPreviousRelease",
    "NotRunning",
    "NothingFits",
    "Probe",
    "PushResult",
    "PythonMissing",
    "Status",
    "UnknownRelease",
    "activate",
    "bench",
    "bench_file",
    "check",
    "collect",
    "current_manifest",
    "current_preprocess",
    "facts",
    "first_boot",
    "frames",
    "mismatches",
    "open_board",
    "predict",
    "probe",
    "push",
    "require_match",
    "rollback",
    "run_runtime",
    "runtime_error",
    "status",
    "tune",
]
