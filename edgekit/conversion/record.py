"""Conversion: an INT8 `.tflite` and how it was made.

Beside `NAME.tflite` stands the folder `NAME.edgekit` with `conversion.json` (this record), `float.tflite`,
`golden.npy`, `labels.txt`, a detector's `anchors.npy` and `calibration.json`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgekit_runtime import schema
from edgekit_runtime.manifest import (
    ANCHORS,
    GOLDEN,
    LABELS,
    Detection,
    Golden,
    Manifest,
    Preprocess,
    Provenance,
    TensorSpec,
)

from edgekit.conversion.calibration import CALIBRATION
from edgekit.conversion.candidate import Candidate
from edgekit.conversion.finding import Finding
from edgekit.conversion.rehearsal import Rehearsal
from edgekit.errors import CheckFailed, UserError
from edgekit.models.delegation import Delegation
from edgekit.profiles.profile import DeviceProfile

SCHEMA = 2
RECORD = "conversion.json"
FLOAT = "float.tflite"
LAYERS = "layers.json"
MAX_RECORD_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class Conversion:
    """The record. Sizes are in bytes; `input_names` are the source model's names, in the order of `inputs`."""

    name: str
    task: str
    profile: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_names: tuple[str, ...]
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    provenance: Provenance
    model_sha256: str
    model_size: int
    model_crc32: int
    float_sha256: str
    float_size: int
    golden: Golden | None
    notes: tuple[str, ...] = ()
    detection: Detection | None = None
    kind: str = "int8"
    candidates: tuple[Candidate, ...] = ()
    findings: tuple[Finding, ...] = ()
    arena_bytes: int | None = None
    delegation: Delegation | None = None
    rehearsals: tuple[Rehearsal, ...] = ()
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"conversion record of schema {self.schema}; this edgekit reads {SCHEMA}: convert again")

    @staticmethod
    def load(model: Path) -> "Conversion":
        """The record of a converted `.tflite`. Raises UserError when there is none, CheckFailed when it is not its."""
        files = Files.of(model)
        try:
            with files.record.open("rb") as file:
                text = file.read(MAX_RECORD_BYTES + 1)
            content = model.read_bytes()
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot read it: {error.strerror}",
                hint="give a .tflite that 'edgekit convert' made, with the .edgekit folder beside it",
            ) from error
        if len(text) > MAX_RECORD_BYTES:
            raise UserError(f"{files.record}: larger than {MAX_RECORD_BYTES} bytes")
        record = schema.load_json(Conversion, text, str(files.record))
        if hashlib.sha256(content).hexdigest() != record.model_sha256:
            raise CheckFailed(
                f"{model}: not the model that {files.record} describes",
                hint="the file was changed after its conversion: convert again",
            )
        return record


@dataclass(frozen=True)
class Files:
    """Where the parts of a conversion stand; golden samples, labels and anchors only when the record has them, `layers`
    where INT8 was tried and something else taken.
    """

    model: Path
    folder: Path
    record: Path
    float: Path
    golden: Path
    labels: Path
    anchors: Path
    calibration: Path
    layers: Path

    @staticmethod
    def of(model: Path) -> "Files":
        """The parts beside `model`, whether they exist or not."""
        folder = model.with_suffix(".edgekit")
        names = (RECORD, FLOAT, GOLDEN, LABELS, ANCHORS, CALIBRATION, LAYERS)
        return Files(model, folder, *(folder / name for name in names))


def manifest(conversion: Conversion, profile: DeviceProfile, runtime: str, numpy: str | None = None) -> Manifest:
    """The release's manifest. `runtime` names the board's interpreter, for example "ai-edge-litert 2.3.0"."""
    return Manifest(
        name=conversion.name,
        task=conversion.task,
        profile=profile.name,
        model_sha256=conversion.model_sha256,
        model_size=conversion.model_size,
        model_crc32=conversion.model_crc32,
        inputs=conversion.inputs,
        outputs=conversion.outputs,
        preprocess=conversion.preprocess,
        labels=LABELS if conversion.labels else None,
        runtime=runtime,
        num_threads=profile.num_threads,
        provenance=conversion.provenance,
        golden=conversion.golden,
        isa=profile.isa,
        max_ram_mb=profile.max_ram_mb,
        numpy=numpy,
        detection=conversion.detection,
    )
