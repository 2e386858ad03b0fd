"""A classifier that decodes, resizes and scales its pictures itself: that is cut off and declared; its answers stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime.engine import Engine

from edgekit.conversion import convert
from edgekit.conversion.opening import open_source
from edgekit.conversion.record import Conversion, Files
from edgekit.datasets.declaration import declare
from edgekit.errors import UserError
from edgekit.models import flatbuffer
from edgekit.models.inspection import inspect
from edgekit.models.source import recognise
from edgekit.profiles.profile import DeviceProfile
from edgekit.validation.validate import validate_conversion
from tests.model.conftest import colour_model

SIZE = 16
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def serving(folder: Path, prepare: Callable[[Any], Any], given: Any) -> Path:
    """A SavedModel of TensorFlow 2 that prepares each picture in a map_fn, as serving exports do."""
    import tensorflow as tf

    network = colour_model()
    pixels = tf.TensorSpec([SIZE, SIZE, 3], tf.float32)

    def serve(pictures: Any) -> Any:
        ready = tf.map_fn(prepare, pictures, fn_output_signature=pixels)
        return {"colour": network(ready)}

    module = tf.Module()
    module.network = network
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec(given.shape, given.dtype, "pictures")])
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


def decoded(file: Any) -> Any:
    """As serving exports of classifiers do: decode, resize, -1..1."""
    import tensorflow as tf

    return resized(tf.io.decode_image(file, channels=3, expand_animations=False))


def resized(pixels: Any) -> Any:
    import tensorflow as tf

    small = tf.image.resize(tf.cast(pixels, tf.float32), [SIZE, SIZE])
    return tf.ensure_shape(small / 127.5 - 1.0, [SIZE, SIZE, 3])


def by_channel(pixels: Any) -> Any:
    import tensorflow as tf

    small = tf.image.resize(tf.cast(pixels, tf.float32), [SIZE, SIZE])
    return tf.ensure_shape((small - MEAN) / STD, [SIZE, SIZE, 3])


@pytest.fixture(scope="module")
def of_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow as tf

    return serving(tmp_path_factory.mktemp("files") / "files", decoded, tf.TensorSpec([None], tf.string))


@pytest.fixture(scope="module")
def made(
    of_files: Path, pictures: Path, board: DeviceProfile, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Conversion]:
    output = tmp_path_factory.mktemp("made") / "m.tflite"
    return output, convert.convert(
        of_files, profile=board, data=pictures, output=output, samples=30, log=output.with_suffix(".log")
    )


def test_what_it_does_to_a_picture_is_declared(made: tuple[Path, Conversion]) -> None:
    _, record = made
    assert record.preprocess is not None
    assert (record.preprocess.width, record.preprocess.height, record.preprocess.color) == (SIZE, SIZE, "RGB")
    assert record.preprocess.filter == "linear"
    assert record.preprocess.mean == record.preprocess.std == (127.5, 127.5, 127.5)
    (note,) = [note for note in record.notes if note.startswith("cut off")]
    assert note == (
        "cut off and declared instead: a file is decoded, resized to 16x16 (stretch, filter 'linear') and scaled, "
        "(pixel - 127.5) / 127.5 of RGB"
    )
    assert [spec.shape for spec in record.inputs] == [(-1, SIZE, SIZE, 3)]
    (note,) = [note for note in record.notes if note.startswith("of 16 whole pictures")]
    assert float(note.split("cosine of ")[1].split()[0]) > 0.999
    assert note.endswith("with the original's, and the same best class in 16")


def test_it_answers_as_the_original(made: tuple[Path, Conversion], of_files: Path, pictures: Path) -> None:
    import tensorflow as tf

    path, record = made
    signature = tf.saved_model.load(str(of_files)).signatures["serving_default"]
    files = sorted(pictures.rglob("*.png"))[::6]
    wanted = signature(pictures=tf.constant([file.read_bytes() for file in files]))["colour"].numpy()
    for model, close in ((Files.of(path).float, 5e-3), (path, 0.05)):
        with Engine.load(model, preprocess=record.preprocess) as engine:
            got = engine.infer_real([_real(engine, files)])[0]
        np.testing.assert_allclose(got, wanted, atol=close)


def _real(engine: Engine, files: list[Path]) -> Any:
    from edgekit_runtime import quant

    return quant.dequantize(engine.rows(files), engine.inputs[0])


def test_inspect_says_what_will_be_cut(of_files: Path) -> None:
    found = inspect(of_files)
    assert found.convertible
    assert found.notes == (
        "it takes files of pictures: to decode, resize and scale them is cut off, and declared instead, by convert",
    )


@pytest.mark.parametrize(("prepare", "mean", "std"), [(resized, (127.5,) * 3, (127.5,) * 3), (by_channel, MEAN, STD)])
def test_a_loop_over_pixels_of_any_size(
    tmp_path: Path, prepare: Callable[[Any], Any], mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    import tensorflow as tf

    model = serving(tmp_path / "pixels", prepare, tf.TensorSpec([None, None, None, 3], tf.uint8))
    opened = open_source(model, recognise(model), tmp_path, trust_code=False)
    assert opened.picture is not None
    np.testing.assert_allclose(opened.picture.mean, mean, atol=0.01)
    np.testing.assert_allclose(opened.picture.std, std, atol=0.01)
    assert [(spec.shape, spec.dtype) for spec in opened.inputs] == [((-1, SIZE, SIZE, 3), "float32")]


@pytest.mark.parametrize(("method", "filter_"), [("bilinear", "linear"), ("area", "area")])
def test_a_loop_over_pixels_of_one_size(tmp_path: Path, method: str, filter_: str) -> None:
    """As an export of the Object Detection API with its --input_shape: a camera's size, not the network's."""
    import tensorflow as tf

    def shrunk(pixels: Any) -> Any:
        small = tf.image.resize(tf.cast(pixels, tf.float32), [SIZE, SIZE], method=method)
        return tf.ensure_shape(small[..., ::-1] / 127.5 - 1.0, [SIZE, SIZE, 3])

    model = serving(tmp_path / "pixels", shrunk, tf.TensorSpec([None, 48, 64, 3], tf.uint8))
    opened = open_source(model, recognise(model), tmp_path, trust_code=False)
    assert opened.picture is not None
    assert (opened.picture.width, opened.picture.height, opened.picture.color) == (SIZE, SIZE, "BGR")
    assert (opened.picture.resize, opened.picture.filter) == ("stretch", filter_)
    np.testing.assert_allclose(opened.picture.mean, (127.5,) * 3, atol=0.01)
    assert [(spec.shape, spec.dtype) for spec in opened.inputs] == [((-1, SIZE, SIZE, 3), "float32")]


def turned(pixels: Any) -> Any:
    return resized(pixels[:, ::-1])


def of_shares(pixels: Any) -> Any:
    """For pixels of 0 to 1."""
    import tensorflow as tf

    return tf.ensure_shape(tf.image.resize(pixels, [SIZE, SIZE]) * 2.0 - 1.0, [SIZE, SIZE, 3])


@pytest.mark.parametrize(("prepare", "cut"), [(resized, True), (by_channel, True), (of_shares, False), (turned, False)])
def test_of_real_pixels_the_scaling_tells_the_range(
    tmp_path: Path, prepare: Callable[[Any], Any], *, cut: bool
) -> None:
    """What divides by 127.5 wants 0 to 255. Other loops stay, and go over one picture of a declared size."""
    import tensorflow as tf

    model = serving(tmp_path / "real", prepare, tf.TensorSpec([None, None, None, 3], tf.float32))
    opened = open_source(model, recognise(model), tmp_path, trust_code=False)
    assert (opened.picture is not None) == cut
    assert [spec.shape for spec in opened.inputs] == [(-1, SIZE, SIZE, 3) if cut else (-1, -1, -1, 3)]


def cropped(pixels: Any) -> Any:
    """The middle square of it."""
    import tensorflow as tf

    side = tf.reduce_min(tf.shape(pixels)[:2])
    return tf.image.resize_with_crop_or_pad(pixels, side, side)


def padded(pixels: Any) -> Any:
    """As resize_with_pad, on both sides."""
    import tensorflow as tf

    return tf.image.resize_with_pad(tf.cast(pixels, tf.float32), SIZE, SIZE)


@pytest.mark.parametrize(
    ("prepare", "resize"),
    [
        (resized, "stretch"),
        (lambda pixels: resized(cropped(pixels)), "crop"),
        (lambda pixels: resized(padded(pixels)), "letterbox"),
    ],
)
@pytest.mark.parametrize("taken", [(None, None), (48, 64)])
def test_how_a_picture_of_another_shape_is_made_to_fit(
    tmp_path: Path, prepare: Callable[[Any], Any], resize: str, taken: tuple[int | None, int | None]
) -> None:
    import tensorflow as tf

    model = serving(tmp_path / "pixels", prepare, tf.TensorSpec([None, *taken, 3], tf.uint8))
    opened = open_source(model, recognise(model), tmp_path, trust_code=False)
    assert opened.picture is not None
    assert (opened.picture.resize, opened.picture.filter, opened.picture.pad) == (resize, "linear", 0)
    # TensorFlow cuts and pads whole pixels, and rounds their number down.
    assert (opened.picture.apart > 0) == (resize != "stretch" and taken == (None, None))


def averaged(pixels: Any) -> Any:
    """Turned, and the mean of so many pixels that noise does not tell."""
    import tensorflow as tf

    small = tf.image.resize(tf.cast(pixels[:, ::-1], tf.float32), [SIZE, SIZE], method="area")
    return tf.ensure_shape(small / 127.5 - 1.0, [SIZE, SIZE, 3])


@pytest.mark.parametrize(("prepare", "taken"), [(turned, (48, 64)), (averaged, (480, 640))])
def test_pixels_of_one_size_that_are_turned_are_no_picture(
    tmp_path: Path, prepare: Callable[[Any], Any], taken: tuple[int, int]
) -> None:
    """What is done to them may have a form in TFLite."""
    import tensorflow as tf

    model = serving(tmp_path / "pixels", prepare, tf.TensorSpec([None, *taken, 3], tf.uint8))
    assert open_source(model, recognise(model), tmp_path, trust_code=False).picture is None


@pytest.mark.parametrize(("method", "filter_"), [("bicubic", "linear"), ("area", "area")])
def test_the_nearest_filter_is_declared_and_that_it_is_no_other(tmp_path: Path, method: str, filter_: str) -> None:
    """By noise of a photograph's size: shrunk by little, an area looks like four pixels."""
    import tensorflow as tf

    def shrunk(pixels: Any) -> Any:
        small = tf.image.resize(tf.cast(pixels, tf.float32), [SIZE, SIZE], method=method)
        return tf.ensure_shape(small / 127.5 - 1.0, [SIZE, SIZE, 3])

    model = serving(tmp_path / "pixels", shrunk, tf.TensorSpec([None, None, None, 3], tf.uint8))
    opened = open_source(model, recognise(model), tmp_path, trust_code=False)
    assert opened.picture is not None
    assert opened.picture.filter == filter_
    (note,) = [note for note in opened.notes if note.startswith("cut off")]
    apart = f"the board does not do quite what its resize does: '{filter_}' is the nearest filter"
    assert (apart in note) == (opened.picture.apart > 0)
    assert opened.picture.apart > 0 or method == "area"


