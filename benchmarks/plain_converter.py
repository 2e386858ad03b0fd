"""What TensorFlow's documentation shows for full INT8, as a script: the other side of benchmarks/conversion.py.

https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quantization

Arguments: model, a file with one picture a line, its range as LOW..HIGH, the output.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # the .h5 files here are Keras 2's

import numpy as np
import tensorflow as tf  # noqa: TID253  # it is this script's only purpose
from PIL import Image

model, listing, limits, output = sys.argv[1:]
low, high = (float(value) for value in limits.split(".."))
if model.endswith(".h5"):
    keras_model = tf.keras.models.load_model(model, compile=False)
    converter = tf.lite.TFLiteConverter.from_keras_model(keras_model)
    height, width = keras_model.input_shape[1:3]
else:
    converter = tf.lite.TFLiteConverter.from_saved_model(model)
    (signature,) = tf.saved_model.load(model).signatures.values()
    height, width = next(iter(signature.structured_input_signature[1].values())).shape[1:3]


def representative_dataset() -> Iterator[list[Any]]:
    for path in Path(listing).read_text().splitlines():
        picture = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        yield [np.asarray(picture, np.float32)[None] * ((high - low) / 255) + low]


converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = representative_dataset
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = tf.int8
converter.inference_output_type = tf.int8
Path(output).write_bytes(converter.convert())
