"""Bundle: one deterministic file with everything that a release is, and its strict reader.

An uncompressed ustar archive (POSIX.1-1988): the member `RELEASE`, its hash in `RELEASE.sha256` (as `sha256sum -c`
takes it), then every distinct content once, sorted, under the name of its SHA-256, then two blocks of zeros. Mode
0644, owner, group and time 0. RELEASE fixes every byte of the file: the reader takes nothing else, and no path from
the archive.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgekit_runtime import manifest as manifests
from edgekit_runtime import release as releases
from edgekit_runtime.manifest import Manifest
from edgekit_runtime.release import Member, Release, ReleaseError

from edgekit.errors import UserError

RELEASE = "RELEASE"
RELEASE_HASH = "RELEASE.sha256"
SUFFIX = ".ekb"
BLOCK = 512
MAX_MANIFEST = 4 << 20
_END = bytes(2 * BLOCK)
_CHUNK = 1 << 20

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes altogether
Content = Path | bytes


class BundleError(UserError):
    """No bundle, cut short or altered. Fields: `path`, and `what`: not-a-bundle, truncated or altered."""

    def __init__(self, path: Path, what: str, sentence: str) -> None:
        hint = (
            "a bundle is what 'edgekit bundle' writes"
            if what == "not-a-bundle"
            else "it was damaged on its way here: make or copy it again"
        )
        super().__init__(f"{path}: {sentence}", hint=hint, path=str(path), what=what)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `offsets` says where in the file each content begins, by its SHA-256."""

    path: Path
    release: Release
    offsets: Mapping[str, int]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each distinct content, by its SHA-256, sorted."""
        return _sizes(self.release)

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return _layout(self.release)[1]

    def open_member(self, sha256: str) -> BinaryIO:
        """That content and nothing beyond it, as a seekable file. Raises BundleError when there is none."""
        if sha256 not in self.offsets:
            raise BundleError(self.path, "altered", f"it holds no content {sha256[:12]}")
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise _unreadable(self.path, error) from error
        return io.BufferedReader(_Window(file, self.offsets[sha256], self.sizes[sha256]), _CHUNK)

    def read(self, name: str, limit: int) -> bytes:
        """The content of the member called `name`, its hash checked.

        Raises BundleError when it is altered or has more than `limit` bytes, ReleaseError when there is none.
        """
        member = self.release.member(name)
        if member.size > limit:
            raise BundleError(self.path, "altered", f"'{name}' has {member.size} bytes, at most {limit} are taken")
        with self.open_member(member.sha256) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise self._altered(member.sha256)
        return data

    def manifest(self) -> Manifest:
        """The manifest that travels in it. Raises BundleError, SchemaError, ReleaseError."""
        return manifests.loads(self.read(manifests.MANIFEST, MAX_MANIFEST), f"{self.path}: {manifests.MANIFEST}")

    def verify(self, progress: Progress | None = None, *, only: Iterable[str] | None = None) -> None:
        """Check the content against its SHA-256: all of it, or the hashes of `only`. Raises BundleError."""
        sizes = self.sizes
        wanted = sorted(sizes if only is None else only)
        total = sum(sizes[sha256] for sha256 in wanted)
        done = 0
        for sha256 in wanted:
            digest = hashlib.sha256()
            with self.open_member(sha256) as file:
                for chunk in _chunks(file):
                    digest.update(chunk)
                    done += len(chunk)
                    if progress:
                        progress("verify", done, total)
            if digest.hexdigest() != sha256:
                raise self._altered(sha256)

    def _altered(self, sha256: str) -> BundleError:
        name = next(member.name for member in self.release.members if member.sha256 == sha256)
        return BundleError(self.path, "altered", f"the content of '{name}' is not what RELEASE says")


def build(
    output: Path,
    members: Mapping[str, Content],
    *,
    name: str,
    profile: str,
    architecture: str,
    glibc: str,
    python: str,
    counter: int = 0,
    progress: Progress | None = None,
) -> Bundle:
    """Write a bundle: same inputs, same bytes. `members` maps each path inside the release to a file or its content.

    Raises UserError when something cannot be read or written, ReleaseError for names and values that RELEASE refuses,
    BundleError when manifest and model do not belong together. `output` appears when it is complete, or not at all.
    """
    sources: dict[str, Content] = {}
    listed = []
    for member_name in sorted(members):
        sha256, size = _digest(members[member_name])
        listed.append(Member(sha256, size, member_name))
        sources.setdefault(sha256, members[member_name])
    release = Release(name, profile, architecture, glibc, python, counter, tuple(listed))
    releases.parse(release.text.encode("ascii"))
    offsets, total = _layout(release)
    _check_belonging(output, release, members)
    with _replacing(output) as file:
        _write(file, RELEASE, release.text.encode("ascii"))
        _write(file, RELEASE_HASH, _hash_line(release))
        for sha256 in offsets:
            if _write(file, sha256, sources[sha256]) != sha256:
                raise UserError(f"{sources[sha256]!s} changed while it was bundled", hint="try again")
            if progress:
                progress("bundle", file.tell(), total)
        file.write(_END)
        assert file.tell() == total
    return Bundle(output, release, offsets)


def open_bundle(path: Path) -> Bundle:
    """Open a bundle, its frame read strictly; `Bundle.verify` checks the content. Raises BundleError."""
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(path: Path, file: BinaryIO) -> Bundle:
    head = file.read(BLOCK)
    size = _octal(head[124:136])
    if size is None or head != _header(RELEASE, size):
        raise BundleError(path, "not-a-bundle", "it is not a bundle of edgekit")
    if size > releases.MAX_TEXT:
        raise BundleError(path, "not-a-bundle", f"its RELEASE is larger than {releases.MAX_TEXT} bytes")
    text = file.read(size)
    if len(text) < size:
        raise BundleError(path, "truncated", "the bundle is cut short in RELEASE")
    try:
        release = releases.parse(text)
    except ReleaseError as error:
        raise BundleError(path, "altered", f"its RELEASE is not valid: {error.message}") from error
    offsets, total = _layout(release)
    actual = os.fstat(file.fileno()).st_size
    if actual < total:
        raise BundleError(path, "truncated", f"the bundle is cut short: {actual} of {total} bytes")
    if actual > total:
        raise BundleError(path, "altered", f"the bundle has {actual - total} bytes after its end")
    sizes = _sizes(release)
    line = _hash_line(release)
    _expect(path, file, BLOCK + size, bytes(_padded(size) - size) + _header(RELEASE_HASH, len(line)) + line)
    end = 2 * BLOCK + _padded(size) + len(line)
    for sha256, offset in offsets.items():
        _expect(path, file, end, bytes(offset - BLOCK - end) + _header(sha256, sizes[sha256]))
        end = offset + sizes[sha256]
    _expect(path, file, end, bytes(total - end))
    return Bundle(path, release, offsets)


def _expect(path: Path, file: BinaryIO, offset: int, expected: bytes) -> None:
    file.seek(offset)
    if file.read(len(expected)) != expected:
        raise BundleError(path, "altered", f"the bundle was altered near byte {offset}")


def _sizes(release: Release) -> dict[str, int]:
    return dict(sorted({(member.sha256, member.size) for member in release.members}))


def _layout(release: Release) -> tuple[dict[str, int], int]:
    """Where each content begins, and the size of the whole file."""
    end = 2 * BLOCK + _padded(len(release.text)) + _padded(len(_hash_line(release)))
    offsets = {}
    for sha256, size in _sizes(release).items():
        offsets[sha256] = end + BLOCK
        end += BLOCK + _padded(size)
    return offsets, end + len(_END)


def _hash_line(release: Release) -> bytes:
    return f"{release.id}  {RELEASE}\n".encode("ascii")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _header(name: str, size: int) -> bytes:
    """A ustar header: the one form in which a member may stand here."""
    fields = (
        (name.encode("ascii"), 100),
        (b"0000644", 8),
        (b"0000000", 8),
        (b"0000000", 8),
        (f"{size:011o}".encode("ascii"), 12),
        (b"00000000000", 12),
        (b" " * 8, 8),
        (b"0", 1),
        (b"", 100),
        (b"ustar", 6),
        (b"00", 2),
    )
    block = b"".join(value.ljust(width, b"\0") for value, width in fields).ljust(BLOCK, b"\0")
    return block[:148] + f"{sum(block):06o}".encode("ascii") + b"\0 " + block[156:]


def _octal(field: bytes) -> int | None:
    digits = field[:-1]
    return int(digits, 8) if len(digits) == 11 and all(byte in b"01234567" for byte in digits) else None


def _digest(content: Content) -> tuple[str, int]:
    digest = hashlib.sha256()
    size = 0
    with _opened(content) as file:
        for chunk in _chunks(file):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _write(file: BinaryIO, name: str, content: Content) -> str:
    """Append a member; the SHA-256 of what was written."""
    start = file.tell()
    file.write(bytes(BLOCK))
    digest = hashlib.sha256()
    with _opened(content) as source:
        for chunk in _chunks(source):
            digest.update(chunk)
            file.write(chunk)
    size = file.tell() - start - BLOCK
    file.write(bytes(_padded(size) - size))
    end = file.tell()
    file.seek(start)
    file.write(_header(name, size))
    file.seek(end)
    return digest.hexdigest()


@contextmanager
def _opened(content: Content) -> Iterator[BinaryIO]:
    if isinstance(content, bytes):
        yield io.BytesIO(content)
        return
    try:
        file = content.open("rb")
    except OSError as error:
        raise _unreadable(content, error) from error
    with file:  # what fails in here may as well be the writing
        yield file


@contextmanager
def _replacing(output: Path) -> Iterator[BinaryIO]:
    """A file beside `output` that takes its place when the body ends well, and vanishes otherwise."""
    try:
        descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    except OSError as error:
        raise _unwritable(output, error) from error
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(name, output)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise _unwritable(output, error) from error
        raise


def _check_belonging(output: Path, release: Release, members: Mapping[str, Content]) -> None:
    source = members.get(manifests.MANIFEST)
    if source is None:
        raise BundleError(output, "not-a-bundle", f"a release needs the member '{manifests.MANIFEST}'")
    with _opened(source) as file:
        stated = manifests.loads(file.read(MAX_MANIFEST + 1), manifests.MANIFEST)
    model = release.member(manifests.MODEL)
    if (stated.model_sha256, stated.model_size) != (model.sha256, model.size):
        raise BundleError(output, "altered", "the manifest describes another model file")
    if stated.profile != release.profile:
        raise BundleError(output, "altered", f"the manifest is for {stated.profile}, RELEASE for {release.profile}")
    if stated.labels is not None:
        release.member(stated.labels)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(_CHUNK), b"")


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read: {error.strerror or error}", path=str(path))


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written: {error.strerror or error}", path=str(path))


class _Window(io.RawIOBase):
    """`size` bytes of `file` from `start` on, as a file of their own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the beginning")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._position)]  # type: ignore[arg-type]  # a Buffer, 3.12's name
        self._file.seek(self._start + self._position)
        data = self._file.read(len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
