"""TFRecord files: what TensorFlow and TensorFlow Serving write is read, checked, streamed; damage ends in a message."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime.manifest import Preprocess, TensorSpec
from edgekit_runtime.preprocess import load_pixels, to_real
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit.datasets import tfrecord
from edgekit.datasets.dataset import open_dataset
from edgekit.errors import UserError
from tests.model.tfrecords import example, framed, jpeg, tensor, warmup, write

PICTURE = Preprocess(width=16, height=12, mean=(127.5,) * 3, std=(127.5,) * 3)
PICTURE_INPUT = (TensorSpec("picture", (-1, 12, 16, 3), "float32"),)
TWO_INPUTS = (TensorSpec("left", (-1, 2, 2), "float32"), TensorSpec("right", (-1, 3), "int32"))
VECTOR_INPUT = (TensorSpec("vector", (-1, 4), "float32"),)


def labelled(folder: Path, count: int = 10) -> Path:
    return write(
        folder / "train.tfrecord",
        (example({"image/encoded": jpeg(seed), "image/class/label": seed % 3}) for seed in range(count)),
    )


class TestExamples:
    def test_a_picture_is_the_same_as_its_file(self, tmp_path: Path) -> None:
        data = open_dataset(labelled(tmp_path))
        assert (len(data), data.pixels, data.labelled) == (10, True, True)
        for sample in data.stream(PICTURE_INPUT, PICTURE):
            number = int(sample.name.removeprefix("train.tfrecord[").removesuffix("]"))
            assert sample.sha256 == hashlib.sha256(jpeg(number)).hexdigest()
            assert sample.label == number % 3
            np.testing.assert_array_equal(sample.inputs[0], to_real(load_pixels(jpeg(number), PICTURE), PICTURE))

    def test_the_name_that_tensorflow_s_tutorial_gives_to_a_picture(self, tmp_path: Path) -> None:
        write(tmp_path / "t.tfrecord", [example({"image_raw": jpeg(seed), "height": 8}) for seed in range(3)])
        data = open_dataset(tmp_path / "t.tfrecord")
        assert (len(data), data.pixels, data.labelled) == (3, True, False)

    def test_what_tensorflow_writes_is_read(self, tmp_path: Path) -> None:
        import tensorflow as tf

        rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
        with tf.io.TFRecordWriter(str(tmp_path / "rows.tfrecord")) as file:
            for row in rows:
                feature = {"vector": tf.train.Feature(float_list=tf.train.FloatList(value=row))}
                feature["id"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"]))
                file.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
        got = {sample.name: sample.inputs[0] for sample in open_dataset(tmp_path).stream(VECTOR_INPUT, None)}
        for number, row in enumerate(rows):
            np.testing.assert_array_equal(got[f"rows.tfrecord[{number}]"], row)

    def test_features_become_inputs_by_name_and_shape(self, tmp_path: Path) -> None:
        left, right = np.arange(4, dtype=np.float32), np.array([7, 8, 9])
        path = write(tmp_path / "two.tfrecord", [example({"right": right, "left": left, "label": 2})])
        sample = next(open_dataset(path).stream(TWO_INPUTS, None))
        np.testing.assert_array_equal(sample.inputs[0], [[0, 1], [2, 3]])
        np.testing.assert_array_equal(sample.inputs[1], right)
        assert sample.label == 2

    def test_features_that_do_not_fit_are_named(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.tfrecord", [example({"vector": np.zeros(5, np.float32)})])
        with pytest.raises(
            UserError, match=r"x.tfrecord\[0\]: input 'vector' expects samples of shape \[4\], got \[5\]"
        ):
            next(open_dataset(path).stream(VECTOR_INPUT, None))

    def test_a_folder_of_shards_is_one_dataset(self, tmp_path: Path) -> None:
        for shard in range(3):
            write(tmp_path / f"train-{shard:05d}-of-00003", [example({"image/encoded": jpeg(shard)})] * 2)
        (tmp_path / "README").write_text("three shards")
        data = open_dataset(tmp_path)
        assert data.names == tuple(f"train-{shard:05d}-of-00003[{n}]" for shard in range(3) for n in range(2))
        assert not data.labelled

    def test_the_parent_needs_no_tensorflow(self, tmp_path: Path) -> None:
        program = (
            "import sys, pathlib; from edgekit.datasets.dataset import open_dataset;"
            "open_dataset(pathlib.Path(sys.argv[1])); assert 'tensorflow' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", program, str(labelled(tmp_path))], check=True)

    def test_thousands_of_pictures_are_never_held(self, tmp_path: Path) -> None:
        out = io.BytesIO()
        Image.effect_noise((120, 120), 80).convert("RGB").save(out, "BMP")
        path = write(tmp_path / "many.tfrecord", (example({"image/encoded": out.getvalue()}) for _ in range(2000)))
        assert path.stat().st_size > 80_000_000
        stream = open_dataset(path).stream(PICTURE_INPUT, PICTURE)
        next(stream)
        before = resident_bytes()
        most = max(resident_bytes() for _ in stream)
        assert len(stream.used) == 2000
        assert most - before < 20_000_000


def resident_bytes() -> int:
    """The memory of this process that is in use now (Linux: /proc/self/statm in pages)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class TestWarmup:
    def assets(self, tmp_path: Path, records: list[bytes]) -> Path:
        (tmp_path / "assets.extra").mkdir()
        return write(tmp_path / "assets.extra/tf_serving_warmup_requests", records)

    @pytest.mark.parametrize("content", [True, False])
    def test_each_row_of_a_request_is_a_sample(self, tmp_path: Path, content: bool) -> None:
        left = np.random.default_rng(0).normal(size=(3, 2, 2)).astype(np.float32)
        right = np.arange(9, dtype=np.int32).reshape(3, 3)
        request = {"left": tensor(left, content=content), "right": tensor(right, content=content)}
        path = self.assets(tmp_path, [warmup(request), warmup(request)])
        data = open_dataset(path.parent)
        assert len(data) == 6
        for sample in data.stream(TWO_INPUTS, None):
            row = int(sample.name[-2])
            np.testing.assert_array_equal(sample.inputs[0], left[row])
            np.testing.assert_array_equal(sample.inputs[1], right[row])

    def test_one_value_fills_a_tensor(self, tmp_path: Path) -> None:
        half = tensor(np.full((2, 4), 0.5, np.float32), content=False)
        short = half[: half.index(b"\x2a\x20")] + b"\x2a\x04" + np.float32(0.5).tobytes()
        path = self.assets(tmp_path, [warmup({"x": short})])
        for sample in open_dataset(path).stream(VECTOR_INPUT, None):
            np.testing.assert_array_equal(sample.inputs[0], [0.5] * 4)

    def test_frames_and_encoded_pictures_go_the_way_of_pictures(self, tmp_path: Path) -> None:
        frames = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 3)).astype(np.uint8)
        data = open_dataset(self.assets(tmp_path, [warmup({"x": tensor(frames)})]))
        assert data.pixels
        assert {sample.inputs[0].shape for sample in data.stream(PICTURE_INPUT, PICTURE)} == {(12, 16, 3)}
        encoded = write(tmp_path / "encoded.tfrecord", [warmup({"x": tensor([jpeg(1), jpeg(2)])})])
        data = open_dataset(encoded)
        assert [sample.sha256 for sample in data.stream(PICTURE_INPUT, PICTURE)] == [
            hashlib.sha256(jpeg(int(name[-2]) + 1)).hexdigest() for name in map(data.names.__getitem__, data.order(0))
        ]

    def test_tensorflows_own_tensors_are_read(self, tmp_path: Path) -> None:
        import tensorflow as tf

        rows = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float16)
        made = tf.make_tensor_proto(rows).SerializeToString()
        path = self.assets(tmp_path, [warmup({"x": made})])
        got = [sample.inputs[0] for sample in open_dataset(path).stream(VECTOR_INPUT, None)]
        np.testing.assert_array_equal(np.sort(np.stack(got), axis=0), np.sort(rows.astype(np.float32), axis=0))


