"""bench, run and serve on a board: figures with their circumstances, answers, and a board as it was before."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from tests.deploy.boards import EMULATED, Board
from tests.deploy.conftest import SHORT, Models, Stock
from tests.deploy.kit import User

# What litert-benchmark writes with --result_json (ai-edge-litert 2.3).
LITERT_KEYS = {
    *("model", "model_size_mb", "accelerators", "signature", "fully_accelerated", "num_threads", "latency"),
    "throughput_mb_s",
}
LITERT_LATENCY_KEYS = {
    *("init_ms", "warmup_first_ms", "warmup_avg_ms", "num_warmup_runs", "avg_ms", "min_ms", "max_ms", "median_ms"),
    *("std_ms", "p5_ms", "p95_ms", "num_runs"),
}


def float_model(stock: Stock) -> Path:
    """The float model that the first deployment kept beside its INT8."""
    (found,) = Path(stock.first["model"]).parent.rglob("float.tflite")
    return found


def test_bench_measures_the_current_release_and_says_where(
    stocked: Board, stock: Stock, user: User, tmp_path: Path
) -> None:
    output = tmp_path / "report.json"
    report = user.do("bench", stocked.name, *SHORT, "--batch-size", "4", "--num-threads", "1", "-o", output)
    assert json.loads(output.read_text()) == report
    assert report.keys() >= LITERT_KEYS
    assert report["latency"].keys() >= LITERT_LATENCY_KEYS
    assert report["release"] == stock.second["release"]
    assert (report["model"], report["batch_size"], report["num_threads"]) == ("light", 4, 1)
    latency = report["latency"]
    assert 0 < latency["min_ms"] <= latency["median_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    assert latency["num_runs"] >= 2
    assert report["memory"]["peak_mem_mb"] > 1

    facts = report["environment"]
    assert facts["emulated"] is stocked.emulated
    if stocked.emulated:
        shown, sensors = EMULATED[stocked.kind], report["sensors_after"]
        assert report["validity"]["valid"] is False
        assert (facts["architecture"], facts["cpu"], facts["board"]) == (shown.architecture, shown.cpu, shown.board)
        assert (sensors["governor"], sensors["temperature_c"]) == (shown.governor, shown.temperature)
    runtime = EMULATED[stocked.kind].runtime if stocked.emulated else ("ai_edge_litert", "2.3.0")
    assert (facts["runtime"], facts["runtime_version"]) == runtime


def test_bench_of_a_file_changes_no_release_and_leaves_no_file(stocked: Board, stock: Stock, user: User) -> None:
    file = float_model(stock)
    before = user.do("status", stocked.name), stocked.files()
    report = user.do("bench", stocked.name, "--model", file, *SHORT)
    assert report["model_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert report["release"] is None
    assert report["environment"]["emulated"] is stocked.emulated
    after = user.do("status", stocked.name), stocked.files()
    assert after[1] == before[1]
    assert {**after[0], "free_kb": 0} == {**before[0], "free_kb": 0}


def test_bench_compares_with_a_baseline(stocked: Board, stock: Stock, user: User) -> None:
    file = float_model(stock)
    both = user.do("bench", stocked.name, "--baseline", file, *SHORT)
    assert both["report"]["release"] == stock.second["release"]
    assert both["baseline"]["model_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert both["baseline"]["num_threads"] == both["report"]["num_threads"]


def test_tune_keeps_a_plan_with_the_release_unless_the_board_is_emulated(
    board: Board, stock: Stock, user: User
) -> None:
    error = user.fail(2, "tune", board.name)
    assert (error["type"], "push and activate" in error["hint"]) == ("UnknownRelease", True)
    stock.restore(board)
    found = user.do("tune", board.name, "--max-secs", "2")
    measured = [one for one in found["candidates"] if one["sample_ms"] is not None]
    assert {json.dumps(found[goal]) for goal in ("default", "latency", "throughput")} <= {
        json.dumps(one["plan"]) for one in measured
    }
    kept = [name for name in board.files() if name.endswith("plan.json")]
    assert ("emulated" in (found["invalid"] or "")) is board.emulated
    assert kept == ([] if board.emulated else [f"releases/{stock.second['release']}/plan.json"])
    report = user.do("bench", board.name, *SHORT)
    assert (report["plan"] is not None) is (not board.emulated and found["latency"] != found["default"])
    assert user.do("status", board.name)["current"]["id"] == stock.second["release"]
    if not board.emulated:
        user.do("rollback", board.name)
        assert user.do("bench", board.name, *SHORT)["plan"] is None


def test_bench_needs_a_release_and_a_file_that_is_a_model(board: Board, stock: Stock, user: User) -> None:
    error = user.fail(2, "bench", board.name)
    assert (error["type"], "push and activate" in error["hint"]) == ("UnknownRelease", True)
    stock.restore(board)
    before = board.files()
    user.fail(2, "bench", board.name, "--model", stock.first["report"])
    assert board.files() == before


def test_bench_on_this_computer_needs_no_board(stock_of: Any, user: User) -> None:
    file = float_model(stock_of("embedded"))
    report = user.do("bench", "--local", "--model", file, *SHORT)
    assert report["model_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert report["environment"]["emulated"] is False
    user.fail(2, "bench", "--local")
    user.fail(2, "bench", "--local", "embedded", "--model", file)


def test_pictures_are_classified_alike_alone_and_in_batches(
    stocked: Board, stock: Stock, models: Models, user: User
) -> None:
    pictures = [models.folder / f"{name}.png" for name in ("snow", "night", "red", "green", "blue")]
    in_batches = user.do("run", stocked.name, *pictures, "--batch-size", "4", "--top-k", "1")
    assert [Path(item["source"]) for item in in_batches] == pictures
    assert [item["classes"][0]["label"] for item in in_batches] == ["bright", *["dark"] * 4]
    assert user.do("run", stocked.name, *pictures, "--top-k", "1") == in_batches
    assert stocked.parts() == []


def test_what_is_no_picture_is_refused_by_name(stocked: Board, models: Models, user: User) -> None:
    error = user.fail(2, "run", stocked.name, models.folder / "red.png", models.folder / "light.txt")
    assert "light.txt" in error["message"]
    assert stocked.parts() == []


# serve

ASK = """
import http.client, json, socket, sys

