"""The command line as a user has it: a process of its own, whose exit code, output and talk are looked at apart."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-P", "-m", "edgekit"]
EXPECTED = (0, 1, 2, 3, 130)
SECONDS = 240


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, standard output (data), standard error (talk)."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Standard output as the one JSON document that it is."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Program:
    """Runs `edgekit` in `cwd` with an environment of its own. A traceback or an odd exit code fails the test."""

    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)

    def with_(self, **environment: str) -> Program:
        """The same with more in the environment."""
        return replace(self, environment={**self.environment, **environment})

    def __call__(self, *words: str | Path, code: int = 0, stdin: str = "") -> Ended:
        done = subprocess.run(
            [*COMMAND, *map(str, words)],
            cwd=self.cwd,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return checked(Ended(done.returncode, done.stdout, done.stderr), code)

    def fails(self, *words: str | Path, code: int = 2) -> dict[str, Any]:
        """The JSON of an error; what a person reads says the same."""
        ended = self(*words, "--json", code=code)
        told: dict[str, Any] = ended.data
        assert set(told) == {"error", "type", "message", "hint", "fields"}
        assert told["error"] == {1: "check-failed", 2: "user", 3: "device"}[code]
        assert f"error: {told['message']}" in ended.err
        if told["hint"]:
            assert f"hint:  {told['hint']}" in ended.err
        return told

    def on_terminal(self, *words: str | Path, code: int = 0) -> Ended:
        """As above, but with standard error on a terminal."""
        master, slave = pty.openpty()
        process = self.start(*words, stderr=slave)
        os.close(slave)
        heard = bytearray()
        try:
            limit = time.monotonic() + SECONDS
            while time.monotonic() < limit:
                if not select.select([master], [], [], 1)[0]:
                    continue
                try:
                    piece = os.read(master, 65536)
                except OSError:  # EIO: the program has ended
                    break
                if not piece:
                    break
                heard += piece
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
            os.close(master)
        return checked(Ended(process.returncode, out, heard.decode("utf-8", "replace")), code)

    def start(self, *words: str | Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """The process, running."""
        return subprocess.Popen(
            [*COMMAND, *map(str, words)],
            cwd=self.cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )


def checked(ended: Ended, code: int) -> Ended:
    """`ended`, if it ended as it should."""
    shown = f"exit code {ended.code}\n--- stdout\n{ended.out}\n--- stderr\n{ended.err}"
    assert "Traceback (most recent call last)" not in ended.out + ended.err, shown
    assert ended.code in EXPECTED, shown
    assert ended.code == code, shown
    return ended
