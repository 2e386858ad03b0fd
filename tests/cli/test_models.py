"""inspect, convert, validate, bundle: what they print, what they write, and that they do it twice alike."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import versions
from tests.cli.conftest import Made, Material
from tests.cli.program import Program

# Nothing of TensorFlow, LiteRT, Abseil or the CUDA loader may reach the user.
CHATTER = re.compile(
    r"tensorflow/|TensorFlow Lite XNNPACK|oneDNN|cuda|absl|^[IWE]\d{4} |WARNING|I0000|W0000", re.M | re.I
)


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestInspect:
    def test_a_keras_file(self, edgekit: Program, material: Material) -> None:
        ended = edgekit("inspect", material.keras)
        assert "Keras 3 archive" in ended.out
        assert "float32 [?x16x16x3]" in ended.out
        assert ended.err == f"next: edgekit convert {material.keras} -p PROFILE -c DATA -o colours.tflite\n"
        assert edgekit("inspect", material.keras, "--json").data["form"] == "keras"

    def test_a_savedmodel(self, edgekit: Program, material: Material) -> None:
        found = edgekit("inspect", material.saved_model, "--json").data
        assert (found["form"], found["inputs"][0]["shape"]) == ("saved-model", [-1, 16, 16, 3])

    def test_a_savedmodel_that_cannot_be_converted_is_described_all_the_same(
        self, edgekit: Program, material: Material
    ) -> None:
        assert "has no serving signature" in edgekit("inspect", material.unsigned).err

    def test_a_model_that_holds_code_is_not_run(self, edgekit: Program, material: Material) -> None:
        assert any("Lambda" in line for line in edgekit("inspect", material.code, "--json").data["code"])

    def test_a_tflite(self, edgekit: Program, made: Made) -> None:
        assert edgekit("inspect", made.int8, "--json").data["quantization"] == "int8"
        assert edgekit("inspect", made.float, "--json").data["quantization"] == "float"

    def test_what_cannot_be_converted_is_not_proposed(self, edgekit: Program, material: Material, made: Made) -> None:
        (edgekit.cwd / "weights.index").touch()
        for model in (made.int8, material.unsigned, material.code, Path("weights")):
            ended = edgekit("inspect", model)
            assert "next:" not in ended.err
        assert "note: restore it into its model and export that: model.export('saved_model')" in ended.err

    @pytest.mark.shared
    @pytest.mark.parametrize(
        ("file", "verdict"),
        [
            ("svdf_quantized.bin", "not-prepared"),
            ("lstm_quantized2.bin", "not-prepared"),
            ("single_conv_no_bias.bin", "not-prepared"),
            ("simple_floor_mod.tflite", "not-invoked"),
            ("segment_sum_invalid_buffer.bin", "not-invoked"),
            ("dynamic_shapes.bin", "not-invoked"),
            ("keyword_scrambled_8bit.tflite", "crashed"),
        ],
    )
    def test_a_tflite_that_does_not_run_is_not_for_a_board(
        self, file: str, verdict: str, edgekit: Program, shared: Path
    ) -> None:
        (model,) = (shared / "reference/malformed_or_hostile_tflite_dev").rglob(file)
        tried = edgekit("inspect", model, "-p", "generic-aarch64", "--json", code=1).data["rehearsal"]
        assert (tried["runtime"], tried["verdict"]) == ("ai-edge-litert 2.3.0", verdict)
        assert tried["reason"]

    def test_a_tflite_that_runs_is(self, edgekit: Program, made: Made) -> None:
        found = edgekit("inspect", made.int8, "-p", "generic-aarch64", "--json").data
        assert found["rehearsal"]["verdict"] == "passed"

    @pytest.mark.shared
    def test_the_nearest_interpreter_tries_it_where_the_board_s_cannot_be_had(
        self, edgekit: Program, made: Made, shared: Path
    ) -> None:
        """Of the board's own version there is no wheel for this computer's Python."""
        ended = edgekit("inspect", made.int8, "-p", "coral-dev-board")
        assert "it runs on this computer in tflite-runtime 2.14.0, the nearest to tflite-runtime 2.11.0" in ended.err
        (crashing,) = (shared / "reference/malformed_or_hostile_tflite_dev").rglob("keyword_scrambled_8bit.tflite")
        tried = edgekit("inspect", crashing, "-p", "coral-dev-board", "--json", code=1).data["rehearsal"]
        assert (tried["runtime"], tried["instead_of"]) == ("tflite-runtime 2.14.0", "tflite-runtime 2.11.0")
        assert tried["verdict"] == "crashed"

    def test_where_the_interpreter_cannot_be_had_it_is_said(self, edgekit: Program, made: Made) -> None:
        nowhere = edgekit.with_(
            EDGEKIT_CACHE=str(edgekit.cwd / "empty"), PIP_INDEX_URL="http://127.0.0.1:9", PIP_RETRIES="0"
        )
        ended = nowhere("inspect", made.int8, "-p", "generic-armv7")
        assert "note: it was not tried: tflite-runtime 2.14.0 cannot be had here: " in ended.err

    @pytest.mark.parametrize("content", [b"", b"a letter to nobody\n", b"PK\x03\x04 and no more", b"\0" * 4096])
    def test_no_model(self, content: bytes, edgekit: Program) -> None:
        (edgekit.cwd / "thing").write_bytes(content)
        told = edgekit.fails("inspect", "thing")
        assert told["message"] == "thing: not a model that edgekit knows"
        wanted = "give a SavedModel or Serving folder, a .keras, .h5" if content else "the file is empty: copy it again"
        assert told["hint"].startswith(wanted)

    def test_nothing_there(self, edgekit: Program) -> None:
        assert edgekit.fails("inspect", "nowhere")["message"] == "nowhere: no such model"


class TestConvert:
    def test_to_people(self, edgekit: Program, material: Material) -> None:
        ended = edgekit(
            "convert", material.keras, "-p", "raspberry-pi-4b", "-c", material.pictures, "--range", "-1..1",
            "-o", "my model.tflite", "--samples", "30",
        )  # fmt: skip
        assert "colours: keras to INT8 for raspberry-pi-4b" in ended.out
        assert "picture  int8 [?x16x16x3]" in ended.out
        assert "30 samples, seed 0" in ended.out
        assert "FP32 against INT8, 60 samples, of which 30 have calibrated it" in ended.out
        assert "same best class: 100.0 %" in ended.out
        talk = ended.err.splitlines()
        assert "validated on what has calibrated it, too" in talk[0]
        assert talk[1] == "wrote my model.tflite and my model.edgekit/"
        log = Path(re.sub("^TensorFlow's own words are in ", "", talk[2]))
        assert log.is_file()
        assert log.is_relative_to(edgekit.environment["HOME"])
        assert re.fullmatch(r"\d+ s, peak memory \d+ MiB", talk[3])
        assert talk[4] == "next: edgekit bundle 'my model.tflite' -p raspberry-pi-4b -o 'my model.ekb'"
        assert len(talk) == 5
        assert not CHATTER.search("\n".join(talk[:2] + talk[3:]) + ended.out)
        assert sorted(path.name for path in edgekit.cwd.iterdir()) == ["my model.edgekit", "my model.tflite"]

    def test_to_programs(self, edgekit: Program, material: Material) -> None:
        ended = edgekit(
            "convert", material.saved_model, "-p", "generic-aarch64", "-c", material.pictures, "--range", "-1..1",
            "-o", "m.tflite", "-d", material.pictures, "--samples", "30", "--size", "16x16", "--color", "RGB", "--json",
            "--report", "m.html",
        )  # fmt: skip
        figures = {"layers", "layers_of", "examples", "pruning"}
        whole = {"conversion", "validation", "output", "cached", "seconds", "peak_memory_mb"}
        assert set(ended.data) == whole | figures
        assert ended.data["layers_of"] == "int8"
        assert ended.data["examples"]["confusion"]["classes"] == ["blue", "green", "red"]
        assert "pictures" not in ended.data["examples"]
        assert "What is taken for what" in (edgekit.cwd / "m.html").read_text("utf-8")
        assert ended.data["pruning"]["after"]["nodes"] < ended.data["pruning"]["before"]["nodes"]
        assert ended.data["seconds"] > 0
        assert ended.data["peak_memory_mb"] > 50
        assert ended.data["conversion"] == json.loads((edgekit.cwd / "m.edgekit/conversion.json").read_text())
        assert ended.data["conversion"]["preprocess"]["width"] == 16
        assert ended.data["validation"]["metrics"][0]["n"] == 60
        assert ended.err == ""

    def test_twice_gives_the_same_bytes_on_a_terminal_with_progress(
        self, edgekit: Program, material: Material, made: Made
    ) -> None:
        ended = edgekit.on_terminal(
            "convert", material.keras, "-p", "host", "-c", material.pictures, "--range", "-1..1", "--samples", "40",
            "-o", "colours.tflite", "--json",
        )  # fmt: skip
        assert "calibrate" in ended.err
        assert "100 %" in ended.err
        assert not CHATTER.search(ended.err)
        assert ended.data["output"] == "colours.tflite"
        first = contents(made.folder)
        del first["colours.ekb"]
        assert contents(edgekit.cwd) == first

    def test_code_is_run_when_it_is_trusted(self, edgekit: Program, material: Material) -> None:
        edgekit("convert", material.code, "-p", "host", "-c", material.vectors, "-o", "m.tflite", "--trust-code")
        assert (edgekit.cwd / "m.tflite").is_file()

    def test_a_declaration_in_a_file_and_options_over_it(self, edgekit: Program, material: Material) -> None:
        (edgekit.cwd / "model.toml").write_text('name = "hues"\nrange = "0..255"\nlabels = ["b", "g", "r"]\n')
        (edgekit.cwd / "labels.txt").write_text("blue\ngreen\nred\n")
        found = edgekit(
            "convert", material.keras, "-p", "host", "-c", material.pictures, "--declare", "model.toml",
            "--mean", "127.5", "--std", "127.5", "--labels", "labels.txt", "--samples", "10",
            "-o", "m.tflite", "--json",
        ).data["conversion"]  # fmt: skip
        assert (found["name"], found["labels"]) == ("hues", ["blue", "green", "red"])
        assert found["preprocess"]["mean"] == [127.5] * 3


class TestValidate:
    def test_figures(self, edgekit: Program, made: Made, material: Material) -> None:
        ended = edgekit("validate", made.int8, "-d", material.pictures)
        assert "FP32 against INT8, 60 samples" in ended.out
        assert "says nothing of a board" in ended.out
        assert ended.err.startswith("next: edgekit bundle ")
        found = edgekit("validate", made.int8, "-d", material.pictures, "--json", "--samples", "20").data
        assert (found["samples"], found["top1_agreement"]) == (20, 1.0)

    def test_any_two_models(self, edgekit: Program, made: Made, material: Material) -> None:
        found = edgekit("validate", made.int8, "--float", made.float, "-d", material.pictures, "--json").data
        assert found["metrics"][0]["int8_value"] == 1.0

    def test_gates_that_hold(self, edgekit: Program, made: Made, material: Material) -> None:
        gates = ["--min-cosine", "0.99", "--min-sqnr", "20", "--min-agreement", "95%", "--max-drop", "1%"]
        assert edgekit("validate", made.int8, "-d", material.pictures, "--json", *gates).data["schema"] == 1

    def test_gates_that_do_not(self, edgekit: Program, made: Made, material: Material) -> None:
        ended = edgekit(
            "validate", made.int8, "-d", material.pictures, "--min-sqnr", "120", "--min-cosine", "1", code=1
        )
        assert "FP32 against INT8" in ended.out, "the figures are shown all the same"
        assert "error: INT8 is too far from float: " in ended.err
        assert "below 120 dB" in ended.err
        assert "next:" not in ended.err
        told = edgekit.fails("validate", made.int8, "-d", material.pictures, "--min-sqnr", "120", code=1)
        assert told["type"] == "CheckFailed"
        assert len(told["fields"]["failures"]) == 1
        assert told["fields"]["validation"]["samples"] == 60

    def test_a_gate_of_convert(self, edgekit: Program, material: Material) -> None:
        told = edgekit.fails(
            "convert", material.keras, "-p", "host", "-c", material.pictures, "--range", "-1..1", "-o", "m.tflite",
            "--samples", "10", "--min-sqnr", "120", code=1,
        )  # fmt: skip
        assert told["fields"]["validation"]["samples"] == 60
        assert list(edgekit.cwd.glob("m.*")) == []

    def test_what_does_not_pass_leaves_what_was_there(self, edgekit: Program, material: Material) -> None:
        words: list[str | Path] = [
            "convert", material.keras, "-p", "host", "-c", material.pictures, "--range", "-1..1", "-o", "m.tflite",
            "--report", "m.html",
        ]  # fmt: skip
        edgekit(*words)
        before = {path: path.read_bytes() for path in [*edgekit.cwd.glob("m.edgekit/*"), edgekit.cwd / "m.tflite"]}
        assert len(before) > 3
        ended = edgekit(*words, "--samples", "5", "--min-sqnr", "120", code=1)
        assert "FP32 against INT8" in ended.out, "the figures are shown all the same"
        assert "m.tflite is not written, and what was there is as it was" in ended.err
        assert "wrote m.html" in ended.err
        assert {path: path.read_bytes() for path in before} == before

    def test_a_report_without_its_folder_is_refused_at_once(self, edgekit: Program, material: Material) -> None:
        told = edgekit.fails(
            "convert", material.keras, "-p", "host", "-c", material.pictures, "--range", "-1..1", "-o", "m.tflite",
            "--report", "none/m.html", code=2,
        )  # fmt: skip
        assert told["message"] == "none/m.html: the folder none does not exist"
        assert list(edgekit.cwd.glob("m.*")) == []

    def test_a_gate_that_the_data_cannot_judge(self, edgekit: Program, made: Made, material: Material) -> None:
        bare = edgekit.cwd / "bare"
        bare.mkdir()
        for number, path in enumerate(sorted(material.pictures.rglob("*.png"))[:5]):
            shutil.copy(path, bare / f"{number}.png")
        told = edgekit.fails("validate", made.int8, "-d", "bare", "--max-drop", "0.01")
        assert "the data have no labels" in told["message"]
        assert "labels.csv" in told["hint"]

    @pytest.mark.parametrize(
        ("option", "value"), [("--max-drop", "2"), ("--max-drop", "1,5%"), ("--min-agreement", "-1")]
    )
    def test_a_share_that_is_none(self, option: str, value: str, edgekit: Program, made: Made) -> None:
        told = edgekit.fails("validate", made.int8, "-d", "x", option, value)
        assert told["message"] == f"{option}: '{value}' is no share"

    def test_a_model_that_was_changed(self, edgekit: Program, made: Made, material: Material) -> None:
        for path in (made.int8, made.float.parent):
            target = edgekit.cwd / path.name
            shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
        with (edgekit.cwd / "colours.tflite").open("ab") as file:
            file.write(b"\0")
        told = edgekit.fails("validate", "colours.tflite", "-d", material.pictures, code=1)
        assert "not the model that" in told["message"]

    def test_a_model_without_its_record(self, edgekit: Program, made: Made, material: Material) -> None:
        shutil.copy(made.int8, edgekit.cwd / "alone.tflite")
        told = edgekit.fails("validate", "alone.tflite", "-d", material.pictures)
        assert "alone.edgekit" in told["message"]
        assert "edgekit convert" in told["hint"]


@pytest.fixture(scope="module")
def reds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of red for a model of one layer: what is redder than 128 is foreground, but for the first rows."""
    import keras

    folder = tmp_path_factory.mktemp("reds")
    picture = keras.Input((16, 16, 3))
    layer = keras.layers.Conv2D(1, 1, activation="sigmoid")
    model = keras.Model(picture, layer(picture), name="reds")
    layer.set_weights([np.array([8.0, 0, 0], np.float32).reshape(1, 1, 3, 1), np.array([-4.0], np.float32)])
    model.save(folder / "reds.keras")
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{number}.png")
        red = pixels[..., 0] > 128
        red[: number % 3] = False
        Image.fromarray(np.where(red, 7, 2).astype(np.uint8)).save(folder / f"masks/{number}.png")
    return folder


