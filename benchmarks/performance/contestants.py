"""The ways to an answer: each makes what it needs once and gives calls, one of which answers one picture.

They run in a peer's environment, so nothing is imported before it is needed. Each is written as its own documentation
shows, with nothing left in the loop that could stand before it. An answer is what tells that the work was the same:
the best class, or the number of boxes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgekit_runtime.engine import Engine

    Calls = dict[str, Callable[[], Any]]


def _interpreter(model: str, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def bare(model: str, threads: int) -> Calls:
    """Inference alone, on whatever is in the input."""
    interpreter = _interpreter(model, threads)
    return {"": interpreter.invoke}


def engine(model: str, threads: int | None, filter: str | None = None, batch: int = 1) -> Engine:
    """As a release would open it; `filter` replaces the declared one. Without `threads` as it runs once `tune` has
    measured it, for throughput.
    """
    from edgekit_runtime.engine import Engine

    if filter is None:
        return Engine.open(Path(model), num_threads=threads, max_batch_size=batch)
    with tempfile.TemporaryDirectory() as folder:
        for item in Path(model).iterdir():
            (Path(folder) / item.name).symlink_to(item.absolute())
        manifest = Path(folder) / "manifest.json"
        declared = json.loads(manifest.read_text())
        declared["preprocess"]["filter"] = filter
        manifest.unlink()
        manifest.write_text(json.dumps(declared))
        if threads is None:
            _tune(Path(folder))
            return Engine.open(Path(folder), goal="throughput")
        return Engine.open(Path(folder), num_threads=threads, max_batch_size=batch)


def _tune(release: Path) -> None:
    from edgekit_runtime import plan, tune
    from edgekit_runtime.engine import Engine

    def opened(one: plan.Plan) -> Engine:
        return Engine.open(
            release, num_threads=one.num_threads, num_interpreters=one.num_interpreters,
            max_batch_size=one.batch_size, xnnpack=one.xnnpack, goal=None,
        )  # fmt: skip

    plan.store(release, tune.tune(opened, plan.Plan(1)))


def overhead(release: str, frame: str, threads: int) -> Calls:
    """A frame of the model's size to an answer, and the bare inference of a second interpreter in the same process."""
    ours, picture = engine(release, threads), np.load(frame)
    other = _interpreter(f"{release}/model.tflite", threads)
    other.set_tensor(other.get_input_details()[0]["index"], ours.prepare(picture)[None])
    row = ours.rows([picture])
    outputs = ours.infer([row])
    return {
        " edgekit": _answering(ours, picture, "RGB"),
        " bare": other.invoke,
        " before": lambda: ours.rows([picture], out=row),
        " after": lambda: ours.detections(outputs) if ours.task == "detection" else ours.top_k(outputs[0]),
    }


def edgekit(release: str, frame: str, format: str, threads: int, filter: str) -> Calls:
    return {"": _answering(engine(release, threads, filter), np.load(frame), format)}


def scaled(release: str, frame: str, format: str, threads: int, filter: str) -> Calls:
    """What of `edgekit` goes before the inference."""
    ours, picture = engine(release, threads, filter), np.load(frame)
    row = ours.rows([picture], format=format)

    def run() -> None:
        ours.rows([picture], format=format, out=row)

    return {"": run}


def _answering(ours: Engine, picture: Any, form: str) -> Callable[[], int]:
    if ours.task == "detection":
        return lambda: len(ours.detect([picture], format=form)[0])
    return lambda: ours.classify([picture], format=form)[0][0].index


def _rgb(frame: str, form: str) -> Callable[[], Any]:
    """The frame as the peers take it: NV12 is converted by OpenCV, as their users do."""
    held = np.load(frame)
    if form == "RGB":
        return lambda: held
    import cv2

    return lambda: cv2.cvtColor(held, cv2.COLOR_YUV2RGB_NV12)


def mediapipe(model: str, frame: str, format: str, threads: int, task: str = "classification") -> Calls:
    """Its Tasks API has no setting for threads."""
    del threads
    import mediapipe as mp

    picture = _rgb(frame, format)
    answer = _mediapipe_answer(model, task)

    def run() -> Any:
        pixels = picture()
        return answer(mp.Image(image_format=mp.ImageFormat.SRGB, data=pixels))

    return {"": run}


def _mediapipe_answer(model: str, task: str) -> Callable[[Any], Any]:
    from mediapipe.tasks.python import BaseOptions, vision

    options = BaseOptions(model_asset_path=model)
    if task == "detection":
        finder = vision.ObjectDetector.create_from_options(
            vision.ObjectDetectorOptions(base_options=options, score_threshold=0.5)
        )
        return lambda image: len(finder.detect(image).detections)
    classifier = vision.ImageClassifier.create_from_options(
        vision.ImageClassifierOptions(base_options=options, max_results=5)
    )
    return lambda image: classifier.classify(image).classifications[0].categories[0].index


