"""Exports of the shared detector that are as the Object Detection API writes them: with a loop before the network.

The export in ../shared has none any more. Here each picture is cast, resized and scaled one by one, in a `while` of
TensorFlow 1 or a `map_fn` of TensorFlow 2, or decoded from its file first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

OUTPUTS = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
SCALED = "sub:0"  # the shared graph's pixels as its first convolution takes them
SIZE = 320


def looped(
    frozen: Path,
    output: Path,
    *,
    encoded: bool = False,
    resize: Callable[[Any], Any] | None = None,
    taken: tuple[int | None, int | None] = (None, None),
) -> Path:
    """A frozen graph whose input is `image_tensor` (any size, or `taken`), or `encoded_image_string_tensor`."""
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        with v1.Graph().as_default() as whole:
            if encoded:
                files = v1.placeholder(tf.string, [None], "encoded_image_string_tensor")
                pictures = tf.map_fn(lambda one: tf.io.decode_image(one, 3, expand_animations=False), files, tf.uint8)
                pictures.set_shape([None, None, None, 3])
            else:
                pictures = v1.placeholder(tf.uint8, [None, *taken, 3], "image_tensor")
            _detect(frozen, pictures, resize or _stretch)
            graph = v1.graph_util.extract_sub_graph(whole.as_graph_def(), list(OUTPUTS))
            output.write_bytes(graph.SerializeToString())
    finally:
        v1.enable_control_flow_v2()
    return output


def looped_saved_model(frozen: Path, output: Path, *, takes: str = "") -> Path:
    """A SavedModel of TensorFlow 2 with the loop in its signature, which takes pixels, "of files", "of examples" or "of
    floats" (pixels, too: the exporter's float_image_tensor)."""
    import tensorflow as tf

    pixels = tf.TensorSpec([1, None, None, 3], tf.float32 if takes == "of floats" else tf.uint8)
    pruned = tf.compat.v1.wrap_function(lambda pictures: _detect(frozen, pictures, _stretch), [pixels])

    def serve(input_tensor: Any) -> Any:
        pictures = input_tensor
        if takes == "of examples":
            parsed = tf.io.parse_example(pictures, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})
            pictures = parsed["image/encoded"]
        if takes in ("of files", "of examples"):
            spec = tf.TensorSpec([None, None, 3], tf.uint8)
            pictures = tf.map_fn(lambda one: tf.io.decode_jpeg(one, 3), pictures, fn_output_signature=spec)
            pictures = tf.ensure_shape(pictures, [1, None, None, 3])
        return dict(zip(OUTPUTS, pruned(pictures), strict=True))

    given = tf.TensorSpec([1], tf.string) if takes in ("of files", "of examples") else pixels
    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec(given.shape, given.dtype, "input_tensor")])
    module.pruned = pruned
    tf.saved_model.save(module, str(output), signatures=module.serve)
    return output


def unscaled(frozen: Path, output: Path) -> Path:
    """A graph that takes real pixels as its network wants them: somebody else has scaled them."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as whole:
        pictures = v1.placeholder(tf.float32, [1, SIZE, SIZE, 3], "pictures")
        graph = v1.GraphDef.FromString(frozen.read_bytes())
        wanted = [f"{name}:0" for name in OUTPUTS]
        for name, value in zip(
            OUTPUTS, tf.import_graph_def(graph, {SCALED: pictures}, wanted, name="first"), strict=True
        ):
            tf.identity(value, name)
        output.write_bytes(v1.graph_util.extract_sub_graph(whole.as_graph_def(), list(OUTPUTS)).SerializeToString())
    return output


def scaled_twice(frozen: Path, output: Path) -> Path:
    """A graph that does to a picture what no mean and std can say: it squares its pixels."""
    return looped(frozen, output, resize=lambda one: _stretch(one) ** 2 / 255)


def padded(frozen: Path, output: Path) -> Path:
    """A graph that keeps the aspect and pads the right or the bottom, as keep_aspect_ratio_resizer does."""
    import tensorflow as tf

    def pad(one: Any) -> Any:
        longest = tf.cast(tf.reduce_max(tf.shape(one)[:2]), tf.float32)
        size = tf.cast(tf.cast(tf.shape(one)[:2], tf.float32) * SIZE / longest, tf.int32)
        shrunk = tf.compat.v1.image.resize_bilinear(one[None], size)[0]
        return tf.ensure_shape(tf.image.pad_to_bounding_box(shrunk, 0, 0, SIZE, SIZE), [SIZE, SIZE, 3])

    return looped(frozen, output, resize=pad)


def soft(frozen: Path, output: Path) -> Path:
    """The graph with soft non-maximum suppression."""
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef.FromString(frozen.read_bytes())
    sigma = graph.node.add(name="sigma", op="Const")
    sigma.attr["dtype"].type = tf.float32.as_datatype_enum
    sigma.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(0.5, tf.float32))
    for node in graph.node:
        if node.op == "NonMaxSuppressionV5":
            node.input[5] = sigma.name
    output.write_bytes(graph.SerializeToString())
    return output


def two_stages(frozen: Path, output: Path) -> Path:
    """A graph that looks again at the regions of its boxes, as a second stage does."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as whole:
        tf.import_graph_def(v1.GraphDef.FromString(frozen.read_bytes()), name="first")
        found = {name: whole.get_tensor_by_name(f"first/{name}:0") for name in OUTPUTS}
        picture = whole.get_tensor_by_name(f"first/{SCALED}")
        regions = tf.image.crop_and_resize(picture, found["detection_boxes"][0], tf.zeros([100], tf.int32), [7, 7])
        found["detection_scores"] *= tf.nn.sigmoid(tf.reduce_mean(regions, axis=[1, 2, 3]))[None]
        for name, tensor in found.items():
            tf.identity(tensor, name=name)
        graph = v1.graph_util.extract_sub_graph(whole.as_graph_def(), list(OUTPUTS))
        output.write_bytes(graph.SerializeToString())
    return output


def _stretch(one: Any) -> Any:
    import tensorflow as tf

    return tf.ensure_shape(tf.compat.v1.image.resize_bilinear(one[None], [SIZE, SIZE])[0], [SIZE, SIZE, 3])


def _detect(frozen: Path, pictures: Any, resize: Callable[[Any], Any]) -> list[Any]:
    import tensorflow as tf

    floats = tf.cast(pictures, tf.float32)
    resized = tf.map_fn(resize, floats, fn_output_signature=tf.float32)
    scaled = tf.subtract(resized * (2.0 / 255.0), 1.0, name="scaled")
    found = tf.import_graph_def(
        tf.compat.v1.GraphDef.FromString(frozen.read_bytes()),
        input_map={SCALED: scaled},
        return_elements=[f"{name}:0" for name in OUTPUTS],
        name="network",
    )
    return [tf.identity(tensor, name=name) for name, tensor in zip(OUTPUTS, found, strict=True)]
