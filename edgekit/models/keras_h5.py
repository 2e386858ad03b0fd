"""Reading a Keras `.h5` file as data: its config, which Keras wrote it, and that it keeps to itself.

HDF5 files may take a dataset from any other file: by external links, external storage or virtual datasets. Weights do
not need any of them, and a loader that follows them puts what it finds there into the model.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import UserError
from edgekit.models.keras_archive import MAX_CONFIG_BYTES, MAX_MEMBERS
from edgekit.models.source import COPY_AGAIN


@dataclass(frozen=True)
class KerasFile:
    """What a file says of its model; `keras` is the version that wrote it, `of unknown version` if it tells none."""

    config: dict[str, Any]
    keras: str


def read(path: Path) -> KerasFile:
    """Raises UserError for a file that is cut, absurd, holds weights only or reaches for other files."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            _check_members(path, file)
            config, keras = _text(file.attrs.get("model_config")), _text(file.attrs.get("keras_version"))
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a readable .h5 file: {error}", hint=COPY_AGAIN) from error
    if config is None:
        raise UserError(
            f"{path}: it holds weights and no model", hint="save the whole model: model.save(...), not save_weights"
        )
    if len(config) > MAX_CONFIG_BYTES:
        raise UserError(f"{path}: model_config is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        read_config = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: model_config cannot be read: {error}") from error
    if not isinstance(read_config, dict):
        raise UserError(f"{path}: model_config holds no model")
    return KerasFile(read_config, keras or "of unknown version")


def _text(value: Any) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else None


def _check_members(path: Path, file: Any) -> None:
    import h5py

    groups, count = [file], 0
    seen = set()
    while groups:
        group = groups.pop()
        for name in group:
            count += 1
            if count > MAX_MEMBERS:
                raise UserError(f"{path}: holds more than {MAX_MEMBERS} members")
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise UserError(f"{path}: '{group.name}/{name}' is in another file")
            member = group.get(name)
            if isinstance(member, h5py.Dataset):
                if member.external or member.is_virtual:
                    raise UserError(f"{path}: the content of '{member.name}' is in another file")
            elif isinstance(member, h5py.Group) and member.id not in seen:
                seen.add(member.id)
                groups.append(member)