class TestDamage:
    def test_a_wrong_checksum_is_skipped_and_counted(self, tmp_path: Path) -> None:
        path = labelled(tmp_path, 20)
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
        stream = open_dataset(path).stream(PICTURE_INPUT, PICTURE)
        assert len(list(stream)) == 19
        assert [item.reason for item in stream.skipped] == ["its checksum is wrong"]

    def test_a_file_that_was_cut_names_the_record(self, tmp_path: Path) -> None:
        path = labelled(tmp_path, 4)
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(UserError, match=r"train.tfrecord: cut off in record 3"):
            open_dataset(path)

    def test_a_damaged_length_names_the_record(self, tmp_path: Path) -> None:
        first = framed(example({"image/encoded": jpeg(0)}))
        (tmp_path / "x.tfrecord").write_bytes(first + bytes((first[0] ^ 1,)) + first[1:])
        with pytest.raises(UserError, match=rf"record 1 \(at byte {len(first)}\) is damaged"):
            open_dataset(tmp_path / "x.tfrecord")

    @pytest.mark.parametrize("name", ["x.tfrecord", "x.tfrecord.gz"])
    def test_a_compressed_file_is_told_by_its_hint(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(gzip.compress(framed(b"x")))
        with pytest.raises(UserError) as caught:
            open_dataset(tmp_path / name)
        assert "gunzip" in str(caught.value.hint)

    @pytest.mark.parametrize("records", [[], [b""], [b"text that is no message"], [example({})]])
    def test_nothing_readable_is_an_error(self, tmp_path: Path, records: list[bytes]) -> None:
        with pytest.raises(UserError, match=r"x.tfrecord: (holds no record|none of its first)"):
            open_dataset(write(tmp_path / "x.tfrecord", records))

    @given(data=st.data())
    def test_any_damage_ends_in_samples_or_a_message(
        self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        kind = data.draw(st.sampled_from(("pictures", "rows", "requests")))
        content = {
            "pictures": framed(example({"image/encoded": jpeg(0, (4, 4)), "label": 1})) * 2,
            "rows": framed(example({"vector": np.arange(4, dtype=np.float32)})) * 2,
            "requests": framed(warmup({"vector": tensor(np.ones((2, 4), np.float32))})) * 2,
        }[kind]
        self.survives(data, bytearray(content), tmp_path_factory, kind)

    @given(data=st.data())
    def test_any_damage_below_a_right_checksum_does_too(
        self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        kind = data.draw(st.sampled_from(("rows", "requests")))
        good = {
            "rows": example({"vector": np.arange(4, dtype=np.float32)}),
            "requests": warmup({"vector": tensor(np.ones((2, 4), np.float32), content=data.draw(st.booleans()))}),
        }[kind]
        damaged = bytearray(good)
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
        self.survives(data, bytearray(framed(good) + framed(bytes(damaged))), tmp_path_factory, kind, change=False)

    def survives(
        self,
        data: st.DataObject,
        content: bytearray,
        factory: pytest.TempPathFactory,
        kind: str,
        *,
        change: bool = True,
    ) -> None:
        if change and data.draw(st.booleans()):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        elif change:
            del content[data.draw(st.integers(0, len(content))) :]
        path = factory.getbasetemp() / "damaged.tfrecord"
        path.write_bytes(content)
        inputs, preprocess = (PICTURE_INPUT, PICTURE) if kind == "pictures" else (VECTOR_INPUT, None)
        with contextlib.suppress(UserError):
            found = open_dataset(path)
            list(found.stream(inputs, PICTURE if found.pixels else preprocess, skip_limit=1))


@given(st.binary(max_size=3000))
def test_the_checksum_is_castagnolis(content: bytes) -> None:
    assert tfrecord.crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720's polynomial
    plain = 0xFFFFFFFF
    for byte in content:
        plain ^= byte
        for _ in range(8):
            plain = plain >> 1 ^ (0x82F63B78 if plain & 1 else 0)
    assert tfrecord.crc32c(content) == plain ^ 0xFFFFFFFF
