"""One TFLite interpreter behind one face, whichever package brings it."""

from __future__ import annotations

import contextlib
import importlib
import re
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence, Tuple, TypeVar

import numpy as np

from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import DeviceError, InputError, UserError
from edgekit_runtime.integrity import ModelError
from edgekit_runtime.manifest import TensorSpec

if TYPE_CHECKING:
    from edgekit_runtime.integrity import Location
    from edgekit_runtime.quant import Array

Answer = TypeVar("Answer")

# Preferred first. ai_edge_litert's newer CompiledModel is not touched: it would load its GPU and NPU libraries.
PACKAGES = (
    ("ai_edge_litert", "ai_edge_litert.interpreter"),
    ("tflite_runtime", "tflite_runtime.interpreter"),
    ("tensorflow", "tensorflow"),
)
_UNRESOLVED = (
    r"unresolved custom op: ([^\s]+?)\.?(?:\s|$)|Didn't find op for builtin opcode '([^']+)'(?: version '(\d+)')?"
)
_FLEX = r"Select TensorFlow op\(s\)|Flex\w+"


class UnsupportedOperator(ModelError):
    """The model needs an operator (or a version of one) that the runtime does not have."""


class RuntimeMissing(DeviceError):
    """No TFLite interpreter can be imported."""


class InvokeError(ModelError):
    """The interpreter failed while it ran the model."""


@dataclass(frozen=True)
class Package:
    """The interpreter's package; `plain` is what asks its factory for no delegate."""

    name: str
    factory: Any
    plain: Any

    @property
    def version(self) -> str:
        """As 2.3.0; "unknown" where it does not say."""
        from edgekit_runtime.packages import package_version

        return package_version(self.name) or "unknown"


def find() -> Package:
    """The first interpreter that can be imported. Raises RuntimeMissing with each reason."""
    reasons = []
    for name, module_name in PACKAGES:
        try:
            module = importlib.import_module(module_name)
            if module_name == name:
                factory, resolvers = module.lite.Interpreter, module.lite.experimental.OpResolverType
            else:
                factory, resolvers = module.Interpreter, module.OpResolverType
        except (ImportError, AttributeError, SystemError) as error:
            reasons.append(f"{name}: {error}")
            continue
        plain = resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        return Package(name, factory, plain)
    raise RuntimeMissing(
        "no TFLite interpreter can be imported", hint="install ai-edge-litert or tflite-runtime", reasons=reasons
    )


