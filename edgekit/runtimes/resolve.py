"""DeviceProfile -> RuntimeTree: every file that inference needs on a board, chosen and checked on the host."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import edgekit_runtime
from edgekit_runtime.release import Release
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

from edgekit.errors import UserError
from edgekit.profiles.profile import DeviceProfile, available
from edgekit.runtimes import here, wheelhouse
from edgekit.runtimes.table import INTERPRETERS, NUMPY, SERVERS, Wheel
from edgekit.runtimes.wheelhouse import Progress

UNKNOWN = "unknown"  # a NumPy that does not tell its version


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
    def own_numpy(self) -> str | None:
        """The range that the board's own NumPy has to be in; None where one is sent."""
        return None if self.numpy else self.numpy_range

    @property
    def total_size(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(file.size for file in self.files)


def choose(profile: DeviceProfile) -> tuple[Wheel, ...]:
    """The wheels for this board: the interpreter's, NumPy's unless the board's own is used, the server's.

    Nothing is fetched. Raises UserError with the reason when there is no interpreter or NumPy for it, or when the
    board's own is used and the profile says that it is one that the interpreter does not take; a board that no server
    fits does without.
    """
    exact = [w for w in INTERPRETERS if (w.package, w.version) == (profile.runtime, profile.runtime_version)]
    if not exact:
        reason = f"edgekit has no locked wheels of {profile.runtime} {profile.runtime_version}"
        raise _refusal(profile, reason, what_fits(profile))
    chosen = [_fitting(profile, exact, what_fits(profile))]
    own = profile.numpy_version
    if settle(profile).numpy == "wheel":
        hint = 'say numpy = "auto" or "board" in the profile, and install NumPy on the board'
        chosen.append(_fitting(profile, _numpy_in(chosen[0].numpy), hint))
    elif own not in (None, UNKNOWN) and not takes(profile, own):
        reason = f"{_title(exact)} takes NumPy {chosen[0].numpy} and numpy_version says that the board's own is {own}"
        raise _refusal(profile, reason, f"{numpy_hint(profile, chosen[0].numpy)}; then correct numpy_version")
    chosen += [wheel for wheel in SERVERS if _fits(profile, wheel)][:1]
    return tuple(chosen)


def settle(profile: DeviceProfile, *own: str | None) -> DeviceProfile:
    """The profile with "auto" decided: "board" where `own`, the NumPy of each board that is known (None where it has
    none), suits the interpreter, or where there is none to send; else "wheel". What is known of boards stands above
    the profile's `numpy_version`, which is dropped then.
    """
    if own:
        profile = replace(profile, numpy_version=None)
    if profile.numpy != "auto":
        return profile
    taken = bool(own) and all(takes(profile, version) for version in own)
    sendable = _sendable(profile, numpy_range(profile))
    return replace(profile, numpy="board" if taken or not sendable else "wheel")


def numpy_hint(target: DeviceProfile | Release, specifier: str) -> str:
    """What helps a board whose own NumPy is not in the range."""
    sent = ', or say numpy = "auto" in the profile: then one is sent' if _sendable(target, specifier) else ""
    return f"install such a NumPy on the board (Debian: python3-numpy){sent}"


def numpy_range(profile: DeviceProfile) -> str:
    """What the profile's interpreter takes, as a version specifier; empty for one that is not in the table."""
    return numpy_of(f"{profile.runtime} {profile.runtime_version}")


def numpy_of(interpreter: str) -> str:
    """The same for an interpreter as manifests name it, `PACKAGE VERSION`."""
    return next((wheel.numpy for wheel in INTERPRETERS if _title([wheel]) == interpreter), "")


def takes(profile: DeviceProfile, numpy: str | None) -> bool:
    """Whether the profile's interpreter works with that version of NumPy; not with None or what is no version."""
    return numpy is not None and in_range(numpy, numpy_range(profile))


def in_range(version: str, specifier: str) -> bool:
    """Whether a version is one and lies in the range."""
    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except InvalidVersion:
        return False


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
            wheel,
            profile.python,
            profile.architecture,
            root=root,
            offline=offline,
            progress=progress,
            profile=_name(profile),
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
    """Fill the cache with everything that a later offline deploy to such a board needs: its own tree, and its
    interpreter for this computer where there is one, with which a conversion is tried.
    """
    tree = resolve(profile, cache=cache, progress=progress)
    if not here.is_own(profile):
        facts, _ = here.stand_in(profile)
        try:
            choose(facts)
        except UserError:
            return tree
        resolve(facts, cache=cache, progress=progress)
    return tree


def own_files() -> tuple[RuntimeFile, ...]:
    """The modules of edgekit_runtime as installed here."""
    folder = Path(edgekit_runtime.__path__[0])
    found = []
    for path in sorted(folder.rglob("*.py")):
        sha256, size = wheelhouse.hash_file(path)
        found.append(RuntimeFile(f"edgekit_runtime/{path.relative_to(folder).as_posix()}", path, sha256, size))
    return tuple(found)


def _numpy_in(specifier: str) -> list[Wheel]:
    return [wheel for wheel in NUMPY if in_range(wheel.version, specifier)]


def _fitting(profile: DeviceProfile, wheels: list[Wheel], hint: str) -> Wheel:
    """The first of `wheels` that the board can run; the refusal names the fact that stands in the way."""
    by_architecture = [wheel for wheel in wheels if profile.architecture in wheel.architectures]
    if not by_architecture:
        raise _refusal(profile, f"{_title(wheels)} has no wheel for {profile.architecture}", hint)
    by_python = [wheel for wheel in by_architecture if profile.python in wheel.pythons]
    if not by_python:
        where = f"Python {profile.python} on {profile.architecture}"
        raise _refusal(profile, f"{_title(by_architecture)} has no wheel for {where}", hint)
    for wheel in by_python:
        if _fits(profile, wheel):
            return wheel
    oldest = min((wheel.glibc for wheel in by_python), key=_version)
    needs = f"{_title(by_python)} needs glibc {oldest} or newer, and the board has {profile.glibc}"
    raise _refusal(profile, needs, hint)


def what_fits(profile: DeviceProfile) -> str:
    """The interpreters of the table that such a board runs, or why there is none."""
    fitting = [_title([wheel]) for wheel in INTERPRETERS if _fits(profile, wheel)]
    if fitting:
        return f"{' or '.join(fitting)} fits this board"
    known = [wheel for wheel in INTERPRETERS if profile.architecture in wheel.architectures]
    where = f"Python {profile.python} on {profile.architecture}"
    oldest = min((wheel.glibc for wheel in known if profile.python in wheel.pythons), key=_version, default=None)
    if oldest is not None:
        return f"for {where} every interpreter needs glibc {oldest} or newer"
    pythons = sorted({name for wheel in known for name in wheel.pythons}, key=_version)
    return f"there is no interpreter for {where}; there are for Python {pythons[0]} to {pythons[-1]}"


def _sendable(target: DeviceProfile | Release, specifier: str) -> bool:
    """Whether there is a NumPy of the range to send to such a board."""
    return any(_fits(target, wheel) for wheel in _numpy_in(specifier))


def _fits(profile: DeviceProfile | Release, wheel: Wheel) -> bool:
    known = profile.architecture in wheel.architectures and profile.python in wheel.pythons
    return known and _version(profile.glibc) >= _version(wheel.glibc)


def _name(profile: DeviceProfile) -> str:
    """What `edgekit fetch` finds it by; a file that is in no folder of the search path may lie anywhere."""
    return profile.name if profile.name in {file.name for file in available()} else "PROFILE"


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
