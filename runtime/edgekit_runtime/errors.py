"""Errors in three roots, told apart by whose turn it is to act."""

from typing import Any, Dict, Optional


class EdgekitError(Exception):
    """An expected failure: a sentence, the facts as fields, and what to do next."""

    exit_code = 70
    kind = "error"

    def __init__(self, message: str, *, hint: Optional[str] = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def to_dict(self) -> Dict[str, Any]:
        """The same facts for `--json`."""
        return {
            "error": self.kind,
            "type": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "fields": {key: _plain(value) for key, value in self.fields.items()},
        }


class CheckFailed(EdgekitError):
    """A check that was asked for did not hold (exit code 1)."""

    exit_code = 1
    kind = "check-failed"


class UserError(EdgekitError):
    """The input is wrong and the caller can mend it (exit code 2)."""

    exit_code = 2
    kind = "user"


class InputError(UserError):
    """What was given to a model does not fit: shape, dtype, count or value."""


class DeviceError(EdgekitError):
    """The board or the link to it failed (exit code 3)."""

    exit_code = 3
    kind = "device"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)
