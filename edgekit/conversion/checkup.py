"""checkup: the calibration doctor alone, for a source model or one that was converted."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit_runtime import schema

from edgekit import worker
from edgekit.conversion import doctor, quantize
from edgekit.conversion.doctor import Diagnosis
from edgekit.conversion.record import Conversion, Files
from edgekit.datasets.dataset import open_dataset
from edgekit.datasets.declaration import Declaration
from edgekit.errors import CheckFailed, UserError
from edgekit.models import flatbuffer, keras_archive, keras_model
from edgekit.models.source import open_model, require_convertible
from edgekit.worker import Progress


@dataclass(frozen=True)
class Request:
    """A source model, its declaration and the data, as the worker gets them."""

    model: str
    form: str
    trust_code: bool
    declaration: Declaration
    data: str
    held_out: str | None
    samples: int
    seed: int


def examine(
    model: Path,
    *,
    data: Path,
    declaration: Declaration | None = None,
    held_out: Path | None = None,
    samples: int = 200,
    seed: int = 0,
    trust_code: bool = False,
    progress: Progress | None = None,
    log: Path | None = None,
) -> Diagnosis:
    """What the doctor finds in `data` as the calibration of `model`; nothing is converted and nothing written.

    Of a `.tflite` that `convert` made its record says how it was declared. Raises UserError for inputs that do not fit,
    CheckFailed when the model does not run.
    """
    open_dataset(data, run=False)
    what = f"examining the calibration of {model}"
    if Files.of(model).record.is_file():
        if declaration not in (None, Declaration()):
            raise UserError(f"{model}: how it was declared stands in its record", hint="leave the declaration out")
        record = Conversion.load(model)
        asked = doctor.Request(
            model=str(Files.of(model).float),
            data=str(data),
            held_out=str(held_out) if held_out else None,
            labels=None if record.detection else record.labels,
            preprocess=record.preprocess,
            task=record.task,
            samples=samples,
            seed=seed,
        )
        plain = worker.run("doctor", schema.plain(asked), what=what, log=log, progress=progress)
        return schema.read(Diagnosis, plain, "diagnosis")
    source = open_model(model)
    require_convertible(source)
    if source.form == "keras" and not trust_code:
        keras_model.refuse_code(source.path, keras_archive.code_in(keras_archive.read_config(source.path)))
    request = Request(
        model=str(source.path),
        form=source.form,
        trust_code=trust_code,
        declaration=declaration or Declaration(),
        data=str(data),
        held_out=str(held_out) if held_out else None,
        samples=samples,
        seed=seed,
    )
    plain = worker.run("checkup", schema.plain(request), what=what, log=log, progress=progress)
    return schema.read(Diagnosis, plain, "diagnosis")


def require_sound(diagnosis: Diagnosis) -> None:
    """Raises CheckFailed, with the diagnosis in it, where a finding is serious."""
    serious = [finding for finding in diagnosis.findings if finding.serious]
    if serious:
        raise CheckFailed(
            "this calibration would spoil the model or its figures: " + ", ".join(finding.name for finding in serious),
            hint=serious[0].proposal,
            diagnosis=schema.plain(diagnosis),
        )


def work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The worker's side: lower the model to float, then examine; returns a plain Diagnosis."""
    asked = schema.read(Request, request, "request")
    model = Path(asked.model)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        folder = Path(name)
        progress("load", 0, 1)
        ready = quantize.prepare(
            model, asked.form, asked.declaration, Path(asked.data), folder, trust_code=asked.trust_code
        )
        progress("load", 1, 1)
        content, _ = ready.opened.lower(ready.inputs)
        (folder / quantize.FLOAT).write_bytes(content)
        outputs = flatbuffer.parse(content).outputs
        labels = ready.declared.labels or quantize.class_names(ready.data, outputs)
        task = ready.declared.task or quantize.task_of(outputs, labels, ready.preprocess)
        found = doctor.examine(
            doctor.Request(
                model=str(folder / quantize.FLOAT),
                data=asked.data,
                held_out=asked.held_out,
                labels=None if ready.detects else labels,
                preprocess=ready.preprocess,
                task="detection" if ready.detects else task,
                samples=asked.samples,
                seed=asked.seed,
            ),
            progress,
        )
    plain: dict[str, Any] = schema.plain(found)
    return plain