class TestTruth:
    def test_a_repair_and_its_gate_are_judged_by_it(self, reds: Path, edgekit: Program) -> None:
        truth: list[str | Path] = ["-d", reds / "images", "--truth", reds / "masks", "--foreground", "7"]
        ended = edgekit(
            "convert", reds / "reds.keras", "-p", "host", "-c", reds / "images", "--range", "0..1",
            "--task", "segmentation", "--max-drop", "1%", "-o", "m.tflite", *truth,
        )  # fmt: skip
        assert re.search(r"IoU +│ 0\.9\d\d +│ 0\.9\d\d +│ loses -?0\.0\d\d ± 0\.0\d\d, n = 8", ended.out)
        assert "of IoU" in ended.err
        found = edgekit("validate", "m.tflite", "--json", "--max-drop", "1%", *truth).data
        by_picture, together = found["metrics"]
        assert (by_picture["name"], by_picture["unit"], by_picture["n"]) == ("IoU", "", 8)
        assert by_picture["drop"] == pytest.approx(by_picture["float_value"] - by_picture["int8_value"])
        assert together["name"] == "IoU of all pixels"
        told = edgekit.fails("validate", "m.tflite", *truth[:4])
        assert "has classes that the model does not have: 2, 7" in told["message"]
        assert "--foreground" in told["hint"]
        assert told["fields"]["truth"] == str(reds / "masks")
        told = edgekit.fails("validate", "m.tflite", "-d", reds / "images", "--max-drop", "1%")
        assert told["hint"] == "give masks with --truth; or leave the threshold out"

    def test_what_does_not_fit_is_said_before_anything_is_converted(self, reds: Path, edgekit: Program) -> None:
        (edgekit.cwd / "instances.json").write_text("[]")
        convert: list[str | Path] = ["convert", reds / "reds.keras", "-p", "host", "-c", reds / "images"]
        convert += ["--range", "0..1", "-o", "m.tflite"]
        told = edgekit.fails(*convert, "--truth", "instances.json")
        assert "not COCO annotations" in told["message"]
        shutil.copytree(reds / "masks", edgekit.cwd / "masks")
        (edgekit.cwd / "masks/5.png").unlink()
        told = edgekit.fails(*convert, "--task", "segmentation", "--truth", "masks", "--max-drop", "1%")
        assert told["message"] == "masks: has no picture for 5.png"
        assert told["fields"] == {"truth": "masks", "missing": ["5.png"]}

    def test_masks_of_another_model_end_a_repair(self, reds: Path, edgekit: Program) -> None:
        told = edgekit.fails(
            "convert", reds / "reds.keras", "-p", "host", "-c", reds / "images", "--range", "0..1", "--samples", "4",
            "--task", "segmentation", "--truth", reds / "masks", "--max-drop", "1%", "-o", "m.tflite",
        )  # fmt: skip
        assert "has classes that the model does not have" in told["message"]
        assert not list(edgekit.cwd.iterdir())


