"""How far a board's answers are from this computer's and from the float model's, for real models on real data.

Every model of ../shared that converts is converted, bundled, pushed to an emulated board and activated there, all from
the command line. The same samples then go through the release on the board, through the same model here, and through
the float model here; differences are counted in quantisation steps of each output.

`python -m tests.deploy.agreement` writes docs/agreement.md; `scripts/board-agreement` is that in the right environment.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import runner
from edgekit_runtime.engine import Engine
from edgekit_runtime.preprocess import load_pixels
from numpy.typing import NDArray

from edgekit.bundles import bundle
from tests.deploy import boards
from tests.deploy.boards import REPOSITORY, Board, write_ssh_config
from tests.deploy.kit import User
from tests.speech import mel_bands, music_spectrograms, piano_windows, spectrograms

SHARED = REPOSITORY.parent / "shared"
PAGE = REPOSITORY / "docs/agreement.md"
SAMPLES = 8
KINDS = ("arm64", "armv7")


@dataclass(frozen=True)
class RealModel:
    """A model of ../shared/models and how it is deployed.

    Attributes:
        data: writes what calibrates it into a folder, or names what is there.
        options: of `edgekit convert`.
    """

    name: str
    path: str
    data: Callable[[Path], Path]
    options: Sequence[str] = ()

    @property
    def folder(self) -> str:
        """The folder of ../shared/models that it is in."""
        return self.path.split("/")[0]


@dataclass(frozen=True)
class Agreement:
    """Differences over all outputs and samples, in quantisation steps of the output they are in: largest and mean.

    `same_class` is the part (0..1) of samples with the same best class on the board as of float; None for a model that
    does not classify. `sent_bytes` is what its push sent.
    """

    model: str
    board: str
    samples: int
    values: int
    board_to_host: tuple[float, float]
    board_to_float: tuple[float, float]
    host_to_float: tuple[float, float]
    same_class: float | None
    sent_bytes: int


def pictures(_: Path) -> Path:
    return SHARED / "data/coco128_dev/images/val2017"


def speech(folder: Path) -> Path:
    np.save(folder / "speech.npy", spectrograms(SHARED / "data/speech_wavs"))
    return folder / "speech.npy"


def words(folder: Path) -> Path:
    """0 to 224, what the published file of this model can store."""
    np.save(folder / "words.npy", mel_bands(SHARED / "data/speech_wavs", 50, 10) * np.float32(224))
    return folder / "words.npy"


def yes_or_no(folder: Path) -> Path:
    """Whole numbers of 8 bits, which the published file of this model takes."""
    np.save(folder / "yes.npy", np.rint(mel_bands(SHARED / "data/speech_wavs", 49, 40) * 255) - np.float32(128))
    return folder / "yes.npy"


def movements(folder: Path) -> Path:
    """Made up, in thousandths of standard gravity: swings of some hertz along three axes, and the Earth's pull."""
    rng = np.random.default_rng(5)
    time, count = np.arange(128) / 25, 40
    strength, pitch, phase = (
        rng.uniform(100, 800, (count, 1, 3)),
        rng.uniform(0.5, 3, (count, 1, 3)),
        rng.random((count, 1, 3)),
    )
    swings = strength * np.sin(2 * np.pi * (pitch * time[:, None] + phase)) + [0, 0, 1000]
    np.save(folder / "movements.npy", swings[..., None].astype(np.float32))
    return folder / "movements.npy"


def music(folder: Path) -> Path:
    np.save(folder / "music.npy", music_spectrograms(SHARED / "data/speech_wavs"))
    return folder / "music.npy"


def piano(folder: Path) -> Path:
    np.save(folder / "piano.npy", piano_windows(SHARED / "data/speech_wavs"))
    return folder / "piano.npy"


def numbers(folder: Path) -> Path:
    np.save(folder / "numbers.npy", np.linspace(-10, 10, 50, dtype=np.float32))
    return folder / "numbers.npy"


def objects(folder: Path) -> Path:
    with tarfile.open(SHARED / "data/cifar10_jpg_dev/cifar10.tar.xz") as archive:
        archive.extractall(folder / "cifar10", filter="data")
    return folder / "cifar10/test"


