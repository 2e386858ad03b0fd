"""Before a board sees a model, its profile's interpreter has run it here, in its own version, XNNPACK or not."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime import golden
from edgekit_runtime.manifest import GOLDEN

from edgekit.cli.figures import show_conversion
from edgekit.conversion import convert, rehearse
from edgekit.conversion.record import Conversion, Files
from edgekit.conversion.rehearsal import DIFFERS, NOT_RUN, PASSED, Rehearsal
from edgekit.datasets.declaration import declare
from edgekit.errors import CheckFailed
from edgekit.models import flatbuffer
from edgekit.profiles import profile
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import here
from tests.model.conftest import Converted

MODELS = Path(__file__).parents[1] / "fixtures/models"
OLD, NEW = "tflite-runtime 2.14.0", "ai-edge-litert 2.3.0"


@pytest.fixture
def old_board() -> DeviceProfile:
    """A board that only tflite-runtime 2.14 runs on."""
    return profile.find("generic-armv7")


def bare(record: Conversion, model: Path) -> Conversion:
    """The record as that of a bare model, without golden samples."""
    found = flatbuffer.read(model)
    return dataclasses.replace(
        record, task="raw", preprocess=None, labels=None, golden=None, inputs=found.inputs, outputs=found.outputs,
        model_sha256=hashlib.sha256(model.read_bytes()).hexdigest(), model_size=model.stat().st_size,
        model_crc32=zlib.crc32(model.read_bytes()),
    )  # fmt: skip


def test_the_interpreter_of_this_installation_runs_what_is_for_it(colours: Converted) -> None:
    assert colours.record.rehearsals == (Rehearsal(NEW, True, PASSED, batch=4), Rehearsal(NEW, False, PASSED))


def test_an_older_board_s_interpreter_runs_in_its_own_version(
    models: Path, pictures: Path, tmp_path: Path, old_board: DeviceProfile
) -> None:
    record = convert.convert(
        models / "colours.keras", profile=old_board, data=pictures, output=tmp_path / "m.tflite",
        declaration=declare(range="-1..1"), samples=20, log=tmp_path / "log",
    )  # fmt: skip
    assert record.rehearsals == (Rehearsal(OLD, True, PASSED, batch=4), Rehearsal(OLD, False, PASSED))
    assert Conversion.load(tmp_path / "m.tflite") == record


@pytest.mark.parametrize(
    ("name", "verdict", "reason"),
    [
        ("custom", "not-prepared", "which tflite_runtime 2.14.0 does not have"),
        ("poisonous", "not-finite", "values that are not finite"),
    ],
)
def test_a_model_that_the_interpreter_does_not_take_is_refused_by_name(
    colours: Converted, old_board: DeviceProfile, name: str, verdict: str, reason: str
) -> None:
    model = MODELS / f"{name}.tflite"
    with pytest.raises(CheckFailed) as caught:
        rehearse.rehearse(bare(colours.record, model), old_board, model)
    assert (caught.value.fields["verdict"], caught.value.fields["runtime"]) == (verdict, OLD)
    assert reason in caught.value.message
    assert caught.value.hint


@pytest.mark.shared
def test_a_model_that_crashes_the_interpreter_is_refused_by_name(
    colours: Converted, old_board: DeviceProfile, shared: Path
) -> None:
    model = next((shared / "reference/malformed_or_hostile_tflite_dev").rglob("keyword_scrambled_8bit.tflite"))
    with pytest.raises(CheckFailed) as caught:
        rehearse.rehearse(bare(colours.record, model), old_board, model)
    assert caught.value.fields["verdict"] == "crashed"


def test_answers_that_are_not_float_s_are_told_and_end_a_candidate_of_a_repair(
    colours: Converted, old_board: DeviceProfile, tmp_path: Path
) -> None:
    model = tmp_path / "m.tflite"
    model.write_bytes(colours.path.read_bytes())
    held = golden.read(Files.of(colours.path).golden, 1, 1)
    golden.write(tmp_path / GOLDEN, replace(held, outputs=(np.roll(held.outputs[0], 1, axis=1),)))
    with pytest.raises(CheckFailed, match="much further from the float model") as caught:
        rehearse.rehearse(colours.record, old_board, model, strict=True)
    assert caught.value.fields["verdict"] == DIFFERS
    usual, _ = rehearse.rehearse(colours.record, old_board, model)
    assert usual.verdict == DIFFERS
    assert "--max-drop" in (usual.proposal or "")


@pytest.mark.shared
def test_what_only_xnnpack_runs_is_told_and_does_not_stop(
    colours: Converted, board: DeviceProfile, shared: Path
) -> None:
    model = next((shared / "reference/mediapipe_selfie_tflite").rglob("*.tflite"))
    usual, plain = rehearse.rehearse(bare(colours.record, model), board, model)
    assert usual.verdict == PASSED
    assert (plain.verdict, plain.batch) == ("not-prepared", None)
    assert "Convolution2DTransposeBias" in str(plain)


def test_the_nearest_newer_interpreter_stands_in_and_says_so(
    colours: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No Python that tflite-runtime 2.11 has wheels for; 2.14 has one for Python 3.11."""
    facts = profile.find("coral-dev-board")
    monkeypatch.setenv("PATH", str(tmp_path))
    if here.nearest(facts) == facts:
        pytest.skip("no wheel of tflite-runtime for this Python")
    found = rehearse.rehearse(bare(colours.record, colours.path), facts, colours.path)
    assert {(one.runtime, one.instead_of) for one in found} == {("tflite-runtime 2.14.0", "tflite-runtime 2.11.0")}
    assert [one.verdict for one in found] == [PASSED, PASSED]
    show_conversion(replace(colours.record, rehearsals=found), facts)
    assert "passed in tflite-runtime 2.14.0 instead, the nearest that" in " ".join(capsys.readouterr().out.split())


def test_without_a_wheel_or_a_network_the_board_s_own_check_remains(
    colours: Converted, old_board: DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = profile.find("coral-dev-board")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(here, "nearest", lambda wanted: wanted)  # as on a Python that none has a wheel for
    (only,) = rehearse.rehearse(colours.record, facts, colours.path)
    assert (only.verdict, only.runtime) == (NOT_RUN, "tflite-runtime 2.11.0")
    assert "install a Python that it has wheels for" in (only.proposal or "")
    assert "has no wheel for Python" in (only.reason or "")
    assert "fetch" not in (only.proposal or "")
    for name, value in {"CONFIG_FILE": os.devnull, "INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    (only,) = rehearse.rehearse(colours.record, old_board, colours.path)
    assert only.verdict == NOT_RUN
    assert "cannot be reached" in (only.reason or "")
    assert "edgekit fetch" in (only.proposal or "")
