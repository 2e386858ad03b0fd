"""edgekit-runtime: exit codes, data on standard output, talk on standard error, and what each command imports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime import benchreport
from PIL import Image

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"


def program(*argv: str, python: str = sys.executable, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "EDGEKIT_RELEASE"}
    return subprocess.run(
        [python, "-m", "edgekit_runtime", *argv],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**environment, "PYTHONPATH": str(RUNTIME), **env},
    )


@pytest.fixture
def picture(tmp_path: Path, frames: list[np.ndarray]) -> Path:
    path = tmp_path / "tree.png"
    Image.fromarray(frames[0]).save(path)
    return path


class TestRun:
    def test_classes_for_people_and_for_programs(self, release: Path, picture: Path) -> None:
        people = program("run", str(picture), "--release", str(release), "--top-k", "2")
        assert people.returncode == 0
        assert people.stdout.splitlines()[0] == str(picture)
        assert len(people.stdout.splitlines()) == 3
        data = program("run", str(picture), "--json", "--top_k=2", EDGEKIT_RELEASE=str(release))
        (result,) = json.loads(data.stdout)
        assert [item["label"] in people.stdout for item in result["classes"]] == [True, True]

    def test_raw_outputs_and_samples_from_a_file(self, release: Path, tmp_path: Path, frames: list[np.ndarray]) -> None:
        np.save(tmp_path / "rows.npy", np.stack(frames).astype(np.float32))
        out = tmp_path / "out.npz"
        done = program("run", str(tmp_path / "rows.npy"), "--release", str(release), "--raw", str(out))
        assert done.returncode == 0
        with np.load(out) as data:
            assert data["output_0"].shape == (6, 4)
            assert data["output_0"].dtype == np.float32
            assert data["source"][5].endswith("rows.npy[5]")
        assert list(tmp_path.glob("*.part")) == []

    def test_bad_pictures_are_named_with_exit_code_2(self, release: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
        done = program("run", str(tmp_path / "bad.jpg"), "--release", str(release), "--json")
        assert done.returncode == 2
        assert "bad.jpg" in done.stderr
        assert "Traceback" not in done.stderr
        assert json.loads(done.stdout)["type"] == "ImageError"

    def test_many_files_are_answered_in_order_up_to_the_bad_one(
        self, release: Path, tmp_path: Path, frames: list[np.ndarray]
    ) -> None:
        names = []
        for number, frame in enumerate(frames):
            names.append(str(tmp_path / f"{number}.png"))
            Image.fromarray(frame).save(names[-1])
        done = program("run", *names, "--release", str(release), "--top-k=1")
        assert done.stdout.splitlines()[::2] == names
        done = program("run", *names[:2], str(tmp_path / "none.png"), names[2], "--release", str(release), "--top-k=1")
        assert done.returncode == 2
        assert done.stdout.splitlines()[::2] == names[:2]
        assert "none.png" in done.stderr


class TestCheck:
    def test_lines_and_json(self, release: Path) -> None:
        done = program("check", "--release", str(release))
        assert done.returncode == 0
        assert done.stdout.startswith("model trees\nruntime ai_edge_litert ")
        assert done.stdout.endswith("top1_agreement 1.0000\nresult ok\n")
        data = json.loads(program("check", "--json", "--release", str(release)).stdout)
        assert data["golden"] == 6
        assert data["outputs"][0]["board"] == data["outputs"][0]["host"]

    def test_an_altered_model_fails_with_exit_code_1(self, release: Path, tmp_path: Path) -> None:
        shutil.copytree(release, tmp_path / "r")
        with open(tmp_path / "r/model.tflite", "ab") as file:
            file.write(b"x")
        done = program("check", "--release", str(tmp_path / "r"))
        assert done.returncode == 1
        assert "SHA-256" in done.stderr
        assert done.stdout == ""

    def test_no_interpreter_is_the_boards_fault(self, release: Path, tmp_path: Path) -> None:
        for name in ("ai_edge_litert", "tflite_runtime", "tensorflow"):
            (tmp_path / f"{name}.py").write_text("raise ImportError('not on this board')")
        done = program("check", "--release", str(release), PYTHONPATH=f"{tmp_path}:{RUNTIME}")
        assert done.returncode == 3
        assert "no TFLite interpreter" in done.stderr

    def test_no_numpy_is_the_boards_fault(self, release: Path, tmp_path: Path) -> None:
        (tmp_path / "numpy.py").write_text("raise ImportError('libopenblas.so.0 is missing')")
        done = program("check", "--release", str(release), PYTHONPATH=f"{tmp_path}:{RUNTIME}")
        assert done.returncode == 3
        assert "libopenblas.so.0" in done.stderr

    def test_which_release(self, tmp_path: Path) -> None:
        assert "set EDGEKIT_RELEASE" in program("check").stderr
        done = program("check", "--release", str(tmp_path))
        assert done.returncode == 2
        assert "is this a release directory?" in done.stderr

    def test_a_bundle_is_no_release(self, tmp_path: Path) -> None:
        (tmp_path / "m.ekb").write_bytes(b"PK")
        done = program("check", "--release", str(tmp_path / "m.ekb"))
        assert done.returncode == 2
        assert "a release is a directory, as `edgekit push` makes it" in done.stderr


class TestBench:
    def test_summary_lines_are_benchmark_models(self, models: Path) -> None:
        argv = ["--num-runs=5", "--min_secs=0", "--warmup-min-secs=0", "--num_threads", "1"]
        done = program("bench", "--model", str(models / "classifier_int8.tflite"), *argv)
        assert done.returncode == 0
        assert "Inference timings in us: Init: " in done.stdout
        assert "Memory footprint delta from the start of the tool (MB): init=" in done.stdout

    def test_json_on_standard_output_and_in_a_file(self, release: Path, tmp_path: Path) -> None:
        out = tmp_path / "report.json"
        argv = ["--num_runs=5", "--min-secs=0", "--warmup_min_secs=0", "--result_json", str(out), "--json"]
        done = program("bench", "--release", str(release), *argv)
        assert done.returncode == 0
        assert out.read_text() == done.stdout
        assert benchreport.loads(done.stdout).latency.num_runs == 5

    def test_a_cameras_frame_has_findings(self, release: Path) -> None:
        argv = ["--num_runs=5", "--min-secs=0", "--warmup_min_secs=0", "--frame", "1280x720:YUYV"]
        done = program("bench", "--release", str(release), *argv)
        assert "a frame of 1280x720 YUYV to the input: " in done.stdout
        assert "finding: frames arrive 1280x720 and are shrunk 90.0x" in done.stdout

    def test_a_soak_has_a_verdict(self, release: Path) -> None:
        argv = ["--num_runs=5", "--min-secs=0", "--warmup_min_secs=0", "--soak", "6000"]
        done = program("bench", "--release", str(release), *argv)
        assert "memory flat: " in done.stdout
        assert "KiB per 1000 of 6000 inferences" in done.stdout

    def test_a_model_or_a_release(self, release: Path, models: Path) -> None:
        done = program("bench", "--release", str(release), "--model", str(models / "fixed.tflite"))
        assert done.returncode == 2


class TestBudget:
    def imports(self, *argv: str) -> set[str]:
        watch = (
            "import sys; from edgekit_runtime import cli\n"
            "try: cli.main(sys.argv[1:])\n"
            "except SystemExit: pass\n"
            "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", watch, *argv], capture_output=True, text=True, timeout=60, check=True
        )
        return set(done.stderr.splitlines()[-1].split())

    @pytest.mark.parametrize("argv", [["--version"], ["info"], ["info", "--json"], ["bench", "--help"]])
    def test_small_commands_import_no_numpy(self, argv: list[str], release: Path) -> None:
        more = ["--release", str(release)] if argv[0] == "info" else []
        assert not self.imports(*argv, *more) & {"numpy", "ai_edge_litert", "PIL", "waitress", "tensorflow", "edgekit"}

    def test_checking_imports_no_server_and_no_pillow(self, release: Path) -> None:
        found = self.imports("check", "--release", str(release))
        assert {"numpy", "ai_edge_litert"} <= found
        assert not found & {"PIL", "waitress", "http", "tensorflow", "edgekit"}

    def test_of_the_interpreters_package_only_the_interpreter(self, models: Path) -> None:
        code = (
            "import sys; from edgekit_runtime import Engine; from pathlib import Path\n"
            "Engine.load(Path(sys.argv[1]))\n"
            "print(*sorted(name for name in sys.modules if name.startswith('ai_edge_litert.')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(models / "fixed.tflite")], capture_output=True, text=True, check=True
        )
        names = {name.partition(".")[2] for name in done.stdout.split()}
        assert names == {
            "interpreter",
            "_pywrap_litert_interpreter_wrapper",
            "metrics_interface",
            "metrics_portable",
        }

    def test_a_classification_imports_what_it_runs(self, make_release: Callable[..., Path]) -> None:
        code = (
            "import sys, numpy as np; from edgekit_runtime import Engine\n"
            "Engine.open(sys.argv[1]).classify([np.zeros((8, 8, 3), np.uint8)])\n"
            "print(*sorted(name for name in sys.modules if name.startswith('edgekit_runtime.')))\n"
            "print(*sys.modules)"
        )
        argv = [sys.executable, "-c", code, str(make_release())]
        ours, everything = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
        wanted = (
            "batch classify color dataclass engine errors frame golden integrity interpreter manifest npy plan pool "
            "preprocess quant resize route schema"
        )
        assert ours.replace("edgekit_runtime.", "").split() == wanted.split()
        unneeded = {"PIL", "cv2", "difflib", "hashlib", "http", "numpy.random", "queue", "socket", "zipfile"}
        assert not unneeded & set(everything.split())

    def test_importing_the_package_imports_no_numpy(self) -> None:
        code = "import sys, edgekit_runtime; assert 'numpy' not in sys.modules; edgekit_runtime.Engine"
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_an_unknown_attribute_is_an_error(self) -> None:
        import edgekit_runtime

        with pytest.raises(AttributeError, match="Motor"):
            _ = edgekit_runtime.Motor


def test_info_names_the_circumstances_and_the_release(release: Path) -> None:
    facts = json.loads(program("info", "--json", "--release", str(release)).stdout)
    assert facts["release"] == {"name": "trees", "task": "classification", "profile": "host"}
    assert {"architecture", "kernel", "emulated", "runtime_version", "sensors"} <= set(facts)
    lines = program("info").stdout.splitlines()
    assert f"python {facts['python']}" in lines


def test_without_a_command_help_is_shown() -> None:
    done = program()
    assert done.returncode == 2
    assert "usage: edgekit-runtime" in done.stderr


class TestOldPython:
    def test_the_source_needs_no_more_than_3_7(self) -> None:
        argv = ["--target=3.7-", "--eval-annotations", "--no-tips", "--violations", str(RUNTIME / "edgekit_runtime")]
        vermin = [sys.executable, "-c", "from vermin import main; main()", *argv]
        done = subprocess.run(vermin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout

    def test_python_3_7_runs_it(self, release: Path) -> None:
        python = old_python()
        if python is None:
            pytest.skip("no Python 3.7 here")
        assert program("--version", python=python).stdout.startswith("edgekit-runtime ")
        done = program("info", "--json", "--release", str(release), python=python)
        assert json.loads(done.stdout)["python"].startswith("3.7.")
        done = program("check", "--release", str(release), python=python)
        assert done.returncode == 3
        assert "NumPy cannot be imported" in done.stderr


def old_python() -> str | None:
    found = shutil.which("python3.7")
    homes = [Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"]
    candidates = [*([found] if found else []), *(str(p) for home in homes for p in home.glob("3.7*/bin/python3.7"))]
    for candidate in candidates:
        probe = [candidate, "-c", "import sys; assert sys.version_info[:2] == (3, 7)"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return candidate
    return None