def things(_: Path) -> Path:
    return SHARED / "data/imagenet1k_sample_dev"


def wake_words(folder: Path) -> Path:
    with np.load(SHARED / "data/sww_calibration/calibration_samples.npz") as data:
        np.save(folder / "words.npy", data["specs"].astype(np.float32))
    return folder / "words.npy"


def machine_sounds(folder: Path) -> Path:
    """Five neighbouring frames of 128 mel bins each, as the model of MLPerf Tiny is fed."""
    file = SHARED / "data/ad01_one_recording/normal_id_01_00000000_hist_librosa.bin"
    frames = np.fromfile(file, "<f4").reshape(-1, 128)
    np.save(folder / "sounds.npy", np.concatenate([frames[at : len(frames) - 4 + at] for at in range(5)], axis=1))
    return folder / "sounds.npy"


MODELS = (
    RealModel(
        "keyword spotting DS-CNN",
        "kws_dscnn_savedmodel_tf2/saved_model",
        speech,
        ("--task", "classification"),
    ),
    RealModel(
        "PoseNet MobileNetV1",
        "posenet_mnv1_savedmodel/saved_model",
        pictures,
        ("--range", "-1..1", "--samples", "40"),
    ),
    RealModel(
        "SSD MobileNetV2 FPNLite 320",
        "odapi_ssd_mnv2_fpnlite320_frozen_tf2sm/saved_model",
        pictures,
        ("--samples", "40"),
    ),
    RealModel(
        "selfie segmentation, `--max-drop 5%`",
        "selfie_segmentation_savedmodel/saved_model",
        pictures,
        ("--range", "0..1", "--samples", "40", "--max-drop", "5%"),
    ),
    RealModel(
        "half plus two",
        "serving_odd_savedmodels/saved_model_half_plus_two_tf2_cpu",
        numbers,
    ),
    RealModel(
        "CIFAR-10 ResNet8",
        "cifar10_resnet8_h5_keras2/pretrainedResnet.h5",
        objects,
        ("--range", "0..255"),
    ),
    RealModel(
        "MobileNetV1 0.25 224",
        "imagenet_mobilenetv1_025_224_h5_keras2/mobilenet_v1_0.25_224.h5",
        things,
        ("--range", "-1..1", "--task", "classification"),
    ),
    RealModel(
        "visual wake words MobileNetV1",
        "vww_mobilenetv1_h5_keras2/vww_96.h5",
        pictures,
        ("--range", "0..1", "--task", "classification"),
    ),
    RealModel(
        "wake word DS-CNN",
        "marvin_wakeword_h5_keras2/str_ww_ref_model.h5",
        wake_words,
        ("--task", "classification"),
    ),
    RealModel(
        "machine sounds autoencoder",
        "toycar_autoencoder_h5/ad01.h5",
        machine_sounds,
    ),
    RealModel(
        "rock, paper, scissors",
        "mltk_h5_pairs_dev/rock_paper_scissors/rock_paper_scissors.h5",
        pictures,
        ("--range", "-1..1", "--task", "classification"),
    ),
    RealModel(
        "twelve words",
        "mltk_h5_pairs_dev/keyword_spotting/keyword_spotting.h5",
        words,
        ("--task", "classification"),
    ),
    RealModel(
        "yes or no",
        "mltk_h5_pairs_dev/tflite_micro_speech/tflite_micro_speech.h5",
        yes_or_no,
        ("--task", "classification"),
    ),
    RealModel(
        "gestures (magic wand)",
        "mltk_h5_pairs_dev/tflite_micro_magic_wand/tflite_micro_magic_wand.h5",
        movements,
        ("--task", "classification"),
    ),
    RealModel(
        "grey pictures in three classes",
        "mltk_h5_pairs_dev/image_example1/image_example1.h5",
        pictures,
        ("--range", "-1..1", "--task", "classification"),
    ),
    RealModel(
        "music tags (musicnn)",
        "musicnn_tf1_checkpoint_mtt_musicnn/MTT_musicnn",
        music,
    ),
    RealModel(
        "music notes (basic-pitch), `--max-drop 5%`",
        "basic_pitch_savedmodel/saved_model",
        piano,
        ("--max-drop", "5%"),
    ),
)


