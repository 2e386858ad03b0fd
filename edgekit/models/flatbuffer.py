"""Reading and naming what a `.tflite` file holds, without an interpreter."""

import struct
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgekit_runtime.manifest import DTYPES, TensorSpec

from edgekit.errors import UserError
from edgekit.models.source import COPY_AGAIN

MAX_BYTES = 2 * 1024**3
_STORED = {"int4", "int8", "uint8"}


@dataclass(frozen=True)
class TFLite:
    """The first subgraph. `operators` counts them by name; `float_operators` names those that compute in float32.

    `quantization` is "int8" (nothing but the ends in float), "int16x8" (with 16-bit activations), "mixed",
    "dynamic-range" or "float16" (weights of 8 or 16 bits, activations in float), "float", or "none" (no real numbers).
    `stored_outputs` are the outputs before a last DEQUANTIZE: what the model can tell apart.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    stored_outputs: tuple[TensorSpec, ...]
    operators: dict[str, int]
    float_operators: tuple[str, ...]
    quantization: str
    parameters: int
    signatures: tuple[str, ...]
    size: int


def read(path: Path) -> TFLite:
    """Look into a `.tflite` file. Raises UserError for one that cannot be parsed."""
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES} bytes")
    content = path.read_bytes()
    try:
        return parse(content)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", hint=error.hint) from error
    except Exception as error:  # the generated reader raises whatever damaged offsets lead to
        raise UserError(
            f"{path}: not a readable TFLite model: it is cut or damaged ({error})", hint=COPY_AGAIN
        ) from error


def parse(content: bytes) -> TFLite:
    """As `read`, from bytes; raises anything for damaged ones."""
    from ai_edge_litert import schema_py_generated as schema_fb

    if content[4:8] != b"TFL3":
        raise UserError("not a TFLite model (no TFL3 mark)")
    model = schema_fb.Model.GetRootAsModel(content, 0)
    if not model.SubgraphsLength():
        raise UserError("holds no graph (no subgraph)", hint="give a model that was saved whole")
    graph = model.Subgraphs(0)
    codes = {number: name for name, number in vars(schema_fb.BuiltinOperator).items() if isinstance(number, int)}
    kinds = {number: name.lower() for name, number in vars(schema_fb.TensorType).items() if isinstance(number, int)}
    operators: Counter[str] = Counter()
    customs: set[str] = set()
    in_float: set[str] = set()
    dequantized: dict[int, int] = {}
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        custom = code.CustomCode()
        name = custom.decode() if custom else codes[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        customs.update([name] if custom else [])
        operators[name] += 1
        if name == "DEQUANTIZE":
            dequantized[operator.Outputs(0)] = operator.Inputs(0)
        if name not in ("QUANTIZE", "DEQUANTIZE") and _computes_in_float(graph, operator, kinds):
            in_float.add(name)
    ends = [graph.Outputs(index) for index in range(graph.OutputsLength())]
    _require_numbers(graph, ends, kinds, customs)
    return TFLite(
        inputs=tuple(_spec(graph.Tensors(graph.Inputs(i)), kinds) for i in range(graph.InputsLength())),
        outputs=tuple(_spec(graph.Tensors(index), kinds) for index in ends),
        stored_outputs=tuple(_spec(graph.Tensors(dequantized.get(i, i)), kinds) for i in ends),
        operators=dict(sorted(operators.items())),
        float_operators=tuple(sorted(in_float)),
        quantization=_quantization(model, graph, kinds, bool(in_float)),
        parameters=_parameters(model, graph),
        signatures=tuple(
            (model.SignatureDefs(i).SignatureKey() or b"").decode() for i in range(model.SignatureDefsLength())
        ),
        size=len(content),
    )


def named(content: bytes, inputs: Sequence[str] = ()) -> bytes:
    """The model with its inputs and outputs named as in its only signature, where the new name is not longer, and its
    inputs in the order of `inputs`, where these are the signature's names: the converter has an order of its own.

    The converter calls them `serving_default_image:0` and `StatefulPartitionedCall:1`. A flatbuffer's string can be
    shortened in place, so that no other byte moves and every alignment holds.
    """
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.Model.GetRootAsModel(content, 0)
    if model.SignatureDefsLength() != 1:
        return content
    signature, graph = model.SignatureDefs(0), model.Subgraphs(0)
    changed = bytearray(content)
    maps = [signature.Inputs(i) for i in range(signature.InputsLength())]
    maps += [signature.Outputs(i) for i in range(signature.OutputsLength())]
    for item in maps:
        tensor, name = graph.Tensors(item.TensorIndex()), item.Name()
        old = tensor.Name()
        if name and old and len(name) <= len(old):
            table = tensor._tab  # the generated reader offers no other way to the position
            field = table.Offset(10)  # schema.fbs: Tensor.name is the fourth field
            start = table.Indirect(table.Pos + field)
            changed[start : start + 4] = struct.pack("<I", len(name))
            changed[start + 4 : start + 4 + len(old)] = name.ljust(len(old), b"\0")
    indices = {item.Name().decode(): item.TensorIndex() for item in maps[: signature.InputsLength()] if item.Name()}
    if len(inputs) == graph.InputsLength() and set(inputs) == set(indices):
        table = graph._tab
        start = table.Vector(table.Offset(6))  # schema.fbs: SubGraph.inputs is the second field
        struct.pack_into(f"<{len(inputs)}i", changed, start, *(indices[name] for name in inputs))
    return bytes(changed)


def constant(model: Any, tensor: Any) -> Any:
    """The buffer with a tensor's values, or None where they are computed. An interpreter takes a buffer that is not
    there for an empty one.
    """
    number = tensor.Buffer()
    buffer = model.Buffers(number) if number < model.BuffersLength() else None
    return buffer if buffer is not None and buffer.DataLength() else None


def activations(content: bytes) -> dict[int, bool]:
    """What the operators of the first subgraph take and make in float32, by number: whether one of them makes it."""
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    given, made = list[int](), list[int]()
    for operator in (graph.Operators(index) for index in range(graph.OperatorsLength())):
        given += [operator.Inputs(number) for number in range(operator.InputsLength())]
        made += [operator.Outputs(number) for number in range(operator.OutputsLength())]
    found, results = {}, set(made)
    for index in (index for index in (*made, *given) if index >= 0):
        tensor = graph.Tensors(index)
        if tensor.Type() == schema_fb.TensorType.FLOAT32 and constant(model, tensor) is None:
            found[index] = index in results
    return found


def stateless(content: bytes) -> bool:
    """Whether a run is one pass over one graph that remembers nothing: no branch, loop, variable or state."""
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.Model.GetRootAsModel(content, 0)
    if model.SubgraphsLength() != 1:
        return False
    graph = model.Subgraphs(0)
    kinds = (schema_fb.TensorType.RESOURCE, schema_fb.TensorType.VARIANT)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    return not any(tensor.IsVariable() or tensor.Type() in kinds for tensor in tensors)


def spoilt(content: bytes) -> tuple[str, ...]:
    """The constants that hold values that are not a number, by name."""
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.Model.GetRootAsModel(content, 0)
    names = []
    for graph in (model.Subgraphs(index) for index in range(model.SubgraphsLength())):
        for tensor in (graph.Tensors(index) for index in range(graph.TensorsLength())):
            buffer = constant(model, tensor) if tensor.Type() == schema_fb.TensorType.FLOAT32 else None
            if buffer is not None and np.isnan(buffer.DataAsNumpy().view(np.float32)).any():
                names.append((tensor.Name() or b"").decode())
    return tuple(names)


def _computes_in_float(graph: Any, operator: Any, kinds: dict[int, str]) -> bool:
    indices = [operator.Inputs(i) for i in range(operator.InputsLength())]
    indices += [operator.Outputs(i) for i in range(operator.OutputsLength())]
    return any(index >= 0 and kinds[graph.Tensors(index).Type()].startswith("float") for index in indices)


def _quantization(model: Any, graph: Any, kinds: dict[int, str], in_float: bool) -> str:
    """By the tensors that hold real numbers; whole numbers, such as shapes, are in every model."""
    weights, activations = set[str](), set[str]()
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        kind, quantization = kinds[tensor.Type()], tensor.Quantization()
        scaled = quantization is not None and quantization.ScaleLength()
        if kind.startswith("float") or scaled:
            (activations if constant(model, tensor) is None else weights).add(kind)
    if not in_float:
        if "int16" in activations and not activations & _STORED:  # an LSTM in INT8 has 16 bits in its cells
            return "int16x8"
        return "int8" if (weights | activations) & _STORED else "none"
    # A quantised input or output of a model that computes in float is mixed, too.
    if activations & {*_STORED, "int16"}:
        return "mixed"
    return "dynamic-range" if weights & _STORED else "float16" if "float16" in weights else "float"


def _parameters(model: Any, graph: Any) -> int:
    total = 0
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        if constant(model, tensor) is not None and tensor.ShapeLength():
            size = 1
            for axis in range(tensor.ShapeLength()):
                size *= tensor.Shape(axis)
            total += size if size > 1 else 0
    return total


def _require_numbers(graph: Any, ends: Sequence[int], kinds: dict[int, str], customs: Collection[str]) -> None:
    for index in (*(graph.Inputs(i) for i in range(graph.InputsLength())), *ends):
        tensor = graph.Tensors(index)
        if kinds[tensor.Type()] not in DTYPES:
            name, also = (tensor.Name() or b"").decode(), ", ".join(sorted(customs))
            raise UserError(
                f"tensor '{name}' is {kinds[tensor.Type()]}, which edgekit does not handle"
                + (f"; nor is there an interpreter with its custom operators: {also}" if also else ""),
                hint="give a model that takes and gives numbers",
            )


def _spec(tensor: Any, kinds: dict[int, str]) -> TensorSpec:
    kind, name = kinds[tensor.Type()], (tensor.Name() or b"").decode()  # stripped files have no names
    signature = _axes(tensor.ShapeSignature, tensor.ShapeSignatureLength())
    shape = signature or _axes(tensor.Shape, tensor.ShapeLength())
    quantization = tensor.Quantization()
    scaled = quantization is not None and quantization.ScaleLength() == 1 and quantization.Scale(0) > 0
    return TensorSpec(
        name,
        shape,
        kind,
        float(quantization.Scale(0)) if scaled else None,
        int(quantization.ZeroPoint(0)) if scaled else None,
    )


def _axes(axis: Any, length: int) -> tuple[int, ...]:
    return tuple(int(axis(index)) for index in range(length))


def _is_cast(code: Any) -> bool:
    from ai_edge_litert import schema_py_generated as schema_fb

    return bool(max(code.builtinCode, code.deprecatedBuiltinCode) == schema_fb.BuiltinOperator.CAST)


def real_inputs(content: bytes) -> bytes:
    """The model with float32 inputs where it takes uint8 and casts it first of all: INT8 has no such CAST, and a real
    input that is quantised stores pixels as they are, too.
    """
    from ai_edge_litert import schema_py_generated as schema_fb

    if all(spec.dtype != "uint8" for spec in parse(content).inputs):
        return content
    model = schema_fb.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    for index in graph.inputs:
        takers = [operator for operator in graph.operators if index in operator.inputs]
        casts = [
            operator
            for operator in takers
            if _is_cast(model.operatorCodes[operator.opcodeIndex])
            and graph.tensors[operator.outputs[0]].type == schema_fb.TensorType.FLOAT32
        ]
        if graph.tensors[index].type == schema_fb.TensorType.UINT8 and takers and len(casts) == len(takers):
            graph.tensors[index].type = schema_fb.TensorType.FLOAT32
            graph.operators = [operator for operator in graph.operators if operator not in casts]
            same = {operator.outputs[0] for operator in casts}
            for operator in graph.operators:
                operator.inputs = [index if one in same else one for one in operator.inputs]
            graph.outputs = [index if one in same else one for one in graph.outputs]
    operators = [operator for part in model.subgraphs for operator in part.operators]
    used = sorted({operator.opcodeIndex for operator in operators})  # the calibrator has no CAST, used or not
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)
    return packed(model, len(content))


def with_all_outputs(content: bytes) -> bytes:
    """The model with what each of its operators makes as an output, and without signatures."""
    from ai_edge_litert import schema_py_generated as schema_fb

    model = schema_fb.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    made = [int(index) for operator in graph.operators for index in operator.outputs if index >= 0]
    graph.outputs = list(dict.fromkeys(made))
    model.signatureDefs = None
    return packed(model, len(content))


def packed(model: Any, size: int) -> bytes:
    """The bytes of a model of the generated reader's (ModelT); `size` is about how many."""
    import flatbuffers

    builder = flatbuffers.Builder(size)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
