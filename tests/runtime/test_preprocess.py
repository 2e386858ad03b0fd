"""Preprocessing: any picture, the right pixels, the same everywhere; and the shortcut to the input tensor."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime import environment, picture, preprocess, quant, resize
from edgekit_runtime.errors import InputError
from edgekit_runtime.manifest import Preprocess, TensorSpec
from edgekit_runtime.picture import ImageError
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

PIXELS = st.lists(st.integers(0, 255), min_size=12, max_size=12)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@st.composite
def normalisations(draw: st.DrawFn) -> Preprocess:
    means = st.one_of(st.sampled_from([0.0, 127.5, 128.0, 123.675]), st.floats(-300, 300, width=32))
    stds = st.one_of(
        st.sampled_from([1.0, 127.5, 255.0, -1.0]),
        st.floats(2**-10, 300, width=32),
        st.floats(-300, -(2**-10), width=32),
    )
    return Preprocess(2, 2, mean=tuple(draw(means) for _ in range(3)), std=tuple(draw(stds) for _ in range(3)))


@st.composite
def tensors(draw: st.DrawFn) -> TensorSpec:
    dtype = draw(st.sampled_from(["int8", "uint8", "float32"]))
    if dtype == "float32":
        return TensorSpec("image", (-1, 2, 2, 3), dtype)
    scale = draw(st.one_of(st.sampled_from([1.0, 1 / 127.5, 1 / 255, 1 / 128]), st.floats(2**-10, 10, width=32)))
    return TensorSpec("image", (-1, 2, 2, 3), dtype, float(np.float32(scale)), draw(st.integers(-128, 127)) % 256)


class TestFold:
    @given(normalisations(), tensors(), PIXELS)
    def test_equals_normalising_and_quantising_bit_for_bit(
        self, spec: Preprocess, tensor: TensorSpec, values: list[int]
    ) -> None:
        pixels = np.array(values, np.uint8).reshape(2, 2, 3)
        folded = preprocess.folded(spec, tensor).apply(pixels)
        plain = quant.quantize(preprocess.to_real(pixels, spec), tensor)
        assert folded.dtype == plain.dtype == tensor.dtype
        assert folded.tobytes() == plain.tobytes()

    @pytest.mark.parametrize(
        ("mean", "std", "dtype", "scale", "zero_point", "kind"),
        [
            (0.0, 1.0, "uint8", 1.0, 0, quant.COPY),
            (0.0, 255.0, "uint8", 1 / 255, 0, quant.COPY),
            (128.0, 128.0, "uint8", 1 / 128, 128, quant.COPY),
            (0.0, 1.0, "int8", 1.0, -128, quant.SIGN_FLIP),
            (0.0, 255.0, "int8", 1 / 255, -128, quant.SIGN_FLIP),
            (127.5, 127.5, "uint8", 2 / 255, 127, quant.COPY),
            (127.5, 127.5, "uint8", 2 / 255, 128, quant.TABLE),
            (127.5, 127.5, "int8", 2 / 255, -1, quant.SIGN_FLIP),
            (0.0, 1.0, "int8", 2.0, -128, quant.TABLE),
        ],
    )
    def test_takes_the_shortest_way(
        self, mean: float, std: float, dtype: str, scale: float, zero_point: int, kind: str
    ) -> None:
        spec = Preprocess(2, 2, mean=(mean,) * 3, std=(std,) * 3)
        tensor = TensorSpec("image", (-1, 2, 2, 3), dtype, float(np.float32(scale)), zero_point)
        assert preprocess.folded(spec, tensor).kind == kind

    def test_copy_makes_no_copy(self) -> None:
        pixels = noise(2, 2, 3)
        fold = preprocess.folded(Preprocess(2, 2), TensorSpec("image", (-1, 2, 2, 3), "uint8", 1.0, 0))
        assert fold.apply(pixels) is pixels


class TestFrames:
    def test_a_frame_of_the_right_size_is_taken_as_it_is(self) -> None:
        frame = noise(4, 6, 3)
        assert preprocess.load_pixels(frame, Preprocess(6, 4)).tobytes() == frame.tobytes()

    def test_and_needs_no_pillow(self) -> None:
        program = (
            "import sys, numpy as np; sys.modules['PIL'] = None\n"
            "sys.modules['cv2'] = None\n"
            "from edgekit_runtime import preprocess as p; from edgekit_runtime.manifest import Preprocess as P\n"
            "from edgekit_runtime.errors import InputError\n"
            "f = np.zeros((5, 4, 3), np.uint8)\n"
            "print(p.load_pixels(f, P(4, 5)).shape, p.load_pixels(f, P(4, 4, resize='crop')).shape,"
            " p.load_pixels(f, P(4, 5, 'GRAY', (0.,), (1.,))).shape)\n"
            "print(p.load_pixels(f, P(2, 3, filter='linear')).shape)\n"
            "try: p.load_pixels(f, P(2, 2))\n"
            "except InputError as error: print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [
            "(5, 4, 3) (4, 4, 3) (5, 4, 1)",
            "(3, 2, 3)",
            "Pillow is needed to resize a picture",
        ]

    def test_colour_order(self) -> None:
        frame = noise(3, 3, 3)
        bgr = Preprocess(3, 3, "BGR")
        assert np.array_equal(preprocess.load_pixels(frame, bgr), frame[..., ::-1])
        assert np.array_equal(preprocess.load_pixels(frame, bgr, format="BGR"), frame)
        assert np.array_equal(preprocess.load_pixels(frame, Preprocess(3, 3), format="BGR"), frame[..., ::-1])

    def test_grey_is_pillows_grey(self) -> None:
        frame = noise(16, 16, 3)
        grey = preprocess.load_pixels(frame, Preprocess(16, 16, "GRAY", (0.0,), (1.0,)))
        assert np.array_equal(grey[..., 0], np.asarray(Image.fromarray(frame).convert("L")))

    def test_grey_frames_fill_three_channels_and_alpha_is_dropped(self) -> None:
        grey, rgba = noise(3, 3), noise(3, 3, 4)
        assert np.array_equal(preprocess.load_pixels(grey, Preprocess(3, 3)), np.repeat(grey[..., None], 3, 2))
        assert np.array_equal(preprocess.load_pixels(rgba, Preprocess(3, 3)), rgba[..., :3])

    def test_frames_with_strides_are_frames(self) -> None:
        wide = noise(4, 12, 3)
        assert np.array_equal(preprocess.load_pixels(wide[:, ::2], Preprocess(6, 4)), wide[:, ::2])
        assert np.array_equal(
            preprocess.load_pixels(wide[:, ::2], Preprocess(3, 2)),
            preprocess.load_pixels(wide[:, ::2].copy(), Preprocess(3, 2)),
        )

    @pytest.mark.parametrize(
        "frame",
        [
            np.zeros((4, 4, 3), np.float32),
            np.zeros((4, 4, 3), np.int8),
            np.zeros((4, 4, 2), np.uint8),
            np.zeros((4,), np.uint8),
            np.zeros((1, 4, 4, 3), np.uint8),
            np.zeros((0, 4, 3), np.uint8),
        ],
    )
    def test_what_is_no_frame_is_refused_with_what_it_is(self, frame: np.ndarray) -> None:
        with pytest.raises(InputError, match=str(frame.dtype)):
            preprocess.load_pixels(frame, Preprocess(4, 4))


class TestResize:
    @pytest.mark.parametrize("kind", ["nearest", "bilinear", "bicubic", "area"])
    def test_stretch_is_pillows_resize(self, kind: str) -> None:
        frame = noise(20, 30, 3)
        name = {"area": "BOX"}.get(kind, kind.upper())
        wanted = Image.fromarray(frame).resize((7, 9), getattr(Image.Resampling, name))
        got = preprocess.load_pixels(frame, Preprocess(7, 9, filter=kind))
        assert np.array_equal(got, np.asarray(wanted))

    @example(31, 3, 15, 1)
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
    def test_any_size_comes_out_as_declared(self, width: int, height: int, to_width: int, to_height: int) -> None:
        frame = np.full((height, width, 3), 200, np.uint8)
        for rule in ("stretch", "letterbox", "crop"):
            got = preprocess.load_pixels(frame, Preprocess(to_width, to_height, resize=rule, pad=7))
            assert got.shape == (to_height, to_width, 3)
            assert set(np.unique(got)) <= ({7, 200} if rule == "letterbox" else {200})

    def test_letterbox_keeps_the_aspect_and_centres(self) -> None:
        got = preprocess.load_pixels(np.full((10, 20, 3), 90, np.uint8), Preprocess(8, 8, resize="letterbox", pad=3))
        assert (got[2:6] == 90).all()
        assert (got[:2] == 3).all()
        assert (got[6:] == 3).all()

    def test_crop_takes_the_centre(self) -> None:
        frame = noise(4, 10, 3)
        assert np.array_equal(preprocess.load_pixels(frame, Preprocess(4, 4, resize="crop")), frame[:, 3:7])
        halves = np.zeros((8, 24, 3), np.uint8)
        halves[:, 8:16] = 255
        assert (preprocess.load_pixels(halves, Preprocess(4, 4, resize="crop", filter="area")) == 255).all()


class TestFiles:
    def test_a_file_its_bytes_and_its_frame_give_the_same_pixels(self, tmp_path: Path) -> None:
        frame = noise(20, 30, 3)
        content = encoded(Image.fromarray(frame), "PNG")
        path = tmp_path / "picture of a café.png"
        path.write_bytes(content)
        for spec in (
            Preprocess(8, 8),
            Preprocess(9, 5, "BGR", resize="crop"),
            Preprocess(4, 4, "GRAY", (0.0,), (1.0,)),
        ):
            wanted = preprocess.load_pixels(frame, spec)
            for source in (path, str(path), content):
                assert np.array_equal(preprocess.load_pixels(source, spec), wanted)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, orientation: int) -> None:
        image = Image.fromarray(noise(12, 20, 3))
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(image, "PNG", exif=exif)
        wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        assert np.array_equal(picture.decode(content), np.asarray(wanted))
        assert picture.decode(content).shape[:2] == ((20, 12) if orientation > 4 else (12, 20))

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
    def test_a_files_size_is_that_of_the_upright_picture(self, form: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(noise(12, 20, 3)), form, exif=exif)
        assert picture.size(content) == picture.decode(content).shape[:2]

    @pytest.mark.parametrize("size", [(640, 481), (500, 375), (427, 640), (612, 612)])
    @pytest.mark.parametrize("side", [32, 96, 224])
    @pytest.mark.parametrize("rule", ["letterbox", "crop", "stretch"])
    def test_a_jpeg_that_is_decoded_small_lies_where_the_whole_one_does(
        self, size: tuple[int, int], side: int, rule: str
    ) -> None:
        spec = Preprocess(side, side, resize=rule)
        content = encoded(Image.new("RGB", size, "white"), "JPEG")
        height, width = picture.decode(content, spec).shape[:2]
        small, whole = resize.window(width, height, spec), resize.window(*size, spec)
        assert small.place == whole.place
        assert (height, width) == size[::-1] or small.shrinks >= 1
        plain = Preprocess(side, side)
        scale = min(size[0] // side, size[1] // side)
        assert picture.decode(content, plain).shape[0] <= size[1] // min(8, 1 << (scale.bit_length() - 1)) + 1

    @pytest.mark.parametrize("most", [4095, 65535])
    def test_sixteen_bit_pgm_keeps_its_high_byte(self, most: int) -> None:
        wide = np.linspace(0, most, 64).astype(">u2").reshape(8, 8)
        content = b"P5 8 8 %d\n" % most + wide.tobytes()
        wanted = wide.astype(np.int64) * 65535 // most >> 8
        assert np.abs(picture.decode(content)[..., 0].astype(int) - wanted).max() <= 1

    def test_a_matrix_is_the_frame_that_it_holds(self) -> None:
        grey = noise(30, 40, 1)[..., 0]
        spec = Preprocess(8, 8, "GRAY", (0.0,), (1.0,))
        wanted = preprocess.load_pixels(grey, spec, format="GRAY")
        assert np.array_equal(preprocess.load_pixels(np.asmatrix(grey), spec, format="GRAY"), wanted)
        pictures = preprocess.Preprocessor(spec, [TensorSpec("x", (1, 8, 8, 1), "uint8", 1.0, 0)])
        for frame in (grey, np.asmatrix(grey)):
            assert np.array_equal(pictures.pixels(frame, "GRAY"), wanted)

    def test_sixteen_bit_grey_keeps_its_high_byte(self) -> None:
        wide = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
        content = encoded(Image.fromarray(wide), "PNG")
        assert np.array_equal(picture.decode(content)[..., 0], (wide >> 8).astype(np.uint8))

    def test_cmyk_palette_alpha_and_one_bit(self) -> None:
        red = Image.new("RGB", (4, 4), (255, 0, 0))
        cmyk = picture.decode(encoded(red.convert("CMYK"), "JPEG", quality=100))
        assert np.abs(cmyk.astype(int) - (255, 0, 0)).max() <= 4
        palette = picture.decode(encoded(red.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", transparency=0))
        assert (palette == (255, 0, 0)).all()
        assert (picture.decode(encoded(Image.new("RGBA", (2, 2), (9, 8, 7, 0)), "PNG")) == (9, 8, 7)).all()
        assert picture.decode(encoded(Image.new("LA", (2, 2), (9, 0)), "PNG")).tolist() == [[[9], [9]]] * 2
        assert (picture.decode(encoded(Image.new("1", (2, 2), 1), "PNG")) == 255).all()

    def test_of_an_animation_the_first_picture_counts(self) -> None:
        first, second = (Image.new("L", (3, 3), value) for value in (10, 200))
        content = encoded(first, "GIF", save_all=True, append_images=[second])
        assert (picture.decode(content) == 10).all()

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    def test_a_cut_file_is_an_error_that_names_it(self, kind: str, tmp_path: Path) -> None:
        content = encoded(Image.fromarray(noise(64, 64, 3)), kind)
        path = tmp_path / "cut.bin"
        for size in (0, 5, len(content) // 2):
            path.write_bytes(content[:size])
            with pytest.raises(ImageError, match=r"cut\.bin"):
                preprocess.load_pixels(path, Preprocess(8, 8))

    def test_what_is_no_picture_is_an_error(self, tmp_path: Path) -> None:
        for name, content in {"a.txt": b"hello", "b.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ImageError, match=f"{name}.*not a picture"):
                picture.decode(tmp_path / name)
        with pytest.raises(ImageError, match="does not exist"):
            picture.decode(tmp_path / "missing.png")
        os.mkfifo(tmp_path / "pipe.png")
        for no_file in (tmp_path, tmp_path / "pipe.png"):
            with pytest.raises(ImageError, match="is no file"):
                picture.decode(no_file)

    def test_a_decompression_bomb_is_refused_before_it_is_decoded(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb.png"
        # 30000 x 30000 in one bit: some 100 kB that would be 2.7 GB of RGB.
        Image.new("1", (30_000, 30_000)).save(path)
        assert path.stat().st_size < 1 << 20
        with pytest.raises(ImageError, match=r"bomb\.png"):
            picture.decode(path)
        Image.new("1", (9_500, 9_500)).save(path)
        with pytest.raises(ImageError, match="9500x9500"):
            picture.decode(path)

    def test_a_picture_for_which_there_is_no_memory_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "large.png"
        Image.new("RGB", (3000, 3000)).save(path)
        monkeypatch.setattr(environment, "available_kb", lambda: 100 * 1024)
        with pytest.raises(ImageError, match="3000x3000 pixels, and to decode them takes 102 MiB") as caught:
            picture.decode(path)
        assert caught.value.hint == "shrink the picture first"
        monkeypatch.setattr(environment, "available_kb", lambda: 110 * 1024)
        assert picture.decode(path).shape == (3000, 3000, 3)

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    def test_bytes_of_any_kind(self, kind: Any) -> None:
        content = encoded(Image.fromarray(noise(16, 16, 3)), "PNG")
        np.testing.assert_array_equal(picture.decode(kind(content)), picture.decode(content))

    @given(st.binary(max_size=200), st.integers(0, 400), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    def test_damaged_bytes_never_crash(self, junk: bytes, place: int, kind: str) -> None:
        content = bytearray(encoded(Image.fromarray(noise(16, 16, 3)), kind))
        content[place : place + len(junk)] = junk
        with contextlib.suppress(ImageError):
            assert picture.decode(bytes(content)).dtype == np.uint8

    @pytest.mark.shared
    def test_real_pictures(self, shared: Path) -> None:
        for name in ("grace_hopper.bmp", "cat_720p.jpg", "parrot.jpg"):
            pixels = preprocess.load_pixels(shared / "data/coral_images" / name, Preprocess(224, 224, resize="crop"))
            assert pixels.shape == (224, 224, 3)
            assert pixels.std() > 20
