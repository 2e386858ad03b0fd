"""pack: a conversion and a board's runtime into one bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgekit_runtime import manifest as manifests
from edgekit_runtime.manifest import ANCHORS, GOLDEN, LABELS, MANIFEST, MODEL, RUNTIME

from edgekit.bundles import bundle
from edgekit.conversion import record as conversion
from edgekit.conversion.calibration import CALIBRATION
from edgekit.conversion.record import Conversion, Files
from edgekit.errors import UserError
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import gate, resolve


def pack(
    model: Path,
    profile: DeviceProfile,
    output: Path,
    *,
    counter: int = 0,
    offline: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> bundle.Bundle:
    """Write the bundle of a `.tflite` that `convert` made: model, manifest, golden samples, labels, anchors,
    calibration record, runtime.

    Raises UserError when the model was converted for another profile or the runtime cannot be had, CheckFailed when
    the model is not the one that its record describes, or not one that the profile's interpreter runs, or where the
    board has no room for all of it.
    """
    record, files = Conversion.load(model), Files.of(model)
    if record.profile != profile.name:
        raise UserError(
            f"{model} was converted for {record.profile}, not for {profile.name}",
            hint=f"convert it with -p {profile.name}, or bundle it with -p {record.profile}",
            converted_for=record.profile,
            profile=profile.name,
        )
    gate.require(files.model, profile, resolve.choose(profile)[0])
    tree = resolve.resolve(profile, offline=offline, progress=progress)
    described = conversion.manifest(record, profile, f"{tree.package} {tree.version}", tree.own_numpy)
    members: dict[str, Path | bytes] = {
        MODEL: files.model,
        MANIFEST: manifests.dumps(described).encode("ascii"),
        **{f"{RUNTIME}/{file.name}": file.path for file in tree.files},
    }
    if record.golden is not None:
        members[GOLDEN] = files.golden
    if record.labels is not None:
        members[LABELS] = files.labels
    if record.detection is not None:
        members[ANCHORS] = files.anchors
    if files.calibration.is_file():  # a conversion of an older edgekit has none
        members[CALIBRATION] = files.calibration
    sizes = (len(part) if isinstance(part, bytes) else part.stat().st_size for part in members.values())
    gate.require_flash(sum(sizes), profile)
    return bundle.build(
        name=release_name(record.name),
        profile=profile.name,
        architecture=profile.architecture,
        glibc=profile.glibc,
        python=profile.python,
        counter=counter,
        members=members,
        output=output,
    )


def release_name(name: str) -> str:
    """A model's name in the letters that a release's name may have."""
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name)
    return plain.lower().lstrip("._-")[:64] or "model"
