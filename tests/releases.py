"""Small real releases: a classifier, its manifest and the real runtime, which pass their check where LiteRT is."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgekit_runtime import manifest
from edgekit_runtime.interpreter import Interpreter
from edgekit_runtime.manifest import Calibration, Manifest, Preprocess, Provenance

from edgekit.bundles import bundle
from edgekit.bundles.bundle import Bundle
from edgekit.profiles import hostfacts
from edgekit.runtimes import resolve

MODELS = Path(__file__).resolve().parent / "fixtures" / "models"
LITERT = (
    "__init__.py interpreter.py metrics_interface.py metrics_portable.py _pywrap_litert_interpreter_wrapper.so "
    "libpywrap_litert_common.so libLiteRt.so"
)


def members(
    tag: str,
    *,
    model: str = "classifier_int8",
    like: str = "classifier_int8",
    litert: bool = False,
    extra: dict[str, bytes] | None = None,
) -> dict[str, Path | bytes]:
    """The members of a release; another `tag` makes another release with the same model and runtime.

    Args:
        model: a model of tests/fixtures.
        like: the model whose tensors the manifest describes; its input is 8 x 8 RGB.
        litert: bring the interpreter too, instead of using the board's.
    """
    path = MODELS / f"{model}.tflite"
    content = path.read_bytes()
    interpreter = Interpreter(MODELS / f"{like}.tflite")
    described = Manifest(
        name="trees",
        task="classification",
        profile="host",
        model_sha256=hashlib.sha256(content).hexdigest(),
        model_size=len(content),
        inputs=interpreter.inputs,
        outputs=interpreter.outputs,
        preprocess=Preprocess(8, 8),
        labels=manifest.LABELS,
        runtime="ai-edge-litert",
        num_threads=1,
        provenance=Provenance(tag, "keras", "0" * 64, {}, Calibration(1, 0, "0" * 64)),
        golden=None,
    )
    found: dict[str, Path | bytes] = {
        manifest.MODEL: path,
        manifest.MANIFEST: manifest.dumps(described).encode("ascii"),
        manifest.LABELS: b"ash\nbirch\ncedar\ndogwood\n",
        **{f"{manifest.RUNTIME}/{file.name}": file.path for file in resolve.own_files()},
        **(extra or {}),
    }
    if litert:
        import ai_edge_litert

        folder = Path(ai_edge_litert.__path__[0])
        found |= {f"{manifest.RUNTIME}/ai_edge_litert/{name}": folder / name for name in LITERT.split()}
    return found


def make(
    folder: Path,
    tag: str = "one",
    *,
    model: str = "classifier_int8",
    litert: bool = False,
    extra: dict[str, bytes] | None = None,
    counter: int = 0,
    architecture: str | None = None,
    python: str | None = None,
) -> Bundle:
    """Such a release as a bundle for this computer (or another kind of board)."""
    return bundle.build(
        folder / f"{tag}.ekb",
        members(tag, model=model, litert=litert, extra=extra),
        name="trees",
        profile="host",
        architecture=architecture or hostfacts.architecture(),
        glibc=hostfacts.glibc(),
        python=python or hostfacts.python(),
        counter=counter,
    )


def make_rejected(folder: Path) -> Bundle:
    """A release that no board accepts: its model needs an operator that the interpreter lacks."""
    return bundle.build(
        folder / "rejected.ekb",
        members("rejected", model="custom"),
        name="trees",
        profile="host",
        architecture=hostfacts.architecture(),
        glibc=hostfacts.glibc(),
        python=hostfacts.python(),
    )
