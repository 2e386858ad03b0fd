"""A detector in one command: from the Object Detection API's export to boxes that the board finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.boards import Board
from tests.deploy.kit import User

LABEL_MAP = "\n".join(
    f"item {{ id: {number} name: '{name}' }}"
    for number, name in enumerate(("open", "closed", "pinch", "point", "face", "tip", "pinch tip"), 1)
)


@pytest.mark.shared
def test_the_board_finds_a_face(board_of: Callable[[str], Board], shared: Path, user: User, tmp_path: Path) -> None:
    board = board_of("embedded")
    board.reset()
    (tmp_path / "label_map.pbtxt").write_text(LABEL_MAP)
    export = shared / "models/odapi_ssd_mnv2_fpnlite320_frozen_tf2sm"
    data = shared / "data/coco128_dev/images/val2017"
    done = user.do(
        "deploy", export, board.name, "-p", board.profile, "-c", data, "--samples", "16",
        "--labels", tmp_path / "label_map.pbtxt", "--max-drop", "5%", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done["status"]["current"]["id"] == done["release"]
    assert done["conversion"]["task"] == "detection"
    (candidate,) = done["conversion"]["candidates"]
    assert (candidate["name"], candidate["metric"], candidate["drop"]) == ("int8", "the original's boxes", 0)
    picture = shared / "data/coral_images/grace_hopper.bmp"
    (found,) = user.do("run", board.name, picture)
    assert found["detection_class_names"][0] == "face"
    assert found["detection_classes"][0] == 5
    assert found["detection_scores"][0] > 0.9
    top, left, bottom, right = found["detection_boxes"][0]
    assert 0.1 < top < 0.3 < 0.5 < bottom < 0.75
    assert 0.2 < left < 0.45 < 0.5 < right < 0.8
    assert found["num_detections"] == len(found["detection_boxes"]) > 0
    assert "face" in user.run("run", board.name, picture).stdout.splitlines()[0]
