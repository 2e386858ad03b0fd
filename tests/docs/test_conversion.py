"""docs/conversion.md keeps what it promises; `benchmarks/conversion.py` measures it again."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/conversion.md"
LIMIT = 1.25


def rows() -> dict[tuple[str, str], list[str]]:
    """The cells behind model and way."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ") and "`" in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], row[1].strip("`")): row[2:] for row in cells}


def test_every_way_was_measured_beside_the_script() -> None:
    found = rows()
    models = {model for model, _ in found}
    assert len(models) >= 3
    assert set(found) == {(model, way) for model in models for way in ("script", "edgekit.convert", "edgekit convert")}


def test_a_conversion_takes_no_more_memory_than_a_quarter_above_the_script() -> None:
    for (model, way), cells in rows().items():
        assert float(cells[5]) <= LIMIT, (model, way)
