"""check: a release that answers as on the host passes, one that does not is rejected with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime import check, distance
from edgekit_runtime.check import ReleaseRejected
from edgekit_runtime.errors import InputError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

VECTORS = arrays.arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32))


def test_on_the_host_that_made_it_a_release_is_as_far_as_the_manifest_says(release: Path) -> None:
    found = check.check(release)
    (output,) = found.outputs
    assert output.board == output.host
    assert output.passed
    assert output.max_steps is not None
    assert found.golden == 6
    assert found.top1_agreement == 1.0


def test_a_model_that_answers_something_else_is_rejected(make_release: Callable[..., Path]) -> None:
    wrong = np.tile(np.array([[0, 0, 0, 1], [1, 0, 0, 0]], np.float32), (3, 1))
    with pytest.raises(ReleaseRejected, match="much further from the float model here") as caught:
        check.check(make_release(outputs=wrong))
    assert caught.value.exit_code == 1
    assert caught.value.fields["cosine"] < 0.95


def test_without_golden_samples_it_is_loaded_and_run(make_release: Callable[..., Path]) -> None:
    found = check.check(make_release(golden=False))
    assert (found.golden, found.outputs, found.top1_agreement) == (0, (), None)


def test_golden_outputs_of_another_shape_are_an_input_error(make_release: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"shape \[6, 4\], its reference \[6, 5\]"):
        check.check(make_release(outputs=np.zeros((6, 5), np.float32)))


class TestDistance:
    @given(VECTORS)
    def test_of_a_thing_to_itself_is_nothing(self, values: np.ndarray) -> None:
        found = distance.measure("x", values, values)
        assert (found.max_abs, found.mean_abs, found.sqnr_db) == (0, 0, None)
        assert found.cosine == pytest.approx(1)

    @given(VECTORS, VECTORS)
    def test_is_within_its_bounds(self, one: np.ndarray, other: np.ndarray) -> None:
        found = distance.measure("x", one, other)
        assert 0 <= found.mean_abs <= found.max_abs
        assert -1 <= found.cosine <= 1

    def test_is_what_the_formulas_say(self) -> None:
        found = distance.measure("x", [[1.0, 2.0]], [[1.0, 4.0]])
        assert (found.max_abs, found.mean_abs) == (2, 1)
        assert found.cosine == pytest.approx(9 / np.sqrt(5 * 17))
        assert found.sqnr_db == pytest.approx(10 * np.log10(17 / 4))
        assert distance.measure("x", [[0.0]], [[0.0]]).cosine == 1
        assert distance.measure("x", [[1.0]], [[0.0]]).cosine == 0

    def test_refuses_what_is_not_finite(self) -> None:
        with pytest.raises(InputError, match="not finite"):
            distance.measure("x", [[np.inf]], [[1.0]])
