"""predict: pictures from this computer through the current release on the board."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from edgekit_runtime import schema
from edgekit_runtime.classify import ClassScore
from edgekit_runtime.manifest import Preprocess
from edgekit_runtime.preprocess import load_pixels
from numpy.typing import NDArray

from edgekit.board.control import current_manifest
from edgekit.board.firstboot import require_running
from edgekit.board.measure import run_runtime, runtime_error, temporary_folder
from edgekit.board.session import Board
from edgekit.errors import UserError

if TYPE_CHECKING:
    from edgekit_runtime.preprocess import Source


@dataclass(frozen=True)
class Answer:
    """One sample's classes or detections, best first; `source` names it in the board's words.

    Detections have the Object Detection API's names; a box is ymin, xmin, ymax, xmax, in shares of the picture.
    """

    source: str
    classes: tuple[ClassScore, ...] = ()
    num_detections: int | None = None
    detection_boxes: tuple[tuple[float, float, float, float], ...] = ()
    detection_classes: tuple[int, ...] = ()
    detection_class_names: tuple[str | None, ...] = ()
    detection_scores: tuple[float, ...] = ()


def current_preprocess(board: Board) -> Preprocess:
    """How the current release wants its pictures. Raises UserError when it takes none, UnknownRelease."""
    require_running(board, "run a release")
    spec = current_manifest(board).preprocess
    if spec is None:
        raise UserError(f"{board.name}: the current release does not take pictures")
    return spec


def frames(sources: Sequence[Source], spec: Preprocess) -> NDArray[np.uint8]:
    """Pictures shrunk here to what the model takes, so that little is sent: uint8 (N, H, W, 1 or 3), RGB order."""
    pixels = [load_pixels(source, spec) for source in sources]
    return np.stack([item[..., ::-1] if spec.color == "BGR" else item for item in pixels])


def predict(
    board: Board,
    samples: NDArray[Any],
    *,
    top_k: int = 5,
    batch_size: int | None = None,
    release_id: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Answer, ...]:
    """Classes or detections of each sample, computed on the board.

    `samples` are uint8 frames (N, H, W, C) for a model that takes pictures, else real values (N, ...). `batch_size`
    above 1 is used only when the board's Engine proves that it changes nothing. Raises UserError for a model that
    does neither, and what `run_runtime` raises.
    """
    data = io.BytesIO()
    np.save(data, samples, allow_pickle=False)
    with temporary_folder(board) as folder:
        target = folder / "samples.npy"
        board.transport.put(data, target, size=data.tell(), progress=progress)
        argv = ["run", "--json", "--top-k", str(top_k), str(target)]
        if batch_size is not None:
            argv += ["--batch-size", str(batch_size)]
        done = run_runtime(board, argv, release_id=release_id)
    if done.status:
        raise runtime_error(board.name, done)
    answers = json.loads(done.text)
    if answers and "outputs" in answers[0]:
        raise UserError("the current release neither classifies nor detects", hint="edgekit bench measures any model")
    return tuple(schema.read(Answer, answer, f"{board.name}: run") for answer in answers)
