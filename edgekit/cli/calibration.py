"""`edgekit calibration`: whether data and declaration are right, before anything is converted."""

from __future__ import annotations

from pathlib import Path

from edgekit.cli import options, show
from edgekit.conversion import checkup
from edgekit.conversion.convert import default_log
from edgekit.conversion.doctor import SAMPLES, Diagnosis


def calibration(
    model: options.Model,
    calibrate: options.Calibrate,
    data: options.HeldOut = None,
    json: show.Json = False,
    declare: options.Declare = None,
    task: options.Task = None,
    labels: options.Labels = None,
    trust_code: options.TrustCode = False,
    range_: options.Range = None,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    color: options.Color = None,
    resize: options.Resize = None,
    filter_: options.Filter = None,
    pad: options.Pad = None,
    samples: options.Samples = 200,
    seed: options.Seed = 0,
) -> None:
    """Say what is wrong with the data that are to calibrate a model, and with its declaration; writes nothing.

    Exit code 1 when it would spoil the model (a range or colour order that it was not trained on) or its figures.

    Example: edgekit calibration model.keras -c photos --range 0..1
    """
    declaration = options.declared(
        declare, labels, size, task=task, range=range_, mean=mean, std=std, color=color, resize=resize,
        filter=filter_, pad=pad,
    )  # fmt: skip
    with show.progress() as update:
        found = checkup.examine(
            model,
            data=calibrate,
            declaration=declaration,
            held_out=data,
            samples=samples,
            seed=seed,
            trust_code=trust_code,
            progress=update,
            log=default_log(),
        )
    if not json:
        _show(found, calibrate)
    checkup.require_sound(found)
    if json:
        show.data(found)


def _show(found: Diagnosis, data: Path) -> None:
    rows = [(one.name, "serious" if one.serious else "", one.seen, one.proposal) for one in found.findings]
    if rows:
        show.table(f"{found.samples} samples of {data}", ["finding", "", "seen", "proposal"], rows)
    else:
        show.line(f"{found.samples} samples of {data}: nothing found")
    if found.skipped:
        show.line(f"{found.skipped} more could not be read")
    looked_at = min(found.samples, SAMPLES)
    if found.enough is None:
        show.line("how many samples are enough cannot be told: there are too few, or all are alike")
    else:
        show.line(
            f"the first {found.enough} of the {looked_at} samples looked at reach four fifths of the ranges of all"
        )