def measure(model: RealModel, board: Board, user: User, folder: Path) -> Agreement:
    """Deploy the model and compare. `folder` is empty and for this model."""
    made, packed = folder / "model.tflite", folder / "model.ekb"
    profile, data = board.profile, model.data(folder)
    user.do("convert", SHARED / "models" / model.path, "-p", profile, "-c", data, "-o", made, *model.options)
    user.do("bundle", made, "-p", profile, "-o", packed)
    sent = user.do("push", packed, board.name)
    assert user.do("activate", board.name)["current"]["id"] == sent["release_id"]

    release = folder / "release"
    release.mkdir()
    opened = bundle.open_bundle(packed)
    for member in opened.release.members:
        if not member.name.startswith("runtime/"):
            (release / member.name).write_bytes(opened.read(member.name, member.size))
    (float_model,) = folder.rglob("float.tflite")
    with Engine.open(release) as engine:
        assert engine.manifest is not None
        file = _samples(engine, data, folder / "samples.npy")
        here = [result.outputs for result in runner.run(engine, [str(file)])]
        scales = {spec.name: spec.scale for spec in engine.outputs}
        names, task = [spec.name for spec in engine.outputs], engine.task
        with Engine(float_model, preprocess=engine.preprocess) as reference:
            ideal = [
                dict(zip(names, result.outputs.values(), strict=True)) for result in runner.run(reference, [str(file)])
            ]
    there = _on_board(board, file, names)
    steps = {name: scales[name] or _step(ideal, name) for name in names}
    best = [(int(a[names[0]].argmax()), int(b[names[0]].argmax())) for a, b in zip(there, ideal, strict=True)]
    return Agreement(
        model=model.name,
        board=board.kind,
        samples=len(there),
        values=sum(there[0][name].size for name in names),
        board_to_host=_apart(there, here, steps),
        board_to_float=_apart(there, ideal, steps),
        host_to_float=_apart(here, ideal, steps),
        same_class=sum(a == b for a, b in best) / len(best) if task == "classification" else None,
        sent_bytes=sent["sent_bytes"],
    )


Outputs = dict[str, NDArray[Any]]


