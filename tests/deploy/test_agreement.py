"""Real models on the emulated ARM board: deployed from the command line, and as right there as here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy import agreement
from tests.deploy.agreement import KINDS, MODELS, PAGE, Agreement
from tests.deploy.boards import REPOSITORY, Board
from tests.deploy.kit import User


@pytest.mark.emulated
@pytest.mark.shared
def test_a_real_model_goes_through_the_whole_chain_with_a_packaged_profile(
    board_of: Callable[[str], Board], shared: Path, user: User, tmp_path: Path
) -> None:
    board = board_of("arm64")
    board.reset()
    data, output = agreement.speech(tmp_path), tmp_path / "out"
    model = shared / "models/kws_dscnn_savedmodel_tf2/saved_model"
    words: list[str | Path] = ["-p", "raspberry-pi-4b", "-c", data, "--task", "classification", "-o", output]
    done = user.do("deploy", model, board.name, *words)
    assert done["status"]["current"]["id"] == done["release"]
    assert done["validation"]["top1_agreement"] >= 0.9
    assert done["bench"]["environment"]["numpy"] == "1.24.2"  # the board's own, which fits
    assert done["push"]["sent_bytes"] < 25e6
    assert done["bench"]["validity"]["valid"] is False


# The others take minutes of emulation: scripts/board-agreement measures them.
@pytest.mark.emulated
@pytest.mark.shared
def test_the_arm64_board_answers_as_this_computer_does(
    board_of: Callable[[str], Board], shared: Path, user: User, tmp_path: Path
) -> None:
    (model,) = (model for model in MODELS if model.name == "visual wake words MobileNetV1")
    found = agreement.measure(model, board_of("arm64"), user, tmp_path)
    assert found.board_to_host == (0, 0)
    _compare(found)


def _compare(found: Agreement) -> None:
    key = found.model, found.board
    published = agreement.figures(PAGE.read_text("utf-8"))[key]
    measured = agreement.figures("\n".join(agreement.table([found])))[key]
    # Calibration on another processor may end in slightly other scales.
    assert measured == pytest.approx(published, abs=0.6, rel=0.05), "scripts/board-agreement writes the page anew"


@pytest.mark.shared
def test_each_folder_of_models_is_on_the_page_with_its_figures(shared: Path) -> None:
    text = PAGE.read_text("utf-8")
    assert agreement.figures(text).keys() == {(model.name, kind) for model in MODELS for kind in KINDS}
    folders = {path.name for path in (shared / "models").iterdir()}
    assert folders == {model.folder for model in MODELS}
    pairs = {f"mltk_h5_pairs_dev/{path.parent.name}/{path.name}" for path in (shared / "models").glob("mltk*/*/*.h5")}
    assert len(pairs) == 5
    assert pairs <= {model.path for model in MODELS}
    assert (REPOSITORY / "scripts/board-agreement").stat().st_mode & 0o100
    assert "\nscripts/board-agreement\n" in text
