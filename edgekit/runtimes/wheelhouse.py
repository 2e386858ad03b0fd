"""Wheelhouse: the user's cache of locked wheels and of the files inside them.

Trust flows from the lock: a wheel is used only when its SHA-256 stands in the lock, and a file only when it is what
that wheel's RECORD says. Both are checked at each use, so a damaged cache mends itself or is refused, and two
processes may share it.

    wheels/PACKAGE-VERSION/TAG/NAME.whl    what pip fetched
    content/SHA256                         files from wheels, each once
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.resources
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import platformdirs
from edgekit_runtime.release import is_member_name

from edgekit.errors import CheckFailed, UserError
from edgekit.runtimes import pip
from edgekit.runtimes.table import Wheel

Progress = Callable[[str, int, int], None]  # stage, done, total

ENVIRONMENT = "EDGEKIT_CACHE"
WHEELS, CONTENT = FOLDERS = ("wheels", "content")
MAX_WHEEL = 1 << 30
MAX_FILE = 256 << 20
MAX_FILES = 8192
MAX_RECORD = 4 << 20
# What zipfile, zlib and csv raise on bytes that are no sound archive.
_UNSOUND = (zipfile.BadZipFile, zlib.error, csv.Error, KeyError, ValueError, EOFError, RuntimeError, OSError)


@dataclass(frozen=True)
class WheelFile:
    """A file of a wheel that was checked: its name there, where it lies unpacked, and what it is."""

    name: str
    path: Path
    sha256: str
    size: int


def cache_root() -> Path:
    """The cache's folder: $EDGEKIT_CACHE, else the user's cache directory."""
    named = os.environ.get(ENVIRONMENT)
    return Path(named) if named else platformdirs.user_cache_path("edgekit")


def size(root: Path) -> int:
    """Bytes of all that is in the cache, without what another process is just fetching."""
    found = (Path(folder, file) for name in FOLDERS for folder, _, files in os.walk(root / name) for file in files)
    return sum(path.stat().st_size for path in found if "/." not in str(path.relative_to(root)))


def locked_hashes(wheel: Wheel) -> frozenset[str]:
    """The SHA-256 of every wheel that the lock of `wheel` allows."""
    text = (importlib.resources.files("edgekit") / "wheels" / wheel.lock).read_text("ascii")
    return frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))


def obtain(
    wheel: Wheel,
    python: str,
    architecture: str,
    *,
    root: Path,
    offline: bool,
    progress: Progress | None,
    profile: str = "PROFILE",
) -> Path:
    """The path of the wheel in the cache, fetched with pip when it is not there. `profile` is for hints.

    Raises UserError when it would have to be fetched and cannot be, CheckFailed when what came is not in the lock.
    """
    folder = root / WHEELS / f"{wheel.package}-{wheel.version}" / f"cp{python.replace('.', '')}-{architecture}"
    allowed = locked_hashes(wheel)
    try:
        found = _good_wheel(folder, allowed)
    except OSError as error:
        raise _cannot_write(root, error) from error
    if found:
        return found
    title = f"{wheel.package} {wheel.version} for {architecture}, Python {python}"
    if offline:
        raise UserError(
            f"{title} is not in the cache",
            hint=f"fill the cache while there is a network: edgekit fetch {profile}",
            package=wheel.package,
            version=wheel.version,
            cache=str(root),
        )
    stage = f"fetch {wheel.package} {wheel.version}"
    if progress:
        progress(stage, 0, 1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as part:
            fetched = pip.download(wheel, python, architecture, Path(part), profile)
            if hash_file(fetched)[0] not in allowed:
                raise CheckFailed(f"{fetched.name} is not the file that edgekit locked", package=wheel.package)
            os.replace(fetched, folder / fetched.name)
    except OSError as error:
        raise _cannot_write(root, error) from error
    if progress:
        progress(stage, 1, 1)
    return folder / fetched.name


def unpack(wheel: Wheel, archive: Path, *, root: Path) -> tuple[WheelFile, ...]:
    """The files of `archive` that inference needs, unpacked below `root` and checked against its RECORD.

    Raises CheckFailed when the archive is not a sound wheel.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            record = _record(opened, archive.name)
            names = sorted(name for name in record if _is_kept(wheel, name))
            if not names or len(names) > MAX_FILES:
                raise CheckFailed(f"{archive.name}: {len(names)} files to keep", wheel=archive.name)
            return tuple(_content(opened, name, *record[name], root=root) for name in names)
    except _UNSOUND as error:
        raise CheckFailed(f"{archive.name}: not a sound wheel: {error}", wheel=archive.name) from error


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 in hexadecimal and size in bytes of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()


def _good_wheel(folder: Path, allowed: frozenset[str]) -> Path | None:
    for path in sorted(folder.glob("*.whl")) if folder.is_dir() else ():
        if path.stat().st_size <= MAX_WHEEL and hash_file(path)[0] in allowed:
            return path
    return None


def _is_kept(wheel: Wheel, name: str) -> bool:
    kept = any(fnmatchcase(name, pattern) for pattern in wheel.keep)
    return kept and not any(fnmatchcase(name, pattern) for pattern in wheel.drop)


def _record(archive: zipfile.ZipFile, title: str) -> dict[str, tuple[str, int]]:
    """SHA-256 in hexadecimal and size of each file, from the wheel's RECORD (PEP 427)."""
    names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
    if len(names) != 1 or archive.getinfo(names[0]).file_size > MAX_RECORD:
        raise CheckFailed(f"{title}: no single RECORD", wheel=title)
    record: dict[str, tuple[str, int]] = {}
    for name, digest, size in csv.reader(archive.read(names[0]).decode("utf-8").splitlines()):
        algorithm, _, value = digest.partition("=")
        if algorithm == "sha256":
            padded = value + "=" * (-len(value) % 4)
            record[name] = (base64.urlsafe_b64decode(padded).hex(), int(size))
    return record


def _content(archive: zipfile.ZipFile, name: str, sha256: str, size: int, *, root: Path) -> WheelFile:
    if not is_member_name(name) or size > MAX_FILE:
        raise CheckFailed(f"{name[:200]}: a name or size that no release may have", member=name[:200])
    path = root / CONTENT / sha256
    if not (path.is_file() and hash_file(path) == (sha256, size)):
        with archive.open(name) as source:
            data = source.read(size + 1)
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            raise CheckFailed(f"{name}: not what the wheel's RECORD says", member=name)
        try:
            _replace(path, data)
        except OSError as error:
            raise _cannot_write(root, error) from error
    return WheelFile(name, path, sha256, size)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def _cannot_write(root: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot use the cache {root}: {error.strerror or error}",
        hint=f"make room or rights there, or name another folder in ${ENVIRONMENT}",
        cache=str(root),
    )
