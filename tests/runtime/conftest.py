"""A small real release: the INT8 classifier of tests/fixtures, its float model's golden outputs, its labels."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime import distance, manifest, quant
from edgekit_runtime import golden as golden_samples
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import (
    Calibration,
    Golden,
    Manifest,
    Preprocess,
    Provenance,
)

MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"
LABELS = ("ash", "birch", "cedar", "dogwood")
SIDE = 8


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of small models."""
    return MODELS


@pytest.fixture(scope="session")
def spec() -> Preprocess:
    """The classifier takes pixels as they are."""
    return Preprocess(SIDE, SIDE)


@pytest.fixture(scope="session")
def frames() -> list[np.ndarray]:
    """Six RGB frames of the classifier's size."""
    generator = np.random.default_rng(11)
    return [generator.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(6)]


MakeRelease = Callable[..., Path]


@pytest.fixture(scope="session")
def make_release(tmp_path_factory: pytest.TempPathFactory, spec: Preprocess, frames: list[np.ndarray]) -> MakeRelease:
    """Makes a release folder of one of the INT8 classifiers, with other golden outputs when given."""

    def make(model: str = "classifier_int8", *, golden: bool = True, outputs: np.ndarray | None = None) -> Path:
        folder = tmp_path_factory.mktemp("release")
        content = (MODELS / f"{model}.tflite").read_bytes()
        (folder / manifest.MODEL).write_bytes(content)
        (folder / manifest.LABELS).write_text("\n".join(LABELS) + "\n")
        with Engine.load(MODELS / f"{model}.tflite", preprocess=spec) as engine:
            rows = np.stack([engine.prepare(frame) for frame in frames])
            inputs, tensors = engine.inputs, engine.outputs
            int8 = engine.infer([rows])[0]
            real = quant.dequantize(int8, tensors[0])
        with Engine.load(MODELS / "classifier_float.tflite") as engine:
            reference = engine.infer_real([np.stack(frames).astype(np.float32)])[0]
        host = distance.measure(tensors[0].name, real, reference)
        if golden:
            held = golden_samples.GoldenSamples((rows,), (reference if outputs is None else outputs,))
            golden_samples.write(folder / manifest.GOLDEN, held)
        wanted = Manifest(
            name="trees",
            task="classification",
            profile="host",
            model_sha256=hashlib.sha256(content).hexdigest(),
            model_size=len(content),
            model_crc32=zlib.crc32(content),
            inputs=inputs,
            outputs=tensors,
            preprocess=spec,
            labels=manifest.LABELS,
            runtime="ai-edge-litert 2.3.0",
            num_threads=1,
            provenance=Provenance("trees", "keras", "0" * 64, {}, Calibration(6, 0, "0" * 64)),
            golden=Golden(len(frames), (host,)) if golden else None,
        )
        (folder / manifest.MANIFEST).write_text(manifest.dumps(wanted))
        return folder

    return make


@pytest.fixture(scope="session")
def release(make_release: MakeRelease) -> Path:
    """The release that nothing is wrong with; not to be changed."""
    return make_release()
