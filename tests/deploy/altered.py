"""Bundles that are whole and yet wrong: a good one with its members changed and everything named anew."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgekit.bundles import bundle


def alter(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> str:
    """Write the bundle `source` to `target` with its members changed in place by `change`; the new release's id."""
    old = bundle.open_bundle(source)
    release = old.release
    members = {member.name: old.read(member.name, member.size) for member in release.members}
    change(members)
    made = bundle.build(
        target,
        {**members},
        name=release.name,
        profile=release.profile,
        architecture=release.architecture,
        glibc=release.glibc,
        python=release.python,
        counter=release.counter,
    )
    return made.release.id


def golden_that_cannot_be_met(members: dict[str, bytes]) -> None:
    """The float model is said to have answered the opposite."""
    given, file = io.BytesIO(members["golden.npy"]), io.BytesIO()
    np.save(file, np.load(given))
    np.save(file, 1 - np.load(given))
    members["golden.npy"] = file.getvalue()


def runtime_that_dies(members: dict[str, bytes]) -> None:
    """The release's own code ends its process, as a crash in the interpreter would."""
    members["runtime/edgekit_runtime/check.py"] = b"import os\nos.kill(os.getpid(), 11)\n"


def check_that_takes_its_time(members: dict[str, bytes]) -> None:
    """Long enough for the power to go in the middle of it."""
    path = "runtime/edgekit_runtime/check.py"
    first = b"from __future__ import annotations\n"
    assert first in members[path]
    members[path] = members[path].replace(first, first + b"import time\ntime.sleep(25)\n", 1)
