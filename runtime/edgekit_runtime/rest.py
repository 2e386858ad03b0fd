"""TensorFlow Serving's REST shapes over one Engine, as a WSGI application.

`GET /v1/models/NAME`, `GET .../metadata`, `POST .../NAME[/versions/1]:predict`. A predict body is JSON (`instances`
or `inputs`, real values) or, as `application/octet-stream`, the bytes of N samples of the model's one input in its
stored dtype (little-endian). Answers hold real values. Errors are `{"error": "..."}` with 400, 404, 405, 413, 503.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from edgekit_runtime import batch, quant
from edgekit_runtime.batcher import QueueFull
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import EdgekitError, InputError, UserError
from edgekit_runtime.manifest import TensorSpec

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from edgekit_runtime.engine import Engine
    from edgekit_runtime.quant import Array

    Infer = Callable[[Sequence[Array]], Tuple[Array, ...]]

# So many requests are decoded at the same time, however many wait for a batch.
DECODING = 4
VERSION = "1"
SIGNATURE = "serving_default"
_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/([^/:]+))?(/metadata|:predict)?")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Content Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_DTYPES = {"float32": "DT_FLOAT", "float16": "DT_HALF", "bool": "DT_BOOL"}
_log = logging.getLogger("edgekit_runtime.serve")


class RequestError(InputError):
    """A request that is answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """What a predict call asks: stored rows for each input, and whether the answer is by row or by column."""

    rows: List[Array]
    by_row: bool


