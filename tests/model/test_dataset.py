"""Real inputs, in a fixed order; what cannot be read is named, and nothing is unpickled."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime.manifest import Preprocess, TensorSpec
from edgekit_runtime.preprocess import load_pixels, to_real
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit.datasets.dataset import Stream, open_dataset
from edgekit.errors import UserError

PICTURE = Preprocess(width=16, height=12, mean=(127.5,) * 3, std=(127.5,) * 3)
PICTURE_INPUT = (TensorSpec("picture", (-1, 12, 16, 3), "float32"),)
VECTOR_INPUT = (TensorSpec("vector", (-1, 4), "float32"),)
NAMELESS = (TensorSpec("", (-1, 4), "float32"),) * 2


def names(stream: Stream) -> list[str]:
    return [sample.name for sample in stream]


def flat(folder: Path, count: int) -> Path:
    for number in range(count):
        pixels = np.full((12, 16, 3), number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


class TestPictures:
    def test_a_sample_is_the_picture_as_the_board_will_see_it(self, pictures: Path) -> None:
        data = open_dataset(pictures)
        sample = next(data.stream(PICTURE_INPUT, PICTURE))
        content = (pictures / sample.name).read_bytes()
        assert sample.sha256 == hashlib.sha256(content).hexdigest()
        np.testing.assert_array_equal(sample.inputs[0], to_real(load_pixels(content, PICTURE), PICTURE))
        assert sample.inputs[0].dtype == np.float32

    def test_class_folders_number_the_labels_by_sorted_name(self, pictures: Path) -> None:
        data = open_dataset(pictures)
        assert data.classes == ("blue", "green", "red")
        for sample in data.stream(PICTURE_INPUT, PICTURE, count=12):
            assert sample.name.split("/")[0] == data.classes[sample.label or 0]

    def test_given_labels_number_them_instead(self, pictures: Path) -> None:
        data = open_dataset(pictures, ["red", "yellow", "green", "blue"])
        sample = next(data.stream(PICTURE_INPUT, PICTURE))
        assert sample.label == {"red": 0, "green": 2, "blue": 3}[sample.name.split("/")[0]]

    def test_a_folder_that_is_no_label_is_named(self, pictures: Path) -> None:
        with pytest.raises(UserError, match="class folders that are no label of the model: green"):
            open_dataset(pictures, ["red", "blue"])

    def test_folders_that_have_nothing_to_do_with_the_labels_are_no_classes(self, pictures: Path) -> None:
        assert open_dataset(pictures, ["cat", "dog"]).labels is None

    @pytest.mark.parametrize("values", [("2", "0"), ("red", "blue")])
    def test_a_csv_names_files_and_labels(self, tmp_path: Path, values: tuple[str, str]) -> None:
        flat(tmp_path, 3)
        (tmp_path / "labels.csv").write_text(f"file,label\n01.png,{values[0]}\n02.png,{values[1]}\n")
        for path in (tmp_path, tmp_path / "labels.csv"):
            data = open_dataset(path, ["blue", "green", "red"])
            assert (data.names, data.labels) == (("01.png", "02.png"), (2, 0))

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("name,class\nx,y\n", "expected a header with the columns file,label; got name,class"),
            ("file,label\n", "names no picture"),
            ("file,label\n../secret.png,1\n", "'../secret.png' is not a file below"),
            ("file,label\n/etc/passwd,1\n", "'/etc/passwd' is not a file below"),
            ("file,label\n01.png,violet\n", "labels that the model does not have: violet"),
        ],
    )
    def test_a_csv_with_mistakes_is_refused(self, tmp_path: Path, text: str, says: str) -> None:
        (tmp_path / "list.csv").write_text(text)
        with pytest.raises(UserError) as caught:
            open_dataset(tmp_path / "list.csv", ["blue"])
        assert says in caught.value.message

    def test_pixels_without_a_declaration_are_refused(self, pictures: Path) -> None:
        with pytest.raises(UserError, match="no preprocessing is declared"):
            open_dataset(pictures).stream(PICTURE_INPUT, None)


class TestUnreadable:
    def test_a_few_are_skipped_named_and_counted(self, tmp_path: Path) -> None:
        flat(tmp_path, 20)
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
        stream = open_dataset(tmp_path).stream(PICTURE_INPUT, PICTURE)
        assert len(names(stream)) == 20
        assert [item.name for item in stream.skipped] == ["broken.jpg"]
        assert stream.calibration().skipped == 1

    def test_another_sample_takes_the_place_of_a_skipped_one(self, tmp_path: Path) -> None:
        flat(tmp_path, 30)
        for number in range(3):
            (tmp_path / f"broken{number}.png").write_bytes(b"")
        assert len(names(open_dataset(tmp_path).stream(PICTURE_INPUT, PICTURE, count=28, skip_limit=0.2))) == 28

    def test_too_many_end_it(self, tmp_path: Path) -> None:
        flat(tmp_path, 8)
        for number in range(2):
            (tmp_path / f"broken{number}.png").write_text("not a picture")
        with pytest.raises(UserError, match=r"2 of 10 wanted samples cannot be read: broken") as caught:
            names(open_dataset(tmp_path).stream(PICTURE_INPUT, PICTURE))
        assert sorted(caught.value.fields["skipped"]) == ["broken0.png", "broken1.png"]


class TestOrder:
    def test_a_seed_gives_the_same_samples_again(self, pictures: Path) -> None:
        data = open_dataset(pictures)
        first = data.stream(PICTURE_INPUT, PICTURE, count=10, seed=4)
        again = data.stream(PICTURE_INPUT, PICTURE, count=10, seed=4)
        other = data.stream(PICTURE_INPUT, PICTURE, count=10, seed=5)
        assert names(first) == names(again) != names(other)
        assert first.calibration() == again.calibration()
        assert first.calibration().digest != other.calibration().digest

    def test_the_order_is_fixed_for_ever(self, tmp_path: Path) -> None:
        assert names(open_dataset(flat(tmp_path, 6)).stream(PICTURE_INPUT, PICTURE, seed=0)) == [
            f"{number:02d}.png"
            for number in sorted(range(6), key=lambda n: hashlib.sha256(f"0 {n:02d}.png".encode()).digest())
        ]

    @given(count=st.integers(1, 40), seed=st.integers(0, 2**32))
    def test_every_sample_comes_once(self, tmp_path_factory: pytest.TempPathFactory, count: int, seed: int) -> None:
        path = tmp_path_factory.mktemp("data") / "x.npy"
        np.save(path, np.arange(count * 4, dtype=np.float32).reshape(count, 4))
        given = [int(sample.inputs[0][0]) // 4 for sample in open_dataset(path).stream(VECTOR_INPUT, None, seed=seed)]
        assert sorted(given) == list(range(count))


class TestArrays:
    def test_floats_are_the_models_own_input(self, vectors: Path) -> None:
        sample = next(open_dataset(vectors).stream(VECTOR_INPUT, None))
        assert any(np.array_equal(sample.inputs[0], row) for row in np.load(vectors))

    def test_uint8_is_pixels_and_goes_the_way_of_pictures(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8)
        np.savez(tmp_path / "x.npz", x=pixels, y=np.arange(5))
        for sample in open_dataset(tmp_path / "x.npz").stream(PICTURE_INPUT, PICTURE):
            assert sample.label is not None
            expected = to_real(load_pixels(pixels[sample.label], PICTURE), PICTURE)
            np.testing.assert_array_equal(sample.inputs[0], expected)

    def test_several_inputs_go_by_name(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", b=np.arange(6).reshape(3, 2), a=np.ones((3, 4), np.float64))
        inputs = (TensorSpec("a", (1, 4), "float32"), TensorSpec("b", (1, 2), "int32"))
        sample = next(open_dataset(tmp_path / "x.npz").stream(inputs, None))
        assert [array.dtype for array in sample.inputs] == [np.float32, np.int32]
        assert [array.shape for array in sample.inputs] == [(4,), (2,)]

    @pytest.mark.parametrize(
        ("arrays", "inputs", "says"),
        [
            ({"x": np.zeros((3, 5), np.float32)}, VECTOR_INPUT, "expects samples of shape [4], got [5]"),
            ({"x": np.zeros((3, 4), np.int64)}, VECTOR_INPUT, "expects float32, got int64"),
            ({"x": np.zeros((3, 4), np.uint8)}, VECTOR_INPUT, "expects float32, got uint8"),
            ({"x": np.full((3, 4), np.nan, np.float32)}, VECTOR_INPUT, "holds NaN or infinity"),
            ({"x": np.zeros((0, 4), np.float32)}, VECTOR_INPUT, "holds no sample"),
            ({"x": np.array(["a", "b"])}, VECTOR_INPUT, "expected numbers"),
            ({"a": np.zeros((3, 4)), "b": np.zeros((3, 4))}, VECTOR_INPUT, "expected the arrays vector, got a, b"),
            ({"x": np.zeros((3, 4))}, NAMELESS, "the model has 2 inputs without names"),
            ({"a": np.zeros((3, 4)), "b": np.zeros((2, 4))}, VECTOR_INPUT, "different numbers of samples"),
            ({"x": np.zeros((3, 4)), "y": np.zeros(3)}, VECTOR_INPUT, "labels 'y' must be 3 whole numbers"),
            (
                {"x": np.full((3, 2), 2**40)},
                (TensorSpec("n", (1, 2), "int32"),),
                "a value of int64 does not fit into it",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, tmp_path: Path, arrays: dict[str, Any], inputs: tuple[TensorSpec, ...], says: str
    ) -> None:
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(UserError) as caught:
            names(open_dataset(tmp_path / "x.npz").stream(inputs, None))
        assert says in caught.value.message

    def test_pickles_are_never_loaded(self, tmp_path: Path) -> None:
        touched = tmp_path / "touched"

        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (touched,)

        np.save(tmp_path / "x.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
        (tmp_path / "y.npy").write_bytes(pickle.dumps(Bomb()))
        for name in ("x.npy", "y.npy"):
            with pytest.raises(UserError, match="not a readable NumPy file"):
                open_dataset(tmp_path / name)
        assert not touched.exists()

    def test_a_small_file_that_would_fill_memory_is_refused(self, tmp_path: Path) -> None:
        header = np.lib.format.header_data_from_array_1_0(np.zeros(1))
        header["shape"] = (10**12,)
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, archive.open("x.npy", "w") as member:
            np.lib.format.write_array_header_1_0(member, header)
        with pytest.raises(UserError, match="unpacks to 8000000000000 bytes"):
            open_dataset(tmp_path / "x.npz")

    def test_a_npy_is_mapped_and_not_read(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.zeros((4, 4), np.float32))
        held = open_dataset(tmp_path / "x.npy").source
        assert isinstance(getattr(held, "held", {})["x"], np.memmap)


@pytest.mark.parametrize(
    ("file", "path", "says"),
    [
        (None, "nothing", "no such file or folder"),
        (None, "", "holds no picture, it is empty"),
        ("x.txt", "", "holds no picture, only 1 other files"),
        ("x.zip", "x.zip", "not a dataset"),
        ("x.npy", "x.npy", "not a readable NumPy file"),
        ("x.npz", "x.npz", "not a readable NumPy file"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path: Path, file: str | None, path: str, says: str) -> None:
    if file is not None:
        (tmp_path / file).write_text("hello")
    with pytest.raises(UserError) as caught:
        open_dataset(tmp_path / path)
    assert says in caught.value.message
