"""Reading `saved_model.pb`: signatures, tensors, and operators that are code or touch files.

TensorFlow is imported inside the functions, which run in the worker.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit_runtime.manifest import DTYPES, TensorSpec

from edgekit.errors import UserError
from edgekit.models.source import SAVED_MODEL

SERVE_TAG = "serve"
SIGNATURE = "serving_default"
MAX_GRAPH_BYTES = 2 * 1024**3
# Operators that call Python, or read and write files that the graph names. The savers' own (SaveV2, RestoreV2, ...)
# are in every SavedModel and run only on its own variables.
CODE_OPERATORS = frozenset(
    (
        "PyFunc",
        "PyFuncStateless",
        "EagerPyFunc",
        "ReadFile",
        "WriteFile",
        "MatchingFiles",
        "ImmutableConst",
        "LoadDataset",
        "SaveDataset",
        "SaveDatasetV2",
        "SnapshotDataset",
        "SnapshotDatasetV2",
        "TextLineDataset",
        "TFRecordDataset",
        "TFRecordDatasetV2",
        "FixedLengthRecordDataset",
        "FixedLengthRecordDatasetV2",
        "SqlDataset",
        "WholeFileReader",
        "WholeFileReaderV2",
        "TextLineReader",
        "TextLineReaderV2",
        "TFRecordReader",
        "TFRecordReaderV2",
        "FixedLengthRecordReader",
        "FixedLengthRecordReaderV2",
        "DatasetToTFRecord",
        "CreateSummaryFileWriter",
        "CreateSummaryDbWriter",
        "PrintV2",
        "DebugIdentityV2",
        "DebugIdentityV3",
        "GeneratorDataset",
        "RpcCall",
        "RpcClient",
        "RpcServer",
    )
)


@dataclass(frozen=True)
class Signature:
    """One signature: names as the model's users know them. Shapes have -1 for sizes that are not fixed."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Graph:
    """What `saved_model.pb` says about the graph with the tag "serve".

    `constants` counts the numbers held in the graph itself; `code` names the operators of CODE_OPERATORS in it.
    """

    signatures: tuple[str, ...]
    serving: Any
    constants: int
    nodes: int
    code: tuple[str, ...]
    tensorflow: str


def read(path: Path) -> Graph:
    """Parse `path/saved_model.pb`. Raises UserError."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / SAVED_MODEL
    if file.stat().st_size > MAX_GRAPH_BYTES:
        raise UserError(f"{file}: larger than {MAX_GRAPH_BYTES} bytes")
    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError: importing it needs another dependency's name
        raise UserError(f"{file}: not a SavedModel: it is cut or damaged ({error})") from error
    tags = [sorted(graph.meta_info_def.tags) for graph in proto.meta_graphs]
    graphs = [graph for graph in proto.meta_graphs if SERVE_TAG in graph.meta_info_def.tags]
    if not graphs:
        raise UserError(f"{file}: holds no graph with the tag '{SERVE_TAG}', only {tags}", tags=tags)
    graph = graphs[0]
    nodes = list(graph.graph_def.node)
    for function in graph.graph_def.library.function:
        nodes.extend(function.node_def)
    constants = 0
    for node in nodes:
        if node.op == "Const" and tf.dtypes.as_dtype(node.attr["value"].tensor.dtype).is_floating:
            size = tf.TensorShape(node.attr["value"].tensor.tensor_shape).num_elements() or 0
            constants += size if size > 1 else 0
    public = {name: value for name, value in graph.signature_def.items() if not name.startswith("__")}
    return Graph(
        signatures=tuple(sorted(public)),
        serving=public.get(SIGNATURE),
        constants=constants,
        nodes=len(nodes),
        code=tuple(sorted({node.op for node in nodes} & CODE_OPERATORS)),
        tensorflow=graph.meta_info_def.tensorflow_version,
    )


def serving_signature(path: Path, graph: Graph) -> Signature:
    """The signature "serving_default". Raises UserError that lists what there is instead."""
    if graph.serving is None:
        raise UserError(
            f"{path}: has no serving signature '{SIGNATURE}'; "
            + (f"its signatures are {', '.join(graph.signatures)}" if graph.signatures else "it has none at all"),
            hint="export it with signatures={'serving_default': ...}",
            signatures=list(graph.signatures),
        )
    inputs = tuple(_spec(path, name, info) for name, info in sorted(graph.serving.inputs.items()))
    outputs = tuple(_spec(path, name, info) for name, info in sorted(graph.serving.outputs.items()))
    if not inputs or not outputs:
        raise UserError(f"{path}: the signature '{SIGNATURE}' has {len(inputs)} inputs and {len(outputs)} outputs")
    return Signature(SIGNATURE, inputs, outputs)


def _spec(path: Path, name: str, info: Any) -> TensorSpec:
    import tensorflow as tf

    dtype = tf.dtypes.as_dtype(info.dtype).name
    if dtype not in DTYPES:
        raise UserError(
            f"{path}: tensor '{name}' is {dtype}, which TFLite on a board does not take",
            hint="export a signature that takes numbers (for example the decoded picture, not its file)",
            tensor=name,
            dtype=dtype,
        )
    shape = tf.TensorShape(info.tensor_shape)
    if shape.rank is None:
        raise UserError(f"{path}: tensor '{name}' has an unknown number of dimensions", tensor=name)
    return TensorSpec(name, tuple(-1 if size is None else size for size in shape.as_list()), dtype)
