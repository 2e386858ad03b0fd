"""How results, progress and errors reach a person or a program.

Standard output is data (a table, or JSON with `--json`); standard error is talk. What came from a board or a file is
shown as it is, except for signs that a terminal would obey.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from edgekit_runtime import schema
from edgekit_runtime.manifest import TensorSpec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edgekit.errors import EdgekitError
from edgekit.transport.errors import printable

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]

ProgressCallback = Callable[[str, int, int], None]

SILENCE = 30.0  # seconds


def out() -> Console:
    # Wide when it is not a terminal, so that a pipe or a file never gets wrapped words.
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def talk() -> Console:
    return Console(stderr=True, width=None if sys.stderr.isatty() else 160, highlight=False)


def data(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(schema.plain(value), indent=2, allow_nan=False))


def line(text: str, style: str = "") -> None:
    """A line of data for people, never wrapped."""
    out().print(Text(printable(text), style), soft_wrap=True)


def say(text: str, *, label: str = "", style: str = "") -> None:
    """A line of talk. With a `label` the style is the label's."""
    said = Text(label and f"{label} ", style)
    said.append(printable(text), "" if label else style)
    talk().print(said, soft_wrap=True)


def next_step(*words: object) -> None:
    """What to type next, quoted for a shell."""
    say(shlex.join(str(word) for word in words), label="next:", style="dim")


def table(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, console: Console | None = None
) -> None:
    heading = None if title is None else Text(printable(title), "bold")
    grid = Table(title=heading, title_justify="left", header_style="bold", show_header=any(columns))
    for index, column in enumerate(columns):
        grid.add_column(Text(printable(column)), overflow="fold", justify="left" if index == 0 else "default")
    for row in rows:
        grid.add_row(*(Text("-" if cell is None else printable(str(cell))) for cell in row))
    (console or out()).print(grid)


def error(failure: EdgekitError, *, as_json: bool) -> None:
    """The sentence and the hint; with `as_json` everything as data too."""
    if as_json:
        data(failure.to_dict())
    say(failure.message, label="error:", style="bold red")
    if failure.hint:
        say(failure.hint, label="hint: ", style="dim")


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """Bars on standard error, one for each stage; where it is no terminal, every 30 s a line of what goes on."""
    console = talk()
    bars = Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=32),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    tasks: dict[str, Any] = {}
    said = time.monotonic()

    def update(stage: str, done: int, total: int) -> None:
        nonlocal said
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)
        if not console.is_terminal and time.monotonic() - said >= SILENCE:
            said = time.monotonic()
            say(f"{done} of {total}", label=f"{stage}:", style="dim")

    with bars:
        yield update


@contextmanager
def deliveries(boards: Sequence[str]) -> Iterator[Callable[[str], ProgressCallback]]:
    """One table on standard error, a row for each board; gives the callback of a board.

    Where there is no terminal, and more than one board, a line says when a board begins something.
    """
    console = talk()
    rows = Progress(
        TextColumn("{task.fields[board]}"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    tasks = {name: rows.add_task("waiting", total=1, board=printable(name)) for name in boards}
    stages: dict[str, str] = {}

    def of(board: str) -> ProgressCallback:
        def update(stage: str, done: int, total: int) -> None:
            if stages.get(board) != stage:
                stages[board] = stage
                if not console.is_terminal and len(boards) > 1:
                    say(stage, label=f"{board}:")
            rows.update(tasks[board], description=stage, completed=done, total=total)

        return update

    with rows:
        yield of


def size(count: float) -> str:
    """Bytes for people: 1.2 MB (decimal units)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def memory(arena_bytes: int, weights_bytes: int) -> str:
    """What a model needs at least."""
    return f"tensors of one sample {size(arena_bytes)} at least, weights {size(weights_bytes)}"


def tensor(spec: TensorSpec) -> str:
    """A tensor in a line: name, dtype, shape, and what a stored value means."""
    shape = "x".join("?" if size == -1 else str(size) for size in spec.shape)
    text = f"{spec.name}  {spec.dtype} [{shape}]"
    if spec.scale is None:
        return text
    zero = spec.zero_point or 0
    return f"{text}  real = (stored {'+' if zero < 0 else '-'} {abs(zero)}) x {spec.scale:.6g}"


def short(release_id: str | None) -> str | None:
    """The first 12 digits of a release's id, as people see it."""
    return release_id[:12] if release_id else None
