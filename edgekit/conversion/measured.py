"""measured: what a graph does to its pictures before its network sees them, as a declaration; and how true it is."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Preprocess
from edgekit_runtime.picture import decode
from edgekit_runtime.preprocess import load_pixels, to_real

from edgekit.datasets.dataset import RepresentativeDataset
from edgekit.datasets.declaration import RANGES, Declaration
from edgekit.datasets.source import Unreadable
from edgekit.errors import EdgekitError, UserError
from edgekit.models.picture_input import PictureInput
from edgekit.validation.fidelity import Fidelity

PICTURES = 16  # whole ones that are given to the original


def given(declared: Declaration, picture: PictureInput) -> PictureInput:
    """The picture of a graph that takes real pixels in a range which only its owner knows, and may scale them further.

    Raises UserError where that is not declared.
    """
    if picture.dtype != "float32" or picture.of_levels:
        return picture
    if declared.range is not None:
        return picture.given(*((value,) for value in RANGES[declared.range]))
    if declared.mean is None or declared.std is None:
        raise UserError(
            "it takes real pixels, but the value range that it was trained on is not declared",
            hint="give --range -1..1, 0..1 or 0..255, or --mean and --std (or the same keys in model.toml)",
            key="range",
        )
    return picture.given(declared.mean, declared.std)


def declare(model: Path, declared: Declaration, picture: PictureInput) -> Declaration:
    """The declaration with what was measured. Raises UserError where it says something else."""
    measured: dict[str, Any] = {"width": picture.width, "height": picture.height, "color": picture.color}
    if picture.resize is not None:
        measured["resize"] = picture.resize
        measured |= {"pad": picture.pad} if picture.resize == "letterbox" else {}
    for key, value in measured.items():
        if getattr(declared, key) not in (None, value):
            raise UserError(
                f"{model}: declared {key} {getattr(declared, key)}, but its graph has {value}",
                hint=f"leave {key} out: it is measured",
                key=key,
            )
    mean, std = declared.mean, declared.std
    if picture.outside != PictureInput.outside:
        mean = std = None  # it is a part of what was measured
    elif declared.range is not None:
        mean, std = ((value,) for value in RANGES[declared.range])
    for given, found in ((mean, picture.mean), (std, picture.std)):
        if given is not None and not np.allclose(np.broadcast_to(given, (len(found),)), found, atol=0.01):
            raise UserError(
                f"{model}: the declared range is not what its graph does: {picture.scaling}",
                hint="leave range, mean and std out: they are measured",
                key="range",
            )
    measured["filter"] = declared.filter or picture.filter
    return replace(declared, **measured, range=None, mean=picture.mean, std=picture.std)


def compare(
    original: Callable[[Any], dict[str, Any]] | None,
    model: Path,
    data: RepresentativeDataset,
    preprocess: Preprocess,
    seed: int,
) -> tuple[str, ...]:
    """A note on the float model with the board's preprocessing beside the original with its own, on pictures as they
    come; empty where the original takes one size only, or the data are no pictures.
    """
    if original is None or not data.pixels:
        return ()
    engine = Engine.load(model)
    fidelities = {spec.name: Fidelity(spec.name) for spec in engine.outputs}
    read = data.source.open(engine.inputs)
    count = same = 0
    for index in islice(data.order(seed), PICTURES):
        try:
            given = read(index).picture
            pixels = decode(given) if isinstance(given, bytes) else np.asarray(given)
            wanted = original(pixels)
        except (Unreadable, EdgekitError):
            continue
        got = engine.infer_real([to_real(load_pixels(pixels, preprocess), preprocess)[None]])
        answers = {spec.name: answer for spec, answer in zip(engine.outputs, got, strict=True)}
        if wanted.keys() != answers.keys():
            return ()
        for name, fidelity in fidelities.items():
            fidelity.add(wanted[name], answers[name])
        count += 1
        first = engine.outputs[0].name
        same += int(np.argmax(wanted[first]) == np.argmax(answers[first]))
    if not count:
        return ()
    least = min(fidelity.distance().cosine for fidelity in fidelities.values())
    scores = len(fidelities) == 1 and len(engine.outputs[0].shape) == 2 and engine.outputs[0].shape[1] > 1
    also = f", and the same best class in {same}" if scores else ""
    return (
        f"of {count} whole pictures, prepared as the board does it, the float answers have a cosine of {least:.4f} "
        f"with the original's{also}",
    )