def test_pixels_of_any_size_that_are_turned_are_refused_by_that(tmp_path: Path) -> None:
    import tensorflow as tf

    given = tf.TensorSpec([None, None, None, 3], tf.uint8)
    model = serving(tmp_path / "pixels", turned, given)
    with pytest.raises(UserError, match="does more to a picture than to resize it"):
        open_source(model, recognise(model), tmp_path, trust_code=False)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda pixels: resized(pixels[: tf_size(pixels)[1]]), "makes pictures of another shape fit in a way"),
        (turned, "does more to a picture"),
        (lambda pixels: tf_image().per_image_standardization(resized(pixels)), "does more to a picture"),
    ],
)
def test_a_loop_over_files_that_does_more_is_refused(tmp_path: Path, prepare: Callable[[Any], Any], says: str) -> None:
    import tensorflow as tf

    def opened() -> None:
        def of_file(file: Any) -> Any:
            return prepare(tf.io.decode_image(file, channels=3, expand_animations=False))

        model = serving(tmp_path / "files", of_file, tf.TensorSpec([None], tf.string))
        open_source(model, recognise(model), tmp_path, trust_code=False)

    with pytest.raises(UserError, match=says) as caught:
        opened()
    assert caught.value.hint


def tf_image() -> Any:
    import tensorflow as tf

    return tf.image


