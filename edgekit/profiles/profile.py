"""DeviceProfile: the facts of one board, one flat TOML file, read strictly.

A profile holds facts and never connects to anything. What each key means is in docs/profiles.md.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from edgekit_runtime import schema

from edgekit.errors import UserError
from edgekit.profiles import hostfacts

ENVIRONMENT = "EDGEKIT_PROFILES"
ABIS = {"aarch64": "aarch64-linux-gnu", "armv7l": "arm-linux-gnueabihf", "x86_64": "x86_64-linux-gnu"}
RUNTIMES = ("ai-edge-litert", "tflite-runtime")
INPUT_DTYPES = ("uint8", "int8")
OUTPUT_DTYPES = ("uint8", "int8", "float32")
NUMPY = ("auto", "board", "wheel")
MAX_FILE_BYTES = 64 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class DeviceProfile:
    """One board. Sizes are in MB of 1024 * 1024 bytes; `max_accuracy_drop` is a share of 1 (0.01 is one point).

    `glibc` is the oldest glibc of the boards that the profile stands for, `python` their Python as X.Y.
    `numpy` says where NumPy comes from: "board" (the board's own package), "wheel" (sent with the release) or "auto"
    (the board's own where it has one that the interpreter takes, else one is sent).
    `numpy_version` is the board's own; one that the interpreter does not take is refused where no other is sent.
    What follows it is only information: no board is refused for it.
    """

    name: str
    description: str
    architecture: str
    abi: str
    cpu: str
    cores: int
    clusters: tuple[str, ...]
    isa: tuple[str, ...]
    ram_mb: int
    flash_free_mb: int
    os: str
    glibc: str
    python: str
    runtime: str
    runtime_version: str
    numpy: str
    input_dtype: str
    output_dtype: str
    num_threads: int
    max_model_mb: float
    max_ram_mb: int
    max_accuracy_drop: float
    max_latency_ms: float | None = None
    int8_only: bool | None = None
    numpy_version: str | None = None
    governor: str | None = None
    thermal_zones: tuple[str, ...] | None = None
    ssh_server: str | None = None
    sftp: bool | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name '{self.name}' is not made of a-z, 0-9, '.', '_' and '-'")
        for key, value, allowed in (
            ("architecture", self.architecture, tuple(ABIS)),
            ("runtime", self.runtime, RUNTIMES),
            ("numpy", self.numpy, NUMPY),
            ("input_dtype", self.input_dtype, INPUT_DTYPES),
            ("output_dtype", self.output_dtype, OUTPUT_DTYPES),
        ):
            if value not in allowed:
                raise ValueError(f"{key} '{value}' is not one of {', '.join(allowed)}")
        if self.abi != ABIS[self.architecture]:
            raise ValueError(f"abi '{self.abi}' does not belong to {self.architecture} ({ABIS[self.architecture]})")
        for key, version in (("glibc", self.glibc), ("python", self.python)):
            if not re.fullmatch(r"\d{1,2}\.\d{1,3}", version):
                raise ValueError(f"{key} '{version}' is not of the form X.Y")
        if not re.fullmatch(r"\d+(\.\d+){1,3}", self.runtime_version):
            raise ValueError(f"runtime_version '{self.runtime_version}' is not a version such as 2.3.0")
        self._check_sizes()

    def _check_sizes(self) -> None:
        for key in ("cores", "ram_mb", "flash_free_mb", "num_threads", "max_model_mb", "max_ram_mb"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key} {getattr(self, key)} is not above 0")
        if self.num_threads > self.cores:
            raise ValueError(f"num_threads {self.num_threads} is more than the {self.cores} cores")
        if self.max_ram_mb > self.ram_mb:
            raise ValueError(f"max_ram_mb {self.max_ram_mb} is more than ram_mb {self.ram_mb}")
        if not 0 <= self.max_accuracy_drop <= 1:
            raise ValueError(f"max_accuracy_drop {self.max_accuracy_drop} is not between 0 and 1")
        if self.max_latency_ms is not None and self.max_latency_ms <= 0:
            raise ValueError(f"max_latency_ms {self.max_latency_ms} is not above 0")


def is_name(text: str) -> bool:
    """Whether a profile may be called so."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True)
class ProfileFile:
    """Where a profile stands: its name is the file's name without `.toml`."""

    name: str
    path: Path


def search_path(extra: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Folders in the order in which profiles are looked for: given, $EDGEKIT_PROFILES, the user's, edgekit's own."""
    named = [Path(item) for item in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if item]
    return (*extra, *named, platformdirs.user_config_path("edgekit") / "profiles", packaged())


def packaged() -> Path:
    """The folder of edgekit's own profiles: inside the installed package, or at the root of a checkout."""
    inside = Path(__file__).parents[1] / "device_profiles"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "device_profiles"


def available(extra: Sequence[Path] = ()) -> tuple[ProfileFile, ...]:
    """Every profile of the search path by name; the first folder that has a name wins."""
    found: dict[str, ProfileFile] = {}
    for folder in search_path(extra):
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
            found.setdefault(path.stem, ProfileFile(path.stem, path))
    return tuple(found[name] for name in sorted(found))


def find(name: str, extra: Sequence[Path] = ()) -> DeviceProfile:
    """The profile of that name, or in that file when `name` ends in `.toml`. Raises UserError."""
    if name.endswith(".toml"):
        return load(Path(name))
    files = {file.name: file for file in available(extra)}
    if name in files:
        return load(files[name].path)
    near = difflib.get_close_matches(name.lower(), list(files), n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else "profiles: " + ", ".join(files)
    raise UserError(f"unknown profile '{name}'", hint=hint, profile=name, nearest=near[0] if near else None)


def load(path: Path) -> DeviceProfile:
    """Read one profile file. Raises UserError that names the file, the key and the nearest known key."""
    data = read_toml(path, "profile")
    profile = schema.read(DeviceProfile, hostfacts.fill(data, str(path)), str(path))
    if profile.name != path.stem:
        raise UserError(
            f"{path}: the profile is named '{profile.name}', the file '{path.stem}'",
            hint=f"rename the file to {profile.name}.toml, or change 'name'",
            where=str(path),
            key="name",
        )
    return profile


def read_toml(path: Path, what: str) -> dict[str, object]:
    """The table of a small TOML file. Raises UserError when it cannot be read or is not TOML."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot read the {what}: {error.strerror or error}", where=str(path)) from error
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"{path}: larger than {MAX_FILE_BYTES} bytes, which no {what} is", where=str(path))
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}", where=str(path)) from error
