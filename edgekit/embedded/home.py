"""Where the embedded board lives: its root folder, keys and environment."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from edgekit.errors import UserError
from edgekit.transport.enroll import generate

USER = "edgekit"
KEY_NAME = "edgekit-embedded"  # what known_hosts calls it, whatever port it has today


@dataclass(frozen=True)
class BoardHome:
    """The folders of the board; everything that a session on it sees as its own is inside `root`."""

    root: Path

    @classmethod
    def default(cls) -> BoardHome:
        """`$EDGEKIT_EMBEDDED_ROOT`, else a folder in the user's data directory."""
        given = os.environ.get("EDGEKIT_EMBEDDED_ROOT")
        return cls(Path(given).absolute() if given else platformdirs.user_data_path("edgekit") / "embedded")

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def host_key(self) -> Path:
        return self.root / "host_key"

    @property
    def client_key(self) -> Path:
        return self.root / "client_key"

    @property
    def state(self) -> Path:
        return self.root / "running.json"

    def prepare(self) -> None:
        """Make what is missing; keys stay once they are there.

        Raises:
            UserError: the root cannot be written.
        """
        try:
            for folder in (self.root, self.home, self.root / "tmp", self.root / "bin"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for key in (self.host_key, self.client_key):
                if not key.is_file() or not Path(f"{key}.pub").is_file():
                    generate(key)
            self._wrap_python()
        except OSError as error:
            raise UserError(
                f"the embedded board cannot live in {self.root}: {error.strerror}",
                hint="set EDGEKIT_EMBEDDED_ROOT to a folder that can be written",
                path=str(self.root),
            ) from error

    def environment(self) -> dict[str, str]:
        """All that a session inherits: nothing of this process's own environment."""
        system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {
            "HOME": str(self.home),
            "TMPDIR": str(self.root / "tmp"),
            "PATH": f"{self.root / 'bin'}:{system}",
            "USER": getpass.getuser(),
            "LOGNAME": getpass.getuser(),
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
        }

    def _wrap_python(self) -> None:
        # A link to the interpreter of a virtual environment would lose the environment.
        script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n'
        path = self.root / "bin" / "python3"
        if path.is_file() and path.read_text("utf-8") == script:
            return
        temporary = path.with_name(f".python3.{os.getpid()}")
        temporary.write_text(script, "utf-8")
        temporary.chmod(0o755)
        os.replace(temporary, path)
