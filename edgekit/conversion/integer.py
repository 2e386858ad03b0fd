"""A float TFLite model to INT8, in the two steps that TensorFlow's converter takes behind its back.

Called one by one, so that a model is lowered once, may be a `.tflite` from elsewhere, and is calibrated once whatever
is then made of it. The functions are internal to TensorFlow, whose version is pinned, and called as in
`lite.python.lite.TFLiteConverterBase._quantize`.
"""

import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgekit.conversion.observer import Observer

Samples = Callable[[], Iterator[list[Any]]]


@dataclass(frozen=True)
class Calibrated:
    """A float model with each tensor's least and largest value over the samples written into it.

    `ranges` are those of what operators make for each of the first samples, [samples, tensors, 2], where they
    were seen one by one.
    """

    content: bytes
    ranges: NDArray[Any] | None


def calibrate(float_model: bytes, samples: Samples) -> Calibrated:
    """See what values a float model's tensors have.

    A sample is the arrays in the order of the model's inputs, each with its batch: of names TensorFlow would take the
    order of the tensors for that of the inputs. Raises what TensorFlow and the samples raise.
    """
    given = samples()
    first = next(given)
    every = itertools.chain([first], given)
    observer = Observer.of(float_model, first)
    if observer is not None:
        for sample in every:
            observer.add(sample)
        return Calibrated(observer.calibrated(), observer.first())
    from tensorflow.lite.python.optimize import calibrator

    content = calibrator.Calibrator(calibrator.add_intermediate_tensors(float_model)).calibrate(lambda: every)
    return Calibrated(content, None)


def quantize(
    calibrated: bytes,
    *,
    input_dtype: str,
    output_dtype: str,
    dense_per_channel: bool,
    float_operators: Collection[str] = (),
    float_nodes: Collection[str] = (),
) -> bytes:
    """INT8 wherever an operator has an INT8 form, but for operators of these names and those that make these tensors.

    Raises what TensorFlow raises.
    """
    import tensorflow as tf
    from tensorflow.lite.python import convert

    content = convert.mlir_quantize(
        calibrated,
        input_data_type=tf.dtypes.as_dtype(input_dtype),
        output_data_type=tf.dtypes.as_dtype(output_dtype),
        disable_per_channel_for_dense_layers=not dense_per_channel,
        denylisted_ops=set(float_operators) or None,
        denylisted_nodes=set(float_nodes) or None,
    )
    return bytes(convert.deduplicate_readonly_buffers(content))


def int16x8(calibrated: bytes) -> bytes:
    """Activations in 16 bits, weights in 8; float at both ends and where there is no such form.

    As `Calibrator.calibrate_and_quantize` of TensorFlow, without its own calibration: what no samples were fed to
    keeps the ranges that are written in it. Raises what TensorFlow raises.
    """
    import numpy as np
    from tensorflow.lite.python import convert
    from tensorflow.lite.python.optimize import calibrator

    ends, activations, biases = (np.dtype(name).num for name in ("float32", "int16", "int64"))
    quantizer = calibrator.Calibrator(calibrated)._calibrator
    content = quantizer.QuantizeModel(ends, ends, True, activations, biases, False, False)
    return bytes(convert.deduplicate_readonly_buffers(content))
