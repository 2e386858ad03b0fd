"""What runs on the board: a TFLite interpreter, NumPy and the standard library."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit_runtime.engine import Engine as Engine

__version__ = "0.1.0"
__all__ = ["Engine", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the Engine, and with it NumPy, only when it is asked for (PEP 562)."""
    if name == "Engine":
        from edgekit_runtime.engine import Engine

        return Engine
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
