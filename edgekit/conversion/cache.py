"""Cache: finished conversions under the keys of what they were made from (see `key`).

    conversions/KEY/SHA256SUMS.json     the members by name
    conversions/KEY/model.tflite
    conversions/KEY/edgekit/...

An entry appears by one rename and is checked whenever it is used: a damaged one is removed, and was never there. Those
that were not used for longest go first. Several processes may share a cache, and one that cannot be written to is none.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from edgekit.runtimes import wheelhouse

FOLDER = "conversions"
INDEX = "SHA256SUMS.json"
LIMIT_BYTES = 2 * 1024**3
_PART = ".part-"
_ABANDONED_S = 24 * 3600


def default() -> Path:
    """The folder of conversions in the user's cache."""
    return wheelhouse.cache_root() / FOLDER


@dataclass(frozen=True)
class Cache:
    """A folder of entries, together at most `limit` bytes."""

    root: Path
    limit: int = LIMIT_BYTES

    def take(self, key: str, folder: Path) -> bool:
        """Copy an entry's files into a new `folder`; False, and no folder, when there is no sound entry."""
        entry = self.root / key
        if not entry.is_dir():
            return False
        try:
            shutil.copytree(entry, folder, copy_function=shutil.copyfile)
            wanted = json.loads((folder / INDEX).read_bytes())
            (folder / INDEX).unlink()
            sound = wanted == _hashes(folder)
        except (OSError, ValueError, shutil.Error):
            sound = False
        if not sound:
            shutil.rmtree(folder, ignore_errors=True)
            self._remove(entry)
            return False
        with contextlib.suppress(OSError):
            os.utime(entry)
        return True

    def keep(self, key: str, folder: Path) -> None:
        """Put the files of `folder` in as an entry, if there is room."""
        if _size(folder) > self.limit:
            return
        with contextlib.suppress(OSError, shutil.Error):
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=_PART, dir=self.root) as part:
                fresh = Path(part) / key
                shutil.copytree(folder, fresh, copy_function=shutil.copyfile)
                (fresh / INDEX).write_text(json.dumps(_hashes(fresh)), "utf-8")
                # Fails where another process was faster.
                fresh.rename(self.root / key)
            self._trim()

    def _trim(self) -> None:
        """Remove what was not used for longest until the rest fits, and what a killed process has left."""
        entries = []
        for path in self.root.iterdir():
            used = path.stat().st_mtime
            if not path.name.startswith(_PART):
                entries.append((used, path))
            elif time.time() - used > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
        total = 0
        for _, path in sorted(entries, reverse=True):
            total += _size(path)
            if total > self.limit:
                self._remove(path)

    def _remove(self, entry: Path) -> None:
        """By a rename first, so that nobody finds half of it."""
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix=_PART, dir=self.root) as part:
            entry.rename(Path(part) / entry.name)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in _files(folder):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
