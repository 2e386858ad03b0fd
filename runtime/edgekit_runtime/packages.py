"""Which version of a package is here, found without importing it. Standard library only."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from edgekit_runtime.integrity import Location


def package_version(name: str) -> Optional[str]:
    """The version of an importable package without importing it; None when it is not there or does not say."""
    module = sys.modules.get(name)
    if module is not None and isinstance(getattr(module, "__version__", None), str):
        return str(module.__version__)
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    folder = os.path.dirname(spec.origin)
    for file in ("version.py", "__init__.py"):
        found = re.search(
            r"^(?:__version__|version)\s*=\s*['\"]([^'\"]+)['\"]",
            read_text(os.path.join(folder, file)) or "",
            re.MULTILINE,
        )
        if found:
            return found.group(1)
    for info in sorted(os.listdir(os.path.dirname(folder))):
        if info.startswith(f"{name}-") and info.endswith(".dist-info"):
            return info[len(name) + 1 : -len(".dist-info")]
    return None


def read_text(path: Location) -> Optional[str]:
    """The start of a small file, stripped; None when it cannot be read."""
    try:
        with open(str(path), "rb") as file:
            return file.read(1 << 20).decode("utf-8", "replace").strip("\0 \n\t")
    except OSError:
        return None
