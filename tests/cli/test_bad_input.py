"""Everything wrong that a user can hand to `convert` ends in a sentence, exit code 2, a hint - and no file."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Made, Material
from tests.cli.program import Program
from tests.speech import piano_windows


def refused(edgekit: Program, model: Path, data: Path | str, *words: str, code: int = 2) -> dict[str, Any]:
    """What `convert` says; it must have written nothing."""
    before = sorted(edgekit.cwd.rglob("*"))
    told = edgekit.fails("convert", model, "-p", "host", "-c", data, "-o", "m.tflite", *words, code=code)
    assert sorted(edgekit.cwd.rglob("*")) == before, "something was left behind"
    return told


class TestModel:
    def test_not_a_model(self, edgekit: Program, material: Material) -> None:
        (edgekit.cwd / "notes.keras").write_text("no model\n")
        told = refused(edgekit, Path("notes.keras"), material.pictures)
        assert told["message"] == "notes.keras: not a model that edgekit knows"
        assert told["hint"]
        (edgekit.cwd / "graph.pbtxt").write_text('node { name: "x" op: "Placeholder" }')
        told = refused(edgekit, Path("graph.pbtxt"), material.pictures)
        assert told["hint"].startswith("a graph as text is not read")

    def test_nothing_there(self, edgekit: Program, material: Material) -> None:
        assert refused(edgekit, Path("nowhere"), material.pictures)["message"] == "nowhere: no such model"

    def test_a_model_that_is_known_but_not_converted(self, edgekit: Program, material: Material) -> None:
        (edgekit.cwd / "old.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
        told = refused(edgekit, Path("old.h5"), material.pictures)
        assert "not a readable .h5 file" in told["message"]
        assert told["hint"].startswith("copy it again")
        (edgekit.cwd / "model.ckpt.meta").write_bytes(bytes(8))
        told = refused(edgekit, Path("model.ckpt.meta"), material.pictures)
        assert "not a TensorFlow 1 graph: it is cut or damaged" in told["message"]
        assert told["hint"]

    def test_a_pipe(self, edgekit: Program, material: Material) -> None:
        os.mkfifo(edgekit.cwd / "pipe.tflite")
        told = refused(edgekit, Path("pipe.tflite"), material.pictures)
        assert told["message"] == "pipe.tflite: neither a file nor a folder"

    @pytest.mark.shared
    def test_a_checkpoint_without_its_index(self, edgekit: Program, material: Material, shared: Path) -> None:
        source = shared / "models/musicnn_tf1_checkpoint_mtt_musicnn/MTT_musicnn"
        shutil.copytree(source, edgekit.cwd / "music", ignore=shutil.ignore_patterns("*.index"))
        told = refused(edgekit, Path("music"), material.vectors)
        assert "its .index and .data files are not beside the .meta" in told["message"]

    def test_a_folder_above_the_model(self, edgekit: Program, material: Material) -> None:
        told = refused(edgekit, material.saved_model.parent, material.pictures)
        assert told["hint"] == f"there is a SavedModel in {material.saved_model}"

    def test_a_savedmodel_without_a_serving_signature(self, edgekit: Program, material: Material) -> None:
        told = refused(edgekit, material.unsigned, material.vectors)
        assert "has no serving signature 'serving_default'" in told["message"]
        assert "signatures=" in told["hint"]

    def test_a_damaged_archive(self, edgekit: Program, material: Material) -> None:
        content = material.keras.read_bytes()
        (edgekit.cwd / "cut.keras").write_bytes(content[: len(content) // 2])
        assert refused(edgekit, Path("cut.keras"), material.pictures)["hint"].startswith(
            "if it is cut or damaged, copy it"
        )

    def test_a_cut_tflite(self, edgekit: Program, material: Material, made: Made) -> None:
        content = made.int8.read_bytes()
        (edgekit.cwd / "cut.tflite").write_bytes(content[: len(content) // 2])
        told = refused(edgekit, Path("cut.tflite"), material.pictures)
        assert "cut or damaged" in told["message"]
        assert told["hint"].startswith("copy it again")

    @pytest.mark.parametrize("change", ["cut", "damaged"])
    def test_a_savedmodel_whose_values_are_not_whole(self, change: str, edgekit: Program, material: Material) -> None:
        shutil.copytree(material.saved_model, edgekit.cwd / "saved")
        (values,) = (edgekit.cwd / "saved/variables").glob("variables.data-*")
        content = bytearray(values.read_bytes())
        if change == "cut":
            del content[len(content) // 4 :]
        else:
            content[: len(content) // 2] = bytes(len(content) // 2)
        values.write_bytes(content)
        told = refused(edgekit, Path("saved"), material.pictures, "--range", "-1..1")
        assert told["message"] == "saved: the values of its variables are cut or damaged"
        assert told["hint"].startswith("copy it again")

    def test_a_savedmodel_without_its_variables(self, edgekit: Program, material: Material) -> None:
        shutil.copytree(material.saved_model, edgekit.cwd / "saved")
        shutil.rmtree(edgekit.cwd / "saved/variables")
        told = refused(edgekit, Path("saved"), material.pictures)
        assert "saved: the values of its variables are missing: saved/variables has no" in told["message"]
        assert told["hint"].startswith("copy the whole folder")

    def test_an_empty_savedmodel(self, edgekit: Program, material: Material) -> None:
        (edgekit.cwd / "saved").mkdir()
        (edgekit.cwd / "saved/saved_model.pb").touch()
        told = refused(edgekit, Path("saved"), material.pictures)
        assert told["message"] == "saved/saved_model.pb: the file is empty"
        assert told["hint"].startswith("copy it again")

    def test_a_version_that_is_a_checkpoint(self, edgekit: Program, material: Material) -> None:
        (edgekit.cwd / "served/1").mkdir(parents=True)
        (edgekit.cwd / "served/1/export.meta").touch()
        told = refused(edgekit, Path("served"), material.pictures)
        assert told["hint"] == "there is a TensorFlow 1 checkpoint in served/1"

    @pytest.mark.shared
    def test_a_checkpoint_whose_values_are_cut(self, edgekit: Program, material: Material, shared: Path) -> None:
        shutil.copytree(shared / "models/musicnn_tf1_checkpoint_mtt_musicnn/MTT_musicnn", edgekit.cwd / "music")
        values = edgekit.cwd / "music/.data-00000-of-00001"
        values.chmod(0o644)
        os.truncate(values, 4_000_000)
        told = refused(edgekit, Path("music"), material.vectors)
        assert told["message"] == "music: the values in its .data file are cut or damaged"
        assert told["hint"].startswith("copy it again")

    @pytest.mark.shared
    @pytest.mark.parametrize("name", ["custom_sinh.bin", "with_metadata.bin"])
    def test_a_custom_operator_comes_before_the_data(
        self, name: str, edgekit: Program, material: Material, shared: Path
    ) -> None:
        (model,) = (shared / "reference/malformed_or_hostile_tflite_dev").rglob(name)
        told = refused(edgekit, model, material.vectors)
        assert "no interpreter has its custom operators: " in told["message"]
        assert told["fields"]["operators"]

    def test_no_room_left(self, edgekit: Program, material: Material) -> None:
        disk = edgekit.cwd / "disk"
        disk.mkdir()
        if os.geteuid():
            pytest.skip("mounting needs root")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)], check=True)
        try:
            data: list[str | Path] = ["-p", "host", "-c", material.pictures, "--range", "-1..1"]
            told = edgekit.fails("convert", material.keras, *data, "-o", "disk/m.tflite")
            assert told["message"].startswith("no room left on the device")
            assert "TMPDIR" in told["hint"]
            assert list(disk.iterdir()) == []
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_code_that_nobody_trusted(self, edgekit: Program, material: Material) -> None:
        told = refused(edgekit, material.code, material.vectors)
        assert "would run code that came with it" in told["message"]
        assert "--trust-code" in told["hint"]
        assert any("Lambda 'twice'" in line for line in told["fields"]["code"])

    def test_an_operator_that_int8_lacks_altogether(self, edgekit: Program, material: Material) -> None:
        told = refused(edgekit, material.strings, material.vectors)
        assert "no INT8 TFLite operator does the work of" in told["message"]
        assert told["fields"]["operators"]

    def test_an_operator_that_exists_in_float_only(self, edgekit: Program, material: Material) -> None:
        told = refused(edgekit, material.sine, material.vectors)
        assert "SIN" in told["message"]
        assert told["hint"].startswith("say --allow-float to accept that, or --max-drop 1%")
        ended = edgekit(
            "convert", material.sine, "-p", "host", "-c", material.vectors, "-o", "m.tflite", "--allow-float"
        )
        assert "note: " in ended.err

    def test_larger_than_the_profile_allows(self, edgekit: Program, material: Material, repository: Path) -> None:
        text = (repository / "device_profiles/host.toml").read_text("utf-8")
        lines = ["max_model_mb = 0.001" if line.startswith("max_model_mb") else line for line in text.splitlines()]
        (edgekit.cwd / "tiny.toml").write_text("\n".join(lines).replace('name = "host"', 'name = "tiny"') + "\n")
        told = refused(edgekit, material.keras, material.pictures, "--range", "-1..1", "-p", "tiny.toml", code=1)
        assert "the model does not fit tiny" in told["message"]
        assert "the profile allows 0.001 MiB" in told["message"]


class TestData:
    def test_no_such_folder(self, edgekit: Program, material: Material) -> None:
        assert refused(edgekit, material.keras, "nowhere")["message"] == "nowhere: no such file or folder"

    def test_an_empty_folder(self, edgekit: Program, material: Material) -> None:
        (edgekit.cwd / "empty").mkdir()
        told = refused(edgekit, material.keras, "empty", "--range", "-1..1")
        assert told["message"] == "empty: holds no picture, it is empty"
        assert ".png" in told["hint"]

    def test_a_folder_of_other_files(self, edgekit: Program, material: Material) -> None:
        (edgekit.cwd / "texts").mkdir()
        (edgekit.cwd / "texts" / "a.txt").touch()
        assert "only 1 other files" in refused(edgekit, material.keras, "texts", "--range", "-1..1")["message"]

    def test_something_that_is_no_data(self, edgekit: Program, material: Material) -> None:
        (edgekit.cwd / "film.mp4").touch()
        assert "not a dataset that edgekit reads" in refused(edgekit, material.keras, "film.mp4")["message"]

    def test_pixels_without_a_declared_range(self, edgekit: Program, material: Material) -> None:
        told = refused(edgekit, material.keras, material.pictures)
        assert "value range" in told["message"]
        assert "--range -1..1" in told["hint"]

    @pytest.fixture
    def spoiled(self, edgekit: Program, material: Material) -> Path:
        """20 pictures of one colour."""
        shutil.copytree(material.pictures / "red", edgekit.cwd / "spoiled")
        return edgekit.cwd / "spoiled"

    def test_one_unreadable_picture_is_skipped_and_counted(
        self, edgekit: Program, material: Material, spoiled: Path
    ) -> None:
        (spoiled / "004.png").write_bytes(b"no picture")
        words = ["-p", "host", "-c", "spoiled", "--range", "-1..1", "-o", "m.tflite"]
        ended = edgekit("convert", material.keras, *words)
        assert "1 unreadable picture" in ended.out
        assert ended.err.count("note: skipped 004.png: cannot read") == 1, "named once, though two steps met it"
        found = edgekit("convert", material.keras, *words, "--json").data
        assert found["conversion"]["provenance"]["calibration"]["skipped"] == 1
        assert found["validation"]["skipped"] == 1
        assert [note.partition(":")[0] for note in found["conversion"]["notes"]] == ["skipped 004.png"]

    def test_many_are_named_and_refused(self, edgekit: Program, material: Material, spoiled: Path) -> None:
        for name in ("001.png", "004.png", "007.png"):
            (spoiled / name).write_bytes(b"no picture")
        told = refused(edgekit, material.keras, "spoiled", "--range", "-1..1")
        assert "3 of 20 wanted samples cannot be read" in told["message"]
        assert "004.png (" in told["message"]
        assert sorted(told["fields"]["skipped"]) == ["001.png", "004.png", "007.png"]

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((8, 5), np.float32), "input 'x' expects samples of shape [4], got [5]"),
            (np.zeros((8, 4), np.int32), "input 'x' expects float32, got int32"),
            (np.zeros((0, 4), np.float32), "holds no sample"),
            (np.full((8, 4), np.nan, np.float32), "holds NaN or infinity"),
            (np.full((8, 4), 0.5, np.float32), "the calibration data are 0.5 throughout, in all 8 samples"),
            (np.array(["a", "b"]), "expected numbers"),
            (np.array([{}, {}], dtype=object), "not a readable NumPy file"),
        ],
        ids=["shape", "dtype", "empty", "nan", "constant", "text", "pickle"],
    )
    def test_arrays_that_do_not_fit(self, array: Any, message: str, edgekit: Program, material: Material) -> None:
        np.save(edgekit.cwd / "x.npy", array)
        assert message in refused(edgekit, material.sine, "x.npy", "--allow-float")["message"]


class TestOptions:
    def test_an_unknown_profile(self, edgekit: Program, material: Material) -> None:
        told = refused(edgekit, material.keras, material.pictures, "-p", "raspberry-pi-44b")
        assert told["hint"] == "did you mean 'raspberry-pi-4b'?"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--range", "0..2"), "range '0..2' is not one of -1..1, 0..1, 0..255"),
            (("--name", "../../evil"), "name '../../evil' is not a name"),
            (("--color", "CMYK"), "color 'CMYK' is not one of RGB, BGR, GRAY"),
            (("--mean", "0.5"), "mean and std belong together"),
            (("--size", "large"), "--size: 'large' is no size"),
            (("--labels", "nowhere.txt"), "nowhere.txt: cannot read the labels"),
            (("--declare", "nowhere.toml"), "nowhere.toml: cannot read the model declaration"),
        ],
    )
    def test_values_that_cannot_be(
        self, words: tuple[str, ...], message: str, edgekit: Program, material: Material
    ) -> None:
        assert message in refused(edgekit, material.keras, material.pictures, *words)["message"]

    def test_an_output_that_cannot_be(self, edgekit: Program, material: Material) -> None:
        told = refused(edgekit, material.keras, material.pictures, "-o", "no/m.tflite")
        assert told["message"] == "no/m.tflite: the folder no does not exist"
        assert told["hint"] == "mkdir -p no"
        assert "end in .tflite" in refused(edgekit, material.keras, material.pictures, "-o", "m.bin")["message"]

    def test_an_unknown_key_in_model_toml(self, edgekit: Program, material: Material) -> None:
        (edgekit.cwd / "model.toml").write_text('colour = "RGB"\n')
        told = refused(edgekit, material.keras, material.pictures, "--declare", "model.toml")
        assert told["message"] == "model.toml: unknown key 'colour'"
        assert told["hint"] == "did you mean 'color'?"


@pytest.mark.shared
class TestRepair:
    """basic-pitch divides by what INT8 rounds to zero."""

    @pytest.fixture
    def piano(self, edgekit: Program, shared: Path) -> tuple[Path, list[str | Path]]:
        np.save(edgekit.cwd / "piano.npy", piano_windows(shared / "data/speech_wavs"))
        return shared / "models/basic_pitch_savedmodel/saved_model", ["-c", "piano.npy", "-o", "m.tflite"]

    def test_int8_that_does_not_run_has_a_way_out(self, edgekit: Program, piano: tuple[Path, list[str | Path]]) -> None:
        model, words = piano
        told = edgekit.fails("convert", model, "-p", "host", *words)
        assert "--max-drop 1%" in told["hint"]
        told = edgekit.fails("convert", model, "-p", "host", *words, "--allow-float", code=1)
        assert "(DIV) failed to invoke" in told["message"]
        assert told["hint"].startswith("convert with --max-drop 1%")

    def test_what_was_tried_is_shown_where_nothing_is_taken(
        self, edgekit: Program, piano: tuple[Path, list[str | Path]], repository: Path
    ) -> None:
        model, words = piano
        text = (repository / "device_profiles/host.toml").read_text("utf-8")
        (edgekit.cwd / "host.toml").write_text(text + "int8_only = true\n")
        ended = edgekit("convert", model, "-p", "host.toml", *words, "--max-drop", "1%", "--report", "p.html", code=1)
        assert ended.out == ""
        assert sorted(path.suffix for path in edgekit.cwd.iterdir()) == [".html", ".npy", ".toml"]
        page = (edgekit.cwd / "p.html").read_text("utf-8")
        assert page.count("(DIV) failed to invoke") == 1
        assert "no candidate loses at most 1" in page
        assert "above 1.00 %: INT8, with ranges" in page
        assert "candidates, none of them taken" in ended.err
        said = " ".join(ended.err.split())
        assert "(DIV) failed to invoke" in said.partition("error:")[0]
        assert "above 1.00 %: INT8, with ranges" in said
        assert "hint: drop int8_only from the profile" in said
        assert said.endswith("% takes int8-clipped")


class TestBundle:
    def test_a_release_that_the_flash_has_no_room_for(self, edgekit: Program, made: Made, repository: Path) -> None:
        """The model has a few kilobytes, the interpreter that goes with it many megabytes."""
        text = (repository / "device_profiles/host.toml").read_text("utf-8")
        (edgekit.cwd / "host.toml").write_text(text.replace('flash_free_mb = "host"', "flash_free_mb = 1"))
        told = edgekit.fails("bundle", made.int8, "-p", "host.toml", "-o", "m.ekb", code=1)
        assert told["message"].startswith("the release does not fit host: all of it needs ")
        assert told["message"].endswith("the profile has 1 MiB of flash free (flash_free_mb)")
        assert "smaller model" in told["hint"]
        assert not (edgekit.cwd / "m.ekb").exists()