class Interpreter:
    """A model file, loaded and allocated. Not safe for concurrent use.

    `inputs` and `outputs` describe the tensors (-1 for sizes that are not fixed); `init_ms` is the time in
    milliseconds that construction and allocation took. Without `xnnpack` TFLite's own kernels run everything.
    """

    def __init__(self, model: Location, *, num_threads: int = 1, xnnpack: bool = True) -> None:
        """Load `model`, a file that was verified: a cut one may crash the interpreter.

        Raises ModelError, UnsupportedOperator, RuntimeMissing.
        """
        if num_threads < 1:
            raise InputError(f"num_threads is at least 1, not {num_threads}")
        self.model = model
        self.package = find()
        started = time.perf_counter()
        try:
            options = {} if xnnpack else {"experimental_op_resolver_type": self.package.plain}
            self._interpreter = self.package.factory(model_path=str(model), num_threads=num_threads, **options)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, SystemError, MemoryError) as error:
            raise _translated(model, self.package, error) from error
        self.init_ms = (time.perf_counter() - started) * 1e3
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self.inputs = tuple(_spec(detail, model) for detail in self._inputs)
        self.outputs = tuple(_spec(detail, model) for detail in self._outputs)
        self._shapes = [tuple(int(size) for size in detail["shape"]) for detail in self._inputs]

    def run(self, tensors: Sequence[Array]) -> List[Array]:
        """Invoke once. `tensors` are whole input tensors in stored dtype and right shape; outputs are fresh arrays.

        Sizes that are not fixed (-1) may change from call to call. Raises InvokeError.
        """
        try:
            self.resize([tensor.shape for tensor in tensors])
            for detail, tensor in zip(self._inputs, tensors):
                self._interpreter.set_tensor(detail["index"], tensor)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(detail["index"]) for detail in self._outputs]
        except (ValueError, RuntimeError) as error:
            raise InvokeError(f"the model failed to run: {_one_line(error)}", model=str(self.model)) from error

    def run_within(self, write: Callable[[List[Array]], None], read: Callable[[List[Array]], Answer]) -> Answer:
        """Invoke once on the interpreter's own memory: `write` fills the inputs, `read` answers from the outputs.

        Neither may keep a view of a tensor, and sizes that are not fixed are those of the last run or `resize`.
        Raises InvokeError.
        """
        try:
            return self._within(write, read)
        except Exception as error:
            _clear(error)  # whoever keeps it would keep views, and nothing could run any more
            raise

    def _within(self, write: Callable[[List[Array]], None], read: Callable[[List[Array]], Answer]) -> Answer:
        try:
            write([self._interpreter.tensor(detail["index"])() for detail in self._inputs])
            self._interpreter.invoke()
            outputs = [self._interpreter.tensor(detail["index"])() for detail in self._outputs]
        except (ValueError, RuntimeError) as error:
            raise InvokeError(f"the model failed to run: {_one_line(error)}", model=str(self.model)) from error
        return read(outputs)

    def resize(self, shapes: Sequence[Tuple[int, ...]]) -> None:
        """Give the inputs these shapes; only sizes that are not fixed may change (strict). Raises ValueError."""
        if list(shapes) == self._shapes:
            return
        # What fails half-way leaves unknown shapes behind: the next call then sets them all.
        self._shapes = []
        for detail, shape in zip(self._inputs, shapes):
            self._interpreter.resize_tensor_input(detail["index"], list(shape), strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = list(shapes)

    @property
    def signature(self) -> str:
        """The name of the model's first signature; empty when it has none."""
        return next(iter(self._interpreter.get_signature_list()), "")

    def reset(self) -> None:
        """Clear the state that a recurrent model keeps between runs."""
        self._interpreter.reset_all_variables()


def _clear(error: BaseException) -> None:
    """Forget what the functions held that it came through, as `traceback.clear_frames` does."""
    trace = error.__traceback__
    while trace is not None:
        with contextlib.suppress(RuntimeError):  # of those that are not at their end
            trace.tb_frame.clear()
        trace = trace.tb_next


def _spec(detail: Dict[str, Any], model: Location) -> TensorSpec:
    signature = detail.get("shape_signature")
    shape = detail["shape"] if signature is None or len(signature) != len(detail["shape"]) else signature
    scales = detail["quantization_parameters"]["scales"]
    zeros = detail["quantization_parameters"]["zero_points"]
    name = str(detail["name"])
    if len(scales) > 1:
        raise ModelError(f"tensor '{name}' of '{model}' has a scale for each channel, which no input or output may")
    quantized = len(scales) == 1 and float(scales[0]) > 0
    try:
        return TensorSpec(
            name,
            tuple(int(size) for size in shape),
            np.dtype(detail["dtype"]).name,
            float(scales[0]) if quantized else None,
            int(zeros[0]) if quantized else None,
        )
    except ValueError as error:
        raise ModelError(f"tensor '{name}' of '{model}': {error}", model=str(model)) from error


def _translated(model: Location, package: Package, error: BaseException) -> UserError:
    text = _one_line(error)
    found = re.search(_UNRESOLVED, text)
    runtime = f"{package.name} {package.version}"
    if found or re.search(_FLEX, text):
        operator = (found.group(1) or found.group(2)) if found else "a TensorFlow (Flex) operator"
        version = f" in version {found.group(3)}" if found and found.group(3) else ""
        return UnsupportedOperator(
            f"'{model}' needs {operator}{version}, which {runtime} does not have",
            hint="convert it with built-in operators only, or use a newer runtime",
            operator=operator,
            runtime=runtime,
        )
    hint = None
    if isinstance(error, SystemError) and package.name == "tflite_runtime":
        hint = f"does it take NumPy {np.__version__}? tflite-runtime 2.14 takes 1.23.2 and newer, none takes 2"
    return ModelError(f"{runtime} cannot load '{model}': {text}", hint=hint, model=str(model), runtime=runtime)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