def tf_size(pixels: Any) -> Any:
    import tensorflow as tf

    return tf.shape(pixels)


def test_a_jpeg_that_is_decoded_small_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    model = serving(
        tmp_path / "files", lambda file: resized(tf.io.decode_jpeg(file, 3, ratio=2)), tf.TensorSpec([None], tf.string)
    )
    with pytest.raises(UserError, match="decodes a JPEG file at 1/2 of its size"):
        open_source(model, recognise(model), tmp_path, trust_code=False)


def test_what_mean_and_std_cannot_say_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    model = serving(tmp_path / "files", lambda file: decoded(file) ** 2, tf.TensorSpec([None], tf.string))
    with pytest.raises(UserError, match="does more to a picture than to resize it and to scale its pixels") as caught:
        open_source(model, recognise(model), tmp_path, trust_code=False)
    assert caught.value.hint


def test_another_declaration_than_the_graphs_is_an_error(of_files: Path, pictures: Path, board: DeviceProfile) -> None:
    with pytest.raises(UserError, match="the declared range is not what its graph does"):
        convert.convert(
            of_files, profile=board, data=pictures, output=of_files.parent / "m.tflite",
            declaration=declare(range="0..1"), log=of_files.parent / "log",
        )  # fmt: skip


def test_text_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(
        lambda text: {"length": tf.strings.length(text)}, input_signature=[tf.TensorSpec([None], tf.string, "text")]
    )
    tf.saved_model.save(module, str(tmp_path / "text"), signatures=module.serve)
    with pytest.raises(UserError, match="tensor 'text' is string, which TFLite on a board does not take"):
        open_source(tmp_path / "text", "saved-model", tmp_path, trust_code=False)


