"""The board's program under each shell, in a root folder of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgekit.bundles.bundle import Bundle
from tests import releases

PROGRAM = Path(__file__).resolve().parents[2] / "edgekit" / "board" / "edgekit-board"
SHELLS = ("dash", "busybox", "bash")
TOOLS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Answer:
    """How a command ended: its status, its `key value` lines, and the CODE of its last complaint."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[tuple[str, str]]:
        return [(key, value) for key, _, value in (line.partition(" ") for line in self.stdout.splitlines())]

    @property
    def values(self) -> dict[str, str]:
        return dict(self.lines)

    @property
    def code(self) -> str:
        told = [line for line in self.stderr.splitlines() if line.startswith("edgekit-board: ")]
        return told[-1].split(": ")[1] if told else ""


@dataclass(frozen=True)
class Program:
    """`edgekit-board` as one shell runs it."""

    argv: tuple[str, ...]
    root: Path
    path: str
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": self.path,
            "HOME": str(self.root.parent),
            "EDGEKIT_ROOT": str(self.root),
            "EDGEKIT_HOLDER": "a test",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.env,
        }

    def command(self, *words: str) -> list[str]:
        return [*self.argv, str(PROGRAM), *words]

    def __call__(self, *words: str, stdin: bytes = b"", **env: str) -> Answer:
        argv, environment = self.command(*words), {**self.environment, **env}
        done = subprocess.run(argv, input=stdin, capture_output=True, env=environment, timeout=120, check=False)
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *words: str, stdin: bytes = b"", **env: str) -> dict[str, str]:
        answer = self(*words, stdin=stdin, **env)
        assert answer.status == 0, answer
        return answer.values

    def receive(self, bundle: Bundle) -> None:
        """What a push does, without a network: what `missing` names is put into incoming/."""
        answer = self("missing", stdin=bundle.release.text.encode())
        assert answer.status == 0, answer
        for key, value in answer.lines:
            if key == "missing":
                with bundle.open_member(value.split()[0]) as source:
                    (self.root / "incoming" / value.split()[0]).write_bytes(source.read())

    def stage(self, bundle: Bundle) -> str:
        self.receive(bundle)
        self.ok("stage", bundle.release.id)
        return bundle.release.id

    def activate(self, bundle: Bundle) -> str:
        self.ok("activate", self.stage(bundle))
        return bundle.release.id

    @property
    def current(self) -> str:
        return self.ok("status")["current"].split()[0]


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """PATH for each shell: BusyBox comes with its own tools and no others. Each has this Python as `python3`."""
    folder = tmp_path_factory.mktemp("bin")
    python = folder / "python"
    python.mkdir()
    script = python / "python3"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    paths = {"dash": f"{python}:{TOOLS}", "bash": f"{python}:{TOOLS}"}
    busybox = shutil.which("busybox")
    if busybox:
        applets = folder / "busybox"
        applets.mkdir()
        subprocess.run([busybox, "--install", "-s", str(applets)], check=True)
        paths["busybox"] = f"{python}:{applets}"
    return paths


def start(shell: str, root: Path, tools: Mapping[str, str]) -> Program:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    argv = ("busybox", "ash") if shell == "busybox" else (shell,)
    return Program((shutil.which(argv[0]) or argv[0], *argv[1:]), root, tools[shell])


@pytest.fixture(params=SHELLS)
def program(request: pytest.FixtureRequest, tmp_path: Path, tools: Mapping[str, str]) -> Program:
    """The program under each shell, on an empty board whose folder has a blank in its name."""
    return start(request.param, tmp_path / "a board", tools)


@pytest.fixture
def dash(tmp_path: Path, tools: Mapping[str, str]) -> Program:
    return start("dash", tmp_path / "a board", tools)


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return releases.make(tmp_path_factory.mktemp("bundles"), "one")


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return releases.make(tmp_path_factory.mktemp("bundles"), "two")


@pytest.fixture(scope="session")
def rejected(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A release that its own check refuses: the model needs an operator that the interpreter lacks."""
    return releases.make_rejected(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MiB that the test may fill."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
