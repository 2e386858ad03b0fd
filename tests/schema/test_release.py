"""RELEASE has one canonical form; anything else is refused."""

from __future__ import annotations

import hashlib

import pytest
from edgekit_runtime import release
from edgekit_runtime.release import Member, Release, ReleaseError
from hypothesis import given
from hypothesis import strategies as st

GOOD = Release(
    "digits",
    "raspberry-pi-4b",
    "aarch64",
    "2.36",
    "3.11",
    0,
    (Member("a" * 64, 10, "manifest.json"), Member("b" * 64, 20, "runtime/pkg/__init__.py")),
)

parts = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,8}", fullmatch=True)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)


@st.composite
def releases(draw: st.DrawFn) -> Release:
    names = draw(st.lists(paths, min_size=1, max_size=6, unique=True))
    kept = sorted(name for name in names if not any(other.startswith(name + "/") for other in names))
    members = tuple(
        Member(hashlib.sha256(str(number).encode()).hexdigest(), draw(st.integers(0, 1 << 31)), name)
        for number, name in enumerate(kept)
    )
    return Release("m", "p", "aarch64", "2.36", "3.11", draw(st.integers(0, 10**12 - 1)), members)


@given(releases())
def test_text_round_trip(value: Release) -> None:
    assert release.parse(value.text.encode()) == value
    assert value.id == hashlib.sha256(value.text.encode()).hexdigest()


@given(releases(), st.data())
def test_any_changed_byte_is_another_release_or_none(value: Release, data: st.DataObject) -> None:
    raw = bytearray(value.text.encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        other = release.parse(bytes(raw))
    except ReleaseError:
        return
    assert other != value
    assert other.id != value.id


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_a_typed_error(data: bytes) -> None:
    with pytest.raises(ReleaseError):
        release.parse(data)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "a/../b",
        "a//b",
        "a/",
        ".hidden",
        "a/.b",
        "-rf",
        "a b",
        "a\nb",
        "ä",
        "a\\b",
        "x" * 201,
    ],
)
def test_no_member_name_leaves_the_release(name: str) -> None:
    assert not release.is_member_name(name)
    with pytest.raises(ReleaseError):
        Member("a" * 64, 1, name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("edgekit-release 1", "edgekit-release 2"),
        ("\n", "\r\n"),
        ("counter 0", "counter 00"),
        ("counter 0", "counter -1"),
        ("counter 0", "counter 0\ncounter 0"),
        ("name digits", "name Digits"),
        ("name digits", "name  digits"),
        ("python 3.11", "python 3"),
        ("python 3.11\n", ""),
        ("member " + "b" * 64, "link " + "b" * 64),
        (" 20 ", " 020 "),
        (" 20 ", " 99999999999 "),
        ("manifest.json\n", "runtime\n"),
        ("b" * 64, "B" * 64),
        ("b" * 64 + " 20", "a" * 64 + " 20"),
    ],
)
def test_a_text_that_differs_from_the_canonical_form_is_refused(old: str, new: str) -> None:
    assert old in GOOD.text
    with pytest.raises(ReleaseError):
        release.parse(GOOD.text.replace(old, new).encode())


def test_members_are_sorted_unique_and_no_file_lies_below_a_file() -> None:
    a, b = GOOD.members
    for members in ((b, a), (a, a), (), (Member("a" * 64, 1, "x"), Member("b" * 64, 1, "x/y"))):
        with pytest.raises(ReleaseError):
            Release("m", "p", "aarch64", "2.36", "3.11", 0, members)
