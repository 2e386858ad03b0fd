"""Frozen dataclasses whose classes are made quickly: a start makes twenty of them before the first inference.

`@dataclass(frozen=True)` of the standard library compiles six functions for each class (0.3 ms on a desktop's core,
Python 3.11); here all classes share theirs. `fields`, `replace` and `is_dataclass` work as ever.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Callable, Dict, Tuple, Type, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass

__all__ = ["dataclass"]
T = TypeVar("T")


def _init(self: Any, *args: Any, **given: Any) -> None:
    fields = self.__dataclass_fields__
    if given or len(args) != len(fields):
        self.__dict__.update(_completed(self, fields, args, given))
    else:
        self.__dict__.update(zip(fields, args))
    check = getattr(self, "__post_init__", None)
    if check is not None:
        check()


def _completed(self: Any, fields: Any, args: Any, given: Dict[str, Any]) -> Dict[str, Any]:
    """A value for each field, whether it was given by position or by name, or is the default. Raises TypeError."""
    twice = given.keys() & set(list(fields)[: len(args)])
    values = {name: field.default for name, field in fields.items() if field.default is not dataclasses.MISSING}
    values.update(zip(fields, args))
    values.update(given)
    if twice or len(args) > len(fields) or values.keys() != fields.keys():
        odd = ", ".join(sorted(twice | (values.keys() ^ fields.keys()))) or f"{len(args)} values"
        raise TypeError(f"{type(self).__name__}: missing, unknown or given twice: {odd}")
    return {name: values[name] for name in fields}


def _values(self: Any) -> Tuple[Any, ...]:
    return tuple(getattr(self, name) for name in self.__dataclass_fields__)


def _repr(self: Any) -> str:
    values = ", ".join(f"{name}={value!r}" for name, value in zip(self.__dataclass_fields__, _values(self)))
    return f"{type(self).__qualname__}({values})"


def _eq(self: Any, other: Any) -> Any:
    return _values(self) == _values(other) if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"'{name}' of {type(self).__name__} is fixed")


_SHARED = {
    "__init__": _init, "__repr__": _repr, "__eq__": _eq, "__hash__": _hash,
    "__setattr__": _refuse, "__delattr__": _refuse,
}  # fmt: skip


if not TYPE_CHECKING:

    def dataclass(*, frozen: bool) -> Callable[[Type[T]], Type[T]]:
        """The decorator: fields may have defaults, but no factories. What the class itself defines stays."""
        if not frozen:
            raise TypeError("frozen dataclasses only")

        def made(cls: Type[T]) -> Type[T]:
            own = set(vars(cls))
            for name, function in _SHARED.items():
                if name not in own or (name == "__hash__" and cls.__hash__ is None):
                    setattr(cls, name, function)
            return dataclasses.dataclass(init=False, repr=False, eq=False)(cls)

        return made
