"""The runtime's frozen dataclasses behave as the standard library's do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
from edgekit_runtime.dataclass import dataclass
from hypothesis import given
from hypothesis import strategies as st


@dataclass(frozen=True)
class Ours:
    """Two fields, one with a default, and a check."""

    name: str
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size is negative")


@dataclasses.dataclass(frozen=True)
class Theirs:
    """The same, made by the standard library."""

    name: str
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size is negative")


@dataclass(frozen=True)
class Other:
    """The fields of Ours under another name."""

    name: str
    size: int = 1


WORDS = st.lists(st.sampled_from(["a", 0, 3, -1, None]), max_size=3)
NAMED = st.dictionaries(st.sampled_from(["name", "size", "colour"]), st.sampled_from(["a", 0, -1]), max_size=3)


def outcome(cls: Any, words: list[Any], named: dict[str, Any]) -> Any:
    try:
        made = cls(*words, **named)
    except (TypeError, ValueError) as error:
        return type(error)
    return repr(made).partition("(")[2], hash(made), dataclasses.asdict(made)


@given(WORDS, NAMED)
def test_whatever_is_given_makes_the_same_or_is_the_same_error(words: list[Any], named: dict[str, Any]) -> None:
    assert outcome(Ours, words, named) == outcome(Theirs, words, named)


def test_nothing_can_be_set_or_deleted() -> None:
    one: Any = Ours("a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.size = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.colour = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        del one.name
    assert one == Ours("a", 1)


def test_equal_are_only_equal_values_of_one_class() -> None:
    assert Ours("a") == Ours("a", 1)
    assert Ours("a") != Ours("a", 2)
    other: object = Other("a")
    assert Ours("a") != other
    assert len({Ours("a"), Ours("a", 1), Ours("b")}) == 2


def test_the_standard_librarys_functions_and_copies_take_it() -> None:
    one = Ours("a", 5)
    assert dataclasses.replace(one, size=7) == Ours("a", 7)
    assert [field.name for field in dataclasses.fields(one)] == ["name", "size"]
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    with pytest.raises(ValueError, match="negative"):
        dataclasses.replace(one, size=-1)


def test_what_a_class_defines_itself_stays() -> None:
    @dataclass(frozen=True)
    class Loose:
        """Equal to everything."""

        name: str

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

        def __repr__(self) -> str:
            return "loose"

    assert Loose("a") == 3
    assert hash(Loose("a")) == 7
    assert repr(Loose("a")) == "loose"


def test_no_other_than_frozen_ones() -> None:
    make: Any = dataclass
    with pytest.raises(TypeError, match="frozen"):
        make(frozen=False)
