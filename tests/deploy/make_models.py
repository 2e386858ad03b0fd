"""Writes two small Keras models and pictures for them: `python make_models.py FOLDER`.

`colours` tells which colour is strongest, `light` whether a picture is dark or bright. Their weights are set and not
trained, so every picture has an answer that a test may know.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 16
LABELS = {"colours": ("red", "green", "blue"), "light": ("dark", "bright")}
_SHARPNESS = 8.0
_PLAIN = {
    "red": (220, 20, 20),
    "green": (20, 220, 20),
    "blue": (20, 20, 220),
    "night": (30, 20, 25),
    "snow": (240, 235, 250),
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pictures").mkdir()
    random = np.random.default_rng(1)
    for number in range(24):
        colour = random.integers(0, 256, 3)
        noise = random.integers(-20, 21, (SIZE + 4, SIZE, 3))
        _save(folder / "pictures" / f"{number:02}.png", colour + noise)
    for name, plain in _PLAIN.items():
        _save(folder / f"{name}.png", np.full((SIZE, SIZE, 3), plain))
    mean_to_colour = np.eye(3) * _SHARPNESS
    mean_to_light = np.array([[-1.0, 1.0]] * 3) * _SHARPNESS / 3
    _model(mean_to_colour, np.zeros(3)).save(folder / "colours.keras")
    _model(mean_to_light, np.array([0.5, -0.5]) * _SHARPNESS).save(folder / "light.keras")
    for name, labels in LABELS.items():
        (folder / f"{name}.txt").write_text("".join(f"{label}\n" for label in labels))


def _save(path: Path, pixels: Any) -> None:
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def _model(weights: Any, bias: Any) -> Any:
    """A convolution that only passes its centre on, one of given weights for each pixel, and the mean of each class.

    No dense layer: those are quantised in another way for older runtimes, and each board is to get the same model.
    """
    import keras

    centre = np.zeros((3, 3, 3, 3), np.float32)
    centre[1, 1] = np.eye(3)
    image = keras.Input((SIZE, SIZE, 3), name="image")
    convolution = keras.layers.Conv2D(3, 3, strides=2, padding="same", activation="relu")
    classes = keras.layers.Conv2D(len(bias), 1)
    scores = keras.layers.GlobalAveragePooling2D()(classes(convolution(image)))
    model = keras.Model(image, keras.layers.Softmax()(scores))
    convolution.set_weights([centre, np.zeros(3)])
    classes.set_weights([np.asarray(weights)[None, None], bias])
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1]))
