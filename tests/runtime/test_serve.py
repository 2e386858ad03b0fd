"""serve: TensorFlow Serving's REST shapes over real sockets, loading, draining, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import queue
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime import schema
from edgekit_runtime.engine import Engine
from PIL import Image

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
MODEL = "/v1/models/trees"
PREDICT = f"{MODEL}:predict"
PATIENCE = 60.0


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


@dataclass
class Server:
    """A serve process and how to reach it."""

    process: subprocess.Popen[str]
    where: str
    talk: list[str] = field(default_factory=list)

    def connect(self) -> http.client.HTTPConnection:
        if self.where.startswith("unix:"):
            return UnixConnection(self.where.removeprefix("unix:"))
        return http.client.HTTPConnection(self.where.removeprefix("http://"), timeout=PATIENCE)

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
        connection = self.connect()
        try:
            data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": kind} if data is not None else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def state(self) -> str:
        return str(self.ask("GET", MODEL)[1]["model_version_status"][0]["state"])

    def wait(self, state: str) -> None:
        until = time.monotonic() + PATIENCE
        while self.state() != state:
            assert time.monotonic() < until, f"never {state}"
            time.sleep(0.02)


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start(release: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def run(*argv: str, program: str | None = None, directory: Path = release) -> Server:
        command = ["-c", program] if program else ["-m", "edgekit_runtime"]
        process = subprocess.Popen(
            [sys.executable, *command, "serve", "--release", str(directory), *argv],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(RUNTIME)},
        )
        processes.append(process)
        assert process.stderr is not None
        talk: list[str] = []
        for line in process.stderr:
            talk.append(line)
            if "listening on " in line:
                server = Server(process, line.split("listening on ")[1].split(",")[0], talk)
                threading.Thread(target=lambda: talk.extend(process.stderr or ()), daemon=True).start()
                return server
        raise AssertionError(f"serve ended: {talk}")

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE)


@pytest.fixture(scope="module")
def server(start: Start) -> Server:
    found = start("--port", "0", "--max-request-mb", "0.25")
    found.wait("AVAILABLE")
    return found


@pytest.fixture
def rows(frames: list[np.ndarray]) -> np.ndarray:
    return np.stack(frames[:3]).astype(np.float32)


@pytest.fixture
def wanted(release: Path, rows: np.ndarray) -> list[list[float]]:
    with Engine.open(release) as engine:
        listed: list[list[float]] = engine.infer_real([rows])[0].tolist()
    return listed


class TestPredict:
    def test_instances_are_rows(self, server: Server, rows: np.ndarray, wanted: list[list[float]]) -> None:
        assert server.ask("POST", PREDICT, {"instances": rows.tolist()}) == (200, {"predictions": wanted})

    def test_instances_may_name_the_input(self, server: Server, rows: np.ndarray, wanted: list[list[float]]) -> None:
        body = {"signature_name": "serving_default", "instances": [{"image": row} for row in rows.tolist()]}
        assert server.ask("POST", f"{MODEL}/versions/1:predict", body) == (200, {"predictions": wanted})

    def test_inputs_are_columns(self, server: Server, rows: np.ndarray, wanted: list[list[float]]) -> None:
        for inputs in (rows.tolist(), {"image": rows.tolist()}):
            assert server.ask("POST", PREDICT, {"inputs": inputs}) == (200, {"outputs": wanted})

    def test_a_raw_tensor(self, server: Server, frames: list[np.ndarray], wanted: list[list[float]]) -> None:
        stored = (np.stack(frames[:3]) ^ 0x80).tobytes()
        found = server.ask("POST", PREDICT, stored, "application/octet-stream")
        assert found == (200, {"predictions": wanted})

    def test_pictures_in_base64(self, server: Server, frames: list[np.ndarray], wanted: list[list[float]]) -> None:
        coded = []
        for frame in frames[:3]:
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "PNG")
            coded.append({"b64": base64.b64encode(buffer.getvalue()).decode()})
        assert server.ask("POST", PREDICT, {"instances": coded}) == (200, {"predictions": wanted})
        named = {"instances": [{"image": picture} for picture in coded]}
        assert server.ask("POST", PREDICT, named) == (200, {"predictions": wanted})

    def test_many_at_once(self, server: Server, rows: np.ndarray, wanted: list[list[float]]) -> None:
        answers: list[Any] = []

        def work() -> None:
            for _ in range(10):
                answers.append(server.ask("POST", PREDICT, {"instances": rows.tolist()}))

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert answers == [(200, {"predictions": wanted})] * 60


class TestStatus:
    def test_the_model_is_available(self, server: Server) -> None:
        status = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        assert server.ask("GET", MODEL) == (200, {"model_version_status": [status]})

    def test_metadata(self, server: Server) -> None:
        status, data = server.ask("GET", f"{MODEL}/metadata")
        signature = data["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert status == 200
        assert data["model_spec"]["name"] == "trees"
        image = signature["inputs"]["image"]
        assert image["dtype"] == "DT_FLOAT"
        assert [dim["size"] for dim in image["tensor_shape"]["dim"]] == ["-1", "8", "8", "3"]

    def test_loading_until_warmed_up(self, start: Start, tmp_path: Path, rows: np.ndarray) -> None:
        """The real program, but the release is opened only when the gate file is there."""
        gate = tmp_path / "gate"
        program = (
            "import sys, time, pathlib; from edgekit_runtime import cli, engine\n"
            "opened = engine.Engine.open\n"
            "def late(*given, **named):\n"
            f"    while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
            "    return opened(*given, **named)\n"
            "engine.Engine.open = late\n"
            "sys.exit(cli.main())"
        )
        server = start("--port", "0", program=program)
        assert server.state() == "LOADING"
        status, answer = server.ask("POST", PREDICT, {"instances": rows.tolist()})
        assert (status, answer) == (503, {"error": "model 'trees' is LOADING"})
        assert server.ask("GET", f"{MODEL}/metadata")[0] == 503
        gate.touch()
        server.wait("AVAILABLE")
        assert server.ask("POST", PREDICT, {"instances": rows.tolist()})[0] == 200


class TestBadRequests:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "JSON Parse error"),
            (b"{", "JSON Parse error"),
            (b"[" * 100_000, "JSON Parse error"),
            (b"\xff", "JSON Parse error"),
            (b"[1]", "not a JSON object"),
            (b'{"instances": [NaN]}', "NaN is not a number"),
            (b'{"instances": [1], "inputs": [1]}', "either 'instances'"),
            (b"{}", "either 'instances'"),
            (b'{"instances": []}', "at least one"),
            (b'{"instances": 5}', "at least one"),
            (b'{"instances": [[1, [2]]]}', "regular array"),
            (b'{"instances": ["a"]}', "regular array"),
            (b'{"instances": [null]}', "regular array"),
            (b'{"instances": [1]}', r"expected int8 [N, 8, 8, 3], got int8 [1]"),
            (b'{"inputs": {"picture": [1]}}', "the inputs are image"),
            (b'{"inputs": 3}', "one item a sample"),
            (b'{"instances": [{"picture": 1}]}', "names the inputs image"),
            (b'{"instances": [{"image": 1}, 2]}', "names the inputs image"),
            (b'{"instances": [{"b64": "!"}]}', "not base64"),
            (b'{"instances": [{"b64": 1}]}', "a picture is"),
            (b'{"instances": [{"b64": "aGVsbG8="}]}', "not a picture"),
            (b'{"instances": [1], "signature_name": "other"}', "no signature 'other'"),
            (b'{"instance": [1]}', "unknown key 'instance'"),
        ],
    )
    def test_are_400_with_the_reason(self, server: Server, body: bytes, message: str) -> None:
        status, answer = server.ask("POST", PREDICT, body)
        assert status == 400
        assert message in answer["error"]
        assert list(answer) == ["error"]
        assert server.state() == "AVAILABLE"

    def test_raw_bytes_of_the_wrong_size(self, server: Server) -> None:
        for size in (0, 191, 193):
            status, answer = server.ask("POST", PREDICT, bytes(size), "application/octet-stream")
            assert (status, answer["error"]) == (400, f"expected N x 192 bytes (int8 [8, 8, 3]), got {size}")

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/", 404),
            ("GET", "/v1/models/oaks", 404),
            ("GET", f"{MODEL}/versions/2", 404),
            ("POST", f"{MODEL}:classify", 404),
            ("GET", f"{MODEL}/../trees", 404),
            ("GET", PREDICT, 405),
            ("POST", MODEL, 405),
            ("DELETE", MODEL, 405),
        ],
    )
    def test_paths_and_methods(self, server: Server, method: str, path: str, status: int) -> None:
        found, answer = server.ask(method, path, b"{}" if method == "POST" else None)
        assert found == status
        assert answer["error"]

    def test_too_large(self, server: Server) -> None:
        status, answer = server.ask("POST", PREDICT, b" " * (300 * 1024))
        assert (status, answer) == (413, {"error": "the request is larger than 262144 bytes"})
        connection = server.connect()
        connection.putrequest("POST", PREDICT)
        connection.putheader("Content-Length", str(10**12))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()

    def test_what_is_not_http(self, server: Server) -> None:
        host, _, port = server.where.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), PATIENCE) as raw:
            raw.sendall(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
            assert b"400" in raw.recv(4096)
        assert server.state() == "AVAILABLE"


class TestUnixSocket:
    def test_only_its_owner_may_use_it_and_it_goes_with_the_server(
        self, start: Start, tmp_path: Path, rows: np.ndarray, wanted: list[list[float]]
    ) -> None:
        path = tmp_path / "trees.sock"
        server = start("--socket", str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        server.wait("AVAILABLE")
        assert server.ask("POST", PREDICT, {"instances": rows.tolist()}) == (200, {"predictions": wanted})
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        assert not path.exists()

    def test_a_stale_socket_is_replaced_a_live_one_and_a_file_are_not(
        self, start: Start, release: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "trees.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        server = start("--socket", str(path))
        server.wait("AVAILABLE")
        assert refused("--socket", str(path), release=release) == (2, f"another server listens on '{path}'")
        server.wait("AVAILABLE")
        file = tmp_path / "file"
        file.write_text("precious")
        assert refused("--socket", str(file), release=release) == (2, f"'{file}' exists and is no socket")
        assert file.read_text() == "precious"


class TestBatching:
    def test_a_full_queue_is_503_and_what_waits_is_answered(
        self, start: Start, rows: np.ndarray, wanted: list[list[float]], tmp_path: Path
    ) -> None:
        """One batch runs, one waits: of three requests that fill one each, one is refused."""
        gate, entered, parameters = tmp_path / "gate", tmp_path / "entered", tmp_path / "batching.txt"
        parameters.write_text("max_batch_size { value: 3 } max_enqueued_batches { value: 1 } num_batch_threads: 1")
        program = (
            "import sys, time, pathlib; from edgekit_runtime import cli, engine\n"
            "infer = engine.Engine.infer\n"
            "def slow(self, arrays):\n"
            f"    pathlib.Path({str(entered)!r}).touch()\n"
            f"    while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
            "    return infer(self, arrays)\n"
            "engine.Engine.infer = slow\n"
            "sys.exit(cli.main())"
        )
        server = start("--port", "0", "--batching-parameters-file", str(parameters), program=program)
        server.wait("AVAILABLE")
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        body = {"instances": rows.tolist()}
        for _ in range(3):
            threading.Thread(target=lambda: answers.put(server.ask("POST", PREDICT, body))).start()
            until = time.monotonic() + PATIENCE
            while not entered.exists() and time.monotonic() < until:
                time.sleep(0.01)
        assert answers.get(timeout=PATIENCE) == (503, {"error": "the batching queue is full"})
        gate.touch()
        assert [answers.get(timeout=PATIENCE) for _ in range(2)] == [(200, {"predictions": wanted})] * 2
        assert server.ask("POST", PREDICT, body)[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0

    def test_requests_that_come_together_have_their_own_answers(
        self, start: Start, rows: np.ndarray, wanted: list[list[float]], tmp_path: Path
    ) -> None:
        parameters = tmp_path / "batching.txt"
        parameters.write_text("max_batch_size { value: 4 } batch_timeout_micros { value: 2000 }")
        server = start("--port", "0", "--batching-parameters-file", str(parameters))
        server.wait("AVAILABLE")
        answers: dict[int, Any] = {}

        def work(number: int) -> None:
            body = {"instances": rows[number % 3 :].tolist()}
            answers[number] = [server.ask("POST", PREDICT, body) for _ in range(8)]
            if number == 0:
                answers[number].append(server.ask("POST", PREDICT, {"instances": [[1]]}))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert answers[0].pop()[0] == 400
        for number, found in answers.items():
            assert found == [(200, {"predictions": wanted[number % 3 :]})] * 8

    def test_a_batch_that_is_not_proven_is_served_singly_unless_it_was_asked_for(
        self, start: Start, release: Path, models: Path, tmp_path: Path
    ) -> None:
        content = (models / "truncating.tflite").read_bytes()
        with Engine.load(models / "truncating.tflite") as engine:
            tensors = {"inputs": schema.plain(engine.inputs), "outputs": schema.plain(engine.outputs)}
        file = {"model_sha256": hashlib.sha256(content).hexdigest(), "model_size": len(content), "max_batch_size": 4}
        none = dict.fromkeys(("preprocess", "labels", "golden", "model_crc32"))
        folder = tmp_path / "r"
        folder.mkdir()
        (folder / "model.tflite").write_bytes(content)
        given = json.loads((release / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**given, **file, **tensors, **none, "task": "raw"}))
        server = start("--port", "0", directory=folder)
        server.wait("AVAILABLE")
        status, answer = server.ask("POST", PREDICT, {"instances": [[1.0] * 6] * 3})
        assert (status, len(answer["predictions"])) == (200, 3)
        until = time.monotonic() + PATIENCE
        while not any("one sample at a time: batch 4 is not used" in line for line in server.talk):
            assert time.monotonic() < until
            time.sleep(0.01)
        parameters = tmp_path / "batching.txt"
        parameters.write_text("max_batch_size { value: 2 }")
        status, message = refused("--port", "0", "--batching-parameters-file", str(parameters), release=folder)
        assert status == 1
        assert message.startswith("batch 2 is not used")

    def test_parameters_that_cannot_be_kept_end_the_server(self, release: Path, tmp_path: Path) -> None:
        parameters = tmp_path / "batching.txt"
        parameters.write_text("max_batch_size { value: 4 } allowed_batch_sizes: [2, 3]")
        status, message = refused("--port", "0", "--batching-parameters-file", str(parameters), release=release)
        assert (status, message) == (2, "the last of allowed_batch_sizes is not max_batch_size (4)")


class TestLife:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_drains(self, start: Start, rows: np.ndarray, tmp_path: Path, number: signal.Signals) -> None:
        """A request that is being worked on when the signal comes is answered; the next one gets 503."""
        busy, gate = tmp_path / "busy", tmp_path / "gate"
        program = (
            "import sys, time, pathlib; from edgekit_runtime import cli, engine\n"
            "infer = engine.Engine.infer\n"
            "def slow(self, arrays):\n"
            f"    pathlib.Path({str(busy)!r}).touch()\n"
            f"    while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
            "    return infer(self, arrays)\n"
            "engine.Engine.infer = slow\n"
            "sys.exit(cli.main())"
        )
        server = start("--port", "0", program=program)
        server.wait("AVAILABLE")
        answers: list[Any] = []
        body = {"instances": rows.tolist()}
        asking = threading.Thread(target=lambda: answers.append(server.ask("POST", PREDICT, body)))
        asking.start()
        until = time.monotonic() + PATIENCE
        while not busy.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        server.process.send_signal(number)
        server.wait("UNLOADING")
        assert server.ask("POST", PREDICT, body)[0] == 503
        gate.touch()
        asking.join(PATIENCE)
        assert answers[0][0] == 200
        assert server.process.wait(PATIENCE) == 0

    def test_a_release_that_does_not_load_ends_the_server_with_its_error(self, release: Path, tmp_path: Path) -> None:
        folder = tmp_path / "r"
        folder.mkdir()
        for member in release.iterdir():
            (folder / member.name).write_bytes(member.read_bytes())
        with open(folder / "model.tflite", "ab") as file:
            file.write(b"x")
        code, message = refused("--port", "0", release=folder)
        assert code == 1
        assert "CRC-32" in message

    def test_addresses_that_others_can_reach_are_refused(self, release: Path) -> None:
        for host in ("0.0.0.0", "::", "192.0.2.1", "example.com"):
            code, message = refused("--host", host, release=release)
            assert code == 2
            assert "not a loopback address" in message

    def test_a_port_that_is_taken(self, release: Path) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            code, message = refused("--port", str(other.getsockname()[1]), release=release)
        assert code == 2
        assert "cannot listen on 127.0.0.1" in message

    def test_without_waitress_it_says_what_to_install(self, release: Path, tmp_path: Path) -> None:
        (tmp_path / "waitress.py").write_text("raise ImportError")
        code, message = refused("--port", "0", release=release, path=f"{tmp_path}:{RUNTIME}")
        assert code == 3
        assert "waitress" in message


def refused(*argv: str, release: Path, path: str = str(RUNTIME)) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "edgekit_runtime", "serve", "--release", str(release), *argv],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("edgekit-runtime: ")]
    return done.returncode, lines[-1].removeprefix("edgekit-runtime: ")
