"""In CI a skipped test is a failed one, unless it is listed with its reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = {
    "a mark": "import pytest\n@pytest.mark.skip(reason='absent tool')\ndef test_it(): pass\n",
    "a call": "import pytest\ndef test_it(): pytest.skip('absent tool')\n",
    "a fixture": "import pytest\n@pytest.fixture\ndef tool(): pytest.skip('absent tool')\ndef test_it(tool): pass\n",
    "a whole module": "import pytest\npytest.skip('absent tool', allow_module_level=True)\n",
}


def run(folder: Path, repository: Path, test: str, allowed: str, **environment: str) -> tuple[int, str]:
    shutil.copy(repository / "tests/conftest.py", folder)
    (folder / "allowed-skips.txt").write_text(allowed)
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    shared: as in the repository\n")
    kept = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("test", SKIPS.values(), ids=SKIPS.keys())
def test_a_skip_fails_in_ci_and_names_its_reason(test: str, repository: Path, tmp_path: Path) -> None:
    code, output = run(tmp_path, repository, test, "", CI="true")
    assert code not in (0, 5)
    assert "absent tool" in output


@pytest.mark.parametrize("test", list(SKIPS.values())[:3], ids=list(SKIPS)[:3])
def test_a_listed_skip_passes_in_ci(test: str, repository: Path, tmp_path: Path) -> None:
    assert run(tmp_path, repository, test, "*test_it.py* | no such tool in CI\n", CI="true")[0] == 0


def test_a_skip_is_no_failure_elsewhere(repository: Path, tmp_path: Path) -> None:
    assert run(tmp_path, repository, SKIPS["a call"], "")[0] == 0


def test_an_expected_failure_is_no_skip(repository: Path, tmp_path: Path) -> None:
    test = "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_it(): assert False\n"
    assert run(tmp_path, repository, test, "", CI="true")[0] == 0


def test_a_list_without_a_reason_is_refused(repository: Path, tmp_path: Path) -> None:
    code, _ = run(tmp_path, repository, SKIPS["a call"], "*test_it.py*\n", CI="true")
    assert code == 4


def test_without_the_shared_folder_its_tests_are_skipped(repository: Path, tmp_path: Path) -> None:
    test = "import pytest\n@pytest.mark.shared\ndef test_it(): assert False\n"
    folder = tmp_path / "repository" / "tests"
    folder.mkdir(parents=True)
    code, output = run(folder, repository, test, "")
    assert code == 0
    assert "1 skipped" in output
