"""Strict reading and stable writing of frozen dataclasses.

Everything that crosses a boundary (profile, manifest, report) is a frozen dataclass. Reading refuses unknown
keys, missing keys and wrong types, and names the place and the nearest known key.
"""

import dataclasses
import json
import math
import typing
from typing import Any, Dict, List, Mapping, Type, TypeVar, Union

from edgekit_runtime.errors import UserError

T = TypeVar("T")


class SchemaError(UserError):
    """The data does not have the shape that its schema states."""


def read(cls: Type[T], data: Any, where: str) -> T:
    """Build the dataclass `cls` from plain data; `where` names the file (and key) in errors.

    Raises SchemaError for anything that is not exactly what the dataclass states. A field with a default may be
    left out. Integers are accepted where floats are stated, never the reverse; booleans are no integers.
    """
    if not isinstance(data, Mapping):
        raise SchemaError(f"{where}: expected a table of keys, got {_kind(data)}", where=where)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # a dataclass type
    for key in data:
        if key not in fields:
            import difflib  # only who misspells a key waits for it

            near = difflib.get_close_matches(str(key), list(fields), n=1, cutoff=0.5)
            raise SchemaError(
                f"{where}: unknown key '{key}'",
                hint=f"did you mean '{near[0]}'?" if near else "known keys: " + ", ".join(fields),
                where=where,
                key=str(key),
                nearest=near[0] if near else None,
            )
    values: Dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SchemaError(f"{where}: missing key '{name}'", hint=f"add '{name}'", where=where, key=name)
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise SchemaError(f"{where}: {error}", where=where) from error


def plain(value: Any) -> Any:
    """The dataclass as dicts, lists and scalars, in field order."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def dump_json(value: Any) -> str:
    """Stable JSON: field order, two spaces, one trailing newline; NaN and infinity are refused."""
    return json.dumps(plain(value), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def load_json(cls: Type[T], text: Union[str, bytes], where: str) -> T:
    """Read `cls` from JSON text. Raises SchemaError, also for doubled keys, NaN and text that is not JSON."""
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{where}: not valid JSON: {error}", where=where) from error
    return read(cls, data, where)


def _unique(pairs: List[Any]) -> Dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"key '{key}' stands twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")


def _value(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin = getattr(hint, "__origin__", None)
    if origin is Union or type(hint).__name__ == "UnionType":  # X | None, which Python 3.7 does not have
        return _optional(hint, value, where)
    if origin is tuple:
        return _tuple(hint.__args__, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise SchemaError(f"{where}: expected a table, got {_kind(value)}", where=where)
        return {str(key): _value(hint.__args__[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return read(hint, value, where)  # type: ignore[arg-type,unused-ignore]  # is_dataclass narrows too widely
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise SchemaError(f"{where}: expected {_NAMES.get(hint, hint.__name__)}, got {_kind(value)}", where=where)
    if isinstance(value, float) and not math.isfinite(value):
        raise SchemaError(f"{where}: the number is not finite", where=where)
    return value


def _optional(hint: Any, value: Any, where: str) -> Any:
    if value is None and type(None) in hint.__args__:
        return None
    choices = [item for item in hint.__args__ if item is not type(None)]
    failure = None
    for choice in choices:
        try:
            return _value(choice, value, where)
        except SchemaError as error:
            failure = failure or error
    raise failure or SchemaError(f"{where}: nothing fits", where=where)


def _tuple(args: Any, value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise SchemaError(f"{where}: expected a list, got {_kind(value)}", where=where)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_value(args[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if len(args) != len(value):
        raise SchemaError(f"{where}: expected {len(args)} items, got {len(value)}", where=where)
    return tuple(_value(arg, item, f"{where}[{index}]") for index, (arg, item) in enumerate(zip(args, value)))


_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, Mapping):
        return "a table"
    return f"{_NAMES.get(type(value), type(value).__name__)} ({value!r})"[:120]
