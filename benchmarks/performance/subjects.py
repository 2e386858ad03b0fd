"""What is run: the models as releases and as files for the peers, and real pictures of each size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime import manifest as manifests
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Calibration, Manifest, Preprocess, Provenance
from PIL import Image

from benchmarks.performance import peers
from edgekit.conversion import cache, record
from edgekit.conversion.convert import convert_many
from edgekit.conversion.record import Conversion, Files
from edgekit.datasets.declaration import declare
from edgekit.profiles import profile
from tests.deploy.agreement import SHARED
from tests.runtime.test_frames import yuv

HOST = profile.find("host")
CORAL = SHARED / "reference/coral_tflite_dev"
COCO = SHARED / "data/coco128_dev/images"
PHOTOS = SHARED / "data/coral_images"
FLOAT = SHARED / "models/imagenet_mobilenetv1_025_224_h5_keras2/mobilenet_v1_0.25_224.h5"
DETECTOR = SHARED / "models/odapi_ssd_mnv2_fpnlite320_frozen_tf2sm/frozen_inference_graph.pb"
WAKE = SHARED / "models/vww_mobilenetv1_h5_keras2/vww_96.h5"
SURE = 0.5  # from which score boxes count
SIZES = {"1280x720": (1280, 720), "1920x1080": (1920, 1080)}


@dataclass(frozen=True)
class Subject:
    """A model: its release, the copy with metadata that MediaPipe and the Task Library want (None when it could not be
    made), and a frame of its size. `other_ends` is the same model with uint8 in and float32 out, where edgekit made it:
    MediaPipe and the Task Library take no int8, nor does the documentation's script.
    """

    name: str
    release: Path
    described: Path | None
    frame: Path
    task: str
    mean: float
    std: float
    other_ends: Path | None

    @property
    def for_peers(self) -> Path:
        return self.other_ends or self.model

    @property
    def model(self) -> Path:
        return self.release / manifests.MODEL


@dataclass(frozen=True)
class Subjects:
    """`frames` by size and format; `files` are JPEGs by size."""

    small: Subject
    tiny: Subject
    large: Subject
    detector: Subject
    exported: Subject
    saved_model: Path
    frames: dict[tuple[str, str], Path]
    files: dict[str, tuple[Path, ...]]

    def __iter__(self) -> Iterator[Subject]:
        return iter((self.large, self.small, self.detector, self.exported, self.tiny))


def make(folder: Path) -> Subjects:
    """All of it, in `folder`."""
    detector = _converted(folder / "detector", "SSD MobileNetV2 FPNLite 320, INT8", DETECTOR, COCO / "train2017")
    things = SHARED / "data/imagenet1k_sample_dev"
    return Subjects(
        small=_converted(folder / "small", "MobileNetV1 0.25 224, INT8", FLOAT, things, range="-1..1"),
        tiny=_converted(folder / "tiny", "visual wake words 96, INT8", WAKE, COCO / "val2017", range="0..1"),
        large=_published(folder / "large", "MobileNetV2 1.0 224, uint8", CORAL / "mobilenet_v2_1.0_224_quant.tflite"),
        detector=_with_threshold(detector, SURE),
        exported=replace(detector, name=f"{detector.name}, all boxes"),
        saved_model=_saved_model(folder / "float"),
        frames=dict(_frames(folder)),
        files=_files(folder),
    )


def _converted(folder: Path, name: str, source: Path, data: Path, range: str | None = None) -> Subject:
    folder.mkdir()
    output = folder / "converted.tflite"
    ends = replace(HOST, name="other-ends", input_dtype="uint8", output_dtype="float32")
    made, _ = convert_many(
        source, profiles=[HOST, ends], data=data, output=output, samples=64, log=folder / "log", cache=cache.default(),
        declaration=declare(range=range, task="classification") if range else None,
    )  # fmt: skip
    ends_file = output.with_name("converted.other-ends.tflite")
    wanted = record.manifest(made.record, HOST, "ai-edge-litert 2.3.0")
    return _released(folder, name, made.output, wanted, made.record, other_ends=ends_file)


def _published(folder: Path, name: str, model: Path) -> Subject:
    """Somebody's own `.tflite`, as a release without golden samples."""
    folder.mkdir()
    with Engine.load(model) as engine:
        height, width = engine.inputs[0].shape[1:3]
        given = Manifest(
            name="published", task="classification", profile=HOST.name, model_sha256=engine.model_sha256,
            model_size=model.stat().st_size, model_crc32=zlib.crc32(model.read_bytes()),
            inputs=engine.inputs, outputs=engine.outputs,
            preprocess=Preprocess(width, height, mean=(128.0,) * 3, std=(128.0,) * 3), labels=None,
            runtime="ai-edge-litert 2.3.0", num_threads=1, golden=None,
            provenance=Provenance(model.name, "tflite", engine.model_sha256, {}, Calibration(0, 0, "")),
        )  # fmt: skip
    return _released(folder, name, model, given, None)


