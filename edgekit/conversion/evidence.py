"""Evidence: what a report shows of a finished conversion beside its figures, measured only when it is asked for."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit_runtime import schema

from edgekit.conversion import examples, layers
from edgekit.conversion.examples import Examples
from edgekit.conversion.layers import LayerReport
from edgekit.conversion.pruning import Pruning
from edgekit.conversion.record import Conversion, Files
from edgekit.worker import Progress


@dataclass(frozen=True)
class Evidence:
    """The error of each layer on calibration data, answers to validation data, and what pruning has spared. `layers_of`
    is the candidate whose layers these are: where something else than INT8 was taken, the INT8 that was not.
    """

    layers: LayerReport
    examples: Examples
    pruning: Pruning | None = None
    layers_of: str = "int8"

    def facts(self) -> dict[str, Any]:
        """As plain data, without the pictures."""
        plain: dict[str, Any] = schema.plain(replace(self, examples=replace(self.examples, pictures={})))
        del plain["examples"]["pictures"]
        return plain


def gather(
    model: Path,
    made: Conversion,
    *,
    calibration: Path,
    data: Path,
    seed: int,
    pruning: Pruning | None = None,
    log: Path | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Of `model` and the files beside it; `pruning` goes in as it is.

    Raises CheckFailed when one of its models does not run.
    """
    files = Files.of(model)
    if files.layers.is_file():
        measured, of = schema.load_json(LayerReport, files.layers.read_text("ascii"), str(files.layers)), "int8"
    else:
        with tempfile.TemporaryDirectory() as folder:
            wanted = layers.Request(str(files.float), str(model), str(calibration), made.preprocess, seed, folder)
            measured, of = layers.measure(wanted, log=log, progress=progress), made.kind
    asked = examples.Request(
        float=str(files.float),
        int8=str(model),
        data=str(data),
        preprocess=made.preprocess,
        labels=made.labels,
        task=made.task,
        seed=seed + 1,  # as validation does
        detection=made.detection,
        anchors=str(files.anchors) if made.detection else None,
    )
    return Evidence(measured, examples.look(asked, log=log, progress=progress), pruning, of)
