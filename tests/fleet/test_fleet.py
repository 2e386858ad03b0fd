"""Work on several boards at once: every outcome is its board's own, and no more work goes on than there is room for."""

from __future__ import annotations

import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import fleet
from edgekit.errors import CheckFailed, DeviceError, EdgekitError, UserError
from edgekit.fleet import Outcome

ERRORS: dict[int, type[EdgekitError]] = {1: CheckFailed, 2: UserError, 3: DeviceError}


def act(order: tuple[str, int]) -> str:
    name, code = order
    if code:
        raise ERRORS[code](f"{name} failed", board=name)
    return name.upper()


@given(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=6))
def test_each_board_has_its_own_outcome_in_order_and_the_worst_is_the_exit_code(codes: list[int]) -> None:
    with ThreadPoolExecutor(3) as executor:
        orders = [Outcome(f"b{number}", (f"b{number}", code)) for number, code in enumerate(codes)]
        done = fleet.each(orders, act, executor)
    assert [item.board for item in done] == [f"b{number}" for number in range(len(codes))]
    assert [item.error.exit_code if item.error else 0 for item in done] == codes
    assert [item.value is None for item in done] == [code != 0 for code in codes]
    assert fleet.worst(done) == max(codes)


def test_a_board_that_failed_gets_no_more_work_and_keeps_its_error() -> None:
    seen: list[str] = []

    def work(name: str) -> str:
        seen.append(name)
        return name

    failure = DeviceError("gone")
    with ThreadPoolExecutor(2) as executor:
        done = fleet.each([Outcome("a", "a"), Outcome("b", "b", failure)], work, executor)
    assert seen == ["a"]
    assert done == [Outcome("a", "a"), Outcome("b", None, failure)]


def test_no_more_boards_are_worked_on_than_the_pool_takes() -> None:
    at_once, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(2, timeout=30)  # both places of the pool are used

    def work(name: str) -> str:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        together.wait()
        with lock:
            at_once -= 1
        return name

    with ThreadPoolExecutor(2) as executor:
        fleet.each(fleet.start([f"b{number}" for number in range(6)]), work, executor)
    assert most == 2


def test_any_executor_will_do() -> None:
    with ProcessPoolExecutor(2) as executor:
        done = fleet.each([Outcome("a", ("a", 0)), Outcome("b", ("b", 0))], act, executor)
    assert [item.value for item in done] == ["A", "B"]


def test_a_bug_is_not_an_outcome() -> None:
    with ThreadPoolExecutor(2) as executor, pytest.raises(ZeroDivisionError):
        fleet.each(fleet.start(["a", "b"]), lambda _: 1 / 0, executor)


def test_a_board_that_is_named_twice_is_one_board() -> None:
    assert [item.board for item in fleet.start(["pi", "jetson", "pi"])] == ["pi", "jetson"]