class TestBundle:
    def test_twice_gives_the_same_bytes(self, edgekit: Program, made: Made) -> None:
        ended = edgekit("bundle", made.int8, "-p", "host", "-o", "again.ekb")
        assert "release " in ended.out
        assert "model.tflite" in ended.out
        assert ended.err.splitlines()[-1] == "next: edgekit push again.ekb BOARD"
        assert (edgekit.cwd / "again.ekb").read_bytes() == made.bundle.read_bytes()
        assert os.listdir(edgekit.cwd) == ["again.ekb"]

    def test_as_json(self, edgekit: Program, made: Made) -> None:
        found = edgekit("bundle", made.int8, "-p", "host", "-o", "b.ekb", "--counter", "7", "--json").data
        assert found["bytes"] == (edgekit.cwd / "b.ekb").stat().st_size
        assert {"manifest.json", "model.tflite", "golden.npy"} <= {member["name"] for member in found["members"]}
        text = (edgekit.cwd / "b.ekb").read_bytes()[512:4096]
        assert b"counter 7\n" in text

    def test_an_older_conversion_that_the_boards_interpreter_does_not_run(self, edgekit: Program, made: Made) -> None:
        """Such as one from before the profile's interpreter changed."""
        content = versions.with_version(made.int8.read_bytes(), "CONV_2D", 99)
        (edgekit.cwd / "old.tflite").write_bytes(content)
        shutil.copytree(made.float.parent, edgekit.cwd / "old.edgekit")
        record = edgekit.cwd / "old.edgekit/conversion.json"
        facts = json.loads(record.read_text())
        record.write_text(json.dumps({**facts, "model_sha256": hashlib.sha256(content).hexdigest()}))
        told = edgekit.fails("bundle", "old.tflite", "-p", "host", "-o", "b.ekb", code=1)
        assert "does not run CONV_2D of version 99" in told["message"]
        assert sorted(os.listdir(edgekit.cwd)) == ["old.edgekit", "old.tflite"]

    def test_for_another_board_than_it_was_converted_for(self, edgekit: Program, made: Made) -> None:
        told = edgekit.fails("bundle", made.int8, "-p", "raspberry-pi-5", "-o", "b.ekb")
        assert "was converted for host, not for raspberry-pi-5" in told["message"]
        assert "-p host" in told["hint"]
        assert os.listdir(edgekit.cwd) == []

    def test_into_a_folder_that_is_not_there(self, edgekit: Program, made: Made) -> None:
        told = edgekit.fails("bundle", made.int8, "-p", "host", "-o", "nowhere/b.ekb")
        assert "nowhere" in told["message"]

    def test_something_else_than_a_bundle_is_pushed(self, edgekit: Program, made: Made) -> None:
        told = edgekit.fails("push", made.int8, "embedded")
        assert (told["type"], told["message"]) == ("BundleError", f"{made.int8}: it is not a bundle of edgekit")
