"""DeviceProfile -> RuntimeTree: every file that inference needs on a board, chosen and checked on the host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import edgekit_runtime
from packaging.specifiers import SpecifierSet

from edgekit.errors import UserError
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import wheelhouse
from edgekit.runtimes.table import INTERPRETERS, NUMPY, SERVERS, Wheel
from edgekit.runtimes.wheelhouse import Progress


@dataclass(frozen=True)
class RuntimeFile:
    """One file of the tree: `name` below the release's `runtime/`, where its content lies now, and what it is."""

    name: str
    path: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class RuntimeTree:
    """edgekit's runtime, the interpreter, NumPy unless the board has it, and what the server needs.

    `numpy` is the version that is sent, None where the board's own is used; `numpy_range` is what the interpreter
    takes, as a version specifier. `server` is waitress's version, None for a board that can only infer.
    `wheel_bytes` is the size of the wheels that the files came from.
    """

    package: str
    version: str
    numpy: str | None
    numpy_range: str
    server: str | None
    python: str
    architecture: str
    glibc: str
    files: tuple[RuntimeFile, ...]
    wheel_bytes: int

    @property
    def total_size(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(file.size for file in self.files)


def choose(profile: DeviceProfile) -> tuple[Wheel, ...]:
    """The wheels for this board: the interpreter's, NumPy's unless the board's own is used, the server's.

    Nothing is fetched. Raises UserError with the reason when there is no interpreter or NumPy for it; a board that no
    server fits does without.
    """
    named = [wheel for wheel in INTERPRETERS if wheel.package == profile.runtime]
    exact = [wheel for wheel in named if wheel.version == profile.runtime_version]
    if not exact:
        known = ", ".join(f"{wheel.package} {wheel.version}" for wheel in INTERPRETERS)
        raise _refusal(
            profile, f"edgekit has no locked wheels of {profile.runtime} {profile.runtime_version}", f"it has: {known}"
        )
    interpreter = _fitting(profile, exact)
    chosen = [interpreter]
    if profile.numpy == "wheel":
        allowed = SpecifierSet(interpreter.numpy)
        chosen.append(_fitting(profile, [wheel for wheel in NUMPY if allowed.contains(wheel.version)]))
    chosen += [wheel for wheel in SERVERS if _fits(profile, wheel)][:1]
    return tuple(chosen)


def resolve(
    profile: DeviceProfile, *, cache: Path | None = None, offline: bool = False, progress: Progress | None = None
) -> RuntimeTree:
    """The tree for a board. Wheels are fetched once; afterwards, or with `offline`, no network is used.

    `progress` is called with a stage, what is done and the total. Raises UserError when no wheel fits or one cannot
    be had, CheckFailed when one is not what edgekit locked.
    """
    wheels = choose(profile)
    versions = {wheel.package: wheel.version for wheel in wheels}
    root = cache or wheelhouse.cache_root()
    files = list(own_files())
    wheel_bytes = 0
    for wheel in wheels:
        archive = wheelhouse.obtain(
            wheel, profile.python, profile.architecture, root=root, offline=offline, progress=progress
        )
        wheel_bytes += archive.stat().st_size
        files += [
            RuntimeFile(file.name, file.path, file.sha256, file.size)
            for file in wheelhouse.unpack(wheel, archive, root=root)
        ]
    return RuntimeTree(
        package=wheels[0].package,
        version=wheels[0].version,
        numpy=versions.get("numpy"),
        numpy_range=wheels[0].numpy,
        server=versions.get("waitress"),
        python=profile.python,
        architecture=profile.architecture,
        glibc=profile.glibc,
        files=tuple(sorted(files, key=lambda file: file.name)),
        wheel_bytes=wheel_bytes,
    )


def fetch(profile: DeviceProfile, *, cache: Path | None = None, progress: Progress | None = None) -> RuntimeTree:
    """Fill the cache with everything that a later offline deploy to such a board needs."""
    return resolve(profile, cache=cache, progress=progress)


def own_files() -> tuple[RuntimeFile, ...]:
    """The modules of edgekit_runtime as installed here."""
    folder = Path(edgekit_runtime.__path__[0])
    found = []
    for path in sorted(folder.rglob("*.py")):
        sha256, size = wheelhouse.hash_file(path)
        found.append(RuntimeFile(f"edgekit_runtime/{path.relative_to(folder).as_posix()}", path, sha256, size))
    return tuple(found)


def _fitting(profile: DeviceProfile, wheels: list[Wheel]) -> Wheel:
    """The first of `wheels` that the board can run; the refusal names the fact that stands in the way."""
    by_architecture = [wheel for wheel in wheels if profile.architecture in wheel.architectures]
    if not by_architecture:
        known = ", ".join(sorted({name for wheel in wheels for name in wheel.architectures}))
        raise _refusal(profile, f"{_title(wheels)} has no wheel for {profile.architecture}", f"it has: {known}")
    by_python = [wheel for wheel in by_architecture if profile.python in wheel.pythons]
    if not by_python:
        known = ", ".join(name for wheel in by_architecture for name in wheel.pythons)
        raise _refusal(
            profile,
            f"{_title(by_architecture)} has no wheel for Python {profile.python} on {profile.architecture}",
            f"it has: Python {known}",
        )
    for wheel in by_python:
        if _fits(profile, wheel):
            return wheel
    oldest = min((wheel.glibc for wheel in by_python), key=_version)
    raise _refusal(
        profile,
        f"{_title(by_python)} needs glibc {oldest} or newer, and the board has {profile.glibc}",
        "a newer system on the board, or an older runtime in the profile",
    )


def _fits(profile: DeviceProfile, wheel: Wheel) -> bool:
    known = profile.architecture in wheel.architectures and profile.python in wheel.pythons
    return known and _version(profile.glibc) >= _version(wheel.glibc)


def _title(wheels: list[Wheel]) -> str:
    versions = dict.fromkeys(wheel.version for wheel in wheels)
    return f"{wheels[0].package} {' or '.join(versions)}"


def _refusal(profile: DeviceProfile, reason: str, hint: str) -> UserError:
    return UserError(
        f"profile '{profile.name}': {reason}",
        hint=hint,
        profile=profile.name,
        runtime=profile.runtime,
        runtime_version=profile.runtime_version,
        architecture=profile.architecture,
        python=profile.python,
        glibc=profile.glibc,
        numpy=profile.numpy,
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