def of_shape(folder: Path, shape: list[int]) -> Path:
    import tensorflow as tf

    module = tf.Module()
    module.network = colour_model()

    def serve(x: Any) -> Any:
        found = module.network(tf.reshape(x, [-1, SIZE, SIZE, 3]))
        return {"colour": found[0] if len(shape) == 3 else found}

    module.serve = tf.function(serve, input_signature=[tf.TensorSpec(shape, tf.float32, "x")])
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


def test_one_picture_without_a_batch(pictures: Path, board: DeviceProfile, tmp_path: Path) -> None:
    record = convert.convert(
        of_shape(tmp_path / "one", [SIZE, SIZE, 3]), profile=board, data=pictures, output=tmp_path / "m.tflite",
        declaration=declare(range="-1..1", task="classification"), log=tmp_path / "log",
    )  # fmt: skip
    assert [spec.shape for spec in record.inputs] == [(SIZE, SIZE, 3)]
    (accuracy,) = validate_conversion(tmp_path / "m.tflite", pictures).metrics
    assert accuracy.int8_value == 1.0


def test_a_fixed_batch_of_pictures_is_refused(pictures: Path, board: DeviceProfile, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the model takes 8 pictures at once, never one") as caught:
        convert.convert(
            of_shape(tmp_path / "eight", [8, SIZE, SIZE, 3]), profile=board, data=pictures,
            output=tmp_path / "m.tflite", declaration=declare(range="-1..1"), log=tmp_path / "log",
        )  # fmt: skip
    assert "None" in (caught.value.hint or "")


@pytest.mark.parametrize("mean", [None, MEAN])
def test_pictures_for_a_model_with_channels_first(
    pictures: Path, board: DeviceProfile, tmp_path: Path, mean: tuple[float, ...] | None
) -> None:
    """Its input is turned, and the converter sees that two turns are none."""
    import tensorflow as tf

    module = tf.Module()
    module.network = colour_model()
    first = tf.TensorSpec([None, 3, SIZE, SIZE], tf.float32, "x")
    module.serve = tf.function(
        lambda x: {"colour": module.network(tf.transpose(x, [0, 2, 3, 1]))}, input_signature=[first]
    )
    tf.saved_model.save(module, str(tmp_path / "first"), signatures=module.serve)
    declaration = declare(range="-1..1") if mean is None else declare(mean=mean, std=STD)
    record = convert.convert(
        tmp_path / "first", profile=board, data=pictures, output=tmp_path / "m.tflite", declaration=declaration,
        log=tmp_path / "log",
    )  # fmt: skip
    assert [spec.shape for spec in record.inputs] == [(-1, SIZE, SIZE, 3)]
    assert "its input was turned: it takes channels last, as pictures have them" in record.notes
    assert "TRANSPOSE" not in flatbuffer.read(tmp_path / "m.tflite").operators
    (accuracy,) = validate_conversion(tmp_path / "m.tflite", pictures).metrics
    assert accuracy.int8_value == (1.0 if mean is None else accuracy.float_value)


def test_arrays_for_a_model_with_channels_first_stay_as_they_are(board: DeviceProfile, tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    first = tf.TensorSpec([None, 3, 8, 8], tf.float32, "x")
    module.serve = tf.function(lambda x: {"y": tf.reduce_mean(x * 2.0, [2, 3])}, input_signature=[first])
    tf.saved_model.save(module, str(tmp_path / "first"), signatures=module.serve)
    np.save(tmp_path / "data.npy", np.random.default_rng(1).normal(0, 1, (20, 3, 8, 8)).astype(np.float32))
    record = convert.convert(
        tmp_path / "first", profile=board, data=tmp_path / "data.npy", output=tmp_path / "m.tflite",
        log=tmp_path / "log",
    )  # fmt: skip
    assert [spec.shape for spec in record.inputs] == [(-1, 3, 8, 8)]


def test_a_keras_model_that_wants_to_know_the_size(pictures: Path, board: DeviceProfile, tmp_path: Path) -> None:
    """Its pictures may have any, but a layer of it cannot be exported without."""
    import keras

    picture = keras.Input((None, None, 3))
    larger = keras.layers.UpSampling2D(2, interpolation="bilinear")(keras.layers.Conv2D(4, 3)(picture))
    keras.Model(picture, keras.layers.Conv2D(1, 1)(larger)).save(tmp_path / "any.keras")

    def made(**size: int) -> Conversion:
        return convert.convert(
            tmp_path / "any.keras", profile=board, data=pictures, output=tmp_path / "m.tflite",
            declaration=declare(range="-1..1", **size), log=tmp_path / "log",
        )  # fmt: skip

    with pytest.raises(UserError, match="Keras cannot export it") as caught:
        made()
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("declare the size of its pictures (--size)")
    assert [spec.shape for spec in made(width=24, height=16).inputs] == [(-1, 16, 24, 3)]


def test_outputs_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    """A key that is passed through, and a class's name: as serving exports have them."""
    import tensorflow as tf

    network = colour_model()
    module = tf.Module()
    module.network = network

    def serve(pictures: Any) -> Any:
        ready = tf.map_fn(decoded, pictures, fn_output_signature=tf.TensorSpec([SIZE, SIZE, 3], tf.float32))
        scores = network(ready)
        names = tf.gather(tf.constant(["blue", "green", "red"]), tf.argmax(scores, -1))
        return {"scores": scores, "key": tf.identity(pictures), "name": names}

    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None], tf.string, "pictures")])
    tf.saved_model.save(module, str(tmp_path / "keyed"), signatures=module.serve)
    opened = open_source(tmp_path / "keyed", "saved-model", tmp_path, trust_code=False)
    assert "outputs that are no numbers were left out: key, name" in opened.notes
    assert opened.part is not None
    assert list(opened.part.outputs) == ["scores"]


