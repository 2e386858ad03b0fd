"""The README's commands work, and print what it shows; the examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TRUST = "from edgekit import transport; transport.remember(transport.host_key('embedded'))"


@pytest.fixture(scope="module")
def demo_output(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo leaves: made by the demo itself, on an embedded board of its own."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "edgekit", "demo", "-o", folder / "demo-output"],
        env=own_board(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "held-out digits right, in batches of 8" in done.stdout
    right, count = map(int, re.search(r"(\d+) of (\d+) held-out digits right", done.stdout).groups())  # type: ignore[union-attr]  # asserted above
    assert count == 500
    assert right / count > 0.95
    return folder / "demo-output"


def own_board(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "EDGEKIT_NO_CACHE": "1",
        "EDGEKIT_EMBEDDED_ROOT": str(folder / "board"),
        "EDGEKIT_CONFIG_DIR": str(folder / "config"),
    }


def test_the_demo_leaves_a_page_and_pictures(demo_output: Path) -> None:
    page = (demo_output / "report.html").read_text("utf-8")
    assert "data:image/png;base64," in page
    assert "FP32 against INT8" in page
    assert not re.search(r"(src|href)=\"http", page)
    assert (demo_output / "predictions.png").read_bytes().startswith(b"\x89PNG")


def test_the_tour_prints_what_the_readme_shows(repository: Path, demo_output: Path) -> None:
    done = subprocess.run(
        [sys.executable, repository / "scripts/readme-tour", demo_output, "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_runs(repository: Path, demo_output: Path, tmp_path: Path) -> None:
    environment = own_board(tmp_path)
    subprocess.run([sys.executable, "-P", "-c", TRUST], env=environment, check=True)
    done = subprocess.run(
        [sys.executable, repository / "examples/deploy.py", demo_output / "digits.keras", demo_output / "calibration"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "times smaller than float" in done.stdout
    assert "median" in done.stdout


def test_every_link_of_the_documentation_leads_somewhere(repository: Path) -> None:
    pages = [repository / "README.md", repository / "CONTRIBUTING.md", *sorted((repository / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
