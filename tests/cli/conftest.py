"""A user with an empty home, and small models and data that are made once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest

from tests.cli.program import Program
from tests.model.conftest import colour_model, colour_pictures, with_lambda

# Nothing of this reaches a program under test: it would be the user's, not the test's.
_OURS = ("EDGEKIT_", "_EDGEKIT_", "XDG_", "SSH_", "TF_", "KMP_", "PYTEST_")


def environment(home: Path) -> dict[str, str]:
    """That of a user who lives in `home`; wheels are fetched once a machine, not once a run, and nothing is converted
    but by the test itself.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    cache = os.environ.get("EDGEKIT_CACHE") or str(platformdirs.user_cache_path("edgekit"))
    own = {"HOME": str(home), "EDGEKIT_CACHE": cache, "EDGEKIT_NO_CACHE": "1"}
    return {**kept, **own, "COLUMNS": "100", "CUDA_VISIBLE_DEVICES": "-1"}


@pytest.fixture
def edgekit(tmp_path: Path) -> Program:
    """`edgekit` in an empty folder, of a user with an empty home."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    return Program(tmp_path / "work", environment(tmp_path / "home"))


@dataclass(frozen=True)
class Material:
    """Models and data: see `material`."""

    keras: Path
    code: Path
    saved_model: Path
    unsigned: Path
    strings: Path
    sine: Path
    pictures: Path
    vectors: Path


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A Keras model of pictures, one with a Lambda layer, SavedModels, 60 labelled pictures, 30 vectors of 4."""
    import keras
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("material")
    keras.utils.set_random_seed(7)
    colour_model().save(folder / "colours.keras")
    with_lambda().save(folder / "lambda.keras")
    colour_model().export(folder / "saved_colours", verbose=False)
    np.save(folder / "vectors.npy", np.random.default_rng(3).normal(size=(30, 4)).astype(np.float32))

    def save(name: str, function: Any, *, signed: bool = True) -> Path:
        module = tf.Module()
        traced = tf.function(lambda x: {"y": function(x)}).get_concrete_function(tf.TensorSpec([None, 4], name="x"))
        tf.saved_model.save(module, str(folder / name), signatures={"serving_default": traced} if signed else None)
        return folder / name

    def length(x: Any) -> Any:
        return x * tf.cast(tf.strings.length(tf.strings.as_string(x)), tf.float32)

    return Material(
        keras=folder / "colours.keras",
        code=folder / "lambda.keras",
        saved_model=folder / "saved_colours",
        unsigned=save("unsigned", lambda x: x * 2, signed=False),
        strings=save("strings", length),
        sine=save("sine", lambda x: tf.math.sin(x) * 2.0),
        pictures=colour_pictures(folder / "pictures", 20, seed=1),
        vectors=folder / "vectors.npy",
    )


@dataclass(frozen=True)
class Made:
    """What `edgekit convert` made for this computer: the `.tflite`, the float model, a bundle, the program's user."""

    folder: Path
    int8: Path
    float: Path
    bundle: Path


@pytest.fixture(scope="session")
def made(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The picture model, converted and bundled for `host` by the commands themselves."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("made")
    program = Program(folder, environment(home))
    data: list[str | Path] = ["-p", "host", "-c", material.pictures, "--range", "-1..1", "--samples", "40"]
    program("convert", material.keras, *data, "-o", "colours.tflite")
    program("bundle", "colours.tflite", "-p", "host", "-o", "colours.ekb")
    return Made(folder, folder / "colours.tflite", folder / "colours.edgekit" / "float.tflite", folder / "colours.ekb")
