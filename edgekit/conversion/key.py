"""The key of a conversion in the cache: one SHA-256 over everything that what is written depends on."""

import functools
import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import edgekit_runtime
from edgekit_runtime import environment, schema

import edgekit
from edgekit.conversion import boxes, doctor, prove, repair
from edgekit.conversion.order import Board, Order
from edgekit.datasets import content

SCHEMA = 1
# Of a profile, what is only told, or asked of a board that is there.
_TOLD = {"description", "cpu", "governor", "thermal_zones", "ssh_server", "sftp", "max_latency_ms"}
# What computes, decodes or writes on the way.
DISTRIBUTIONS = (
    "ai-edge-litert", "edgekit", "edgekit-runtime", "flatbuffers", "h5py", "keras", "ml-dtypes", "numpy", "pillow",
    "protobuf", "tensorflow", "tf-keras",
)  # fmt: skip
SOURCES = ("conversion", "datasets", "errors.py", "models", "profiles", "runtimes", "validation", "worker.py")
# Of unreadable pictures a pass may meet more than the calibration does, so that it gets somewhat further.
_LEAST = 4 * (boxes.PICTURES + prove.MAX_SAMPLES)


def key(order: Order, board: Board) -> str | None:
    """None for what no key can tell: data that code makes."""
    found = facts(order, board)
    return None if found is None else of(found)


def of(found: dict[str, Any]) -> str:
    """The SHA-256 of these facts, in whichever order."""
    return hashlib.sha256(json.dumps(found, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def facts(order: Order, board: Board) -> dict[str, Any] | None:
    """Everything that what is written depends on, as plain data."""
    data = content.digest(order.data, (order.seed, max(order.samples, _LEAST)), *_judging(order, on_data=True))
    held_out = _held_out(order)
    if data is None or (order.held_out is not None and held_out is None):
        return None
    model, interpreter = order.model, board.interpreter
    return {
        "schema": SCHEMA,
        "model": [model.name, model.file_name, model.form, model.sha256, list(model.notes)],
        "declaration": schema.plain(order.declaration),
        "anchors": content.tree(Path(order.declaration.detection.anchors)) if order.declaration.detection else None,
        "data": data,
        "held_out": held_out,
        "samples": order.samples,
        "seed": order.seed,
        "trust_code": order.trust_code,
        "allow_float": order.allow_float,
        "max_drop": order.max_drop,
        "truth": None if order.truth is None else [content.tree(order.truth), order.foreground],
        "profile": {name: value for name, value in schema.plain(board.profile).items() if name not in _TOLD},
        "interpreter": [interpreter.package, interpreter.version],
        "encoding": schema.plain(board.encoding),
        **computer(),
    }


@functools.cache
def computer() -> dict[str, Any]:
    """What is the same for every conversion of this process: versions, edgekit's own source, the processor."""
    here = environment.read()
    return {
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
        "python": platform.python_version(),
        "source": _source(),
        "processor": [platform.machine(), here.cpu, sorted(here.cpu_features)],
    }


def _held_out(order: Order) -> str | None:
    if order.held_out is None:
        return None
    if order.held_out.path.resolve() == order.data.path.resolve():
        return "the calibration data"  # which no doctor compares with themselves
    return content.digest(order.held_out, (0, 2 * doctor.HELD_OUT), *_judging(order, on_data=False))


def _judging(order: Order, *, on_data: bool) -> list[tuple[int, int]]:
    """What a repair reads to judge its candidates, if these are the data that it judges on."""
    judged_on_data = _held_out_path(order) == order.data.path.resolve()
    if order.max_drop is None or judged_on_data != on_data:
        return []
    return [(order.seed + 1, repair.MAX_SAMPLES)]


def _held_out_path(order: Order) -> Path:
    return (order.held_out or order.data).path.resolve()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _source() -> str:
    """Of every module and table that has a part in a conversion: a changed one has never answered before."""
    own = Path(edgekit.__path__[0])
    roots = [*(own / name for name in SOURCES), Path(edgekit_runtime.__path__[0])]
    whole = hashlib.sha256()
    for root in roots:
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file() and path.suffix in (".py", ".toml"):
                whole.update(f"{path.relative_to(root.parent).as_posix()}\0".encode())
                whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()