def task_library(model: str, frame: str, format: str, threads: int) -> Calls:
    from tflite_support.task import core, processor, vision

    picture = _rgb(frame, format)
    options = vision.ImageClassifierOptions(
        base_options=core.BaseOptions(file_name=model, num_threads=threads),
        classification_options=processor.ClassificationOptions(max_results=5),
    )
    classifier = vision.ImageClassifier.create_from_options(options)

    def answer() -> int:
        pixels = picture()  # the image does not keep what it points to
        found = classifier.classify(vision.TensorImage.create_from_array(pixels))
        return int(found.classifications[0].categories[0].index)

    return {"": answer}


def openvino(*, model: str, frame: str, format: str, threads: int, mean: float, std: float) -> Calls:
    import openvino as ov
    from PIL import Image

    picture = _rgb(frame, format)
    core = ov.Core()
    network = core.read_model(model)
    if network.input(0).partial_shape.is_dynamic:  # in the batch
        network.reshape([1, *(int(side.get_length()) for side in list(network.input(0).partial_shape)[1:])])
    compiled = core.compile_model(network, "CPU", {"INFERENCE_NUM_THREADS": threads})
    request, given = compiled.create_infer_request(), compiled.input(0)
    height, width = given.shape[1:3]
    pixels = given.element_type.to_dtype() == np.uint8

    def answer() -> int:
        small = np.asarray(Image.fromarray(picture()).resize((width, height), Image.Resampling.BILINEAR))[None]
        scores = request.infer([small if pixels else (small.astype(np.float32) - mean) / std])[0]
        return int(np.argsort(scores[0])[::-1][:5][0])

    return {"": answer}


def script(*, model: str, frame: str, format: str, threads: int, mean: float, std: float) -> Calls:
    """As label_image.py of TFLite's documentation does it."""
    from PIL import Image

    picture = _rgb(frame, format)
    answer = _script_answer(model, threads, mean, std)
    return {"": lambda: answer(Image.fromarray(picture()))}


def _script_answer(model: str, threads: int, mean: float, std: float) -> Callable[[Any], int]:
    interpreter = _interpreter(model, threads)
    given, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    height, width = given["shape"][1:3]

    def answer(image: Any) -> int:
        data: Any = np.expand_dims(image.resize((width, height)), axis=0)
        if given["dtype"] == np.float32:
            data = (np.float32(data) - mean) / std
        interpreter.set_tensor(given["index"], data)
        interpreter.invoke()
        results = np.squeeze(interpreter.get_tensor(output["index"]))
        return int(results.argsort()[-5:][::-1][0])

    return answer


# From here on a call answers picture files, all of them, one after the other.


def _each(answer: Callable[[str], int], files: list[str]) -> Calls:
    return {"": lambda: [answer(file) for file in files][-1]}


def edgekit_files(release: str, files: list[str], threads: int, filter: str) -> Calls:
    ours = engine(release, threads, filter)
    return _each(lambda file: ours.classify([file])[0][0].index, files)


def edgekit_stream(release: str, files: list[str], filter: str) -> Calls:
    ours = engine(release, None, filter)
    return {"": lambda: [result.classes[0].index for result in ours.stream(files)][-1]}


def script_files(model: str, files: list[str], threads: int, mean: float, std: float) -> Calls:
    from PIL import Image

    answer = _script_answer(model, threads, mean, std)
    return _each(lambda file: answer(Image.open(file)), files)


def mediapipe_files(model: str, files: list[str]) -> Calls:
    import mediapipe as mp

    answer = _mediapipe_answer(model, "classification")
    return _each(lambda file: answer(mp.Image.create_from_file(file)), files)


def seed(saved_model: str, files: list[str], threads: int, lean: str = "") -> Calls:
    """TensorFlow's way: read, decode, resize, /255, a SavedModel in float; with `lean` (a release) only the last of it,
    behind edgekit's preprocessing with the filter linear.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    run = tf.saved_model.load(saved_model).signatures["serving_default"]

    def usual(file: str) -> Any:
        image = tf.image.decode_jpeg(tf.io.read_file(file), channels=3)
        return tf.image.resize(image, (224, 224)) / 255.0

    def ours() -> Callable[[str], Any]:
        from edgekit_runtime.preprocess import load_pixels

        spec = engine(lean, 1, "linear").preprocess
        assert spec is not None
        return lambda file: load_pixels(file, spec).astype(np.float32) / 255.0

    prepare = ours() if lean else usual

    def answer(file: str) -> int:
        (scores,) = run(tf.expand_dims(prepare(file), 0)).values()
        return int(np.argsort(scores.numpy()[0])[::-1][:5][0])

    return _each(answer, files)
