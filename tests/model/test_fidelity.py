"""Distances by their definitions, added up in parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.validation.fidelity import LOWEST_SQNR_DB, Fidelity

VALUES = st.floats(-100, 100, width=32).map(lambda value: round(value, 3))
PAIRS = arrays(np.float32, st.tuples(st.just(2), st.integers(1, 30)), elements=VALUES)


@given(pairs=PAIRS, cut=st.integers(0, 30))
def test_parts_give_what_the_formulas_give_on_the_whole(pairs: np.ndarray, cut: int) -> None:
    one, other = pairs.astype(np.float64)
    fidelity = Fidelity("y")
    for part in (slice(0, cut), slice(cut, None)):
        fidelity.add(pairs[0][part], pairs[1][part])
    distance = fidelity.distance()
    error = one - other
    assert distance.max_abs == pytest.approx(np.abs(error).max())
    assert distance.mean_abs == pytest.approx(np.abs(error).mean())
    if one.any() and other.any():
        assert distance.cosine == pytest.approx(one @ other / np.sqrt((one @ one) * (other @ other)), abs=1e-9)
    if not error.any():
        assert distance.sqnr_db is None
    elif one.any():
        assert distance.sqnr_db == pytest.approx(10 * math.log10((one**2).sum() / (error**2).sum()), abs=1e-6)


def test_half_a_step_of_uniform_noise_is_about_50_db_for_8_bits() -> None:
    """A full-scale uniform signal with b bits has an SQNR of 6.02 b dB."""
    signal = np.random.default_rng(0).uniform(-1, 1, 100_000)
    step = 2 / 256
    fidelity = Fidelity("y")
    fidelity.add(signal, np.round(signal / step) * step)
    assert fidelity.distance().sqnr_db == pytest.approx(6.02 * 8, abs=0.1)


def test_silence_that_is_not_silent_has_the_lowest_sqnr() -> None:
    fidelity = Fidelity("y")
    fidelity.add(np.zeros(3), np.ones(3))
    assert (fidelity.distance().sqnr_db, fidelity.distance().cosine) == (LOWEST_SQNR_DB, 0.0)
