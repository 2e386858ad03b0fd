"""Edge device deployment kit: every verb of the command line as a function.

    import edgekit

    profile = edgekit.find_profile("raspberry-pi-4b")
    conversion = edgekit.convert("model.keras", profile=profile, data="pictures", output="model.tflite", ...)

Modules are loaded when a name is first used, so that importing edgekit costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE: dict[str, tuple[str, str]] = {}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute)
