"""measured: what a graph does to its pictures before its network sees them, as a declaration."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.datasets.declaration import RANGES, Declaration
from edgekit.errors import UserError
from edgekit.models.picture_input import PictureInput


def declare(model: Path, declared: Declaration, picture: PictureInput) -> Declaration:
    """The declaration with what was measured. Raises UserError where it says something else."""
    measured: dict[str, Any] = {"width": picture.width, "height": picture.height, "color": picture.color}
    for key, value in measured.items():
        if getattr(declared, key) not in (None, value):
            raise UserError(
                f"{model}: declared {key} {getattr(declared, key)}, but its graph has {value}",
                hint=f"leave {key} out: it is measured",
                key=key,
            )
    mean, std = declared.mean, declared.std
    if declared.range is not None:
        mean, std = ((value,) for value in RANGES[declared.range])
    for given, found in ((mean, picture.mean), (std, picture.std)):
        if given is not None and not np.allclose(np.broadcast_to(given, (3,)), found, atol=0.01):
            raise UserError(
                f"{model}: the declared range is not what its graph does: {picture.scaling}",
                hint="leave range, mean and std out: they are measured",
                key="range",
            )
    measured["filter"] = declared.filter or picture.filter
    return replace(declared, **measured, range=None, mean=picture.mean, std=picture.std)
