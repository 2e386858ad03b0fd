"""dir:IMAGE: a disk image is recognised, and the commands shown are the ones that mount its root."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edgekit.errors import UserError
from edgekit.transport import connect, image
from tests import card, releases

MIB = 1 << 20
TABLES = {
    "mbr": "label: dos\n,8M,c\n,40M,83\n,8M,83\n",
    "gpt": "label: gpt\n,8M,U\n,40M,69DAD710-2CE4-4E3C-B16C-21A1D49ABED3\n,45M,L\n",
    "logical": "label: dos\n,8M,c\n,,E\n,8M,L\n,40M,L\n",
}


@pytest.fixture
def place() -> Iterator[Path]:
    with card.open_folder() as folder:
        yield folder


def system(place: Path, size: int) -> bytes:
    """An ext4 file system of a card, made by its own tool."""
    tree, file = place / "tree", place / "system"
    if not tree.exists():
        tree.mkdir()
        card.fill(tree)
    file.unlink(missing_ok=True)
    with file.open("wb") as target:
        target.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", tree, file], check=True, capture_output=True)
    return file.read_bytes()


def disk(place: Path, table: str) -> Path:
    """An image with a boot partition, the root and one more, by sfdisk."""
    file = place / "card one.img"
    with file.open("wb") as target:
        target.truncate(110 * MIB)
    subprocess.run(["sfdisk", "-q", file], input=TABLES[table], text=True, check=True, capture_output=True)
    listed = subprocess.run(["sfdisk", "-d", file], capture_output=True, text=True, check=True).stdout
    starts = [int(line.split("start=")[1].split(",")[0]) * 512 for line in listed.splitlines() if "start=" in line]
    root, other = {"mbr": (1, 2), "gpt": (1, 2), "logical": (3, 2)}[table]
    with file.open("r+b") as target:
        for number, size in ((root, 36 * MIB), (other, 7 * MIB)):
            target.seek(starts[number])
            target.write(system(place, size))
    return file


def refusal(file: Path) -> UserError:
    with pytest.raises(UserError) as caught, connect(f"dir:{file}"):
        pass
    return caught.value


@pytest.mark.parametrize("table", ["mbr", "gpt", "logical", "bare"])
def test_the_commands_shown_mount_the_root_of_an_image(place: Path, table: str, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("mounting needs root")
    if table == "bare":
        file = place / "card one.img"
        file.write_bytes(system(place, 36 * MIB))
    else:
        file = disk(place, table)
    told = refusal(file)
    assert told.exit_code == 2
    before, after = told.fields["before"], told.fields["after"]
    for command in (*before, *after, told.fields["board"]):
        assert command in str(told.hint)
    edgekit = shlex.join([sys.executable, "-P", "-m", "edgekit"])
    board, bundle = told.fields["board"], releases.make(tmp_path, "one")
    orders = [f"{edgekit} {words}" for words in (f"push {bundle.path} {board}", f"activate {board}")]
    # In a mount namespace of its own nothing stays mounted, whatever fails.
    for commands in (orders, [f"{edgekit} status {board} --json"]):
        script = "\n".join(["set -e", *before, *commands, *after])
        argv = ["unshare", "--mount", "sh", "-c", script]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["state"], found["pending"]["id"]) == ("STAGED", bundle.release.id)
    assert found["first_boot"]["unit"] == "edgekit-boot.service"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\xfd7zXZ\0" + bytes(600), "xz --decompress"),
        (b"PK\3\4" + bytes(600), "unzip"),
        (b"a text", "no disk image"),
        (b"", "no disk image"),
        (bytes(510) + b"\x55\xaa", "fdisk -l"),
    ],
    ids=["xz", "zip", "text", "empty", "no-partitions"],
)
def test_other_files_are_told_apart(tmp_path: Path, content: bytes, word: str) -> None:
    file = tmp_path / "card.img"
    file.write_bytes(content)
    told = refusal(file)
    assert word in f"{told.message} {told.hint}"


def test_the_root_is_the_one_that_says_so_else_the_largest() -> None:
    def partition(
        number: int, size: int, *, system: str | None = "ext4", label: str = "", root: bool = False
    ) -> image.Partition:
        return image.Partition(number, 512, size, system, label, root)

    boot, small, large = partition(1, 90, system=None), partition(2, 10), partition(3, 80)
    assert image.choose([boot]) is None
    assert image.choose([boot, small, large]) == large
    assert image.choose([large, labelled := partition(4, 9, label="rootfs")]) == labelled
    assert image.choose([large, labelled, marked := partition(5, 8, root=True)]) == marked


@given(st.binary(max_size=2048), st.sampled_from([b"\x55\xaa", b"EFI PART"]), st.sampled_from([510, 512]))
def test_no_table_breaks_its_reader_or_points_out_of_the_file(content: bytes, magic: bytes, place: int) -> None:
    data = content.ljust(1024, b"\1")
    data = data[:place] + magic + data[place + len(magic) :]
    for found in image.partitions(io.BytesIO(data)):
        assert 0 <= found.start < len(data)
        assert 0 < found.size <= len(data) - found.start
