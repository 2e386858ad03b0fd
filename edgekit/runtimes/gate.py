"""Whether an interpreter can run a model: operators and their versions, and memory, before anything is sent.

`operators.toml` has what each locked interpreter registers, measured by `scripts/operator-table`.
"""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

from edgekit.errors import CheckFailed, UserError
from edgekit.models import arena
from edgekit.models.operators import OperatorCode, codes
from edgekit.models.source import COPY_AGAIN
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes.table import Wheel

MB = 1024 * 1024
TOO_LARGE = "the model does not fit"
SMALLER = "choose a smaller model or input, or raise max_model_mb, max_ram_mb or flash_free_mb in the profile"
# Not registered, but run by the XNNPACK that comes with them: seen with MediaPipe's selfie segmentation, which
# tflite-runtime refuses (`scripts/operator-table --models`).
_DELEGATED = {
    "ai-edge-litert-2.3.0": ("Convolution2DTransposeBias",),
    "ai-edge-litert-1.4.0": ("Convolution2DTransposeBias",),
}


@dataclass(frozen=True)
class Problem:
    """An operator that an interpreter does not run: the version that the model has, and which the interpreter knows.

    `known` is None when it knows none at all.
    """

    operator: str
    version: int
    known: tuple[int, int] | None
    proposal: str

    def __str__(self) -> str:
        if self.known is None:
            return f"{self.operator}, which it does not have"
        return f"{self.operator} of version {self.version}, where it has {self.known[0]} to {self.known[1]}"


@dataclass(frozen=True)
class Verdict:
    """`arena_bytes` is the least that the tensors of one sample need at once, `weights_bytes` the size of the file."""

    interpreter: str
    problems: tuple[Problem, ...]
    arena_bytes: int
    weights_bytes: int
    max_ram_mb: int
    max_model_mb: float
    flash_free_mb: int

    @property
    def too_large(self) -> str | None:
        """Why it does not fit into the board's memory, its flash or its budget for files; None when it does."""
        if self.weights_bytes > self.max_model_mb * MB:
            return f"the file has {self.weights_bytes / MB:.1f} MiB, the profile allows {self.max_model_mb:g} MiB"
        if self.weights_bytes > self.flash_free_mb * MB:
            return _over_flash("the file", self.weights_bytes, self.flash_free_mb)
        needed = (self.arena_bytes + self.weights_bytes) / MB
        if needed > self.max_ram_mb:
            return f"tensors and weights need at least {needed:.1f} MiB, the profile allows {self.max_ram_mb} MiB"
        return None


def judge(model: Path, profile: DeviceProfile, interpreter: Wheel) -> Verdict:
    """What would stop this `.tflite` on a board of this profile. Raises UserError for a file that cannot be parsed."""
    content = model.read_bytes()
    try:
        found, peak = codes(content), arena.peak_bytes(content)
    except Exception as error:  # the generated reader raises whatever damaged offsets lead to
        raise UserError(
            f"{model}: not a readable TFLite model: it is cut or damaged ({error})", hint=COPY_AGAIN
        ) from error
    return Verdict(
        interpreter=f"{interpreter.package} {interpreter.version}",
        problems=problems(found, interpreter),
        arena_bytes=peak,
        weights_bytes=len(content),
        max_ram_mb=profile.max_ram_mb,
        max_model_mb=profile.max_model_mb,
        flash_free_mb=profile.flash_free_mb,
    )


def require(model: Path, profile: DeviceProfile, interpreter: Wheel) -> Verdict:
    """`judge`. Raises CheckFailed when anything would stop it."""
    verdict = judge(model, profile, interpreter)
    if verdict.problems:
        raise CheckFailed(
            f"{verdict.interpreter} of {profile.name} does not run {'; '.join(map(str, verdict.problems))}",
            hint="; ".join(dict.fromkeys(problem.proposal for problem in verdict.problems)),
            problems=[asdict(problem) for problem in verdict.problems],
        )
    if verdict.too_large is not None:
        raise CheckFailed(
            f"{TOO_LARGE} {profile.name}: {verdict.too_large}",
            hint=SMALLER,
            arena_bytes=verdict.arena_bytes,
            weights_bytes=verdict.weights_bytes,
            flash_free_mb=verdict.flash_free_mb,
        )
    return verdict


def require_flash(release_bytes: int, profile: DeviceProfile) -> None:
    """Raises CheckFailed when a whole release, the model with all that goes with it, is larger than the free flash."""
    if release_bytes > profile.flash_free_mb * MB:
        raise CheckFailed(
            f"the release does not fit {profile.name}: "
            + _over_flash("all of it", release_bytes, profile.flash_free_mb),
            hint="choose a smaller model, or free space on the board and say so in flash_free_mb of the profile",
            release_bytes=release_bytes,
            flash_free_mb=profile.flash_free_mb,
        )


def _over_flash(what: str, size: int, free_mb: int) -> str:
    return f"{what} needs {size / MB:.1f} MiB, the profile has {free_mb} MiB of flash free (flash_free_mb)"


def problems(found: tuple[OperatorCode, ...], interpreter: Wheel) -> tuple[Problem, ...]:
    """The operators that this interpreter does not run, each once."""
    name = f"{interpreter.package}-{interpreter.version}"
    known = _tables()[name]
    wrong = []
    for code in found:
        if code.name in _DELEGATED.get(name, ()):
            continue
        range_ = known.get(code.name)
        if range_ is None or not range_[0] <= code.version <= range_[1]:
            wrong.append(Problem(code.name, code.version, range_, _proposal(code, known=range_ is not None)))
    return tuple(dict.fromkeys(wrong))


def foreign(found: tuple[OperatorCode, ...]) -> tuple[str, ...]:
    """The custom operators that no interpreter has which edgekit can send."""
    known = {name for table in (*_tables().values(), *_DELEGATED.values()) for name in table}
    return tuple(sorted({code.name for code in found if code.custom} - known))


def _proposal(code: OperatorCode, *, known: bool) -> str:
    if code.name.startswith("Flex"):
        return f"replace {code.name.removeprefix('Flex')} in the model: boards have no TensorFlow operators"
    if code.custom:
        return "cut the custom operator off, and do its work outside of the model"
    if known:
        return "convert with a repair (--max-drop), or use a profile with a newer interpreter"
    return "replace the operator in the model, or use a profile with a newer interpreter"


@functools.cache
def _tables() -> dict[str, dict[str, tuple[int, int]]]:
    text = (importlib.resources.files("edgekit.runtimes") / "operators.toml").read_text("ascii")
    return {
        name: {operator: (first, last) for operator, (first, last) in table.items()}
        for name, table in tomllib.loads(text).items()
    }
