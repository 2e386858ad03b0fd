"""Frames of every format and size: the least work, against a plain float reference, and refusals that say why."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from edgekit_runtime import frame, picture, preprocess, resize
from edgekit_runtime.errors import InputError
from edgekit_runtime.manifest import Preprocess
from edgekit_runtime.route import Route
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

PHOTO = Path(__file__).parents[3] / "shared/data/coral_images/cat_720p.jpg"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def photo() -> np.ndarray:
    """A real picture of 1280x720."""
    with Image.open(PHOTO) as image:
        return np.asarray(image.convert("RGB").resize((1280, 720), Image.Resampling.BICUBIC))


def linear(image: np.ndarray, box: tuple[float, float, float, float], width: int, height: int) -> np.ndarray:
    """The plain float reference: the four nearest pixels of (H, W, C), centres at half pixels."""
    left, top, right, bottom = box

    def axis(start: float, end: float, count: int, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = start + (np.arange(count) + 0.5) * (end - start) / count - 0.5
        low = np.floor(place)
        ends = (int(start), min(limit, int(np.ceil(end))) - 1)
        return np.clip(low, *ends).astype(int), np.clip(low + 1, *ends).astype(int), place - low

    above, below, down = axis(top, bottom, height, image.shape[0])
    before, after, across = axis(left, right, width, image.shape[1])
    real = image.astype(np.float64)
    across = across[None, :, None]
    upper = real[above][:, before] * (1 - across) + real[above][:, after] * across
    lower = real[below][:, before] * (1 - across) + real[below][:, after] * across
    down = down[:, None, None]
    mixed: np.ndarray = upper * (1 - down) + lower * down
    return mixed


def yuv(rgb: np.ndarray, form: str) -> np.ndarray:
    """A frame as a camera gives it: ITU-R BT.601, Y of 16..235, the chroma of two or four pixels averaged."""
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    y = np.rint(16 + luma * 219 / 255).astype(np.uint8)
    u, v = (128 + (side - luma) / scale * 224 / 255 for side, scale in ((blue, 1.772), (red, 1.402)))
    height, width = y.shape
    if form == "YUYV":
        half = [np.rint(plane.reshape(height, width // 2, 2).mean(2)).astype(np.uint8) for plane in (u, v)]
        return np.stack([y, np.stack(half, -1).reshape(height, width)], -1)
    half = [
        np.rint(plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3))).clip(0, 255).astype(np.uint8)
        for plane in (u, v)
    ]
    chroma = np.stack(half, -1) if form == "NV12" else np.stack(half)
    return np.concatenate([y.reshape(-1), chroma.reshape(-1)]).reshape(height * 3 // 2, width)


@st.composite
def parts(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int, int, int], int, int]:
    height, width = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    box = (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height)))
    image = noise(height, width, draw(st.sampled_from([1, 2, 3, 4])), seed=draw(st.integers(0, 9)))
    return image, box, draw(st.integers(1, 40)), draw(st.integers(1, 40))


class TestLinear:
    @given(parts())
    def test_numpy_and_opencv_give_the_same_bits(
        self, part: tuple[np.ndarray, tuple[int, int, int, int], int, int]
    ) -> None:
        image, box, width, height = part
        left, top, right, bottom = box
        rows, columns, channels = image.shape
        plane = frame.Plane(rows, columns, channels, 0, channels)
        wanted = cv2.resize(image[top:bottom, left:right], (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
        got = resize.Linear(plane, resize.Window(box, width, height))(image)
        assert np.array_equal(got, wanted.reshape(got.shape))

    @pytest.mark.parametrize("how", ["stretch", "letterbox", "crop"])
    @pytest.mark.parametrize("size", [(1280, 720), (1000, 601), (90, 50)])
    def test_is_within_a_step_of_the_float_reference(self, how: str, size: tuple[int, int]) -> None:
        image = noise(size[1], size[0], 3)
        spec = Preprocess(224, 160, resize=how, filter="linear", pad=9)
        window = resize.window(*size, spec)
        wanted = np.full((160, 224, 3), 9.0)
        part = linear(image, window.box, window.width, window.height)
        wanted[window.top : window.top + window.height, window.left : window.left + window.width] = part
        # A weight is off by up to 1/512 on each axis, over a difference of up to 255, and the result is rounded.
        assert np.abs(preprocess.load_pixels(image, spec) - wanted).max() <= 1.5

    def test_opencv_is_used_where_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image, spec = noise(99, 80, 3), Preprocess(32, 24, filter="linear")
        both = []
        for there in (True, False):
            if not there:
                monkeypatch.setattr(resize, "_opencv", lambda: None)
            way = Route(spec, frame.layout(image, "RGB"))
            assert isinstance(way.scalers[0], resize.Linear) is not there
            both.append(way.pixels(image).copy())
        assert np.array_equal(both[0], both[1])


@pytest.mark.shared
class TestFormats:
    @pytest.mark.parametrize("filter_", ["linear", "bilinear"])
    @pytest.mark.parametrize("color", ["RGB", "BGR", "GRAY"])
    def test_every_packed_format_is_the_same_picture(self, color: str, filter_: str) -> None:
        rgb = photo()
        alpha = noise(720, 1280, 1)
        frames = {
            "RGB": rgb,
            "BGR": rgb[..., ::-1],
            "RGBA": np.concatenate([rgb, alpha], 2),
            "BGRA": np.concatenate([rgb[..., ::-1], alpha], 2),
        }
        channels = 1 if color == "GRAY" else 3
        spec = Preprocess(96, 64, color, (0.0,) * channels, (1.0,) * channels, resize="crop", filter=filter_)
        wanted = preprocess.load_pixels(rgb, spec)
        for form, given_ in frames.items():
            got = preprocess.load_pixels(given_, spec, format=form)
            # OpenCV and Pillow weigh four channels as three: the same bits.
            assert np.array_equal(got, wanted), form

    @pytest.mark.parametrize(
        ("filter_", "how"), list(itertools.product(["linear", "area"], ["stretch", "crop", "letterbox"]))
    )
    @pytest.mark.parametrize("form", frame.SUBSAMPLED)
    def test_yuv_is_the_picture_that_it_was_made_from(self, form: str, filter_: str, how: str) -> None:
        rgb = photo()
        spec = Preprocess(224, 224, filter=filter_, resize=how)
        wanted = preprocess.load_pixels(rgb, spec).astype(int)
        got = preprocess.load_pixels(yuv(rgb, form), spec, format=form).astype(int)
        difference = np.abs(got - wanted)
        # The chroma has half the pixels: sharp edges of colour differ, the picture does not.
        assert difference.mean() < 2.5
        assert np.percentile(difference, 99) < 24

    @pytest.mark.parametrize("form", frame.SUBSAMPLED)
    def test_yuv_of_the_models_size_is_converted_to_the_nearest_integer(self, form: str) -> None:
        flat = np.repeat(np.repeat(noise(20, 30, 3), 2, 0), 2, 1)  # the chroma is exact
        given_ = yuv(flat, form)
        layout = frame.layout(given_, form)
        spec = Preprocess(60, 40)
        planes = [plane.view(given_) for plane in layout.planes]
        y, u, v = (
            plane.astype(np.float64)
            for plane in (
                planes[0][..., 0],
                *(
                    np.repeat(np.repeat(one, 40 // one.shape[0], 0), 60 // one.shape[1], 1)
                    for one in (
                        (planes[1][..., 0], planes[1][..., 1]) if form == "NV12" else (p[..., 0] for p in planes[1:])
                    )
                ),
            )
        )
        y = (y - 16) * 255 / 219
        u, v = (u - 128) * 255 / 224, (v - 128) * 255 / 224
        wanted = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], -1).clip(0, 255)
        assert np.abs(preprocess.load_pixels(given_, spec, format=form) - wanted).max() <= 0.51
        assert np.abs(preprocess.load_pixels(given_, spec, format=form).astype(int) - flat).max() <= 3

    def test_a_grey_model_takes_the_luma(self) -> None:
        rgb = photo()
        spec = Preprocess(96, 96, "GRAY", (0.0,), (1.0,), filter="linear")
        wanted = preprocess.load_pixels(rgb, spec).astype(int)
        for form in frame.SUBSAMPLED:
            assert np.abs(preprocess.load_pixels(yuv(rgb, form), spec, format=form) - wanted).max() <= 3

    @pytest.mark.parametrize(
        ("shape", "form"),
        [
            ((7, 6), "NV12"),
            ((9, 5), "NV12"),
            ((6, 6, 1), "NV12"),
            ((10, 6), "I420"),
            ((4, 5, 2), "YUYV"),
            ((4, 6), "YUYV"),
            ((4, 6, 3), "RGBA"),
            ((4, 6, 3), "GRAY"),
            ((4, 6, 2), "RGB"),
            ((0, 6), "NV12"),
            ((4, 6, 3), "P010"),
        ],
    )
    def test_what_cannot_be_is_refused(self, shape: tuple[int, ...], form: str) -> None:
        with pytest.raises(InputError, match=form):
            preprocess.load_pixels(np.zeros(shape, np.uint8), Preprocess(4, 4), format=form)

    def test_padded_rows_are_frames_too(self) -> None:
        wide = noise(60, 64)
        spec = Preprocess(20, 10, filter="linear")
        wanted = preprocess.load_pixels(wide[:, :48].copy(), spec, format="NV12")
        assert np.array_equal(preprocess.load_pixels(wide[:, :48], spec, format="NV12"), wanted)


@pytest.mark.shared
class TestDraft:
    @pytest.mark.parametrize("how", ["stretch", "crop", "letterbox"])
    @pytest.mark.parametrize("turned", [1, 6])
    def test_a_jpeg_is_decoded_at_the_smallest_scale_that_suffices(self, how: str, turned: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = turned
        file = io.BytesIO()
        Image.fromarray(photo()).save(file, "JPEG", quality=90, exif=exif)
        spec = Preprocess(120, 100, resize=how)
        whole, small = picture.decode(file.getvalue()), picture.decode(file.getvalue(), spec)
        height, width = whole.shape[:2]
        window = resize.window(width, height, spec)
        scale = max(factor for factor in (1, 2, 4, 8) if factor <= window.shrinks)
        assert small.shape[:2] == (-(-height // scale), -(-width // scale))
        assert picture.size(file.getvalue()) == (height, width)
        exact, got = preprocess.load_pixels(whole, spec).astype(int), preprocess.load_pixels(small, spec).astype(int)
        assert np.abs(got - exact).mean() < 3

    def test_to_grey_for_a_grey_model(self) -> None:
        file = io.BytesIO()
        Image.fromarray(photo()).save(file, "JPEG", quality=95)
        spec = Preprocess(96, 96, "GRAY", (0.0,), (1.0,))
        assert picture.decode(file.getvalue(), spec).shape[2] == 1
        wanted = preprocess.load_pixels(picture.decode(file.getvalue()), spec).astype(int)
        assert np.abs(preprocess.load_pixels(file.getvalue(), spec) - wanted).mean() < 2


class TestFindings:
    def test_name_the_work_that_the_caller_could_spare(self) -> None:
        def found(width: int, height: int, form: str = "RGB", kind: str = "linear") -> str:
            image = np.zeros((height, width, frame.PACKED[form]), np.uint8)
            return "\n".join(Route(Preprocess(224, 224, filter=kind), frame.layout(image, form)).findings())

        assert "frames arrive 1920x1080 and are shrunk 4.8x: ask the camera for 424x240" in found(1920, 1080)
        assert "'bilinear' reads every pixel of 1920x1080" in found(1920, 1080, kind="bilinear")
        assert "reads every" not in found(1920, 1080)
        assert "enlarged" in found(100, 100)
        assert "alpha is dropped: ask for RGB" in found(224, 224, "RGBA")
        assert not found(224, 224)
        assert not found(320, 240)
