"""Which operators of a `.tflite` XNNPACK takes on this computer; TFLite's own, slower kernels run the others."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit_runtime import schema

from edgekit import worker
from edgekit.errors import CheckFailed

TIME_LIMIT_S = 60.0


@dataclass(frozen=True)
class Delegation:
    """XNNPACK takes `taken` of the first subgraph's `operators`; `left` counts the others by name."""

    operators: int
    taken: int
    left: dict[str, int]

    def __str__(self) -> str:
        others = ", ".join(f"{count} {name}" for name, count in self.left.items())
        return f"{self.taken} of {self.operators} operators" + (f", but not {others}" if others else "")


def ask(model: Path, *, log: Path | None = None) -> Delegation:
    """`find`, in a process of its own. Raises CheckFailed also when the model crashes it or takes too long."""
    plain = worker.run("delegation", {"model": str(model)}, what=f"loading {model}", log=log, time_limit_s=TIME_LIMIT_S)
    return schema.read(Delegation, plain, "delegation")


def work(request: dict[str, Any], _progress: worker.Progress) -> dict[str, Any]:
    """The worker's side; returns a plain Delegation."""
    plain: dict[str, Any] = schema.plain(find(Path(request["model"])))
    return plain


def find(model: Path) -> Delegation:
    """Load the model for one sample. Raises CheckFailed when the interpreter of this computer does not take it."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(str(model))
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise CheckFailed(f"{model}: the interpreter of this computer does not load it: {_short(error)}") from error
    nodes = interpreter._get_ops_details()
    own = [node for node in nodes if node["op_name"] != "DELEGATE"]
    taken = _replaced(own, [node for node in nodes if node["op_name"] == "DELEGATE"])
    left = Counter(node["op_name"] for number, node in enumerate(own) if number not in taken)
    return Delegation(len(own), len(taken), dict(sorted(left.items())))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _replaced(own: list[dict[str, Any]], delegates: list[dict[str, Any]]) -> set[int]:
    """The operators behind each delegate's outputs, up to its inputs: which replaces which is not listed."""
    maker = {int(tensor): number for number, node in enumerate(own) for tensor in node["outputs"]}
    found = set[int]()
    for delegate in delegates:
        given = {int(tensor) for tensor in delegate["inputs"]}
        wanted = [int(tensor) for tensor in delegate["outputs"]]
        while wanted:
            tensor = wanted.pop()
            number = maker.get(tensor)
            if tensor not in given and number is not None and number not in found:
                found.add(number)
                wanted += [int(one) for one in own[number]["inputs"]]
    return found
