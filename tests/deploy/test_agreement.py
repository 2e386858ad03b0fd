"""Real models on the emulated ARM board: deployed from the command line, and as right there as here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy import agreement
from tests.deploy.agreement import MODELS, PAGE, RealModel
from tests.deploy.boards import REPOSITORY, Board
from tests.deploy.kit import User


@pytest.mark.arm64
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
    assert done["bench"]["environment"]["numpy"] == "2.2.6"  # what was sent, not the board's own
    assert done["bench"]["validity"]["valid"] is False


@pytest.mark.arm64
@pytest.mark.shared
@pytest.mark.parametrize("model", MODELS, ids=[model.name.replace(" ", "-") for model in MODELS])
def test_the_board_answers_as_this_computer_does(
    board_of: Callable[[str], Board], shared: Path, user: User, tmp_path: Path, model: RealModel
) -> None:
    board = board_of("arm64")
    found = agreement.measure(model, board, user, tmp_path)
    assert found.board_to_host <= model.bound
    published = agreement.figures(PAGE.read_text("utf-8"))[model.name]
    measured = agreement.figures("\n".join(agreement.table([found])))[model.name]
    # Calibration on another processor may end in slightly other scales.
    assert measured == pytest.approx(published, abs=0.6, rel=0.05), "scripts/arm64-agreement writes the page anew"


def test_the_page_has_a_row_for_each_model_and_the_script_that_wrote_it() -> None:
    text = PAGE.read_text("utf-8")
    assert agreement.figures(text).keys() == {model.name for model in MODELS}
    assert (REPOSITORY / "scripts/arm64-agreement").stat().st_mode & 0o100
    assert "\nscripts/arm64-agreement\n" in text
