"""`scripts/board` says what is missing or wrong, and a build that fails or is cut leaves nothing half-done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.board_fixture import SCRIPT, BoardInfo, parse_info, run_board
from tests.boards.conftest import output, processes_with, wait_until

pytestmark = pytest.mark.emulated
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gets that far, or may become another user")


def test_needs_lists_packages() -> None:
    done = run_board("needs")
    assert done.returncode == 0
    userland = ["mmdebstrap", "openssh-client", "qemu-user-static", "busybox-static"]
    machine = ["cpio", "dosfstools", "e2fsprogs", "fdisk", "kmod", "mtools", "qemu-system-arm"]
    assert done.stdout.split() == [*userland, *machine]


def test_status_says_what_is_up(arm64: BoardInfo) -> None:
    text, data = run_board("status"), run_board("status", "--json")
    assert text.returncode == data.returncode == 0
    assert text.stdout.startswith("arm64  ")
    assert isinstance(json.loads(data.stdout), list)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "arm65"], "no board 'arm65'"),
        (["up", "arm64", "--small-size", "big"], "a size is a number"),
        (["up", "arm64", "--max-minutes", "-1"], "--max-minutes"),
        (["up"], "BOARD"),
        (["fly", "arm64"], "fly"),
    ],
)
def test_a_wrong_call_is_refused(arguments: list[str], message: str) -> None:
    done = run_board(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_state_is_one_kind_s_and_has_its_own_status(tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = run_board("status", "--state", state)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{state} is no board's state" in done.stderr
    (state / "keys").mkdir(parents=True)
    (state / "keys/identity.pub").write_text("ssh-ed25519 AAAA edgekit-armv7 client\n")
    for verb in ("up", "down", "rm"):
        done = run_board(verb, "arm64", "--state", state)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{state} is the state of a board of the kind armv7, not arm64" in done.stderr
        assert f"rm armv7 --state {state}" in done.stderr
    (line,) = run_board("status", "--state", state).stdout.splitlines()
    assert line.startswith("armv7  ")
    assert json.loads(run_board("status", "--state", state, "--json").stdout) == []


@needs_root
def test_without_root_it_says_so() -> None:
    """From a copy that any user can read."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("scripts", "runtime"):
            shutil.copytree(SCRIPT.parents[1] / name, Path(folder) / name)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        argv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", "HOME=/nonexistent"]
        argv += ["/usr/bin/python3", f"{folder}/scripts/board", "up", "arm64"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert done.returncode == 2
    assert done.stderr.startswith("board: a board needs root")
    assert "hint: sudo " in done.stderr


@needs_root
def test_missing_packages_are_named(tmp_path: Path) -> None:
    """With a PATH that holds only what Debian cannot be without."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "apt-get").symlink_to("/usr/bin/apt-get")
    (tools / "python3").symlink_to(sys.executable)
    done = run_board("up", "arm64", "--state", tmp_path / "state", env={"PATH": str(tools), "HOME": str(tmp_path)})
    assert done.returncode == 2
    assert "Debian packages are missing: mmdebstrap openssh-client" in done.stderr
    assert "apt-get install mmdebstrap openssh-client" in done.stderr
    assert "busybox" not in done.stderr
    assert not (tmp_path / "state").exists()
    done = run_board("up", "armv7", "--state", tmp_path / "state", env={"PATH": str(tools), "HOME": str(tmp_path)})
    assert done.returncode == 2
    assert "busybox-static" in done.stderr


def with_apt(folder: Path, settings: str) -> dict[str, str]:
    """An environment with more settings for apt, and where no userland is built yet."""
    (folder / "apt.conf").write_text(settings)
    return {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "EDGEKIT_BOARDS": str(folder / "boards")}


def is_nothing_left(boards: Path) -> bool:
    return [path for path in (boards / "trees").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("lines", ["", "deb file:///nothing/here bookworm main\n"])
def test_sources_without_this_debian_are_refused(tmp_path: Path, arm64: BoardInfo, lines: str) -> None:
    sources = tmp_path / "sources.list"
    sources.write_text(lines)
    settings = f'Dir::Etc::SourceList "{sources}";\nDir::Etc::SourceParts "/dev/null";\n'
    done = run_board("up", "arm64", env=with_apt(tmp_path, settings))
    assert done.returncode == 2
    assert "apt sources have no Debian bookworm main" in done.stderr
    assert "hint:" in done.stderr
    assert is_nothing_left(tmp_path / "boards")


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path, arm64: BoardInfo) -> None:
    """A proxy where nobody listens: apt's own settings hold for the build too."""
    proxy = "".join(f'Acquire::{scheme}::Proxy "http://127.0.0.1:9";\n' for scheme in ("http", "https"))
    done = run_board("up", "arm64", env=with_apt(tmp_path, proxy))
    assert done.returncode == 3
    assert "Debian's packages cannot be unpacked" in done.stderr
    assert "Traceback" not in done.stderr
    assert is_nothing_left(tmp_path / "boards")


def test_apt_need_not_have_been_updated(tmp_path: Path, arm64: BoardInfo) -> None:
    """As in a container image, whose lists are deleted."""
    (tmp_path / "lists").mkdir()
    environment = with_apt(tmp_path, f'Dir::State::Lists "{tmp_path}/lists";\n')
    try:
        done = run_board("up", "arm64", "--max-minutes", "10", env=environment)
    finally:
        run_board("down", "arm64", env=environment)
    assert done.returncode == 0, done.stderr


def test_a_cut_build_leaves_no_process_no_mount_and_can_be_repeated(tmp_path: Path, arm64: BoardInfo) -> None:
    environment = {**os.environ, "EDGEKIT_BOARDS": str(tmp_path / "boards")}
    trees = tmp_path / "boards/trees"
    build = subprocess.Popen([SCRIPT, "up", "arm64"], env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: any(trees.glob("*/tree/usr")), "packages are being unpacked")
    build.kill()
    build.wait()
    wait_until(lambda: not processes_with(str(trees)), "the build ended with its starter")
    assert str(trees) not in Path("/proc/self/mountinfo").read_text()
    assert not any((path / "usr").exists() for path in trees.iterdir())
    done = run_board("up", "arm64", "--json", "--max-minutes", "10", env=environment)
    try:
        assert done.returncode == 0, done.stderr
        board = parse_info(done.stdout)
        assert output(board, "uname -m") == "aarch64"
        assert [path for path in trees.iterdir() if path.is_dir()] == [board.root]
    finally:
        run_board("down", "arm64", env=environment)
        removed = run_board("rm", "arm64", env=environment)
    assert removed.returncode == 0, removed.stderr
    assert list(trees.iterdir()) == []
