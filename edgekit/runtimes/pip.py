"""pip as a program: one locked wheel for a board, from wherever the user's pip is configured to look."""

from __future__ import annotations

import importlib.resources
import re
import subprocess
import sys
from pathlib import Path

from edgekit.errors import CheckFailed, EdgekitError, UserError
from edgekit.runtimes.table import Wheel

TIMEOUT = 1800.0
_GLIBCS = range(34, 16, -1)  # minor versions in the names of the table's wheels, newest first


def download(wheel: Wheel, python: str, architecture: str, folder: Path, profile: str) -> Path:
    """Fetch the one wheel that fits into the empty `folder`, and return its path. `profile` is for hints.

    Raises UserError when it cannot be had, CheckFailed when its hash is not in the lock.
    """
    with importlib.resources.as_file(importlib.resources.files("edgekit") / "wheels" / wheel.lock) as lock:
        argv = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
        argv += [
            "--progress-bar",
            "off",
            "--no-deps",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--implementation",
            "cp",
        ]
        argv += ["--python-version", python, "--abi", abi(python)]
        for tag in platform_tags(architecture):
            argv += ["--platform", tag]
        argv += ["--requirement", str(lock), "--dest", str(folder)]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"pip took longer than {TIMEOUT:.0f} s to fetch {wheel.package} {wheel.version}",
                hint=f"look at the network, then: edgekit fetch {profile}",
            ) from None
    found = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        raise _failure(done.stderr + done.stdout, wheel, python, architecture, profile)
    return found[0]


def platform_tags(architecture: str) -> list[str]:
    """Every platform tag (PEP 600) of wheels in the table, newest first. Which glibc a wheel needs the table knows
    better than its name, and the lock says which file it is.
    """
    return [f"manylinux_2_{minor}_{architecture}" for minor in _GLIBCS] + [f"manylinux2014_{architecture}"]


def abi(python: str) -> str:
    """CPython's tag of the binary interface: up to 3.7 with an `m`, for pymalloc."""
    return "cp37m" if python == "3.7" else f"cp{python.replace('.', '')}"


_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError|ProxyError|SSLError|ConnectionResetError"
    r"|Could not fetch URL|HTTP error|Connection (?:refused|aborted|broken)|Network is unreachable",
    re.IGNORECASE,
)


def _failure(output: str, wheel: Wheel, python: str, architecture: str, profile: str) -> EdgekitError:
    title = f"{wheel.package} {wheel.version} for {architecture}, Python {python}"
    facts = {"package": wheel.package, "version": wheel.version, "architecture": architecture, "python": python}
    if "DO NOT MATCH THE HASHES" in output:
        return CheckFailed(
            f"{title}: the package index gave a file whose hash edgekit does not know",
            hint="look at the index that pip is configured to use: the file may have been tampered with",
            **facts,
        )
    if "No module named pip" in output:
        return UserError(f"{title}: this Python has no pip", hint="run: python -m ensurepip", **facts)
    if "No space left on device" in output:
        return UserError(f"{title}: no space left for the download", hint="make room in the cache", **facts)
    if _NETWORK.search(output):
        return UserError(
            f"{title} could not be fetched: the package index cannot be reached",
            hint=f"with a network once: edgekit fetch {profile}; afterwards nothing needs the internet",
            **facts,
        )
    errors = [line.partition("ERROR:")[2].strip() for line in output.splitlines() if line.startswith("ERROR:")]
    reason = re.sub(r"\S+://\S+", "(address)", errors[-1])[:200] if errors else "pip gave no reason"
    return UserError(
        f"{title} could not be fetched: {reason}",
        hint="try `python -m pip download` with the same package to see pip's own words",
        **facts,
    )
