"""What is decided on the host from what a board answered: plans, facts, status, errors."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from edgekit_runtime.manifest import Calibration, Manifest, Provenance, TensorSpec
from edgekit_runtime.release import Member, Release
from hypothesis import given
from hypothesis import strategies as st

from edgekit.board import control, errors, plan
from edgekit.board.answers import BadAnswer
from edgekit.board.facts import BoardFacts, Mismatch, mismatches, parse, require_match
from edgekit.board.push import spare_bytes
from edgekit.errors import CheckFailed, DeviceError, UserError
from edgekit.profiles import profile
from edgekit.transport import NoSpace, ReadOnlyTarget

A, B = (hashlib.sha256(text).hexdigest() for text in (b"a", b"b"))
RELEASE = Release(
    "m", "p", "aarch64", "2.36", "3.11", 0, (Member(A, 100, "manifest.json"), Member(B, 200, "model.tflite"))
)
SPACE = [("need", "300"), ("free", "1000"), ("reserve", "500")]


def answer(*missing: str) -> list[tuple[str, str]]:
    return [("release", RELEASE.id), *(("missing", value) for value in missing), *SPACE]


def prefix(sha256: str, length: int) -> str:
    return hashlib.sha256(f"{sha256}{length}".encode()).hexdigest()


def test_a_part_is_continued_when_its_bytes_are_ours() -> None:
    found = plan.decide(RELEASE, answer(f"{A} 100 0 -", f"{B} 200 50 {prefix(B, 50)}"), prefix)
    assert found.sends == (plan.Send(A, 100, 0), plan.Send(B, 200, 50))
    assert found.bytes_to_send == 250
    found = plan.decide(RELEASE, answer(f"{B} 200 50 {prefix(B, 51)}"), prefix)
    assert found.sends == (plan.Send(B, 200, 0),)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [("release", "0" * 64), *SPACE],
        answer("x"),
        answer(f"{'0' * 64} 100 0 -"),
        answer(f"{A} 100 0 -", f"{A} 100 0 -"),
        answer(f"{A} 100 101 {B}"),
        answer(f"{A} 100 -1 {B}"),
        answer(f"{A} 100 1 -"),
        answer(f"{A} 100 1 {'g' * 64}"),
        answer(f"{A}  100 0 -"),
        answer(f"../{A} 100 0 -"),
        answer()[:-1],
    ],
)
def test_an_answer_about_something_else_is_refused(lines: list[tuple[str, str]]) -> None:
    with pytest.raises(BadAnswer):
        plan.decide(RELEASE, lines, prefix)


def test_a_size_that_is_not_the_release_s_is_refused() -> None:
    with pytest.raises(BadAnswer):
        plan.decide(RELEASE, answer(f"{A} 99 0 -"), prefix)


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 2000))
def test_it_fits_when_the_reserve_stays(need: int, free: int, reserve: int) -> None:
    sends = (plan.Send(A, 100, 0),)
    assert plan.Plan("x", sends, need, free, reserve).fits == (free - need >= reserve)
    assert plan.Plan("x", (), 0, free, reserve).fits


BOARD = BoardFacts(
    root="/r",
    hash_tool="sha256sum",
    program=None,
    architecture="aarch64",
    kernel="6.1",
    os="Debian",
    libc="glibc",
    glibc="2.36",
    python="3.11.2",
    numpy="1.24.2",
    cores=4,
    ram_kb=1,
    board=None,
    features=(),
    free_kb=1,
    writable=True,
    tools=(),
    emulated=False,
)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"glibc": "2.41"}, []),
        ({"glibc": "10.0"}, []),
        ({"architecture": "armv7l"}, [Mismatch("architecture", "aarch64", "armv7l")]),
        ({"glibc": "2.9"}, [Mismatch("glibc", "2.36 or newer", "2.9")]),
        ({"glibc": None, "libc": "musl"}, [Mismatch("glibc", "2.36 or newer", "musl")]),
        ({"glibc": None, "libc": None}, [Mismatch("glibc", "2.36 or newer", "none")]),
        ({"python": "3.1.1"}, [Mismatch("python", "3.11", "3.1.1")]),
        ({"python": "3.12.0"}, [Mismatch("python", "3.11", "3.12.0")]),
        ({"python": None, "numpy": None}, [Mismatch("python", "3.11", "none")]),
        ({"numpy": None}, [Mismatch("numpy", "the board's own", "none")]),
    ],
)
def test_where_a_board_contradicts_a_release(change: dict[str, str | None], expected: list[Mismatch]) -> None:
    found = replace(BOARD, **change)  # type: ignore[arg-type]  # fields of several types
    assert list(mismatches(RELEASE, found)) == expected
    if expected:
        with pytest.raises(UserError) as caught:
            require_match(RELEASE, found, "pi@board")
        assert caught.value.hint
        assert all(item.found in caught.value.message for item in expected)
    else:
        require_match(RELEASE, found, "pi@board")


PROFILE = replace(
    profile.find("generic-aarch64"), isa=("neon", "dotprod"), num_threads=2, cores=2, ram_mb=900, max_ram_mb=800
)
MANIFEST = Manifest(
    name="m",
    task="raw",
    profile="p",
    model_sha256=A,
    model_size=1,
    inputs=(TensorSpec("x", (1,), "uint8"),),
    outputs=(TensorSpec("y", (1,), "uint8"),),
    preprocess=None,
    labels=None,
    runtime="ai-edge-litert 2.3.0",
    num_threads=PROFILE.num_threads,
    provenance=Provenance("m", "keras", A, {}, Calibration(1, 0, A)),
    golden=None,
    isa=PROFILE.isa,
    max_ram_mb=PROFILE.max_ram_mb,
)
GOOD = replace(BOARD, features=("asimd", "asimddp", "crc32"), ram_kb=800 << 10)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"features": ("asimd",)}, [Mismatch("isa", "neon dotprod", "neon")]),
        ({"features": ("fphp",)}, [Mismatch("isa", "neon dotprod", "none of them")]),
        ({"cores": 1}, [Mismatch("num_threads", "2", "1 cores")]),
        ({"ram_kb": (800 << 10) - 1}, [Mismatch("max_ram_mb", "800", "799 MiB of memory")]),
        # A mounted root filesystem tells none of these.
        ({"features": (), "cores": 0, "ram_kb": 0}, []),
        ({"governor": "powersave", "thermal_zones": ("hot",), "soc": "another"}, []),
    ],
)
def test_a_profile_counts_on_features_threads_and_memory(change: dict[str, Any], expected: list[Mismatch]) -> None:
    found = replace(GOOD, **change)
    assert list(mismatches(PROFILE, found)) == expected
    assert list(mismatches(RELEASE, found, MANIFEST)) == expected
    assert list(mismatches(RELEASE, found)) == []  # a release of before, which does not say
    if expected:
        with pytest.raises(UserError) as caught:
            require_match(PROFILE, found, "pi@board")
        assert "edgekit probe pi@board -o my-board.toml" in (caught.value.hint or "")


TFLITE = replace(
    PROFILE, runtime="tflite-runtime", runtime_version="2.14.0", architecture="armv7l", abi="arm-linux-gnueabihf"
)


@pytest.mark.parametrize("numpy", ["auto", "board"])
@pytest.mark.parametrize(
    ("own", "fits"), [("1.23.2", True), ("1.26.4", True), ("2.0.0", False), ("1.19.5", False), (None, False)]
)
def test_a_boards_numpy_that_the_interpreter_does_not_take_is_told_with_both(
    numpy: str, own: str | None, fits: bool
) -> None:
    board = replace(GOOD, architecture="armv7l", numpy=own)
    wanted = replace(TFLITE, numpy=numpy)
    expected = [] if fits else [Mismatch("numpy", "the board's own, >=1.23.2,<2", own or "none")]
    assert list(mismatches(wanted, board)) == expected
    # On 64-bit boards there is a NumPy to send instead.
    wider = replace(wanted, architecture="aarch64", abi="aarch64-linux-gnu")
    assert list(mismatches(wider, replace(board, architecture="aarch64"))) == ([] if numpy == "auto" else expected)
    release = replace(RELEASE, architecture="armv7l")
    assert list(mismatches(release, board, replace(MANIFEST, numpy=">=1.23.2,<2"))) == expected
    assert list(mismatches(release, replace(board, numpy="unknown"), replace(MANIFEST, numpy=">=1.23.2,<2"))) == []


@pytest.mark.parametrize("architecture", ["aarch64", "armv7l"])
def test_auto_is_only_recommended_where_a_numpy_can_be_sent(architecture: str) -> None:
    board = replace(GOOD, architecture=architecture, numpy="2.1.0")
    profiled = replace(TFLITE, architecture=architecture, abi=profile.ABIS[architecture], numpy="board")
    released = replace(RELEASE, architecture=architecture)
    for wanted, limits in ((profiled, None), (released, replace(MANIFEST, numpy=">=1.23.2,<2"))):
        with pytest.raises(UserError) as caught:
            require_match(wanted, board, "b", limits)
        hint = str(caught.value.hint)
        assert hint.startswith("install such a NumPy on the board")
        assert ('numpy = "auto"' in hint) == (architecture == "aarch64")


def test_a_release_that_brings_numpy_needs_none() -> None:
    members = (*RELEASE.members, Member(A, 100, "runtime/numpy/__init__.py"))
    assert not mismatches(replace(RELEASE, members=members), replace(BOARD, numpy=None))


def test_a_numpy_that_was_sent_beside_a_good_one_is_counted() -> None:
    names = ("runtime/numpy.libs/x.so", "runtime/numpy/__init__.py", "runtime/other.py")
    members = tuple(Member(content, 10, name) for content, name in zip((A, B, "c" * 64), names, strict=True))
    release = replace(RELEASE, members=members)
    sent = {A: 10, "c" * 64: 10}
    assert spare_bytes(release, "tflite-runtime 2.14.0", "1.26.4", sent) == 10
    for interpreter, own in (
        ("tflite-runtime 2.14.0", "2.1.0"),
        ("tflite-runtime 2.14.0", None),
        ("other 1", "1.26.4"),
    ):
        assert spare_bytes(release, interpreter, own, sent) == 0


FACTS = [
    ("root", "/home/pi/.local/share/edgekit"),
    ("hash_tool", "sha256sum"),
    ("program", "-"),
    ("architecture", "arm64"),
    ("kernel", "6.1.0"),
    ("os", "Debian GNU/Linux 12 (bookworm)"),
    ("libc", "glibc"),
    ("glibc", "2.36"),
    ("python", "3.11.2"),
    ("numpy", "-"),
    ("cores", "4"),
    ("ram_kb", "8000000"),
    ("board", "Raspberry Pi 4 Model B Rev 1.4"),
    ("features", "asimd"),
    ("free_kb", "1"),
    ("writable", "yes"),
    ("tools", "-"),
    ("emulated", "no"),
    ("clusters", "4x0x41:0xd05 2x0x41:0xd0b 2x0x51:0x804 2x0x41:0xd0b"),
    ("soc", "rockchip,rk3588"),
    ("governor", "ondemand,performance"),
    ("thermal_zones", "soc-thermal,big core"),
]


def test_facts_are_read() -> None:
    found = parse([*FACTS[:7], ("how", "glibc ldd --version: ldd (GNU libc) 2.36"), *FACTS[7:]])
    assert found.clusters == ("4x cortex-a55", "4x cortex-a76", "2x 0x51-0x804")
    assert (found.governor, found.thermal_zones) == ("ondemand,performance", ("soc-thermal", "big core"))
    assert (found.isa, found.how) == (("neon",), {"glibc": "ldd --version: ldd (GNU libc) 2.36"})
    assert (found.architecture, found.numpy, found.tools) == ("aarch64", None, ())
    assert found.board == "Raspberry Pi 4 Model B Rev 1.4"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cores", "-4"),
        ("cores", ""),
        ("ram_kb", "1" * 16),
        ("glibc", "2.36-9"),
        ("python", "3"),
        ("writable", "true"),
        ("emulated", ""),
        ("architecture", "a b"),
        ("clusters", "4x cortex-a55"),
        ("governor", "on demand"),
        ("Welcome", "to Debian!"),
        ("how", "colour it was seen"),
    ],
)
def test_facts_that_cannot_be_are_refused(key: str, value: str) -> None:
    lines = [(name, value if name == key else old) for name, old in FACTS]
    with pytest.raises(BadAnswer):
        parse(lines if lines != FACTS else [*FACTS, (key, value)])
    with pytest.raises(BadAnswer):
        parse(FACTS[:-1])
    with pytest.raises(BadAnswer):
        parse([*FACTS, FACTS[0]])


@pytest.mark.parametrize(
    ("key", "value"), [("state", "FINE"), ("current", "abc name"), ("starts", "many"), ("free_kb", ""), ("pending", "")]
)
def test_a_status_that_cannot_be_is_refused(key: str, value: str) -> None:
    good = {
        "state": "STAGED",
        "current": "- -",
        "previous": "- -",
        "trial": "- -",
        "staged": f"{A} m",
        "pending": f"{A} m",
        "starts": "0",
        "counter": "0",
        "store_kb": "1",
        "free_kb": "1",
    }
    assert control.parse(list(good.items())).staged == control.BoardRelease(A, "m")
    with pytest.raises(BadAnswer):
        control.parse(list({**good, key: value}.items()))


@pytest.mark.parametrize(
    ("status", "stderr", "kind", "root"),
    [
        (3, "edgekit-board: locked: at work", errors.Locked, DeviceError),
        (3, "edgekit-board: no-space: full", NoSpace, DeviceError),
        (3, "edgekit-board: read-only: no", ReadOnlyTarget, DeviceError),
        (3, "edgekit-board: no-python: none", errors.PythonMissing, DeviceError),
        (1, "Traceback\nedgekit-board: check-failed: no", errors.CheckRejected, CheckFailed),
        (1, "edgekit-board: old-python: 3.5\nedgekit-board: check-failed: no", errors.PythonMissing, DeviceError),
        (1, "edgekit-board: damaged: it is", errors.Damaged, CheckFailed),
        (2, "edgekit-board: unknown-release: none", errors.UnknownRelease, UserError),
        (2, "edgekit-board: usage: so", UserError, UserError),
        (1, "edgekit-board: something-new: so", CheckFailed, CheckFailed),
        (3, "edgekit-board: something-new: so", errors.BoardFailed, DeviceError),
        (127, "sh: not found", errors.BoardFailed, DeviceError),
        (137, "", errors.BoardFailed, DeviceError),
    ],
)
def test_each_failure_has_its_error(status: int, stderr: str, kind: type[Exception], root: type[Exception]) -> None:
    found = errors.explain("pi@board", status, stderr, {})
    assert type(found) is kind
    assert isinstance(found, root)
    assert "pi@board" in found.message


def test_a_holder_is_told_in_fields() -> None:
    found = errors.explain("b", 3, "edgekit-board: locked: so", {"holder": "ann", "pid": "7", "seconds": "12"})
    assert (found.fields["holder"], found.fields["pid"], found.fields["seconds"]) == ("ann", "7", "12")


def test_the_reason_of_a_rejection_is_the_runtime_s_own() -> None:
    stderr = "INFO: noise\nedgekit-runtime: the model is bad\nhint: make another\nedgekit-board: check-failed: no"
    found = errors.explain("b", 1, stderr, {})
    assert "the model is bad" in found.message
    assert "noise" in found.fields["reason"]
