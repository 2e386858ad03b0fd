"""What samples are, as one SHA-256: the names of all, and the content of those that are read."""

import hashlib
from pathlib import Path

from edgekit.datasets.arrays import Arrays
from edgekit.datasets.dataset import SKIP_LIMIT, RepresentativeDataset
from edgekit.datasets.pictures import LABELS_CSV, Pictures
from edgekit.datasets.records import Records


def digest(data: RepresentativeDataset, *passes: tuple[int, int]) -> str | None:
    """Of a dataset of which each pass, a seed and a number of samples, reads so many; None where nobody can tell: a
    function gives what it likes.

    Where the data lie does not count, what the files in them are called does.
    """
    source = data.source
    if isinstance(source, Pictures):
        indices = {index for seed, count in passes for index in data.order(seed)[: _reach(count)]}
        table = data.path if data.path.suffix.lower() == ".csv" else data.path / LABELS_CSV
        files = {table.name: table} if table.is_file() else {}
        files |= {data.names[index]: source.root / data.names[index] for index in sorted(indices)}
    elif isinstance(source, Arrays):
        files = {data.path.name: data.path}
    elif isinstance(source, Records):
        files = {file.relative_to(data.path).as_posix(): file for file in source.files}
    else:
        return None
    whole = hashlib.sha256("\0".join((type(source).__name__, *data.names)).encode())
    for name, path in files.items():
        whole.update(f"\n{name}\0{_content(path)}".encode())
    return whole.hexdigest()


def tree(path: Path) -> str:
    """Of a file, or of all files below a folder with their names in it."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    lines = "".join(f"{file.relative_to(path).as_posix()}\0{_content(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _reach(count: int) -> int:
    """How far a pass goes when it skips as much as it may, and one more."""
    return count + int(count * SKIP_LIMIT) + 1


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable: {error.errno}"
