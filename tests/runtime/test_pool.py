"""Several interpreters of one model: at the same time, in order, and no more of them than there is memory for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from edgekit_runtime import batch, environment, pool
from edgekit_runtime.engine import Engine
from edgekit_runtime.errors import UserError
from edgekit_runtime.interpreter import InvokeError
from edgekit_runtime.pool import EngineClosed
from hypothesis import given, settings
from hypothesis import strategies as st

MOBILENET = "reference/coral_tflite_dev/mobilenet_v2_1.0_224_quant.tflite"


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(-128, 128, (count, 8, 8, 3)).astype(np.int8)


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_are_all_parts_in_order_and_even(count: int, lanes: int) -> None:
    parts = [slice(number, number + 1) for number in range(count)]
    dealt = batch.shares(parts, lanes)
    assert [part for share in dealt for part in share] == parts
    sizes = [len(share) for share in dealt]
    assert len(sizes) == min(count, lanes)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@settings(max_examples=15, deadline=None)
@given(count=st.integers(0, 17), sizes=st.sampled_from([(), (4,), (2, 4), (3, 7)]))
def test_many_samples_keep_their_order_over_the_pool(models: Path, count: int, sizes: tuple[int, ...]) -> None:
    path = models / "classifier_int8.tflite"
    with Engine.load(path) as one, Engine.load(path, num_interpreters=3, allowed_batch_sizes=sizes) as several:
        assert (several.num_interpreters, several.batch_sizes) == (3, sizes)
        assert np.array_equal(several.infer([rows(count)])[0], one.infer([rows(count)])[0])


def test_callers_run_at_the_same_time(models: Path) -> None:
    with Engine.load(models / "classifier_int8.tflite", num_interpreters=2) as engine:
        meeting = threading.Barrier(2, timeout=60)

        def met() -> None:
            with engine._pool.lend():
                meeting.wait()

        threads = [threading.Thread(target=met) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not meeting.broken


def test_an_error_in_one_share_is_raised_and_the_next_call_is_served(models: Path) -> None:
    with Engine.load(models / "lookup.tflite", num_interpreters=2) as engine:
        good = engine.samples(4)
        wanted = engine.infer(good)
        bad = [array.copy() for array in good]
        bad[0][3] = np.iinfo(np.int32).max // 2 if bad[0].dtype == np.int32 else bad[0][3]
        with pytest.raises(InvokeError):
            engine.infer(bad)
        assert all(np.array_equal(a, b) for a, b in zip(engine.infer(good), wanted, strict=True))


def test_a_closed_pool_says_so_whether_it_has_run_in_parallel_or_not(models: Path) -> None:
    for before in (0, 4):
        engine = Engine.load(models / "classifier_int8.tflite", num_interpreters=2)
        rows = engine.samples(4)
        engine.infer([array[:before] for array in rows])
        engine.close()
        for count in (1, 4):
            with pytest.raises(pool.EngineClosed):
                engine.infer([array[:count] for array in rows])


def test_noise_repeats_itself_and_has_no_largest_size(models: Path) -> None:
    with Engine.load(models / "classifier_int8.tflite") as engine:
        rows = 2**28 // (8 * 8 * 3) + 1  # more bits than Python's generator makes at once
        assert len(batch.noise(engine.inputs, rows)[0]) == rows
        assert np.array_equal(batch.noise(engine.inputs, 4)[0], batch.noise(engine.inputs, 4)[0])
        assert len(batch.noise(engine.inputs, 0)[0]) == 0


def test_closing_waits_for_what_runs_and_then_all_is_refused(models: Path) -> None:
    engine = Engine.load(models / "classifier_int8.tflite", num_interpreters=2)
    closed = threading.Event()

    def close() -> None:
        engine.close()
        closed.set()

    with engine._pool.lend():
        thread = threading.Thread(target=close)
        thread.start()
        assert not closed.wait(0.2)
    thread.join(60)
    assert closed.is_set()
    engine.close()
    for count in (1, 5):
        with pytest.raises(UserError, match="closed"):
            engine.infer([rows(count)])


@pytest.mark.shared
def test_the_file_is_mapped_and_its_pages_are_there_once(shared: Path) -> None:
    """Rss of the file's mappings counts a page for each interpreter, Pss shares it out: together one file."""
    program = (
        "import sys, re; from edgekit_runtime.engine import Engine\n"
        "engine = Engine.load(sys.argv[1], num_interpreters=3); engine.infer(engine.samples(9))\n"
        "assert engine.num_interpreters == 3\n"
        "text = open('/proc/self/smaps').read()\n"
        "maps = re.findall(re.escape(sys.argv[1]) + r'\\n(?:.*\\n)*?Rss: +(\\d+) kB\\nPss: +(\\d+) kB', text)\n"
        "print(len(maps), sum(int(pss) for _, pss in maps))\n"
    )
    path = shared / MOBILENET
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    count, pss = map(int, done.stdout.split())
    assert count >= 3
    assert pss <= path.stat().st_size / 1024 + 4 * count


@pytest.mark.shared
def test_no_more_interpreters_than_memory(shared: Path) -> None:
    used, _ = environment.memory_kb()
    assert used is not None
    with Engine(shared / MOBILENET, num_interpreters=50, max_ram_mb=used // 1024 + 30) as engine:
        assert 1 <= engine.num_interpreters < 20
        assert engine.pool_refused is not None
        assert "max_ram_mb" in engine.pool_refused.message
        assert f"of {50} is not made" in engine.pool_refused.message
        engine.infer(engine.samples(5))


def test_no_batch_beyond_the_memory(models: Path) -> None:
    used, _ = environment.memory_kb()
    assert used is not None
    for most, sizes in ((used // 1024, ()), (used // 1024 + 200, (2, 64))):
        with Engine(
            models / "classifier_int8.tflite", max_batch_size=64, allowed_batch_sizes=[2], max_ram_mb=most
        ) as engine:
            assert engine.batch_sizes == sizes
            refused = "" if engine.batch_refused is None else engine.batch_refused.message
            assert ("batch 64 is not used: with it" in refused and "max_ram_mb" in refused) is (not sizes)


def test_what_the_system_has_left_counts_too() -> None:
    available = environment.available_kb()
    assert available is not None
    refused = pool.refusal(2, 2, available * 2, None)
    assert refused is not None
    assert "the memory here" in refused.message
    assert pool.refusal(2, 2, 0, None) is None


def test_closing_ends_also_while_others_go_on_asking(models: Path) -> None:
    engine = Engine.load(models / "classifier_int8.tflite", num_interpreters=2)
    row = [np.zeros((1, 8, 8, 3), np.int8)]
    refused = []

    def ask() -> None:
        try:
            while True:
                engine.infer(row)
        except EngineClosed:
            refused.append(True)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    for thread in (closing, *threads):
        thread.join(30)
        assert not thread.is_alive()
    assert len(refused) == 6


def test_who_asks_is_served_in_turn(models: Path) -> None:
    """One that asks again at once does not come before one that waits."""
    with Engine.load(models / "classifier_int8.tflite") as engine:
        row = [np.zeros((1, 8, 8, 3), np.int8)]
        counts = [0, 0, 0]
        until = time.monotonic() + 1.0

        def ask(number: int) -> None:
            while time.monotonic() < until:
                engine.infer(row)
                counts[number] += 1

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert min(counts) > max(counts) / 3
