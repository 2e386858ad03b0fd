"""How pictures become inputs is declared once, and never guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime.manifest import TensorSpec
from edgekit_runtime.preprocess import to_real

from edgekit.datasets import declaration
from edgekit.datasets.declaration import Declaration, declare, merge
from edgekit.errors import UserError

RGB = (TensorSpec("picture", (-1, 24, 32, 3), "float32"),)
GRAY = (TensorSpec("picture", (-1, 24, 32), "float32"),)
OPEN = (TensorSpec("picture", (-1, -1, -1, 3), "float32"),)
ENDS = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)


@pytest.mark.parametrize(("name", "low", "high"), [("-1..1", -1, 1), ("0..1", 0, 1), ("0..255", 0, 255)])
def test_a_range_is_what_black_and_white_become(name: str, low: float, high: float) -> None:
    spec = declaration.preprocess(declare(range=name), RGB, pictures=True)
    assert spec is not None
    assert (spec.width, spec.height, spec.color) == (32, 24, "RGB")
    np.testing.assert_allclose(to_real(ENDS, spec), [[low] * 3, [high] * 3], atol=1e-6)


def test_mean_and_std_are_per_channel_in_pixel_units() -> None:
    declared = declare(mean=[123.675, 116.28, 103.53], std=[58.4, 57.12, 57.38])
    spec = declaration.preprocess(declared, RGB, pictures=True)
    assert spec is not None
    np.testing.assert_allclose(to_real(ENDS, spec)[1, 0], (255 - 123.675) / 58.4, rtol=1e-6)


def test_one_mean_holds_for_every_channel() -> None:
    spec = declaration.preprocess(declare(mean=[127.5], std=[127.5]), RGB, pictures=True)
    assert spec is not None
    assert spec.mean == (127.5, 127.5, 127.5)


def test_grey_pictures_fit_an_input_without_channels() -> None:
    spec = declaration.preprocess(declare(range="0..1"), GRAY, pictures=True)
    assert spec is not None
    assert (spec.color, spec.height, spec.width) == ("GRAY", 24, 32)


def test_a_size_is_declared_where_the_model_leaves_it_open() -> None:
    with pytest.raises(UserError, match="no fixed size"):
        declaration.preprocess(declare(range="0..1"), OPEN, pictures=True)
    spec = declaration.preprocess(declare(range="0..1", width=64, height=48), OPEN, pictures=True)
    assert spec is not None
    assert (spec.width, spec.height) == (64, 48)


def test_without_pictures_there_is_nothing_to_declare() -> None:
    assert declaration.preprocess(Declaration(), RGB, pictures=False) is None


@pytest.mark.parametrize(
    ("declared", "inputs", "says"),
    [
        (declare(), RGB, "the value range that the model was trained on is not declared"),
        (declare(range="0..1", width=31), RGB, "declared size 31x24, but the model's input is 32x24"),
        (declare(range="0..1", color="GRAY"), RGB, "color GRAY has 1 channels, the model's input has 3"),
        (declare(range="0..1"), (*RGB, *RGB), "pictures need a model with one input"),
        (declare(range="0..1"), (TensorSpec("x", (-1, 8), "float32"),), "pictures need a model with one input"),
        (declare(range="0..1", pad=256), RGB, "pad 256 is not a pixel value"),
        (declare(mean=[1.0, 2.0], std=[1.0, 2.0]), RGB, "mean and std need 3 values"),
    ],
)
def test_what_does_not_fit_is_refused(declared: Declaration, inputs: tuple[TensorSpec, ...], says: str) -> None:
    with pytest.raises(UserError) as caught:
        declaration.preprocess(declared, inputs, pictures=True)
    assert says in caught.value.message


class TestFile:
    def test_a_label_map_gives_the_labels_by_their_ids(self, tmp_path: Path) -> None:
        """With gaps, as COCO's has them, and without the background."""
        path = tmp_path / "label_map.pbtxt"
        path.write_text(
            'item { id: 0 name: "background" }\nitem {\n  name: "/m/01g317"\n  id: 1\n  display_name: "person"\n}\n'
            "item {\n  id: 4\n  name: 'motor cycle'\n}\nitem: { id: 2, name: 'bicycle' }\n"
        )
        assert declaration.read_labels(path) == ("person", "bicycle", "class 3", "motor cycle")
        path.write_text("nothing here")
        with pytest.raises(UserError, match="holds no label"):
            declaration.read_labels(path)

    def test_labels_may_stand_in_a_file_beside_it(self, tmp_path: Path) -> None:
        (tmp_path / "names.txt").write_text("cat\ndog\n\n")
        (tmp_path / "model.toml").write_text('name = "pets"\nlabels = "names.txt"\nmean = 127.5\nstd = 127.5\n')
        declared = declaration.load(tmp_path / "model.toml")
        assert declared == Declaration(name="pets", labels=("cat", "dog"), mean=(127.5,), std=(127.5,))

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('rage = "0..1"', "unknown key 'rage'"),
            ('range = "0-1"', "range '0-1' is not one of -1..1, 0..1, 0..255"),
            ('range = "0..1"\nmean = 1\nstd = 1', "range and mean/std exclude each other"),
            ("mean = 127.5", "mean and std belong together"),
            ("mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]", "multiply values of a 0..1 scale by 255"),
            ('task = "segmenting"', "task 'segmenting' is not one of"),
            ('labels = "nowhere.txt"', "cannot read the labels"),
            ("width = 1.5", "expected a whole number"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, text: str, says: str) -> None:
        path = tmp_path / "model.toml"
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            declaration.load(path)
        assert says in caught.value.message


class TestMerge:
    def test_the_command_line_wins_key_by_key(self) -> None:
        both = merge(declare(name="a", color="BGR", range="0..1"), declare(name="b", resize="crop"))
        assert both == declare(name="b", color="BGR", range="0..1", resize="crop")

    def test_a_range_replaces_mean_and_std_and_the_reverse(self) -> None:
        scaled, ranged = declare(mean=[1.0], std=[2.0]), declare(range="0..1")
        assert merge(scaled, ranged) == ranged
        assert merge(ranged, scaled) == scaled
