"""How far a board's answers are from this computer's and from the float model's, for real models on real data.

Each model of ../shared is converted, bundled, pushed to the emulated arm64 board and activated there, all from the
command line. The same samples then go through the release on the board, through the same model here, and through the
float model here; differences are counted in quantisation steps of each output.

`python -m tests.deploy.agreement` writes docs/agreement.md; `scripts/arm64-agreement` is that in the right environment.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
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
from tests.speech import spectrograms

SHARED = REPOSITORY.parent / "shared"
PAGE = REPOSITORY / "docs/agreement.md"
SAMPLES = 8


@dataclass(frozen=True)
class RealModel:
    """A model of ../shared/models and how it is deployed.

    Attributes:
        data: writes what calibrates it into a folder, or names what is there.
        options: of `edgekit convert`.
        bound: quantisation steps that the board may differ from this computer.
    """

    name: str
    path: str
    data: Callable[[Path], Path]
    options: Sequence[str]
    bound: int


@dataclass(frozen=True)
class Agreement:
    """Differences over all outputs and samples, in quantisation steps of the output they are in: largest and mean.

    `same_class` is the part (0..1) of samples with the same best class on the board as of float; None for a model that
    does not classify.
    """

    model: str
    samples: int
    values: int
    board_to_host: int
    board_to_float: tuple[float, float]
    host_to_float: tuple[float, float]
    same_class: float | None


def pictures(_: Path) -> Path:
    return SHARED / "data/coco128_dev/images/val2017"


def speech(folder: Path) -> Path:
    np.save(folder / "speech.npy", spectrograms(SHARED / "data/speech_wavs"))
    return folder / "speech.npy"


MODELS = (
    RealModel(
        "keyword spotting DS-CNN",
        "kws_dscnn_savedmodel_tf2/saved_model",
        speech,
        ("--task", "classification"),
        bound=0,
    ),
    RealModel(
        "PoseNet MobileNetV1",
        "posenet_mnv1_savedmodel/saved_model",
        pictures,
        ("--range", "-1..1", "--samples", "40"),
        bound=0,
    ),
    RealModel(
        "selfie segmentation",
        "selfie_segmentation_savedmodel/saved_model",
        pictures,
        ("--range", "0..1", "--samples", "40", "--allow-float"),
        bound=0,
    ),
)


def profile_with_steps(board: Board, folder: Path) -> Path:
    """The board's profile, but with outputs left as INT8: so a difference has whole steps."""
    text = Path(board.profile).read_text()
    file = folder / "int8-outputs.toml"
    file.write_text(
        text.replace(f'"{Path(board.profile).stem}"', '"int8-outputs"').replace(
            'output_dtype = "float32"', 'output_dtype = "int8"'
        )
    )
    return file


def measure(model: RealModel, board: Board, user: User, folder: Path) -> Agreement:
    """Deploy the model and compare. `folder` is empty and for this model."""
    made, packed = folder / "model.tflite", folder / "model.ekb"
    profile, data = profile_with_steps(board, folder), model.data(folder)
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
        steps = {spec.name: spec.scale for spec in engine.outputs}
        names, task = [spec.name for spec in engine.outputs], engine.task
        with Engine(float_model, preprocess=engine.preprocess) as reference:
            ideal = [
                dict(zip(names, result.outputs.values(), strict=True)) for result in runner.run(reference, [str(file)])
            ]
    there = _on_board(board, file, names)
    best = [(int(a[names[0]].argmax()), int(b[names[0]].argmax())) for a, b in zip(there, ideal, strict=True)]
    return Agreement(
        model=model.name,
        samples=len(there),
        values=sum(output.size for output in there[0].values()),
        board_to_host=round(_apart(there, here, steps)[0]),
        board_to_float=_apart(there, ideal, steps),
        host_to_float=_apart(here, ideal, steps),
        same_class=sum(a == b for a, b in best) / len(best) if task == "classification" else None,
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


def _apart(left: Sequence[Outputs], right: Sequence[Outputs], steps: dict[str, float | None]) -> tuple[float, float]:
    """The largest and the mean difference in steps of each output."""
    differences = np.concatenate(
        [
            np.abs(one[name].astype(np.float64) - other[name]).ravel() / (step or 1.0)
            for one, other in zip(left, right, strict=True)
            for name, step in steps.items()
        ]
    )
    return float(differences.max()), float(differences.mean())


def table(rows: Sequence[Agreement]) -> list[str]:
    """The rows as a Markdown table."""
    head = (
        "| model | samples | values of each | board to host | board to float | host to float | same best class |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    )
    lines = [
        f"| {row.model} | {row.samples} | {row.values} | {row.board_to_host} | {_pair(row.board_to_float)} "
        f"| {_pair(row.host_to_float)} | {'-' if row.same_class is None else f'{100 * row.same_class:.0f} %'} |"
        for row in rows
    ]
    return [*head, *lines]


def _pair(apart: tuple[float, float]) -> str:
    return f"{apart[0]:.1f} ({apart[1]:.2f})"


def page(rows: Sequence[Agreement]) -> str:
    return PROSE.format(table="\n".join(table(rows)), samples=SAMPLES)


def figures(text: str) -> dict[str, list[float]]:
    """The figures of each row of a table by its model; `-` is left out."""
    found = {}
    for line in text.splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if cells and not set(name) <= set("- ") and name != "model":
            found[name] = [float(word) for word in re.findall(r"[0-9.]+", " ".join(cells))]
    return found


PROSE = """\
# Does a board answer as this computer does?

Real trained models, deployed from the command line to the emulated arm64 board (`docs/boards.md`: ai-edge-litert 2.3.0
with XNNPACK, compiled for AArch64, on QEMU's Cortex-A72), and fed with the same real samples as the same INT8 model and
the float model on an x86-64 computer. Differences are the largest of any output value of any sample, and in brackets
the mean, in quantisation steps of that output.

{table}

*Board to host* is what another processor's kernels change: nothing here. *To float* is what INT8 costs, and the board
pays what the host pays. Selfie segmentation is known to suffer: at 256 steps a pixel has changed sides altogether, and
`edgekit validate` is what says so before anything is sent. Bits may well differ on other boards and other runtimes, so
a release is not held to them: its check on the board asks that it is as near to float there as it was on the host.

The samples are COCO pictures and recorded words. Repeat it, with the models and data beside the
repository in `../shared`:

```
scripts/arm64-agreement
```

which writes this page. `tests/deploy/test_agreement.py` measures it again and compares.
"""


def main() -> None:
    """Measure everything and write the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        user = User(folder / "user")
        user.home.mkdir()
        (folder / "board").mkdir()
        with boards.arm64(folder / "board") as board:
            write_ssh_config(user, board)
            user.do("trust", board.name, "--fingerprint", board.fingerprint)
            rows = []
            for number, model in enumerate(MODELS):
                work = folder / str(number)
                work.mkdir()
                rows.append(measure(model, board, user, work))
                print(table(rows)[-1], file=sys.stderr, flush=True)
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
