"""convert: SourceModel + DeviceProfile + RepresentativeDataset -> Conversion."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import platformdirs
from edgekit_runtime import schema
from edgekit_runtime.manifest import ANCHORS, GOLDEN, LABELS, Provenance

from edgekit import worker
from edgekit.conversion import doctor, prove, quantize
from edgekit.conversion.calibration import CALIBRATION, CalibrationRecord
from edgekit.conversion.candidate import Candidate
from edgekit.conversion.record import FLOAT, RECORD, Conversion, Files
from edgekit.conversion.rehearse import rehearse
from edgekit.conversion.repair import Budget, repair
from edgekit.datasets.dataset import open_dataset
from edgekit.datasets.declaration import Declaration
from edgekit.errors import UserError
from edgekit.models import arena, keras_archive, keras_model
from edgekit.models.source import SourceModel, open_model, require_convertible
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import gate, resolve

MB = 1024 * 1024


def convert(
    model: Path,
    *,
    profile: DeviceProfile,
    data: Path,
    output: Path,
    declaration: Declaration | None = None,
    samples: int = 200,
    seed: int = 0,
    trust_code: bool = False,
    allow_float: bool = False,
    max_drop: float | None = None,
    held_out: Path | None = None,
    progress: worker.Progress | None = None,
    log: Path | None = None,
) -> Conversion:
    """Write `output` (an INT8 `.tflite`) and the folder beside it, or nothing.

    At most `samples` samples of `data` set the ranges, chosen by `seed`: the same model, data, versions and seed give
    the same bytes. `trust_code` loads models that hold code; `allow_float` keeps operators that have no INT8 form in
    float. With `max_drop` (a share of 1) a model that loses more is repaired: see `repair`; it is judged on `held_out`,
    else on `data`.

    TensorFlow runs in a process of its own; what it says goes to `log` (default: the user's log folder).

    `progress(stage, done, total)` is called with the stages load, float, calibrate, quantize, prove and examine, and
    for a detector original and compare.
    Raises UserError for inputs that do not fit and for a board that no interpreter does, CheckFailed for a model that
    was converted but does not run.
    """
    interpreter = resolve.choose(profile)[0]
    declaration = declaration or Declaration()
    source = _checked(model, output, data, samples, trust_code=trust_code, declaration=declaration)
    with _staging(output) as folder:
        log = log or default_log()
        request = quantize.Request(
            model=str(source.path),
            form=source.form,
            trust_code=trust_code,
            declaration=declaration,
            data=str(data),
            samples=samples,
            seed=seed,
            input_dtype=profile.input_dtype,
            output_dtype=profile.output_dtype,
            allow_float=allow_float,
            dense_per_channel=interpreter.dense_per_channel,
            folder=str(folder),
            repair=max_drop is not None,
        )
        plain = worker.run("convert", schema.plain(request), what=f"converting {model}", log=log, progress=progress)
        made = schema.read(quantize.Quantized, plain, "conversion")

        def described(made: quantize.Quantized, proof: prove.Proof, path: Path) -> Conversion:
            plain = _record(source, made, proof, path, name=declaration.name, profile=profile.name)
            return replace(plain, rehearsals=rehearse(plain, profile, path, progress))

        candidates: tuple[Candidate, ...] = ()
        kind = "int8"
        if max_drop is None:
            gate.require(folder / quantize.INT8, profile, interpreter)
            proof = prove.run(request, made, folder / quantize.INT8, log=log, progress=progress)
        else:
            budget = Budget(max_drop, held_out or data, profile, interpreter, described)
            repaired = repair(request, made, budget, log=log, progress=progress)
            made, proof, candidates, kind = repaired.made, repaired.proof, repaired.candidates, repaired.taken.name
        record = described(made, proof, folder / quantize.INT8)
        findings = doctor.diagnose(request, made, held_out, log=log, progress=progress)
        record = replace(record, kind=kind, candidates=candidates, findings=findings)
        try:
            _publish(record, _calibration(record, made), folder, output)
        except OSError as error:
            raise UserError(f"{output}: cannot be written: {error.strerror}", output=str(output)) from error
    return record


def default_log() -> Path | None:
    """The log of conversions in the user's log folder, begun anew when over 4 MB; None where there can be none."""
    try:
        path = platformdirs.user_log_path("edgekit", ensure_exists=True) / "convert.log"
        if path.exists() and path.stat().st_size > 4 * MB:
            path.unlink()
    except OSError:
        return None
    return path


def _checked(
    model: Path, output: Path, data: Path, samples: int, *, trust_code: bool, declaration: Declaration
) -> SourceModel:
    if output.suffix != ".tflite":
        raise UserError(f"{output}: the output must end in .tflite")
    if not output.parent.is_dir():
        raise UserError(f"{output}: the folder {output.parent} does not exist")
    if samples < 1:
        raise UserError(f"{samples} samples cannot set a range", hint="100 to 300 are usual")
    source = open_model(model)
    require_convertible(source)
    if source.form == "keras" and not trust_code:
        keras_model.refuse_code(source.path, keras_archive.code_in(keras_archive.read_config(source.path)))
    open_dataset(data, declaration.labels, run=False)
    return source


def _record(
    source: SourceModel,
    made: quantize.Quantized,
    proof: prove.Proof,
    path: Path,
    *,
    name: str | None,
    profile: str,
) -> Conversion:
    int8, reference = path.read_bytes(), path.with_name(quantize.FLOAT).read_bytes()
    return Conversion(
        name=name or source.name,
        task=made.task,
        profile=profile,
        inputs=proof.inputs,
        outputs=proof.outputs,
        input_names=made.input_names,
        preprocess=made.preprocess,
        labels=made.labels,
        provenance=Provenance(
            source=source.name if source.path.is_dir() else source.path.name,
            source_format=source.form,
            source_sha256=source.sha256,
            versions=made.versions,
            calibration=made.calibration,
        ),
        model_sha256=hashlib.sha256(int8).hexdigest(),
        model_size=len(int8),
        float_sha256=hashlib.sha256(reference).hexdigest(),
        float_size=len(reference),
        golden=proof.golden,
        detection=made.detection,
        notes=(*source.notes, *made.notes, *proof.notes),
        arena_bytes=arena.peak_bytes(int8),
        delegation=proof.delegation,
    )


@contextlib.contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A folder beside the output that is gone afterwards, whatever happens."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{output.stem}-", suffix=".part", dir=output.parent))
    except OSError as error:
        raise UserError(f"{output.parent}: cannot write there: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _calibration(record: Conversion, made: quantize.Quantized) -> CalibrationRecord:
    calibration = made.calibration
    names = tuple(finding.name for finding in record.findings)
    return CalibrationRecord(made.used, calibration.seed, calibration.samples, calibration.skipped, names)


def _publish(record: Conversion, calibration: CalibrationRecord, folder: Path, output: Path) -> None:
    """Put folder and model in their places by renames. Between the two, `Conversion.load` says what is wrong."""
    files, fresh = Files.of(output), folder / "fresh"
    fresh.mkdir()
    (folder / quantize.FLOAT).rename(fresh / FLOAT)
    if record.golden is not None:
        (folder / GOLDEN).rename(fresh / GOLDEN)
    if record.detection is not None:
        (folder / ANCHORS).rename(fresh / ANCHORS)
    if record.labels is not None:
        (fresh / LABELS).write_text("\n".join(record.labels) + "\n", encoding="utf-8")
    (fresh / CALIBRATION).write_text(schema.dump_json(calibration), encoding="utf-8")
    (fresh / RECORD).write_text(schema.dump_json(record), encoding="utf-8")
    if files.folder.exists():
        files.folder.rename(folder / "old")
    fresh.rename(files.folder)
    os.replace(folder / quantize.INT8, output)
