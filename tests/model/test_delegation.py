"""Which operators XNNPACK takes is what the loaded interpreter shows."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from edgekit.errors import CheckFailed
from edgekit.models import delegation
from edgekit.models.delegation import Delegation

MODELS = Path(__file__).parents[1] / "fixtures/models"


def test_an_int8_classifier_keeps_its_softmax() -> None:
    assert delegation.ask(MODELS / "classifier_int8.tflite") == Delegation(6, 5, {"SOFTMAX": 1})


def test_a_float_classifier_is_taken_whole() -> None:
    found = delegation.ask(MODELS / "classifier_float.tflite")
    assert (found.taken, found.left) == (found.operators, {})
    assert str(found) == "6 of 6 operators"


def test_what_does_not_load_is_said() -> None:
    with pytest.raises(CheckFailed, match="unresolved custom op: BesselI0e"):
        delegation.ask(MODELS / "custom.tflite")


@pytest.mark.shared
@pytest.mark.parametrize(
    "file",
    [
        "coral_tflite_dev/mobilenet_v2_1.0_224_quant.tflite",
        "coral_tflite_dev/automl_video_ondevice/traffic_model.tflite",
        "mlperf_tiny_tflite/visual_wake_words/trained_models/vww_96_int8.tflite",
        "mediapipe_selfie_tflite/selfie_segmentation.tflite",
    ],
)
def test_only_what_is_not_taken_has_memory_of_its_own(shared: Path, file: str) -> None:
    """TFLite gives a place to what its own operators make and to what a delegate hands over, and to nothing else."""
    from ai_edge_litert.interpreter import Interpreter

    path = shared / "reference" / file
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()

    def placed(tensor: int) -> bool:
        try:
            interpreter.tensor(tensor)()
        except ValueError:
            return False
        return True

    nodes = interpreter._get_ops_details()
    handed_over = {tensor for node in nodes if node["op_name"] == "DELEGATE" for tensor in node["outputs"]}
    own = [set(node["outputs"]) for node in nodes if node["op_name"] != "DELEGATE"]
    left = [made for made in own if any(map(placed, made)) and not made & handed_over]
    found = delegation.find(path)
    assert sum(found.left.values()) == len(left)
    assert found.taken == found.operators - len(left)


@pytest.mark.shared
def test_a_broken_file_is_said_to_be_one(shared: Path) -> None:
    folder = shared / "reference/malformed_or_hostile_tflite_dev"
    with pytest.raises(CheckFailed, match="not a valid Flatbuffer"):
        delegation.ask(folder / "litert/tflite/testdata/test_model_broken.bin")


@pytest.mark.shared
def test_a_model_that_corrupts_its_process_harms_no_other(shared: Path) -> None:
    """What is wrong with it shows only sometimes, and when it runs."""
    folder = shared / "reference/malformed_or_hostile_tflite_dev/tflm/tensorflow/lite/micro/models"
    with contextlib.suppress(CheckFailed):
        assert delegation.ask(folder / "keyword_scrambled_8bit.tflite").operators > 0
