"""Which command was seen at work on which board: the tables of docs/boards.md, from a run of the deploy suite.

`python -m tests.deploy.matrix [PYTEST-ARGUMENT...]` runs it on every board and writes the rows of the boards that took
part; `scripts/board-matrix` is that in the right environment. A test counts for a command when it gave it to a board
and passed, whether it asked for work or for a refusal; a command that never did its work there needs a reason.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import typer

from edgekit.cli.main import app
from tests.deploy import boards
from tests.deploy.boards import REPOSITORY

PAGE = REPOSITORY / "docs/boards.md"
KINDS = ("embedded", "openssh", *boards.EMULATED, "dir")
# Why a command has no business with a kind of board.
REASONS: Mapping[tuple[str, str], str] = {
    ("dir", "trust"): "a card shows no key",
    **{("dir", command): "nothing of the board runs here" for command in ("bench", "run", "tune", "probe")},
}


def commands() -> list[str]:
    """The commands that take a board, in the order of the help."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    named = {name: [str(param.metavar) for param in command.params] for name, command in group.commands.items()}
    return [name for name, words in named.items() if any(word.startswith("BOARD") for word in words)]


@dataclass
class Record:
    """What a run's tests did, from the properties that kit.py gives their reports.

    Attributes:
        kinds: of the boards that took part, by every name of theirs.
        given: by test, the words of each edgekit command and its exit code.
        passed: the tests that did.
        sent: by kind of board, the bytes that its first deploy, the same again, and another model's sent.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    given: dict[str, list[tuple[list[str], int]]] = field(default_factory=lambda: defaultdict(list))
    passed: set[str] = field(default_factory=set)
    sent: dict[str, list[int]] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
        properties: list[tuple[str, Any]] = report.user_properties
        for name, value in properties:
            match name, value:
                case "board", [kind, *names]:
                    self.kinds |= dict.fromkeys(names, kind)
                case "edgekit", [words, status]:
                    self.given[report.nodeid].append((words, status))
                case "sent", [kind, *sizes]:
                    self.sent[kind] = sizes

    def counts(self) -> dict[tuple[str, str], int]:
        """Passed tests by board and command, of those commands that did their work there."""
        tests: dict[tuple[str, str], set[str]] = defaultdict(set)
        done = set()
        for test in self.passed & self.given.keys():
            for words, status in self.given[test]:
                for kind in {self._kind(word) for word in words}:
                    tests[kind, words[0]].add(test)
                    if status == 0:
                        done.add((kind, words[0]))
        return {key: len(tests[key]) for key in done if key[0]}

    def boards(self) -> list[str]:
        """The kinds that took part."""
        return [kind for kind in KINDS if any(kind == key[0] for key in self.counts())]

    def _kind(self, word: str) -> str:
        return "dir" if word.startswith("dir:") else self.kinds.get(word, "")


def notes(reasons: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """A letter for each reason."""
    return {text: chr(ord("a") + number) for number, text in enumerate(dict.fromkeys(reasons.values()))}


def gaps(kind: str, counts: Mapping[tuple[str, str], int], reasons: Mapping[tuple[str, str], str]) -> list[str]:
    """What is wrong with the row of a board: a command with neither a number nor a reason, or with both."""
    found = []
    for command in commands():
        reason = reasons.get((kind, command))
        if ((kind, command) in counts) is (reason is not None):
            what = "was not seen at work, and there is no reason" if reason is None else f"works, although {reason}"
            found.append(f"{command} on {kind} {what}")
    return found


def row(kind: str, counts: Mapping[tuple[str, str], int], reasons: Mapping[tuple[str, str], str]) -> str:
    """The line of one board."""
    letters = {key: f"*{notes(reasons)[reason]}*" for key, reason in reasons.items()}
    return f"| {kind} | {' | '.join(str(counts.get((kind, each)) or letters[kind, each]) for each in commands())} |"


def table(head: str, lines: Mapping[str, str], before: str) -> str:
    """A table with a line for each board that has one, in `lines` or in `before`, the same table as it was."""
    kept = {line.split("|")[1].strip(): line for line in before.splitlines() if line.startswith("| ")}
    merged = {**(kept if head in before else {}), **lines}
    rule = "| --- " * (head.count("|") - 1) + "|"
    return "\n".join([head, rule, *(merged[kind] for kind in KINDS if kind in merged)])


def matrix(record: Record, before: str) -> str:
    """Boards x commands, with the reasons below; a row with gaps stays as it was."""
    counts = record.counts()
    whole = [kind for kind in record.boards() if not gaps(kind, counts, REASONS)]
    cells = table(f"| board | {' | '.join(commands())} |", {kind: row(kind, counts, REASONS) for kind in whole}, before)
    footnotes = [f"*{letter}*: {text}." for text, letter in notes(REASONS).items() if f" *{letter}* |" in cells]
    return "\n\n".join([cells, *footnotes])


def sent(record: Record, before: str) -> str:
    """What the deploys of the suite's small models sent to each board."""
    lines = {kind: f"| {kind} | {' | '.join(map(_size, sizes))} |" for kind, sizes in record.sent.items()}
    return table("| board | first deploy | the same again | another model |", lines, before)


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB" if size else "nothing"


def replace(page: str, name: str, write: Callable[[str], str]) -> str:
    """The page with what stands between the marks of that name written anew; `write` is given what stood there."""
    begin, end = f"<!-- {name}: written by scripts/board-matrix -->\n", f"\n<!-- end of {name} -->"
    head, _, rest = page.partition(begin)
    before, _, tail = rest.partition(end)
    return f"{head}{begin}{write(before)}{end}{tail}"


def main(arguments: Sequence[str]) -> None:
    """Run the suite and write the page; exit code 1 for gaps. A run with a test that fails writes nothing."""
    os.environ["EDGEKIT_TEST_EVERY_BOARD"] = "1"
    record = Record()
    words = ["--quiet", "--numprocesses", "auto", "--dist", "loadgroup", "tests/deploy", *arguments]
    if pytest.main(words, plugins=[record]):
        sys.exit("board-matrix: not every test passed, so the page stays as it was")
    page = replace(PAGE.read_text("utf-8"), "matrix", lambda before: matrix(record, before))
    PAGE.write_text(replace(page, "bytes", lambda before: sent(record, before)), encoding="utf-8")
    wrong = [gap for kind in record.boards() for gap in gaps(kind, record.counts(), REASONS)]
    if wrong:
        sys.exit("\n".join(f"board-matrix: {gap}" for gap in wrong))


if __name__ == "__main__":
    main(sys.argv[1:])
