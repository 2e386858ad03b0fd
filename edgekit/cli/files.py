"""Results written to files: as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.errors import UserError


def make_folder(path: Path) -> Path:
    """The folder, made where it is missing. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made: {error.strerror}", path=str(path)) from error
    return path


def require_folder(path: Path) -> None:
    """Raises UserError for a file that could not be written in the end, for want of its folder."""
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist", hint=f"mkdir -p {path.parent}")


def write(path: Path, content: str | bytes) -> None:
    """Replace `path` by one rename. Raises UserError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}", path=str(path)) from error
    finally:
        part.unlink(missing_ok=True)
