"""The command line as its user meets it: a home of one's own, exit code, standard output and standard error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

EDGEKIT = (sys.executable, "-P", "-m", "edgekit")
_SECONDS = 600
# What the next report of a test says besides; `scripts/board-matrix` counts it.
NOTES: list[tuple[str, Any]] = []
_CACHE = os.environ.get("EDGEKIT_CACHE") or str(platformdirs.user_cache_path("edgekit"))


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def words(self) -> str:
        """Standard error as one line, whatever width it was wrapped to."""
        return " ".join(self.stderr.split())


@dataclass(frozen=True)
class User:
    """A person at this computer: `home` holds the ssh config, keys and trusted hosts; wheels come from the cache.

    `wrapper` is a command that starts edgekit in its own place.
    """

    home: Path
    wrapper: tuple[str, ...] = ()

    @property
    def ssh_config(self) -> Path:
        return self.home / ".ssh" / "config"

    @property
    def trusted(self) -> Path:
        """What `edgekit trust` writes."""
        return self.home / "edgekit" / "known_hosts"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "EDGEKIT_CACHE": _CACHE,
            "EDGEKIT_NO_CACHE": "1",
            "EDGEKIT_CONFIG_DIR": str(self.home / "edgekit"),
            "EDGEKIT_EMBEDDED_ROOT": str(self.home / "embedded"),
        }

    def run(self, *arguments: str | Path, **environment: str) -> Answer:
        """`edgekit ARGUMENTS`. Expected failures only: a traceback fails the test."""
        done = subprocess.run(
            [*self.wrapper, *EDGEKIT, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.home,
            env=self.environment | environment,
            timeout=_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        _note(done.args, done.returncode)
        return Answer(done.returncode, done.stdout, done.stderr)

    def do(self, *arguments: str | Path, **environment: str) -> Any:
        """`edgekit ARGUMENTS --json`, which must succeed; its JSON."""
        done = self.run(*arguments, "--json", **environment)
        assert done.status == 0, done.stdout + done.stderr
        return done.json

    def fail(self, status: int, *arguments: str | Path, **environment: str) -> Any:
        """`edgekit ARGUMENTS --json`, which must end with `status`; the error as JSON, with `talk` for a person."""
        done = self.run(*arguments, "--json", **environment)
        assert done.status == status, done.stdout + done.stderr
        error = done.json
        assert " ".join(error["message"].split()) in done.words
        return error | {"talk": done.stderr}

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        """The command, running, in a process group of its own."""
        return subprocess.Popen(
            [*self.wrapper, *EDGEKIT, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=self.environment | environment,
            process_group=0,
        )


def answer(process: subprocess.Popen[str]) -> Answer:
    """Wait for a started command."""
    try:
        stdout, stderr = process.communicate(timeout=_SECONDS)
    finally:
        process.kill()
    _note(process.args, process.returncode)
    return Answer(process.returncode, stdout, stderr)


def _note(argv: Any, status: int) -> None:
    NOTES.append(("edgekit", (argv[argv.index(EDGEKIT[-1]) + 1 :], status)))
