"""Reading a `.keras` archive as data: what is in it, and whether loading it would run code that is not Keras' own.

A `.keras` file is a zip of `metadata.json`, `config.json` and weights. Layers are named by module and class, so that
loading one imports what the file says; Lambda layers carry pickled bytecode.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.errors import UserError
from edgekit.models.source import COPY_AGAIN

MAX_MEMBERS = 10_000
MAX_BYTES = 4 * 1024**3
MAX_CONFIG_BYTES = 64 * 1024**2
# Keras layers that run pickled code, another framework's code, or a file outside of the archive.
_CODE_LAYERS = {
    "Lambda": "pickled code",
    "__lambda__": "pickled code",
    "TFSMLayer": "another SavedModel, loaded from a path",
    "TorchModuleWrapper": "pickled PyTorch code",
    "JaxLayer": "another framework's code",
    "FlaxLayer": "another framework's code",
}
# Keras 2's layers that call a function of TensorFlow's by its name; these compute and do no more. Others load
# libraries, read and write files, or call Python.
_FUNCTION_LAYERS = ("TFOpLambda", "ClassMethod")
_PLAIN_FUNCTION = re.compile(
    r"(__operators__|(compat\.v1\.)?(math|nn|image|linalg|signal))\.[a-z_0-9]+|"
    r"(compat\.v1\.)?(abs|add|argmax|argmin|broadcast_to|cast|clip_by_value|concat|constant|convert_to_tensor|cos|cumsum|"
    r"divide|einsum|equal|exp|expand_dims|eye|fill|floor|gather|gather_nd|greater|greater_equal|identity|less|less_equal|"
    r"logical_and|logical_not|logical_or|matmul|maximum|minimum|multiply|negative|norm|not_equal|one_hot|ones|ones_like|pad|"
    r"pow|range|rank|reduce_[a-z]+|repeat|reshape|reverse|roll|round|shape|sigmoid|sign|sin|size|slice|split|sqrt|square|"
    r"squeeze|stack|stop_gradient|strided_slice|subtract|tanh|tensordot|tile|transpose|unstack|where|zeros|zeros_like)"
)
# Layers whose vocabulary may be a path that is read when the model is loaded.
_VOCABULARY_LAYERS = ("StringLookup", "IntegerLookup", "TextVectorization", "IndexLookup")
# Where Keras' own functions live; `keras.utils` and the like hold functions that read, write and download.
_FUNCTION_MODULES = ("activations", "initializers", "losses", "metrics", "ops", "regularizers", "constraints")
_PLAIN = ("__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__keras_tensor__", "__typespec__")


def read_config(path: Path) -> dict[str, Any]:
    """The `config.json` of a `.keras` file. Raises UserError for a file that is cut, absurd or no Keras archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist())
            with archive.open("config.json") as member:
                content = member.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise UserError(f"{path}: config.json is larger than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(content)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, RecursionError, NotImplementedError) as error:
        raise UserError(f"{path}: not a readable .keras file: {error}", hint=COPY_AGAIN) from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: config.json holds no model")
    return config


def code_in(config: dict[str, Any]) -> tuple[str, ...]:
    """What in the model is code or reads files when it is loaded, one sentence each; empty for plain layers. How it was
    compiled is not loaded.
    """
    return tuple(dict.fromkeys(_findings({name: part for name, part in config.items() if name != "compile_config"})))


def always_training(config: dict[str, Any]) -> tuple[str, ...]:
    """The layers that were called with training=True, whatever the model is called with."""
    layers = config.get("config", {}).get("layers", []) if isinstance(config.get("config"), dict) else []
    found = []
    for layer in layers if isinstance(layers, list) else []:
        calls = layer.get("inbound_nodes", []) if isinstance(layer, dict) else []
        if any(isinstance(call, dict) and call.get("kwargs", {}).get("training") is True for call in calls):
            found.append(str(layer.get("name")))
    return tuple(found)


def _findings(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            finding = _finding(item)
            if finding:
                yield finding
            stack.extend(item.values())


def _finding(item: dict[str, Any]) -> str | None:
    named = item.get("class_name")
    if not isinstance(named, str) or named in _PLAIN:
        return None
    kind = named.rpartition(".")[2]  # Keras finds "layers.Lambda", too
    config = item.get("config")
    name = config.get("name", kind) if isinstance(config, dict) else config
    if kind in _CODE_LAYERS:
        return f"{kind} '{name}': {_CODE_LAYERS[kind]}"
    function = config.get("function") if isinstance(config, dict) else None
    if kind in _FUNCTION_LAYERS and not _PLAIN_FUNCTION.fullmatch(str(function)):
        return f"{kind} '{name}': calls {function}"
    if kind in _VOCABULARY_LAYERS and isinstance(config, dict) and isinstance(config.get("vocabulary"), str):
        return f"{kind} '{name}': reads the file '{config['vocabulary']}'"
    if item.get("module") is None:
        return f"{kind} '{name}': a custom object" if item.get("registered_name") not in (None, kind) else None
    return _outside_keras(kind, str(item["module"]), name)


def _outside_keras(kind: str, module: str, name: object) -> str | None:
    parts = module.split(".")
    inner = parts[2:] if parts[1:2] == ["src"] else parts[1:]
    if parts[0] not in ("keras", "tf_keras"):
        return f"{kind} '{name}': code outside of Keras ({module})"
    if kind == "function" and (not inner or inner[0] not in _FUNCTION_MODULES):
        return f"function '{name}' of {module}"
    return None


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise UserError(f"{path}: holds {len(members)} members, more than {MAX_MEMBERS}")
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES:
        raise UserError(f"{path}: unpacks to {total} bytes, more than {MAX_BYTES}")
    for member in members:
        name = PurePosixPath(member.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
            raise UserError(f"{path}: holds the path '{member.filename}', which leaves the archive")


def version(path: Path) -> str:
    """The Keras that wrote the archive."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("metadata.json") as member:
            return str(json.loads(member.read(65536)).get("keras_version", "of unknown version"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, AttributeError):
        return "of unknown version"