def _released(
    folder: Path, name: str, model: Path, wanted: Manifest, made: Conversion | None, *, other_ends: Path | None = None
) -> Subject:
    release, parts = folder / "release", Files.of(model)
    release.mkdir()
    shutil.copyfile(model, release / manifests.MODEL)
    (release / manifests.MANIFEST).write_text(manifests.dumps(wanted))
    for part, member in ((parts.golden, manifests.GOLDEN), (parts.labels, manifests.LABELS)):
        if made is not None and part.exists():
            shutil.copyfile(part, release / member)
    if wanted.detection is not None:
        shutil.copyfile(parts.anchors, release / manifests.ANCHORS)
    assert wanted.preprocess is not None
    side = (wanted.preprocess.width, wanted.preprocess.height)
    np.save(folder / "frame.npy", _photo("cat_720p.jpg", side))
    mean, std = wanted.preprocess.mean[0], wanted.preprocess.std[0]
    described = _described(folder, release, wanted, other_ends or release / manifests.MODEL)
    return Subject(name, release, described, folder / "frame.npy", wanted.task, mean, std, other_ends)


def _with_threshold(subject: Subject, threshold: float) -> Subject:
    """The detector as somebody declares it who wants sure boxes, as the peers are asked for."""
    release = subject.release.with_name("sure")
    shutil.copytree(subject.release, release)
    wanted = manifests.loads((release / manifests.MANIFEST).read_text())
    assert wanted.detection is not None
    wanted = replace(wanted, detection=replace(wanted.detection, score_threshold=threshold))
    (release / manifests.MANIFEST).write_text(manifests.dumps(wanted))
    return replace(subject, name=f"{subject.name}, score {threshold} or more", release=release)


def _described(folder: Path, release: Path, wanted: Manifest, model: Path) -> Path | None:
    """A copy that has MediaPipe's metadata; its own writer makes it, in its own environment."""
    assert wanted.preprocess is not None
    scores = wanted.outputs[wanted.detection.scores if wanted.detection else 0].shape[-1]
    detection: dict[str, Any] | None = None
    if wanted.detection is not None:
        detection = {
            "anchors": str(release / manifests.ANCHORS),
            "box_scales": wanted.detection.box_scales,
            "scores_first": wanted.detection.scores < wanted.detection.boxes,
        }
    order = {
        "model": str(model),
        "output": str(folder / "described.tflite"),
        "mean": list(wanted.preprocess.mean),
        "std": list(wanted.preprocess.std),
        "labels": [f"class {number}" for number in range(scores)],
        "detection": detection,
    }
    try:
        command: list[str | Path] = [peers.python("mediapipe"), "-P", "-m", "benchmarks.performance.describe"]
    except peers.PeerError:
        return None
    done = subprocess.run(
        command, input=json.dumps(order), text=True, check=False, capture_output=True, env=peers.variables(),
        cwd=peers.REPOSITORY,
    )  # fmt: skip
    if done.returncode:
        print(f"no metadata for {release}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return folder / "described.tflite"


def _photo(name: str, size: tuple[int, int]) -> Any:
    return np.asarray(Image.open(PHOTOS / name).convert("RGB").resize(size, Image.Resampling.BICUBIC))


def _frames(folder: Path) -> Iterator[tuple[tuple[str, str], Path]]:
    for name, size in SIZES.items():
        pixels = _photo("cat_720p.jpg", size)
        for form in ("RGB", "NV12"):
            file = folder / f"{name}-{form}.npy"
            np.save(file, pixels if form == "RGB" else yuv(pixels, form))
            yield (name, form), file


def _files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Several each, so that no decoder sees the same bytes twice in a row."""
    found = {}
    for name, size in SIZES.items():
        files = []
        for photo in ("cat_720p.jpg", "owl.jpg", "parrot.jpg", "hot_dog.jpg"):
            files.append(folder / f"{name}-{photo}")
            Image.fromarray(_photo(photo, size)).save(files[-1], quality=90)
        found[name] = tuple(files)
    return found


def _saved_model(folder: Path) -> Path:
    """The small model in float, for TensorFlow itself."""
    code = (
        "import sys, tf_keras, tensorflow as tf; "
        "tf.saved_model.save(tf_keras.models.load_model(sys.argv[1], compile=False), sys.argv[2])"
    )
    command: list[str | Path] = [peers.python("tensorflow"), "-P", "-c", code, FLOAT, folder]
    subprocess.run(command, check=True, capture_output=True, env=peers.variables(TF_USE_LEGACY_KERAS="1"))
    return folder
