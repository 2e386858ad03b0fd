"""What the board's program takes as a RELEASE is exactly what the host's reader takes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from edgekit_runtime import release
from edgekit_runtime.release import Member, Release, ReleaseError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.board.conftest import SHELLS, Program, start


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


GOOD = Release(
    "trees-1.0_x",
    "raspberry-pi-4b",
    "aarch64",
    "2.36",
    "3.11",
    7,
    (
        Member(digest(2), 20, "a/b+e"),
        Member(digest(1), 0, "a/b/c"),
        Member(digest(2), 20, "a/b/d.py"),
        Member(digest(3), 1 << 31, "manifest.json"),
    ),
)
TEXT = GOOD.text.encode()
HASH = digest(3).encode()
LAST = b"manifest.json\n"


def with_name(name: bytes) -> bytes:
    return TEXT.replace(LAST, name + b"\n")


def with_size(size: bytes) -> bytes:
    return TEXT.replace(b" 2147483648 ", b" " + size + b" ")


def with_header(key: str, value: bytes) -> bytes:
    old = f"{key} {getattr(GOOD, key)}\n".encode()
    assert old in TEXT
    return TEXT.replace(old, key.encode() + b" " + value + b"\n")


def many(count: int) -> bytes:
    members = tuple(Member(digest(1), 1, f"m{number:06d}") for number in range(count))
    head = b"".join(TEXT.splitlines(keepends=True)[:7])
    return head + b"".join(f"member {item.sha256} {item.size} {item.name}\n".encode() for item in members)


CORPUS: dict[str, bytes] = {
    "good": TEXT,
    "empty": b"",
    "one newline": b"\n",
    "no last newline": TEXT[:-1],
    "one newline more": TEXT + b"\n",
    "blank first line": b"\n" + TEXT,
    "CRLF": TEXT.replace(b"\n", b"\r\n"),
    "CR": TEXT.replace(b"\n", b"\r"),
    "NUL at the end": TEXT + b"\0",
    "NUL in a name": with_name(b"mani\0fest.json"),
    "NUL in a number": with_size(b"1\0002"),
    "byte order mark": b"\xef\xbb\xbf" + TEXT,
    "not ASCII": with_name("manifäst.json".encode()),
    "escape": with_name(b"\x1b[2J"),
    "tab for blank": TEXT.replace(b" ", b"\t"),
    "two blanks": TEXT.replace(b" ", b"  "),
    "blank at the end": TEXT.replace(LAST, b"manifest.json \n"),
    "blank at the beginning": TEXT.replace(b"name ", b" name "),
    "comment": TEXT + b"# comment\n",
    "unknown key": TEXT.replace(b"counter 7\n", b"counter 7\nfuture 1\n"),
    "doubled key": TEXT.replace(b"counter 7\n", b"counter 7\ncounter 7\n"),
    "other order": TEXT.replace(b"glibc 2.36\npython 3.11\n", b"python 3.11\nglibc 2.36\n"),
    "key without value": TEXT.replace(b"counter 7\n", b"counter\n"),
    "key with blank only": TEXT.replace(b"counter 7\n", b"counter \n"),
    "newer format": TEXT.replace(b"edgekit-release 1", b"edgekit-release 2"),
    "format 01": TEXT.replace(b"edgekit-release 1", b"edgekit-release 01"),
    "no members": b"".join(TEXT.splitlines(keepends=True)[:7]),
    "header only": b"edgekit-release 1\n",
    "doubled member": TEXT + TEXT.splitlines(keepends=True)[-1],
    "members unsorted": TEXT.replace(b"a/b/d.py", b"zzz"),
    "sorted by locale, not by byte": TEXT.replace(b"a/b/c\n", b"B\n").replace(b"a/b/d.py", b"a"),
    "one content, two sizes": TEXT.replace(b" 20 a/b/d.py", b" 21 a/b/d.py"),
    "member below a member": TEXT.replace(b"a/b+e\n", b"a/b\n"),
    "member below, far away": TEXT.replace(b"a/b+e\n", b"a\n"),
    "hash in capitals": TEXT.replace(HASH, HASH.upper()),
    "hash too short": TEXT.replace(HASH, HASH[:-1]),
    "hash too long": TEXT.replace(HASH, HASH + b"0"),
    "hash of other letters": TEXT.replace(HASH, b"g" * 64),
    "member without name": TEXT.replace(b" manifest.json\n", b"\n"),
    "member without size": TEXT.replace(b" 2147483648 manifest.json\n", b" 12\n"),
    "member alone": TEXT + b"member\n",
    "link": TEXT.replace(b"member " + HASH, b"link " + HASH),
    "4096 members": many(4096),
    "4097 members": many(4097),
    "larger than 1 MiB": TEXT + b"member " * 200_000,
    **{
        f"name {name[:30]!r}": with_name(name)
        for name in (
            b"",
            b".",
            b"..",
            b"../x",
            b"x/..",
            b"x/../y",
            b"/etc/passwd",
            b"~/x",
            b"x//y",
            b"x/",
            b"./x",
            b"x/./y",
            b".hidden",
            b"x/.hidden",
            b"-rf",
            b"x/-rf",
            b"+x",
            b"x y",
            b"$(reboot)",
            b"`reboot`",
            b"x;y",
            b"x'y",
            b'x"y',
            b"x\\y",
            b"x*",
            b"[x]",
            b"x?",
            b"x=y",
            b"x:y",
            b"x,y",
            b"x@y",
            b"x%y",
            b"x{a,b}",
            b"x" * 128,
            b"x" * 129,
            b"x/" * 99 + b"xy",
            b"x/" * 99 + b"xyz",
            b"_x",
            b"x.+-_9",
        )
    },
    **{
        f"size {size.decode()!r}": with_size(size)
        for size in (
            b"",
            b"-1",
            b"+1",
            b"01",
            b"0x10",
            b"1e3",
            b"1.0",
            b"0",
            b"2147483647",
            b"2147483649",
            b"9999999999",
            b"99999999999",
            b"99999999999999999999999999",
            b"18446744073709551616",
            b"1_0",
            b"a",
        )
    },
    **{
        f"{key} {value[:20]!r}": with_header(key, value)
        for key, values in {
            "name": (b"", b"Trees", b"-x", b".x", b"x/y", b"x y", b"x" * 64, b"x" * 65, b"9", b"x..y", b"_x"),
            "profile": (b"A", b"../x", b"x" * 65, b"0"),
            "architecture": (b"", b"-", b"x86_64", b"A" * 64, b"A" * 65, b"a b", b"a/b"),
            "glibc": (b"2", b"2.", b".36", b"2.36.1", b"2..36", b"12345.1", b"1.12345", b"1234.1234", b"2.x", b"0.0"),
            "python": (b"3", b"3.11.2", b"v3.11", b"3.011", b" 3.11"),
            "counter": (b"00", b"07", b"-1", b"999999999999", b"1000000000000", b"x", b"", b"7 ", b"0"),
        }.items()
        for value in values
    },
}


def host_takes(text: bytes) -> bool:
    try:
        release.parse(text)
    except ReleaseError:
        return False
    return True


def board_takes(program: Program, text: bytes) -> bool:
    answer = program("missing", stdin=text)
    if answer.status == 0:
        assert answer.values["release"] == hashlib.sha256(text).hexdigest()
        return True
    assert (answer.status, answer.code) == (2, "bad-release"), answer
    return False


@pytest.mark.parametrize("text", CORPUS.values(), ids=CORPUS.keys())
def test_both_take_or_refuse(program: Program, text: bytes) -> None:
    assert board_takes(program, text) == host_takes(text)
    if not host_takes(text):
        assert {path.name for path in (program.root / "incoming").iterdir()} <= {"release.tmp"}
        assert not (program.root / "state").exists()


def test_the_corpus_has_both_kinds() -> None:
    taken = [name for name, text in CORPUS.items() if host_takes(text)]
    assert 12 <= len(taken) <= len(CORPUS) - 80, taken


@pytest.fixture(scope="module", params=SHELLS)
def one_board(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tools: Mapping[str, str]
) -> Program:
    return start(request.param, tmp_path_factory.mktemp("board") / "root", tools)


PIECES = [b"\n", b" ", b"\0", b"\r", b"/", b"..", b"-", b"0", b"9", b"a", b"Z", b"_", b"member ", b"\xff", b"\x1b"]


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """Texts that are nearly right: a few edits of a good one, or lines swapped, doubled and dropped."""
    text = TEXT
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            place = draw(st.integers(0, len(text)))
            text = text[:place] + draw(st.sampled_from(PIECES)) + text[place + draw(st.integers(0, 2)) :]
        else:
            lines = text.splitlines(keepends=True)
            random.Random(draw(st.integers(0, 99))).shuffle(lines) if draw(st.booleans()) else lines.append(lines[-1])
            text = b"".join(lines)
    return text


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(mutants())
def test_both_agree_on_what_is_nearly_right(one_board: Program, text: bytes) -> None:
    assert board_takes(one_board, text) == host_takes(text)


parts = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,8}", fullmatch=True)


@st.composite
def good(draw: st.DrawFn) -> Release:
    paths = draw(st.lists(st.lists(parts, min_size=1, max_size=4).map("/".join), min_size=1, max_size=8, unique=True))
    names = sorted(name for name in paths if not any(other.startswith(name + "/") for other in paths))
    sizes = draw(st.lists(st.integers(0, 1 << 31), min_size=len(names), max_size=len(names)))
    members = tuple(Member(digest(size), size, name) for name, size in zip(names, sizes, strict=True))
    name = draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True))
    return Release(name, name, "x86_64", "2.31", "3.9", draw(st.integers(0, 10**12 - 1)), members)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(good())
def test_whatever_the_host_writes_the_board_takes(one_board: Program, value: Release) -> None:
    assert board_takes(one_board, value.text.encode())


def test_a_member_of_every_allowed_kind_of_name_is_linked(dash: Program, tmp_path: Path) -> None:
    content = b"x"
    sha256 = hashlib.sha256(content).hexdigest()
    names = sorted(["a", "b/" * 60 + "c", "_", "0", "x.+-_9", "d/e", "d/f", "d.e/f", "d-e", "x" * 128])
    value = Release("m", "p", "x86_64", "2.31", "3.9", 0, tuple(Member(sha256, 1, name) for name in names))
    dash.ok("missing", stdin=value.text.encode())
    (dash.root / "incoming" / sha256).write_bytes(content)
    dash.ok("stage", value.id)
    folder = dash.root / "releases" / value.id
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == sorted(["RELEASE", *names])
