"""The three roots of failure; the board and the host share them."""

from edgekit_runtime.errors import CheckFailed, DeviceError, EdgekitError, InputError, UserError

__all__ = ["CheckFailed", "DeviceError", "EdgekitError", "InputError", "UserError"]
