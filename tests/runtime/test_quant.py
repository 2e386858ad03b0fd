"""Quantisation: TFLite's specification, both ways, for any tensor."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime import quant
from edgekit_runtime.engine import Engine
from edgekit_runtime.errors import InputError
from edgekit_runtime.manifest import TensorSpec
from hypothesis import given
from hypothesis import strategies as st

DTYPES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


@st.composite
def specs(draw: st.DrawFn) -> TensorSpec:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    low, high = DTYPES[dtype]
    zero = 0 if dtype == "int16" else draw(st.integers(low, high))
    scale = draw(st.floats(2**-20, 2**10, width=32))
    return TensorSpec("t", (-1, 4), dtype, scale, zero)


@given(specs(), st.data())
def test_a_stored_value_survives_the_round_trip(spec: TensorSpec, data: st.DataObject) -> None:
    low, high = DTYPES[spec.dtype]
    stored = np.array(data.draw(st.lists(st.integers(low, high), min_size=1, max_size=20)), spec.dtype)
    assert np.array_equal(quant.quantize(quant.dequantize(stored, spec), spec), stored)


@given(specs(), st.data())
def test_a_real_value_in_range_comes_back_within_half_a_step(spec: TensorSpec, data: st.DataObject) -> None:
    assert spec.scale is not None
    assert spec.zero_point is not None
    low, high = ((limit - spec.zero_point) * spec.scale for limit in DTYPES[spec.dtype])
    reals = np.array(data.draw(st.lists(st.floats(low, high), min_size=1, max_size=20)), np.float32)
    error = np.abs(quant.dequantize(quant.quantize(reals, spec), spec).astype(np.float64) - reals)
    # Half a step, in 8 bits a 4096th more, and what float32 cannot tell apart at this size.
    assert error.max() <= spec.scale * (0.5 + 2**-12) + 2**-22 * np.abs(reals).max() + 1e-30


@given(specs(), st.floats(allow_nan=False, width=32))
def test_any_value_saturates(spec: TensorSpec, value: float) -> None:
    low, high = DTYPES[spec.dtype]
    stored = int(quant.quantize([value], spec)[0])
    assert low <= stored <= high
    if math.isinf(value):
        assert stored == (high if value > 0 else low)


def test_halves_go_up_and_in_wide_types_to_even() -> None:
    halves = [0.5, 1.5, 2.5, -0.5, -1.5]
    assert quant.quantize(halves, TensorSpec("t", (-1,), "int8", 1.0, 0)).tolist() == [1, 2, 3, 0, -1]
    assert quant.quantize(halves, TensorSpec("t", (-1,), "int16", 1.0, 0)).tolist() == [0, 2, 2, 0, -2]


def test_the_zero_point_is_subtracted_in_a_wider_type() -> None:
    spec = TensorSpec("t", (-1,), "int8", 0.5, -128)
    assert quant.dequantize(np.array([127, -128], np.int8), spec).tolist() == [127.5, 0.0]
    wide = TensorSpec("t", (-1,), "int32", 1.0, -(2**31))
    assert quant.dequantize(np.array([2**31 - 1], np.int32), wide).tolist() == [float(2**32)]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
def test_nan_has_no_integer(dtype: str) -> None:
    with pytest.raises(InputError, match="NaN"):
        quant.quantize([0.0, math.nan], TensorSpec("t", (-1,), dtype, 1.0, 0))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_wide_integers_saturate_at_their_own_limits(dtype: str) -> None:
    stored = quant.quantize([math.inf, -math.inf, 7.4], TensorSpec("t", (-1,), dtype))
    limits = np.iinfo(dtype)
    assert stored[1] == limits.min
    assert stored[0] > limits.max - 2048
    assert stored[2] == 7


def test_tensors_without_a_scale_keep_their_values() -> None:
    assert quant.quantize([1.5, -2.0], TensorSpec("t", (-1,), "float32")).tolist() == [1.5, -2.0]
    assert quant.quantize([1e9], TensorSpec("t", (-1,), "float16")).tolist() == [math.inf]
    assert quant.quantize([0.0, 0.1], TensorSpec("t", (-1,), "bool")).tolist() == [False, True]
    assert quant.dequantize(np.array([True]), TensorSpec("t", (-1,), "bool")).tolist() == [1.0]


class TestAgainstTheInterpreter:
    """TFLite's own QUANTIZE and DEQUANTIZE are the reference."""

    @given(st.lists(st.floats(-5, 5, width=32), min_size=64, max_size=64))
    def test_quantize(self, models: Path, values: list[float]) -> None:
        real = np.array(values, np.float32).reshape(1, 4, 16)
        engine = loaded(models / "quantizing.tflite")
        spec = engine.outputs[0]
        assert spec.scale is not None
        (theirs,) = engine.infer([real])
        ours = quant.quantize(real, spec).reshape(1, 64)
        # They may multiply by the reciprocal of the scale: only what lies on the edge between two steps can differ.
        place = real.reshape(1, 64).astype(np.float64) / spec.scale
        edge = np.abs(np.abs(place - np.floor(place)) - 0.5) < 3e-4
        assert np.array_equal(ours[~edge], theirs[~edge])
        assert np.abs(ours.astype(int) - theirs).max() <= 1

    def test_dequantize(self, models: Path) -> None:
        engine = loaded(models / "dequantizing.tflite")
        for start in range(-128, 128, 64):
            stored = np.arange(start, start + 64, dtype=np.int8).reshape(1, 4, 16)
            ours = quant.dequantize(stored, engine.inputs[0]).reshape(1, 64)
            assert np.array_equal(ours, engine.infer([stored])[0])


@functools.lru_cache
def loaded(model: Path) -> Engine:
    return Engine.load(model)
