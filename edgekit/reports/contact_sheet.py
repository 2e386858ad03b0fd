"""One PNG with pictures and what the board said about each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CELL = 96
CAPTION = 30
COLUMNS = 8
GOOD, BAD, PLAIN = (22, 120, 60), (190, 30, 30), (40, 40, 40)


@dataclass(frozen=True)
class Prediction:
    """One picture (uint8, H x W x 1 or 3, RGB), the label and score that came back, and the true label if known."""

    picture: Any
    label: str
    score: float
    truth: str | None = None


def contact_sheet(predictions: Sequence[Prediction]) -> bytes:
    """The pictures in rows of eight, each with its prediction below: green if right, red if wrong. PNG bytes."""
    import numpy as np
    from PIL import Image, ImageDraw

    rows = (len(predictions) + COLUMNS - 1) // COLUMNS
    sheet = Image.new("RGB", (COLUMNS * (CELL + 8) + 8, rows * (CELL + CAPTION) + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for index, item in enumerate(predictions):
        left = 8 + index % COLUMNS * (CELL + 8)
        top = 8 + index // COLUMNS * (CELL + CAPTION)
        picture = np.asarray(item.picture)
        image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).convert("RGB")
        sheet.paste(image.resize((CELL, CELL)), (left, top))
        color = PLAIN if item.truth is None else GOOD if item.truth == item.label else BAD
        text = f"{item.label[:12]}  {100 * item.score:.0f} %"
        if item.truth is not None and item.truth != item.label:
            text += f"  (is {item.truth[:8]})"
        draw.text((left, top + CELL + 3), text, fill=color)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def wrong_first(predictions: Sequence[Prediction]) -> list[Prediction]:
    """What went wrong is what a person wants to see first; the rest keeps its order."""
    return sorted(predictions, key=lambda item: item.truth is None or item.truth == item.label)
