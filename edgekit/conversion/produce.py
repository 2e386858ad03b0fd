"""produce: an Order to a finished conversion for each board, from one calibration, in folders that nobody sees."""

import hashlib
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit_runtime import schema
from edgekit_runtime.manifest import ANCHORS, GOLDEN, LABELS, Provenance

from edgekit.conversion import boxes, doctor, layers, prove, quantize
from edgekit.conversion.calibration import CALIBRATION, CalibrationRecord
from edgekit.conversion.candidate import WITHOUT_INT8, Candidate
from edgekit.conversion.finding import Finding
from edgekit.conversion.order import Board, Order
from edgekit.conversion.record import FLOAT, RECORD, Conversion
from edgekit.conversion.rehearse import rehearse
from edgekit.conversion.repair import Budget, repair
from edgekit.models import arena
from edgekit.runtimes import gate
from edgekit.worker import Progress

MODEL = "model.tflite"
FOLDER = "model.edgekit"


@dataclass(frozen=True)
class _Proven:
    """What came of one board: a model that runs."""

    made: quantize.Quantized
    proof: prove.Proof
    candidates: tuple[Candidate, ...] = ()
    kind: str = "int8"


def produce(
    order: Order, boards: Sequence[Board], folder: Path, *, log: Path | None, progress: Progress | None
) -> tuple[Conversion, ...]:
    """Fill `finished` of each board: MODEL, and in FOLDER its record with all that belongs to it.

    Raises UserError and CheckFailed; then nothing of any board may be used.
    """
    encodings = tuple(dict.fromkeys(board.encoding for board in boards))
    request = quantize.Request(
        model=str(order.model.path),
        form=order.model.form,
        trust_code=order.trust_code,
        declaration=order.declaration,
        data=str(order.data.path),
        samples=order.samples,
        seed=order.seed,
        encodings=encodings,
        allow_float=order.allow_float,
        folder=str(folder),
        repair=order.max_drop is not None,
    )
    made = quantize.run(request, log=log, progress=progress)
    proven: dict[Board, _Proven] = {}
    for board in boards:
        number = encodings.index(board.encoding)
        _share(folder, number, board.folder, repair=request.repair)
        own = replace(request, encodings=(board.encoding,), folder=str(board.folder))
        like = next((other for other in proven if other.encoding == board.encoding), None)
        if request.repair:
            proven[board] = _repaired(order, board, own, made[number], log=log, progress=progress)
            continue
        gate.require(board.folder / quantize.INT8, board.profile, board.interpreter)
        if like is None:
            proof = prove.run(own, made[number], board.folder / quantize.INT8, log=log, progress=progress)
            proven[board] = _Proven(made[number], proof)
        else:
            proven[board] = proven[like]
            _copy(like.folder / GOLDEN, board.folder)
    findings = doctor.diagnose(request, made[0], order.held_out_path, log=log, progress=progress)
    return tuple(_finish(order, board, proven[board], findings, progress) for board in boards)


def _share(common: Path, number: int, folder: Path, *, repair: bool) -> None:
    """Give a board what all have in common; a repair needs all of it, and writes beside it."""
    folder.mkdir()
    for name in (quantize.FLOAT, ANCHORS, boxes.ORIGINAL, *((quantize.CALIBRATED,) if repair else ())):
        _copy(common / name, folder)
    _copy(common / quantize.int8_name(number), folder, quantize.INT8)
    for source in common.glob("wrapped*") if repair else ():
        shutil.copytree(source, folder / source.name)


def _copy(source: Path, folder: Path, name: str | None = None) -> None:
    if source.exists():
        shutil.copyfile(source, folder / (name or source.name))


def _repaired(
    order: Order,
    board: Board,
    request: quantize.Request,
    made: quantize.Quantized,
    *,
    log: Path | None,
    progress: Progress | None,
) -> _Proven:
    assert order.max_drop is not None  # mypy: that is why it is repaired

    def described(made: quantize.Quantized, proof: prove.Proof, path: Path) -> Conversion:
        return _described(order, board, made, proof, path, progress=progress, strict=True)

    data = order.held_out_path or order.data.path
    budget = Budget(order.max_drop, data, board.profile, board.interpreter, described, order.truth, order.foreground)
    done = repair(request, made, budget, log=log, progress=progress)
    return _Proven(done.made, done.proof, done.candidates, done.taken.name)


def _finish(
    order: Order, board: Board, proven: _Proven, findings: tuple[Finding, ...], progress: Progress | None
) -> Conversion:
    """Put what is published of a board into its `finished`."""
    record = replace(
        _described(order, board, proven.made, proven.proof, board.folder / quantize.INT8, progress=progress),
        kind=proven.kind,
        candidates=proven.candidates,
        findings=findings,
    )
    used, calibration = proven.made.used, proven.made.calibration
    names = tuple(finding.name for finding in findings)
    fresh = board.finished / FOLDER
    fresh.mkdir(parents=True)
    os.replace(board.folder / quantize.INT8, board.finished / MODEL)
    os.replace(board.folder / quantize.FLOAT, fresh / FLOAT)
    if record.golden is not None:
        _copy(board.folder / GOLDEN, fresh)
    if record.detection is not None:
        _copy(board.folder / ANCHORS, fresh)
    if proven.kind in WITHOUT_INT8:
        _copy(board.folder / layers.REPORT, fresh)
    if record.labels is not None:
        (fresh / LABELS).write_text("\n".join(record.labels) + "\n", encoding="utf-8")
    kept = CalibrationRecord(used, calibration.seed, calibration.samples, calibration.skipped, names)
    (fresh / CALIBRATION).write_text(schema.dump_json(kept), encoding="utf-8")
    (fresh / RECORD).write_text(schema.dump_json(record), encoding="utf-8")
    return record


def _described(
    order: Order,
    board: Board,
    made: quantize.Quantized,
    proof: prove.Proof,
    path: Path,
    *,
    progress: Progress | None,
    strict: bool = False,
) -> Conversion:
    """The record of the model at `path`, which its board's interpreter has tried. Raises CheckFailed as `rehearse`."""
    source = order.model
    int8, reference = path.read_bytes(), (board.folder / quantize.FLOAT).read_bytes()
    record = Conversion(
        name=order.declaration.name or source.name,
        task=made.task,
        profile=board.profile.name,
        inputs=proof.inputs,
        outputs=proof.outputs,
        input_names=made.input_names,
        preprocess=made.preprocess,
        labels=made.labels,
        provenance=Provenance(
            source=source.file_name,
            source_format=source.form,
            source_sha256=source.sha256,
            versions=made.versions,
            calibration=made.calibration,
        ),
        model_sha256=hashlib.sha256(int8).hexdigest(),
        model_size=len(int8),
        model_crc32=zlib.crc32(int8),
        float_sha256=hashlib.sha256(reference).hexdigest(),
        float_size=len(reference),
        golden=proof.golden,
        detection=made.detection,
        notes=(*source.notes, *made.notes, *proof.notes),
        arena_bytes=arena.peak_bytes(int8),
        delegation=proof.delegation,
    )
    return replace(record, rehearsals=rehearse(record, board.profile, path, progress, strict=strict))
