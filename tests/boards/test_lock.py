"""Two that need the same tree at once: one builds it, and the other does not wait for its board to end."""

from __future__ import annotations

import fcntl
import sys
import threading
from pathlib import Path

import pytest

from tests.board_fixture import SCRIPT


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from boards import lock

    yield lock
    for name in [name for name in sys.modules if name.partition(".")[0] == "boards"]:
        del sys.modules[name]


def test_what_another_has_built_is_used_although_its_board_keeps_the_lock(lock: object, tmp_path: Path) -> None:
    built = tmp_path / "tree"
    with (tmp_path / "tree.lock").open("w") as running:
        fcntl.flock(running, fcntl.LOCK_SH)
        said: list[str] = []
        threading.Timer(0.5, built.mkdir).start()
        with lock.locked(tmp_path / "tree.lock", say=said.append, unless=built.is_dir):  # type: ignore[attr-defined]
            assert built.is_dir()
        assert said == ["waiting for another scripts/board to finish"]
        with (
            pytest.raises(Exception, match="another process holds"),
            lock.locked(tmp_path / "tree.lock", wait=False),  # type: ignore[attr-defined]
        ):
            pass
