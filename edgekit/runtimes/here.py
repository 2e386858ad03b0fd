"""A board's interpreter on this computer: another Python or another version than edgekit's own has."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata

from edgekit.errors import UserError
from edgekit.profiles import hostfacts
from edgekit.profiles.profile import ABIS, DeviceProfile
from edgekit.runtimes import resolve
from edgekit.runtimes.table import INTERPRETERS

_LIMIT_S = 60.0


def is_own(profile: DeviceProfile) -> bool:
    """Whether edgekit itself runs on the profile's interpreter, in the same version."""
    try:
        return metadata.version(profile.runtime) == profile.runtime_version
    except metadata.PackageNotFoundError:
        return False


def stand_in(profile: DeviceProfile) -> tuple[DeviceProfile, str]:
    """The profile of this computer with the board's interpreter, for `resolve`, and the Python that runs it.

    That is edgekit's own Python, else another one of this computer that there are wheels for; where there is none
    `resolve.choose` says so.
    """
    architecture, own = hostfacts.architecture(), f"{sys.version_info.major}.{sys.version_info.minor}"
    rows = [row for row in INTERPRETERS if (row.package, row.version) == (profile.runtime, profile.runtime_version)]
    known = {name for row in rows if architecture in row.architectures for name in row.pythons}
    executable, version = (sys.executable, own) if own in known else next(_pythons(known), (sys.executable, own))
    facts = replace(
        profile,
        architecture=architecture,
        abi=ABIS.get(architecture, profile.abi),
        glibc=hostfacts.glibc(),
        python=version,
        numpy="wheel",
        numpy_version=None,
    )
    return facts, executable


def nearest(profile: DeviceProfile) -> DeviceProfile:
    """The profile, or where no Python of this computer has a wheel of its interpreter, one with the nearest newer."""
    rows = [row for row in INTERPRETERS if row.package == profile.runtime]
    versions = sorted({row.version for row in rows}, key=lambda text: [int(part) for part in text.split(".")])
    later = versions[versions.index(profile.runtime_version) :] if profile.runtime_version in versions else []
    for version in () if is_own(profile) else later:
        other = replace(profile, runtime_version=version)
        with contextlib.suppress(UserError):
            resolve.choose(stand_in(other)[0])
            return other
    return profile


def _pythons(versions: set[str]) -> Iterator[tuple[str, str]]:
    """Other Pythons of this computer, with their versions; some that are found do not start."""
    for version in sorted(versions, reverse=True):
        found = shutil.which(f"python{version}")
        if found is None:
            continue
        asked = [found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
        if answer.stdout.strip() == version:
            yield found, version
