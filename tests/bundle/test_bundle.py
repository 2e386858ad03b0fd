"""A bundle: same inputs, same bytes; what was altered, cut or made otherwise is refused."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from edgekit_runtime import manifest
from edgekit_runtime.release import ReleaseError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.bundles import bundle
from edgekit.bundles.bundle import Bundle, BundleError, Content
from edgekit.errors import UserError
from tests import releases

SMALL = {
    name: content.read_bytes() if isinstance(content, Path) else content
    for name, content in releases.members("small").items()
    if not name.startswith("runtime/")
}
SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


HEADER = {"name": "trees", "profile": "host", "architecture": "x86_64", "glibc": "2.36", "python": "3.11"}


def build(output: Path, members: dict[str, Content] | None = None, header: dict[str, str] | None = None) -> Bundle:
    words = {**HEADER, **(header or {})}
    return bundle.build(output, members or dict(SMALL), **words)  # type: ignore[arg-type]  # counter is left alone


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(tmp_path_factory.mktemp("good") / "small.ekb")


part = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,8}", fullmatch=True)
extras = st.dictionaries(part.map(lambda name: f"runtime/{name}"), st.binary(max_size=1500), max_size=6)


@SHARED_FOLDER
@given(extras)
def test_round_trip(tmp_path: Path, extra: dict[str, bytes]) -> None:
    members: dict[str, Content] = {**SMALL, **extra}
    made = build(tmp_path / "x.ekb", members)
    found = bundle.open_bundle(tmp_path / "x.ekb")
    assert found == made
    found.verify()
    for name, content in members.items():
        assert found.read(name, 1 << 20) == content
    assert found.path.stat().st_size == found.file_size
    assert len(found.sizes) == len(set(members.values()))


@SHARED_FOLDER
@given(extras, st.randoms(use_true_random=False))
def test_order_time_and_place_do_not_matter(
    tmp_path: Path,
    extra: dict[str, bytes],
    random: st.randoms,  # type: ignore[valid-type]  # hypothesis's Random
) -> None:
    members = list({**SMALL, **extra}.items())
    first = build(tmp_path / "a.ekb", dict(members))
    random.shuffle(members)  # type: ignore[attr-defined]  # as above
    files: dict[str, Content] = {}
    for number, (name, content) in enumerate(members):
        path = tmp_path / f"file{number}"
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        path.chmod(0o600 if number % 2 else 0o755)
        os.utime(path, (number * 1000, number * 1000))
        files[name] = path
    build(tmp_path / "b.ekb", files)
    assert (tmp_path / "a.ekb").read_bytes() == (tmp_path / "b.ekb").read_bytes()
    assert first.release.id == bundle.open_bundle(tmp_path / "b.ekb").release.id


def test_tar_reads_it_too(good: Bundle) -> None:
    with tarfile.open(good.path) as archive:
        entries = archive.getmembers()
        assert [entry.name for entry in entries] == ["RELEASE", "RELEASE.sha256", *sorted(good.sizes)]
        for entry in entries:
            assert entry.isreg()
            assert (entry.mode, entry.uid, entry.gid, entry.mtime, entry.uname, entry.gname) == (0o644, 0, 0, 0, "", "")
            file = archive.extractfile(entry)
            assert file is not None
            content = file.read()
            assert entry.name in ("RELEASE", "RELEASE.sha256", hashlib.sha256(content).hexdigest())


def noticed(path: Path) -> bool:
    error = None
    try:
        bundle.open_bundle(path).verify()
    except BundleError as caught:
        error = caught
    assert error is None or (error.exit_code == 2 and str(path) in error.message and error.hint)
    return error is not None


@SHARED_FOLDER
@given(st.data())
def test_any_flipped_bit_is_noticed(tmp_path: Path, good: Bundle, data: st.DataObject) -> None:
    content = bytearray(good.path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "x.ekb"
    path.write_bytes(content)
    assert noticed(path)


def test_each_kind_of_byte_is_guarded(tmp_path: Path, good: Bundle) -> None:
    """One bit in each byte of headers, padding and end, and of a content."""
    content = good.path.read_bytes()
    first = min(good.offsets.values())
    size = good.sizes[min(good.offsets, key=lambda sha256: good.offsets[sha256])]
    places = [*range(first), *range(first, first + size, 97)]
    places += [*range(first + size, first + size + 64), *range(len(content) - 1024, len(content), 13)]
    path = tmp_path / "x.ekb"
    for place in places:
        altered = bytearray(content)
        altered[place] ^= 0x10
        path.write_bytes(altered)
        assert noticed(path), place


@SHARED_FOLDER
@given(st.data())
def test_any_truncation_and_any_tail_is_noticed(tmp_path: Path, good: Bundle, data: st.DataObject) -> None:
    content = good.path.read_bytes()
    path = tmp_path / "x.ekb"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(BundleError):
        bundle.open_bundle(path)
    path.write_bytes(content + data.draw(st.binary(min_size=1, max_size=2000)))
    with pytest.raises(BundleError, match="after its end"):
        bundle.open_bundle(path)


@SHARED_FOLDER
@given(st.binary(max_size=3000))
def test_anything_else_is_no_bundle(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.ekb"
    path.write_bytes(data)
    with pytest.raises(BundleError) as caught:
        bundle.open_bundle(path)
    assert caught.value.fields["what"] == "not-a-bundle"


Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", **changes: object) -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, content


def archive(path: Path, entries: list[Entry], **options: int) -> None:
    with tarfile.open(path, "w", **{"format": tarfile.USTAR_FORMAT, **options}) as file:  # type: ignore[call-overload]  # **options
        for info, content in entries:
            file.addfile(info, io.BytesIO(content))
    whole = path.read_bytes()  # tarfile pads to 20 blocks, a bundle ends after two of zeros
    path.write_bytes(whole.rstrip(b"\0").ljust(-(-len(whole.rstrip(b"\0")) // 512) * 512, b"\0") + bytes(1024))


def entries_of(good: Bundle) -> list[Entry]:
    text = good.release.text.encode()
    line = f"{hashlib.sha256(text).hexdigest()}  RELEASE\n".encode()
    found = [entry("RELEASE", text), entry("RELEASE.sha256", line)]
    for sha256 in good.sizes:
        with good.open_member(sha256) as file:
            found.append(entry(sha256, file.read()))
    return found


def test_tar_can_write_the_same_archive(tmp_path: Path, good: Bundle) -> None:
    path = tmp_path / "x.ekb"
    archive(path, entries_of(good))
    assert bundle.open_bundle(path).release == good.release
    assert path.read_bytes() == good.path.read_bytes()


HOSTILE: dict[str, Callable[[list[Entry]], list[Entry]]] = {
    "RELEASE not first": lambda found: [*found[1:], found[0]],
    "members in another order": lambda found: [*found[:2], *reversed(found[2:])],
    "a member missing": lambda found: found[:-1],
    "a member doubled": lambda found: [*found, found[-1]],
    "a member nobody listed": lambda found: [*found, entry("f" * 64, b"x")],
    "a path": lambda found: [*found[:2], entry("../../etc/passwd", found[2][1]), *found[3:]],
    "an absolute path": lambda found: [*found[:2], entry("/etc/passwd", found[2][1]), *found[3:]],
    "a symbolic link": lambda found: [
        *found[:2],
        entry(found[2][0].name, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        *found[3:],
    ],
    "a hard link": lambda found: [
        *found[:2],
        entry(found[2][0].name, type=tarfile.LNKTYPE, linkname="RELEASE"),
        *found[3:],
    ],
    "a folder": lambda found: [*found[:2], entry(found[2][0].name, type=tarfile.DIRTYPE), *found[3:]],
    "a device": lambda found: [*found[:2], entry(found[2][0].name, type=tarfile.CHRTYPE), *found[3:]],
    "no hash of RELEASE": lambda found: [found[0], *found[2:]],
    "another hash of RELEASE": lambda found: [found[0], entry("RELEASE.sha256", found[1][1][::-1]), *found[2:]],
    "another owner": lambda found: [*found[:-1], entry(found[-1][0].name, found[-1][1], uid=1000)],
    "a time": lambda found: [*found[:-1], entry(found[-1][0].name, found[-1][1], mtime=1)],
    "set-uid": lambda found: [*found[:-1], entry(found[-1][0].name, found[-1][1], mode=0o4755)],
    "other content": lambda found: [*found[:-1], entry(found[-1][0].name, b"x" * len(found[-1][1]))],
    "shorter content": lambda found: [*found[:-1], entry(found[-1][0].name, found[-1][1][:-1])],
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_archive_made_otherwise_is_refused(
    tmp_path: Path, good: Bundle, change: Callable[[list[Entry]], list[Entry]]
) -> None:
    path = tmp_path / "x.ekb"
    archive(path, change(entries_of(good)))
    assert noticed(path)


def test_a_release_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.ekb"
    archive(path, [entry("RELEASE", b"x" * ((1 << 20) + 1))])
    with pytest.raises(BundleError, match="larger than"):
        bundle.open_bundle(path)


def test_a_missing_file_a_folder_and_a_wrong_kind_of_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ekb", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            bundle.open_bundle(path)
    with pytest.raises(BundleError, match="not a bundle"):
        bundle.open_bundle(releases.MODELS / "constant.tflite")


def test_a_content_is_read_within_its_bounds(good: Bundle) -> None:
    model = SMALL["model.tflite"]
    with good.open_member(hashlib.sha256(model).hexdigest()) as file:
        assert file.seek(0, io.SEEK_END) == len(model)
        assert file.read() == b""
        assert file.seek(-5, io.SEEK_END) == len(model) - 5
        assert file.read(100) == model[-5:]
        file.seek(7)
        assert file.read(9) == model[7:16]
        assert file.seek(len(model) + 10) == len(model) + 10
        assert file.read(1) == b""
    with pytest.raises(BundleError, match="no content"):
        good.open_member("0" * 64)


def test_reading_is_bounded_and_checked(tmp_path: Path, good: Bundle) -> None:
    assert good.manifest() == manifest.loads(SMALL["manifest.json"])
    with pytest.raises(BundleError, match="at most 10"):
        good.read("model.tflite", 10)
    with pytest.raises(ReleaseError, match="no member"):
        good.read("../RELEASE", 10)
    content = bytearray(good.path.read_bytes())
    content[good.offsets[good.release.member("model.tflite").sha256]] ^= 1
    path = tmp_path / "x.ekb"
    path.write_bytes(content)
    altered = bundle.open_bundle(path)
    altered.manifest()
    with pytest.raises(BundleError, match=r"model\.tflite"):
        altered.read("model.tflite", 1 << 20)


def test_progress_ends_at_the_whole(tmp_path: Path, good: Bundle) -> None:
    seen: list[tuple[str, int, int]] = []
    good.verify(lambda *step: seen.append(step))
    assert seen[-1][1] == seen[-1][2] == sum(good.sizes.values())
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


MODEL, OTHER = SMALL["model.tflite"], (releases.MODELS / "constant.tflite").read_bytes()
WRONG: dict[str, dict[str, Content]] = {
    "no manifest": {name: content for name, content in SMALL.items() if name != "manifest.json"},
    "no model": {name: content for name, content in SMALL.items() if name != "model.tflite"},
    "no labels, though the manifest has some": {k: v for k, v in SMALL.items() if k != "labels.txt"},
    "another model": {**SMALL, "model.tflite": OTHER},
    "a broken manifest": {**SMALL, "manifest.json": b"{}"},
    "a path that leaves": {**SMALL, "../x": b""},
    "an absolute path": {**SMALL, "/x": b""},
    "a file below a file": {**SMALL, "model.tflite/x": b""},
    "a file that is not there": {**SMALL, "x": Path("/no/such/file")},
}


@pytest.mark.parametrize("members", WRONG.values(), ids=WRONG.keys())
def test_what_does_not_belong_together_is_not_bundled(tmp_path: Path, members: dict[str, Content]) -> None:
    output = tmp_path / "x.ekb"
    output.write_bytes(b"the old one")
    with pytest.raises(UserError):
        build(output, members)
    assert output.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("change", [{"name": "A b"}, {"profile": "other"}, {"glibc": "x"}, {"python": "3"}])
def test_a_header_that_is_not_possible_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    with pytest.raises(UserError):
        build(tmp_path / "x.ekb", header=change)
    assert not list(tmp_path.iterdir())


def test_no_folder_for_the_output(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        build(tmp_path / "none" / "x.ekb")
