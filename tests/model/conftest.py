"""Small real models with hand-set weights, and pictures whose class anyone can see: which colour is strongest."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.conversion import convert
from edgekit.conversion.record import Conversion
from edgekit.datasets import declaration
from edgekit.profiles import profile
from edgekit.profiles.profile import DeviceProfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

COLOURS = ("blue", "green", "red")
SIZE = 16


@dataclass(frozen=True)
class Converted:
    """A finished conversion: its `.tflite` and its record."""

    path: Path
    record: Conversion


def colour_pictures(folder: Path, count: int, seed: int) -> Path:
    """`count` noisy pictures a colour, one folder a colour; sizes differ, so that they must be resized."""
    noise = np.random.default_rng(seed)
    for index, colour in enumerate(COLOURS):
        (folder / colour).mkdir(parents=True)
        for number in range(count):
            shape = (int(noise.integers(12, 40)), int(noise.integers(12, 40)), 3)
            pixels = noise.integers(0, 170, shape)
            pixels[..., 2 - index] += int(noise.integers(40, 85))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / colour / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 labelled pictures in class folders."""
    return colour_pictures(tmp_path_factory.mktemp("pictures"), 20, seed=1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models, each a few kilobytes: see the functions below."""
    import keras

    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(7)
    colour_model().save(folder / "colours.keras")
    two_inputs().save(folder / "two.keras")
    with_lambda().save(folder / "lambda.keras")
    colour_model().export(folder / "colours_savedmodel", verbose=False)
    return folder


def colour_model() -> Any:
    """A convolution that keeps the colours, their means, and a softmax over blue, green, red. Expects -1..1."""
    import keras

    layers = keras.layers
    picture = keras.Input((SIZE, SIZE, 3), name="picture")
    mixed = layers.Conv2D(6, 3, padding="same", activation="relu6", name="mix")(picture)
    score = layers.Dense(3, name="score")(layers.GlobalAveragePooling2D()(mixed))
    model = keras.Model(picture, layers.Softmax(name="colour")(score), name="colours")
    kernel = np.zeros((3, 3, 3, 6), np.float32)
    for channel in range(3):
        kernel[1, 1, channel, channel] = 1.0
        kernel[1, 1, channel, channel + 3] = -0.5
    weights = np.zeros((6, 3), np.float32)
    for colour in range(3):
        weights[2 - colour, colour], weights[5 - colour, colour] = 12.0, -6.0
    model.get_layer("mix").set_weights([kernel, np.full(6, 0.25, np.float32)])
    model.get_layer("score").set_weights([weights, np.zeros(3, np.float32)])
    return model


def two_inputs() -> Any:
    """A float vector and whole-number tokens in, two named outputs out."""
    import keras

    layers = keras.layers
    left, right = keras.Input((8,), name="left"), keras.Input((3,), name="right", dtype="int32")
    tokens = layers.Flatten()(layers.Embedding(10, 4)(right))
    joined = layers.Concatenate()([layers.Dense(4)(left), tokens])
    return keras.Model([left, right], {"score": layers.Dense(2)(joined), "other": layers.Dense(3)(joined)})


def with_lambda() -> Any:
    """A model that carries pickled code."""
    import keras

    vector = keras.Input((4,), name="vector")
    return keras.Model(vector, keras.layers.Lambda(lambda x: x * 2.0, output_shape=(4,), name="twice")(vector))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a SavedModel of one function of a float vector [N, 4], with or without a serving signature."""
    import tensorflow as tf

    def save(function: Callable[[Any], Any], *, signature: str | None = "serving_default", width: int = 4) -> Path:
        folder = tmp_path_factory.mktemp("saved")
        module = tf.Module()
        traced = tf.function(lambda x: {"y": function(x)}).get_concrete_function(
            tf.TensorSpec([None, width], tf.float32, name="x")
        )
        tf.saved_model.save(module, str(folder), signatures=None if signature is None else {signature: traced})
        return folder

    return save


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 float vectors of 4."""
    path = tmp_path_factory.mktemp("vectors") / "vectors.npy"
    np.save(path, np.random.default_rng(3).normal(size=(30, 4)).astype(np.float32))
    return path


@pytest.fixture(scope="session")
def board() -> DeviceProfile:
    """The profile that the tests convert for."""
    return profile.find("generic-aarch64")


@pytest.fixture(scope="session")
def colours(models: Path, pictures: Path, board: DeviceProfile, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """The colour model, converted from `.keras` with the pictures."""
    output = tmp_path_factory.mktemp("converted") / "colours.tflite"
    record = convert.convert(
        models / "colours.keras",
        profile=board,
        data=pictures,
        output=output,
        declaration=declaration.declare(range="-1..1"),
        samples=40,
    )
    return Converted(output, record)
