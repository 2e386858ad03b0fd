"""The test run's emulated board."""

from __future__ import annotations

import pytest

from tests.board_fixture import BoardInfo, start_board


@pytest.fixture(scope="session")
def arm64() -> BoardInfo:
    return start_board("arm64")