class Service:
    """The application. It answers LOADING until `ready` is called and 503 to new predictions after `drain`."""

    def __init__(self, name: str, *, max_request_bytes: int) -> None:
        self.name = name
        self._max_request_bytes = max_request_bytes
        self._engine: Optional[Engine] = None
        self._infer: Optional[Infer] = None
        self._decoding = threading.Semaphore(DECODING)
        self._state = "LOADING"
        self._active = 0
        self._changed = threading.Condition()

    def ready(self, engine: Engine, infer: Optional[Infer] = None) -> None:
        """Take requests: the engine is warmed up. `infer` is a Batcher's, or None for the engine's own."""
        with self._changed:
            self._engine, self._infer = engine, infer or engine.infer
            if self._state == "LOADING":
                self._state = "AVAILABLE"

    def drain(self) -> None:
        """Refuse new predictions."""
        with self._changed:
            self._state = "UNLOADING"

    def wait_idle(self, timeout: float) -> bool:
        """Wait until the predictions under way are answered; whether they were, within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._active == 0, timeout)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            status, answer = 200, self._answer(environ)
        except RequestError as error:
            status, answer = error.status, {"error": error.message}
        except QueueFull as error:
            status, answer = 503, {"error": error.message}
        except UserError as error:
            status, answer = 400, {"error": error.message}
        except EdgekitError as error:
            status, answer = 500, {"error": error.message}
        except Exception:
            _log.exception("a request failed")
            status, answer = 500, {"error": "internal error; the server's log has the traceback"}
        body = json.dumps(answer, allow_nan=False).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        if status == 503:
            headers.append(("Retry-After", "1"))
        start_response(f"{status} {_REASONS[status]}", headers)
        return [body]

    def _answer(self, environ: WSGIEnvironment) -> Dict[str, Any]:
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        found = _PATH.fullmatch(path)
        if found is None:
            raise RequestError(404, f"no such path: {path[:200]}")
        name, version, what = found.groups()
        if name != self.name or version not in (None, VERSION):
            raise RequestError(404, f"Servable not found for request: {name[:100]}, version {version or 'latest'}")
        allowed = "POST" if what == ":predict" else "GET"
        if method != allowed:
            raise RequestError(405, f"{path[:200]} takes {allowed}, not {method[:20]}")
        if what is None:
            return self._status()
        with self._changed:
            if self._engine is None or self._infer is None or self._state != "AVAILABLE":
                raise RequestError(503, f"model '{self.name}' is {self._state}")
            self._active += 1
        try:
            if what == "/metadata":
                return _metadata(self.name, self._engine)
            with self._decoding:
                request = _request(self._engine, self._body(environ), environ.get("CONTENT_TYPE", ""))
            return _predicted(self._engine, request, self._infer(request.rows))
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def _status(self) -> Dict[str, Any]:
        status = {"error_code": "OK", "error_message": ""}
        return {"model_version_status": [{"version": VERSION, "state": self._state, "status": status}]}

    def _body(self, environ: WSGIEnvironment) -> bytes:
        length = environ.get("CONTENT_LENGTH") or ""
        if not re.fullmatch(r"[0-9]{1,12}", length):
            raise RequestError(411, "the request has no length")
        if int(length) > self._max_request_bytes:
            raise RequestError(413, f"the request is larger than {self._max_request_bytes} bytes")
        body: bytes = environ["wsgi.input"].read(int(length))
        return body


def _request(engine: Engine, body: bytes, content_type: str) -> Request:
    kind = content_type.partition(";")[0].strip().lower()
    return _raw(engine, body) if kind == "application/octet-stream" else _json(engine, body)


def _predicted(engine: Engine, request: Request, outputs: Sequence[Array]) -> Dict[str, Any]:
    if engine.task == "detection":
        named = _detected(engine, outputs)
    else:
        named = {spec.name: _listed(out, spec) for out, spec in zip(outputs, engine.outputs)}
    columns, names = list(named.values()), list(named)
    if len(columns) == 1:
        return {"predictions" if request.by_row else "outputs": columns[0]}
    if not request.by_row:
        return {"outputs": dict(zip(names, columns))}
    return {"predictions": [dict(zip(names, row)) for row in zip(*columns)]}


def _detected(engine: Engine, outputs: Sequence[Array]) -> Dict[str, List[Any]]:
    """A detector's answers as TensorFlow's Object Detection API gives them: padded with zeros to one length."""
    found = engine.detections(outputs)
    size = max([len(one) for one in found] + [0])

    def padded(values: Array) -> Any:
        return np.pad(values, [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)).tolist()

    return {
        "detection_boxes": [padded(one.boxes) for one in found],
        "detection_classes": [padded(one.classes) for one in found],
        "detection_scores": [padded(one.scores) for one in found],
        "num_detections": [len(one) for one in found],
    }


def _raw(engine: Engine, body: bytes) -> Request:
    spec = _only_input(engine, "raw bytes")
    shape = batch.sample_shape(spec)
    if any(size < 0 for size in shape):
        raise RequestError(400, f"input '{spec.name}' has no fixed size: send JSON")
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    size = dtype.itemsize * int(np.prod(shape))
    if not body or len(body) % size:
        raise RequestError(400, f"expected N x {size} bytes ({spec.dtype} {list(shape)}), got {len(body)}")
    return Request([np.frombuffer(body, dtype).reshape((-1, *shape)).astype(spec.dtype, copy=False)], True)


def _json(engine: Engine, body: bytes) -> Request:
    try:
        data = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"JSON Parse error: {error}") from error
    if not isinstance(data, dict):
        raise RequestError(400, "the body is not a JSON object")
    unknown = sorted(set(data) - {"signature_name", "instances", "inputs"})
    if unknown:
        raise RequestError(400, f"unknown key '{unknown[0][:80]}'")
    if data.get("signature_name", SIGNATURE) not in (SIGNATURE, engine.signature):
        raise RequestError(400, f"no signature '{str(data['signature_name'])[:80]}'")
    if ("instances" in data) == ("inputs" in data):
        raise RequestError(400, "expected either 'instances' (row format) or 'inputs' (column format)")
    if "inputs" in data:
        return Request(_columns(engine, data["inputs"]), False)
    instances = data["instances"]
    if not isinstance(instances, list) or not instances:
        raise RequestError(400, "'instances' is a list of at least one instance")
    return Request(_columns(engine, _by_name(engine, instances)), True)


def _by_name(engine: Engine, instances: List[Any]) -> Any:
    """Rows to columns. Rows are values or, with names, objects; {"b64": ...} is a value."""
    named = [isinstance(row, dict) and set(row) != {"b64"} for row in instances]
    if not any(named):
        return instances
    names = {spec.name for spec in engine.inputs}
    for row in instances:
        if not isinstance(row, dict) or set(row) != names:
            raise RequestError(400, f"each instance names the inputs {', '.join(sorted(names))}")
    return {name: [row[name] for row in instances] for name in names}


def _columns(engine: Engine, inputs: Any) -> List[Array]:
    if not isinstance(inputs, dict):
        return [_stored(engine, _only_input(engine, "inputs without names"), inputs)]
    names = {spec.name for spec in engine.inputs}
    if set(inputs) != names:
        raise RequestError(400, f"the inputs are {', '.join(sorted(names))}")
    return [_stored(engine, spec, inputs[spec.name]) for spec in engine.inputs]


def _stored(engine: Engine, spec: TensorSpec, values: Any) -> Array:
    if not isinstance(values, list):
        raise RequestError(400, f"input '{spec.name}' is a list, one item a sample")
    if values and all(isinstance(value, dict) for value in values):
        return batch.stack([engine.prepare(_image(value)) for value in values])
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "bif":
            raise ValueError(f"{array.dtype} values")
    except (ValueError, OverflowError) as error:
        raise RequestError(400, f"input '{spec.name}' is not a regular array of numbers: {error}") from error
    if array.dtype.kind == "i" and spec.scale is None and np.dtype(spec.dtype).kind in "iu":
        limits = np.iinfo(spec.dtype)
        if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
            raise RequestError(400, f"input '{spec.name}' has values that {spec.dtype} cannot hold")
        return array.astype(spec.dtype)
    return quant.quantize(array, spec)


def _image(value: Dict[str, Any]) -> bytes:
    text = value.get("b64")
    if set(value) != {"b64"} or not isinstance(text, str):
        raise RequestError(400, 'a picture is {"b64": "..."}')
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"not base64: {error}") from error


def _only_input(engine: Engine, what: str) -> TensorSpec:
    if len(engine.inputs) != 1:
        raise RequestError(400, f"{what} need a model with one input; this one has {len(engine.inputs)}")
    return engine.inputs[0]


def _listed(stored: Array, spec: TensorSpec) -> List[Any]:
    values = stored if stored.dtype.kind in "iub" and spec.scale is None else quant.dequantize(stored, spec)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise RequestError(500, f"output '{spec.name}' has values that are not finite")
    listed: List[Any] = values.tolist()
    return listed


def _metadata(name: str, engine: Engine) -> Dict[str, Any]:
    signature = {
        "inputs": _tensors(engine.inputs),
        "outputs": _tensors(engine.outputs),
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": VERSION},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _tensors(specs: Sequence[TensorSpec]) -> Dict[str, Any]:
    """What a JSON client sees: quantised tensors take and give real values, so they are floats here."""
    return {
        spec.name: {
            "dtype": "DT_FLOAT" if spec.scale is not None else _DTYPES.get(spec.dtype, f"DT_{spec.dtype.upper()}"),
            "tensor_shape": {
                "dim": [{"size": str(size), "name": ""} for size in (-1, *batch.sample_shape(spec))],
                "unknown_rank": False,
            },
            "name": spec.name,
        }
        for spec in specs
    }


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
