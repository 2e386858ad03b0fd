"""Whether a board's interpreter runs a model is known before anything is sent."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import CheckFailed, UserError
from edgekit.models import arena, operators
from edgekit.profiles import profile
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import gate, resolve
from edgekit.runtimes.gate import Verdict
from edgekit.runtimes.table import INTERPRETERS, Wheel
from tests import versions

MODELS = Path(__file__).parents[1] / "fixtures/models"


def settled(name: str) -> tuple[DeviceProfile, Wheel]:
    facts = profile.find(name)
    return facts, resolve.choose(facts)[0]


def judged(model: Path, name: str = "raspberry-pi-4b") -> Verdict:
    facts, interpreter = settled(name)
    return gate.judge(model, facts, interpreter)


@pytest.fixture
def with_version(tmp_path: Path) -> Callable[[str, int], Path]:
    """The fixtures' classifier, but asking for this version of one of its operators."""

    def make(operator: str, version: int) -> Path:
        path = tmp_path / f"{operator}-{version}.tflite"
        path.write_bytes(versions.with_version((MODELS / "classifier_int8.tflite").read_bytes(), operator, version))
        return path

    return make


def test_every_interpreter_of_the_table_was_measured() -> None:
    assert gate._tables().keys() == {f"{one.package}-{one.version}" for one in INTERPRETERS}


def test_the_interpreter_here_agrees_with_its_table(with_version: Callable[[str, int], Path]) -> None:
    """The newest version that is in the table loads, the next one does not."""
    from ai_edge_litert.interpreter import Interpreter

    litert = INTERPRETERS[0].version
    for operator in ("CONV_2D", "FULLY_CONNECTED", "MEAN", "SOFTMAX"):
        newest = gate._tables()[f"ai-edge-litert-{litert}"][operator][1]
        Interpreter(str(with_version(operator, newest)))
        with pytest.raises(ValueError, match=f"builtin opcode '{operator}' version '{newest + 1}'"):
            Interpreter(str(with_version(operator, newest + 1)))
        assert not judged(with_version(operator, newest)).problems
        (problem,) = judged(with_version(operator, newest + 1)).problems
        assert (problem.operator, problem.version, problem.known) == (operator, newest + 1, (1, newest))


def test_an_older_interpreter_lacks_what_a_newer_one_has(with_version: Callable[[str, int], Path]) -> None:
    model = with_version("FULLY_CONNECTED", 12)
    assert judged(model).problems == ()
    (problem,) = judged(model, "generic-armv7").problems
    assert str(problem) == "FULLY_CONNECTED of version 12, where it has 1 to 10"
    facts, interpreter = settled("generic-armv7")
    with pytest.raises(
        CheckFailed, match=r"tflite-runtime 2\.14\.0 of generic-armv7 does not run FULLY_CONN"
    ) as caught:
        gate.require(model, facts, interpreter)
    assert "newer interpreter" in (caught.value.hint or "")


@pytest.mark.shared
def test_a_custom_operator_of_xnnpack_runs_where_xnnpack_has_it(shared: Path) -> None:
    """As each of these interpreters answered: `scripts/operator-table --models`."""
    model = (shared / "reference/mediapipe_selfie_tflite/selfie_segmentation.tflite").read_bytes()
    found = {
        f"{one.package} {one.version}": [wrong.operator for wrong in gate.problems(operators.codes(model), one)]
        for one in INTERPRETERS
    }
    assert found == {
        "ai-edge-litert 2.3.0": [],
        "ai-edge-litert 1.4.0": [],
        "tflite-runtime 2.14.0": ["Convolution2DTransposeBias"],
        "tflite-runtime 2.11.0": ["Convolution2DTransposeBias"],
    }


def test_what_does_not_fit_the_board_is_refused() -> None:
    facts, interpreter = settled("raspberry-pi-4b")
    model = MODELS / "classifier_int8.tflite"
    verdict = gate.require(model, facts, interpreter)
    assert verdict.weights_bytes == model.stat().st_size
    assert "tensors and weights need at least 2048.0 MiB" in (replace(verdict, arena_bytes=2**31).too_large or "")
    with pytest.raises(CheckFailed, match=r"the file has .* MiB, the profile allows 0\.001 MiB"):
        gate.require(model, replace(facts, max_model_mb=0.001), interpreter)


@pytest.mark.shared
def test_a_file_that_the_flash_has_no_room_for_is_refused(shared: Path) -> None:
    facts, interpreter = settled("raspberry-pi-4b")
    model = shared / "reference/coral_tflite_dev/mobilenet_v2_1.0_224_quant.tflite"
    small = replace(facts, flash_free_mb=1)
    with pytest.raises(CheckFailed, match=r"the file needs 3\.4 MiB, the profile has 1 MiB of flash free") as caught:
        gate.require(model, small, interpreter)
    assert caught.value.fields["flash_free_mb"] == 1
    assert "flash_free_mb" in (caught.value.hint or "")
    gate.require(model, replace(facts, flash_free_mb=4), interpreter)


def test_what_goes_with_the_file_counts_too() -> None:
    facts = replace(profile.find("raspberry-pi-4b"), flash_free_mb=1)
    gate.require_flash(gate.MB, facts)
    with pytest.raises(CheckFailed, match=r"the release does not fit raspberry-pi-4b: all of it needs 2\.0 MiB"):
        gate.require_flash(2 * gate.MB, facts)


