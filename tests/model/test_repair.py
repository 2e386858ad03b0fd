"""A model that loses too much, or does not run, is repaired within a budget; what was tried is told."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime.engine import Engine
from hypothesis import given
from hypothesis import strategies as st

from edgekit.conversion import convert, layers, repair
from edgekit.conversion.candidate import RUNGS, Candidate
from edgekit.conversion.record import Conversion, Files
from edgekit.datasets.dataset import open_dataset
from edgekit.datasets.declaration import Declaration, declare
from edgekit.errors import CheckFailed
from edgekit.models import flatbuffer, operators, ranges
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import resolve
from tests.fixtures.make_models import as_float, classifier
from tests.speech import piano_windows

SELFIE = "models/selfie_segmentation_savedmodel/saved_model"
PIANO = "models/basic_pitch_savedmodel/saved_model"


@pytest.fixture
def attempt(board: DeviceProfile, tmp_path: Path) -> Callable[..., Conversion]:
    """Converts into an empty folder; whatever fails must leave it empty."""

    def run(model: Path, data: Path, declared: Declaration | None = None, **options: Any) -> Conversion:
        output = tmp_path / "out/m.tflite"
        output.parent.mkdir(exist_ok=True)
        options = {"profile": board, "log": tmp_path / "log", **options}
        try:
            return convert.convert(model, data=data, output=output, declaration=declared, **options)
        except CheckFailed:
            assert list(output.parent.iterdir()) == []
            raise

    return run


@pytest.fixture
def portraits(shared: Path) -> Path:
    return shared / "data/coco128_dev/images/val2017"


@pytest.mark.shared
def test_int8_is_taken_when_it_keeps_the_budget(
    attempt: Callable[..., Conversion], models: Path, pictures: Path
) -> None:
    record = attempt(models / "colours.keras", pictures, declare(range="-1..1"), max_drop=0.05)
    (only,) = record.candidates
    assert (record.kind, only.name, only.metric, only.failure) == ("int8", "int8", "top-1 accuracy", None)
    assert only.drop is not None
    assert only.drop <= 0.05
    assert only.size == record.model_size
    assert any(note.startswith("INT8 for every operator that has such a form: loses") for note in record.notes)


@pytest.mark.shared
def test_the_first_candidate_within_the_budget_is_taken(
    attempt: Callable[..., Conversion], shared: Path, portraits: Path, tmp_path: Path
) -> None:
    """Plain INT8 ruins these masks, judged by those of people; ranges without the outermost values do not."""
    masks = shared / "data/coco128_dev/semantic_segmentation/val2017"
    declared = declare(range="0..1", task="segmentation")
    record = attempt(shared / SELFIE, portraits, declared, samples=32, max_drop=0.09, truth=masks, foreground=1)
    assert {one.metric for one in record.candidates} == {"IoU"}
    assert [one.name for one in record.candidates] == list(RUNGS)[: len(record.candidates)]
    first, second = record.candidates[:2]
    assert first.drop is not None
    assert second.drop is not None
    assert first.drop > 0.09 >= second.drop
    assert (record.kind, len(record.candidates)) == ("int8-clipped", 2)
    assert flatbuffer.read(tmp_path / "out/m.tflite").size == record.model_size == second.size
    plain = json.loads(Files.of(tmp_path / "out/m.tflite").record.read_text())
    assert [one["name"] for one in plain["candidates"]] == ["int8", "int8-clipped"]
    assert (first.passed_over, second.passed_over) == ("above 9.00 %", None)


@pytest.mark.shared
def test_a_model_that_does_not_run_in_int8_is_made_to_run(
    attempt: Callable[..., Conversion], shared: Path, tmp_path: Path
) -> None:
    """basic-pitch divides by what INT8 rounds to zero: DIV is blamed, and stays in float from then on."""
    data = tmp_path / "piano.npy"
    np.save(data, piano_windows(shared / "data/speech_wavs"))
    record = attempt(shared / PIANO, data, max_drop=0.7)
    failed, *others = record.candidates
    assert failed.failure is not None
    assert "(DIV) failed to invoke" in failed.failure
    assert record.kind == others[-1].name
    assert others[-1].drop is not None
    assert others[-1].drop <= 0.7
    assert any("operators kept in float" in note and "DIV" in note for note in record.notes)
    with Engine.load(tmp_path / "out/m.tflite") as engine:
        answers = engine.infer_real([np.load(data)[:1]])
    assert all(np.isfinite(answer).all() for answer in answers)


@pytest.mark.shared
def test_a_profile_that_takes_int8_only_is_told_what_that_costs(
    attempt: Callable[..., Conversion], shared: Path, portraits: Path, board: DeviceProfile
) -> None:
    with pytest.raises(CheckFailed, match=r"no candidate loses at most 1.00%.*the profile takes INT8 only") as caught:
        attempt(
            shared / SELFIE, portraits, declare(range="0..1"), samples=32, max_drop=0.01,
            profile=replace(board, int8_only=True),
        )  # fmt: skip
    tried = caught.value.fields["candidates"]
    assert [one["name"] for one in tried] == ["int8", "int8-clipped"]
    assert all(one["drop"] > 0.01 for one in tried)
    best = min(tried, key=lambda one: one["drop"])
    drop_int8_only, more = (caught.value.hint or "").split("; or ")
    assert drop_int8_only.startswith("drop int8_only from the profile")
    allowed, name = more.removeprefix("--max-drop ").split("% takes ")
    assert name == best["name"]
    assert best["drop"] <= float(allowed) / 100 < best["drop"] + 1e-4


def test_what_the_first_samples_accept_has_to_pass_with_all_of_them(
    attempt: Callable[..., Conversion], saved: Callable[..., Path], vectors: Path, tmp_path: Path
) -> None:
    """Of 300 samples the 44 that are looked at last leave the range that was calibrated: INT8 knows them no more."""
    held_out = np.random.default_rng(4).normal(size=(300, 4)).astype(np.float32).clip(-2, 2)
    np.save(tmp_path / "held.npy", held_out)
    last = open_dataset(tmp_path / "held.npy").order(seed=1)[repair.MAX_SAMPLES :]
    held_out[last] = [40, 60, 0, 0]
    np.save(tmp_path / "held.npy", held_out)
    record = attempt(
        saved(lambda x: x * 3.0), vectors, declare(task="classification"), max_drop=0.05,
        held_out=tmp_path / "held.npy",
    )  # fmt: skip
    first, *_, last_tried = record.candidates
    assert first.drop is not None
    assert last_tried.drop is not None
    assert first.drop == pytest.approx(44 / 300, abs=0.02)
    assert (record.kind, last_tried.name) == (last_tried.name, record.kind)
    assert last_tried.drop <= 0.05


def test_why_a_candidate_was_passed_over_is_said() -> None:
    slow = Candidate("int16x8", 9, "IoU", 0.004, 9.31, latency_low=8.0)
    assert slow.slow
    assert not Candidate("int16x8", 9, "IoU", 0.004, 9.31, latency_low=3.0).slow, "which may be noise"
    passed = slow.judged(0.01, "float16")
    assert passed.outcome == "within 1.00 %, but 9.3 times float's time here: 16-bit activations, 8-bit weights"
    assert slow.judged(0.001, "float16").outcome == "above 0.10 %: 16-bit activations, 8-bit weights"
    assert slow.judged(0.01, "int16x8") == slow
    failed = Candidate("int8", 9, failure="(DIV) failed to invoke")
    assert failed.judged(0.01, "float16").outcome == "(DIV) failed to invoke"


def test_where_nothing_runs_no_budget_is_proposed(board: DeviceProfile) -> None:
    budget = repair.Budget(0.01, Path("d"), replace(board, int8_only=True), resolve.choose(board)[0], lambda *_: None)
    failure = repair._none_fits("m", [Candidate("int8", 9, failure="(DIV) failed to invoke")], budget)
    assert failure.message.endswith("none of them runs, and the profile takes INT8 only")
    assert (failure.hint or "").startswith("drop int8_only from the profile")
    assert "--max-drop" not in (failure.hint or "")
    budget = replace(budget, profile=board)
    assert "change in the model" in (repair._none_fits("m", [], budget).hint or "")
    large = "the model does not fit board: tensors and weights need at least 8.2 MiB, the profile allows 8 MiB"
    failure = repair._none_fits("m", [Candidate("int8", 9, failure=large)], budget)
    assert failure.message.endswith(f"none of them fits: {large}")
    assert "max_ram_mb" in (failure.hint or "")


class TestRanges:
    @given(st.floats(-3, 3), st.floats(-3, 3))
    def test_a_range_is_narrowed_and_never_widened(self, low: float, high: float) -> None:
        content = _calibrated()
        name, before = next(iter(_ranges(content).items()))
        after = _ranges(ranges.clipped(content, {name: (low, high), "nothing of that name": (0, 0)}))
        if low == high:  # a range without width is none
            low, high = before
        low, high = struct.unpack("<2f", struct.pack("<2f", low, high))
        assert after[name] == (max(low, before[0]), min(high, before[1]))
        others = {key: value for key, value in after.items() if key != name}
        assert others == {key: value for key, value in _ranges(content).items() if key != name}


def test_layers_that_are_not_finite_have_lost_their_signal() -> None:
    import tensorflow as tf

    def logarithm(less: float) -> bytes:
        signature = [tf.TensorSpec([1, 4], tf.float32)]
        return as_float(tf.function(lambda x: tf.math.log(x - less) * 2.0, input_signature=signature))

    good, bad = logarithm(-1.0), logarithm(5.0)
    found, _ = layers.errors(good, bad, operators.operators(bad), [(np.arange(1, 5, dtype=np.float32),)], {})
    assert [(layer.operator, layer.error) for layer in found if layer.operator == "LOG"] == [("LOG", 1.0)]
    seen = layers.ranges(bad, operators.operators(bad), [(np.array([1, 2, 6, 7], np.float32),)], 100)
    assert all(np.isfinite([one.least, one.largest]).all() for one in seen.values())


def test_what_forms_the_outputs_ends_at_the_last_matrix_product() -> None:
    content = _calibrated()
    found = operators.operators(content)
    assert [one.name for one in found][-2:] == ["FULLY_CONNECTED", "SOFTMAX"]
    assert operators.forming_outputs(content) == set(found[-1].outputs)


_CACHE: list[bytes] = []


def _calibrated() -> bytes:
    if not _CACHE:
        from edgekit.conversion import integer

        content = as_float(classifier())
        shape = [1, *flatbuffer.parse(content).inputs[0].shape[1:]]
        rows = np.random.default_rng(0).normal(0, 2, (4, *shape)).astype(np.float32)
        _CACHE.append(integer.calibrate(content, lambda: ([row] for row in rows)).content)
    return _CACHE[0]


def _ranges(content: bytes) -> dict[str, tuple[float, float]]:
    from ai_edge_litert import schema_py_generated as schema_fb

    graph = schema_fb.Model.GetRootAsModel(content, 0).Subgraphs(0)
    found = {}
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        range_ = tensor.Quantization()
        if range_ is not None and range_.MinLength() == 1:
            found[tensor.Name().decode()] = (range_.Min(0), range_.Max(0))
    return found