class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect({path!r})

def ask(method, path, body=None):
    link = Unix("localhost")
    link.request(method, path, body, {{"Content-Type": "application/json"}})
    reply = link.getresponse()
    return reply.status, json.loads(reply.read())

frame = [[{pixel}] * 16] * 16
print(json.dumps([
    ask("GET", "/v1/models/light"),
    ask("POST", "/v1/models/light:predict", json.dumps({{"instances": [frame, frame]}})),
    ask("POST", "/v1/models/other:predict", "{{}}"),
]))
"""


@contextmanager
def serving(board: Board, path: str) -> Iterator[int]:
    """`edgekit-runtime serve` of the current release on a Unix socket there, by its process number."""
    command = f"echo $$; exec {board.program('exec', '--', 'serve', '--socket', path)}"
    process = subprocess.Popen(
        board.ssh(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    talk: Queue[str] = Queue()
    lines = process.stderr
    threading.Thread(target=lambda: deque(map(talk.put, lines), maxlen=0), daemon=True).start()
    try:
        pid = int(process.stdout.readline())
        heard = ""
        while "is available" not in heard:
            heard += talk.get(timeout=120)
        yield pid
        board.sh(f"kill {pid}")
        assert process.wait(60) == 0
        while "drained" not in heard:
            heard += talk.get(timeout=10)
    finally:
        process.kill()
        process.wait()


def test_a_served_release_answers_like_tensorflow_serving(stocked: Board, stock: Stock, user: User) -> None:
    path = f"{stocked.board_home}/model.sock"
    with serving(stocked, path):
        ready, predicted, unknown = json.loads(stocked.sh("python3 -s -", ASK.format(path=path, pixel=[240, 235, 250])))
    assert ready[0] == 200
    assert ready[1]["model_version_status"][0]["state"] == "AVAILABLE"
    assert predicted[0] == 200
    first, second = predicted[1]["predictions"]
    assert first == second
    assert first[1] > 0.9  # bright
    assert unknown[0] == 404
    assert "error" in unknown[1]
    assert stocked.sh(f"ls {path} 2>&1 || :").count("No such file") == 1


@pytest.mark.parametrize("words", [["--num-runs", "0"], ["--batch-size", "-1"]])
def test_impossible_options_never_reach_the_board(user: User, words: list[str]) -> None:
    answer = user.run("bench", "no-such-board", *words)
    assert answer.status == 2
    assert words[0] in answer.stderr
