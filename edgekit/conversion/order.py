"""Order: what a conversion was asked for, whatever the boards; and each Board that it is for."""

from dataclasses import dataclass
from pathlib import Path

from edgekit.conversion.quantize import Encoding
from edgekit.datasets.dataset import RepresentativeDataset
from edgekit.datasets.declaration import Declaration
from edgekit.models.source import SourceModel
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes.table import Wheel


@dataclass(frozen=True)
class Order:
    """The arguments of `convert` that are the same for every board; `model` is what the path turned out to be."""

    model: SourceModel
    data: RepresentativeDataset
    declaration: Declaration
    samples: int
    seed: int
    trust_code: bool
    allow_float: bool
    max_drop: float | None
    held_out: RepresentativeDataset | None
    truth: Path | None = None
    foreground: int | None = None

    @property
    def held_out_path(self) -> Path | None:
        return None if self.held_out is None else self.held_out.path


@dataclass(frozen=True)
class Board:
    """A profile with its interpreter, the `.tflite` that is written for it, and the folder where it is put together."""

    profile: DeviceProfile
    interpreter: Wheel
    output: Path
    folder: Path

    @property
    def encoding(self) -> Encoding:
        return Encoding(self.profile.input_dtype, self.profile.output_dtype, self.interpreter.dense_per_channel)

    @property
    def finished(self) -> Path:
        """The folder with all that is published, and that a cache keeps."""
        return self.folder / "finished"
