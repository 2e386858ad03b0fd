"""docs/boards.md shows for every board and command in how many tests it worked there, or why it cannot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.deploy import matrix
from tests.deploy.matrix import KINDS, PAGE, REASONS, Record, commands


def written(name: str) -> str:
    """What stands on the page between the marks of that name."""
    found: list[str] = []

    def same(text: str) -> str:
        found.append(text)
        return text

    page = PAGE.read_text("utf-8")
    assert matrix.replace(page, name, same) == page
    return found[0]


def cells(text: str) -> dict[str, list[str]]:
    """Each row of a table by its first cell."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {first: rest for first, *rest in lines}


def test_every_board_and_every_command_that_takes_one_has_a_number_or_a_reason() -> None:
    text = written("matrix")
    table = cells(text)
    assert table.pop("board") == commands()
    table.pop("---")
    assert list(table) == list(KINDS)
    for kind, row in table.items():
        for command, cell in zip(commands(), row, strict=True):
            reason = REASONS.get((kind, command))
            if reason is None:
                assert int(cell) > 0
            else:
                assert f"\n{cell}: {reason}." in text


def test_the_boards_of_the_suite_have_their_bytes() -> None:
    for kind, row in cells(written("bytes")).items():
        if kind in KINDS:
            assert all(re.fullmatch(r"[0-9.]+ [Mk]B|nothing", cell) for cell in row)


# How the numbers come about


def report(test: str, outcome: Any, *properties: tuple[str, Any]) -> pytest.TestReport:
    return pytest.TestReport(test, ("", 0, ""), {}, outcome, None, "call", user_properties=properties)


def record(*reports: pytest.TestReport) -> Record:
    made = Record()
    for each in reports:
        made.pytest_runtest_logreport(each)
    return made


def gave(status: int, *words: str) -> tuple[str, Any]:
    return "edgekit", (words, status)


BENCH: tuple[str, Sequence[str]] = "board", ("openssh", "workbench", "other-name")


def test_a_test_counts_once_for_each_command_that_it_gave_to_a_board_by_any_name() -> None:
    made = record(
        report("one", "passed", gave(0, "push", "x.ekb", "workbench"), gave(0, "push", "x.ekb", "other-name")),
        report("two", "passed", BENCH, gave(3, "push", "y.ekb", "workbench"), gave(0, "status", "dir:/mnt")),
        report("three", "passed", gave(0, "push", "x.ekb", "stranger"), gave(0, "profiles", "list")),
    )
    assert made.counts() == {("openssh", "push"): 2, ("dir", "status"): 1}


def test_neither_a_failed_test_nor_one_that_saw_refusals_alone_makes_a_command_work() -> None:
    made = record(
        report("one", "failed", BENCH, gave(0, "run", "workbench")),
        report("two", "passed", gave(2, "bench", "workbench")),
        report("three", "skipped", gave(0, "trust", "workbench")),
    )
    assert made.counts() == {}


def test_a_command_that_was_not_seen_at_work_needs_a_reason_and_no_other_has_one() -> None:
    seen = {("dir", command): 7 for command in commands()}
    assert matrix.gaps("dir", seen, {}) == []
    assert cells(matrix.row("dir", seen, {}))["dir"] == ["7"] * len(commands())
    reasons = {("dir", "run"): "nothing runs", ("dir", "bench"): "nothing runs", ("embedded", "trust"): "it is ours"}
    assert matrix.gaps("dir", seen, reasons) == [
        f"{command} on dir works, although nothing runs" for command in ("bench", "run")
    ]
    del seen["dir", "run"], seen["dir", "bench"]
    assert [gap.split(",")[0] for gap in matrix.gaps("dir", seen, {})] == [
        f"{command} on dir was not seen at work" for command in ("bench", "run")
    ]
    assert matrix.gaps("dir", seen, reasons) == []
    row = dict(zip(commands(), cells(matrix.row("dir", seen, reasons))["dir"], strict=True))
    assert (row["run"], row["bench"], row["push"]) == ("*a*", "*a*", "7")


def test_a_row_with_a_gap_stays_as_it_was_and_whole_ones_bring_their_reasons() -> None:
    done = [command for command in commands() if ("dir", command) not in REASONS]
    on_card = report("card", "passed", *(gave(0, command, "dir:/mnt") for command in done))
    page = matrix.matrix(record(on_card, report("one", "passed", BENCH, gave(0, "push", "workbench"))), "")
    assert list(cells(page)) == ["board", "---", "dir"]
    assert {line.split(": ")[1] for line in page.splitlines() if line.startswith("*")} == {
        f"{reason}." for reason in REASONS.values()
    }


def test_a_run_on_some_boards_keeps_the_rows_of_the_others_unless_the_columns_changed() -> None:
    head = "| board | push |"
    before = matrix.table(head, {"dir": "| dir | 1 |", "openssh": "| openssh | 2 |"}, "")
    after = matrix.table(head, {"openssh": "| openssh | 3 |"}, before)
    assert after.splitlines() == [head, "| --- | --- |", "| openssh | 3 |", "| dir | 1 |"]
    assert matrix.table("| board | pull |", {}, after).splitlines() == ["| board | pull |", "| --- | --- |"]