@pytest.mark.parametrize("decoded_channels", [1, 3])
def test_a_grey_picture(tmp_path: Path, decoded_channels: int) -> None:
    """Of one file without a batch, and of a network that takes one channel."""
    import tensorflow as tf

    kernel = tf.constant(np.random.default_rng(1).normal(0, 1, (3, 3, 1, 4)).astype(np.float32))

    def serve(picture: Any) -> Any:
        pixels = tf.io.decode_image(picture, decoded_channels, expand_animations=False)
        grey = pixels if decoded_channels == 1 else tf.image.rgb_to_grayscale(pixels)
        small = tf.image.resize(tf.cast(grey, tf.float32), [SIZE, SIZE])[None] / 255.0
        return {
            "y": tf.reduce_mean(tf.nn.conv2d(tf.ensure_shape(small, [1, SIZE, SIZE, 1]), kernel, 1, "SAME"), [1, 2])
        }

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([], tf.string, "picture")])
    tf.saved_model.save(module, str(tmp_path / "grey"), signatures=module.serve)
    opened = open_source(tmp_path / "grey", "saved-model", tmp_path, trust_code=False)
    assert opened.picture is not None
    assert (opened.picture.color, opened.picture.mean, opened.picture.std) == ("GRAY", (0.0,), (255.0,))
    assert [spec.shape for spec in opened.inputs] == [(-1, SIZE, SIZE, 1)]