def test_the_arena_is_what_is_alive_at_once() -> None:
    """[1, 6] float to [1, 6] float by a product and a sum: the input, which stays, and what each of them makes."""
    content = (MODELS / "fixed.tflite").read_bytes()
    assert [one.name for one in operators.operators(content)] == ["MUL", "ADD"]
    assert arena.peak_bytes(content) == 3 * 6 * 4


def placed_bytes(file: Path) -> int:
    """What the tensors that are no constants take in the interpreter's memory, by their addresses."""
    from ai_edge_litert import schema_py_generated as schema_fb
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(str(file), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    interpreter.allocate_tensors()
    model = schema_fb.Model.GetRootAsModel(file.read_bytes(), 0)
    graph = model.Subgraphs(0)
    spans = []
    for index in (one["index"] for one in interpreter.get_tensor_details()):
        own = index < graph.TensorsLength()
        if not (own and model.Buffers(graph.Tensors(index).Buffer()).DataLength()):
            array = interpreter.tensor(index)()
            start = array.__array_interface__["data"][0]
            spans.append((start, start + array.nbytes))
    covered = end = 0
    for first, last in sorted(spans):
        covered += max(0, last - max(first, end))
        end = max(end, last)
    return covered


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "scratch"),
    [
        ("coral_tflite_dev/mobilenet_v2_1.0_224_quant.tflite", False),
        ("coral_tflite_dev/automl_video_ondevice/traffic_model.tflite", False),
        ("mlperf_tiny_tflite/anomaly_detection/trained_models/ad01_int8.tflite", False),
        ("mlperf_tiny_tflite/keyword_spotting/trained_models/kws_ref_model.tflite", False),
        ("mlperf_tiny_tflite/visual_wake_words/trained_models/vww_96_float.tflite", True),
        ("mlperf_tiny_tflite/image_classification/trained_models/pretrainedResnet_quant.tflite", True),
        ("tflm_tflite/models/keyword_scrambled.tflite", True),  # with variables
    ],
)
def test_the_arena_is_that_of_the_interpreter_but_for_scratch_memory(shared: Path, file: str, scratch: bool) -> None:
    path = shared / "reference" / file
    estimate, real = arena.peak_bytes(path.read_bytes()), placed_bytes(path)
    assert estimate < real if scratch else estimate == real


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 2**20), bits=st.integers(1, 255), length=st.integers(0, 2**20))
def test_a_damaged_file_is_judged_or_named(tmp_path: Path, position: int, bits: int, length: int) -> None:
    content = bytearray((MODELS / "classifier_int8.tflite").read_bytes())
    content[position % len(content)] ^= bits
    path = tmp_path / "damaged.tflite"
    path.write_bytes(content[: max(1, length % (2 * len(content)))])
    with contextlib.suppress(UserError):
        judged(path)


def hostile() -> Iterator[tuple[str, str]]:
    folder = Path(__file__).parents[3] / "shared/reference/malformed_or_hostile_tflite_dev"
    if (folder / "MANIFEST.csv").is_file():
        with (folder / "MANIFEST.csv").open(newline="") as file:
            yield from ((row["file"], row["last_line"]) for row in csv.DictReader(file))


@pytest.mark.shared
@pytest.mark.parametrize(("file", "says"), list(hostile()))
def test_a_hostile_file_is_judged_and_harms_nobody(shared: Path, file: str, says: str) -> None:
    """A custom operator is named; what only running finds out is left to running."""
    path = shared / "reference/malformed_or_hostile_tflite_dev" / file
    if "unresolved custom op: " in says:
        named = [problem.operator for problem in judged(path, "host").problems]
        assert says.rpartition(": ")[2].rstrip(".") in named
        return
    with contextlib.suppress(UserError):
        judged(path, "host")


@pytest.mark.shared
def test_real_models_of_others_have_the_verdict_of_the_interpreter(shared: Path) -> None:
    """Each refusal for an operator is the interpreter's own, and what it loads has no problem."""
    from ai_edge_litert.interpreter import Interpreter

    checked = 0
    for file in sorted((shared / "reference").rglob("*.tflite")):
        if "malformed" in str(file):
            continue
        problems, refusal = judged(file, "host").problems, ""
        try:
            Interpreter(str(file)).allocate_tensors()
        except (ValueError, RuntimeError) as error:
            refusal = str(error)
        operators_only = "custom op" in refusal or "Didn't find op" in refusal
        assert bool(problems) == operators_only, (file.name, problems, refusal)
        checked += not refusal
    assert checked >= 20


def test_the_command_line_says_it_with_its_exit_code(with_version: Callable[[str, int], Path], tmp_path: Path) -> None:
    import subprocess
    import sys

    def inspect(model: Path, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "edgekit", "inspect", str(model), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)

    good = inspect(MODELS / "classifier_int8.tflite", "-p", "generic-armv7")
    assert good.returncode == 0
    assert "tflite-runtime 2.14.0 has every operator" in good.stderr
    assert "XNNPACK here takes 5 of 6 operators, but not 1 SOFTMAX" in good.stderr
    bad = inspect(with_version("SOFTMAX", 9), "-p", "generic-armv7", "--json")
    assert bad.returncode == 1
    (problem,) = json.loads(bad.stdout)["verdict"]["problems"]
    assert (problem["operator"], problem["version"]) == ("SOFTMAX", 9)
    assert json.loads(bad.stdout)["delegation"] is None  # the interpreter here does not have it either
    wrong = inspect(tmp_path, "-p", "generic-armv7")
    assert wrong.returncode == 2