def _samples(engine: Engine, data: Path, file: Path) -> Path:
    """Real samples as the runtime takes them: frames of the model's size, or real values."""
    if data.is_dir():
        assert engine.preprocess is not None
        chosen = sorted(data.rglob("*.jpg"))[-SAMPLES:]
        np.save(file, np.stack([load_pixels(path, engine.preprocess) for path in chosen]))
    else:
        rows = np.load(data)
        np.save(file, rows[:: max(1, len(rows) // SAMPLES)][:SAMPLES])
    return file


def _on_board(board: Board, samples: Path, names: Sequence[str]) -> list[Outputs]:
    there = f"{board.board_home}/agreement"
    _copy(board, f"mkdir -p {there} && cat >{there}/samples.npy", stdin=samples.read_bytes())
    board.sh(board.program("exec", "--", "run", "--json", f"{there}/samples.npy", "--raw", f"{there}/raw.npz"))
    answers = samples.with_name("raw.npz")
    answers.write_bytes(_copy(board, f"cat {there}/raw.npz && rm -r {shlex.quote(there)}"))
    with np.load(answers) as raw:
        columns = [raw[f"output_{number}"] for number in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _copy(board: Board, command: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(board.ssh(command), input=stdin, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _step(outputs: Sequence[Outputs], name: str) -> float:
    """What would be a step of an output that stays float: a 255th of its range."""
    values = np.concatenate([output[name].ravel() for output in outputs])
    return float(np.ptp(values)) / 255 or 1.0


def _apart(left: Sequence[Outputs], right: Sequence[Outputs], steps: dict[str, float]) -> tuple[float, float]:
    """The largest and the mean difference in steps of each output."""
    differences = np.concatenate(
        [
            np.abs(one[name].astype(np.float64) - other[name]).ravel() / step
            for one, other in zip(left, right, strict=True)
            for name, step in steps.items()
        ]
    )
    return float(differences.max()), float(differences.mean())


def table(rows: Sequence[Agreement]) -> list[str]:
    """The rows as a Markdown table."""
    head = (
        "| model | board | samples | values | board to host | board to float | host to float | same best class |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    )
    lines = [
        f"| {row.model} | {row.board} | {row.samples} | {row.values} | {_pair(row.board_to_host)} "
        f"| {_pair(row.board_to_float)} | {_pair(row.host_to_float)} "
        f"| {'-' if row.same_class is None else f'{100 * row.same_class:.0f} %'} |"
        for row in rows
    ]
    return [*head, *lines]


def _pair(apart: tuple[float, float]) -> str:
    return f"{apart[0]:.1f} ({apart[1]:.2f})"


def figures(text: str) -> dict[tuple[str, str], list[float]]:
    """The figures of each row of a table by its model and board; `-` is left out."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[1] in KINDS:
            found[cells[0], cells[1]] = [float(word) for word in re.findall(r"[0-9.]+", " ".join(cells[2:]))]
    return found


def sent(rows: Sequence[Agreement]) -> list[str]:
    """What a first and a later push sent to each board, as a Markdown table."""
    lines = ["| board | first: everything | later: another model |", "| --- | --- | --- |"]
    for kind in dict.fromkeys(row.board for row in rows):
        first, *later = [row.sent_bytes / 1e6 for row in rows if row.board == kind]
        lines.append(f"| {kind} | {first:.1f} MB | {min(later):.3f} to {max(later):.1f} MB |")
    return lines


def page(rows: Sequence[Agreement]) -> str:
    return PROSE.format(table="\n".join(table(rows)), sent="\n".join(sent(rows)))


PROSE = """\
# Does a board answer as this computer does?

Real trained models, deployed from the command line to the emulated boards (`docs/boards.md`): arm64 with ai-edge-litert
2.3.0 and XNNPACK on QEMU's Cortex-A72, armv7 with tflite-runtime 2.14.0 on a 32-bit core. They are fed with the same
real samples as the same INT8 model and the float model on an x86-64 computer with ai-edge-litert 2.3.0. Differences are
the largest of any output value of any sample, and in brackets the mean, in quantisation steps of that output (of one
that stays float: a 255th of its range). Of the detector the raw heads are compared, from which the runtime selects
boxes.

{table}

*Board to host* is what another processor's kernels change. *To float* is what INT8 costs, and the board pays what the
host pays. Bits differ from runtime to runtime, so a release is not held to them: its check on the board asks that it is
as near to float there as it was on the host. (Plain INT8 of the selfie segmentation, which `edgekit validate` calls far
from float, is not: the 32-bit board's check refuses it.)

What the pushes sent; the runtime goes over the link once:

{sent}

Every folder of `../shared/models` is in the table, and all five models of mltk's. Plain INT8 of basic-pitch does not
run; what a repair makes of it does, and of the selfie segmentation. The samples are pictures (COCO, ImageNet,
CIFAR-10), recorded words and machines, numbers, and for the gestures made-up movements. Repeat it, with the
models and data beside the repository in `../shared`:

```
scripts/board-agreement
```

which writes this page. `tests/deploy/test_agreement.py` measures a part of it again and compares.
"""


def main() -> None:
    """Measure everything and write the page."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for kind in KINDS:
            folder = Path(name) / kind
            user = User(folder / "user")
            for made in (user.home, folder / "board"):
                made.mkdir(parents=True)
            with boards.emulated(kind, folder / "board") as board:
                write_ssh_config(user, board)
                user.do("trust", board.name, "--fingerprint", board.fingerprint)
                for number, model in enumerate(MODELS):
                    work = folder / str(number)
                    work.mkdir()
                    rows.append(measure(model, board, user, work))
                    print(table(rows)[-1], file=sys.stderr, flush=True)
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
