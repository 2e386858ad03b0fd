"""`edgekit bench` and `edgekit run`: figures and answers from a board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from edgekit_runtime import benchreport, schema
from edgekit_runtime.benchreport import BenchReport

from edgekit import board as boards
from edgekit.cli import options, show
from edgekit.cli.boards import opened
from edgekit.errors import UserError

RESULT = (
    "init_ms",
    "first_ms",
    "warmup_avg_ms",
    "min_ms",
    "avg_ms",
    "median_ms",
    "p90_ms",
    "p99_ms",
    "max_ms",
    "std_ms",
)


def add_to(root: typer.Typer) -> None:
    root.command(rich_help_panel="Boards")(bench)
    root.command(rich_help_panel="Boards")(run)


def bench(
    name: Annotated[str | None, typer.Argument(metavar="[BOARD]", help="The board; none with --local.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Measure on this computer; needs --model.")] = False,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure this .tflite from a temporary folder; no release changes."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure this .tflite too (the float model, say) and compare."),
    ] = None,
    num_threads: Annotated[
        int | None, typer.Option("--num-threads", "--num_threads", min=1, help="Default: the release's, or 1.")
    ] = None,
    num_runs: Annotated[int, typer.Option("--num-runs", "--num_runs", min=1, help="At least so many runs.")] = 50,
    min_secs: Annotated[float, typer.Option("--min-secs", "--min_secs", help="And at least so long.")] = 1.0,
    max_secs: Annotated[float, typer.Option("--max-secs", "--max_secs", help="But not longer.")] = 150.0,
    warmup_runs: Annotated[int, typer.Option("--warmup-runs", "--warmup_runs", min=1, help="Warm-up runs.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", "--batch_size", min=1, help="Samples a run.")] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", "--result-json", metavar="FILE", help="Write the report here too.")
    ] = None,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
) -> None:
    """Measure latency, throughput and memory on the board, with the circumstances that make the figures true."""
    argv = [
        *("--num-runs", str(num_runs), "--min-secs", str(min_secs), "--max-secs", str(max_secs)),
        *("--warmup-runs", str(warmup_runs), "--batch-size", str(batch_size)),
        *(() if num_threads is None else ("--num-threads", str(num_threads))),
    ]
    if local == (name is not None):
        raise UserError(
            "say either a BOARD or --local", hint="edgekit bench BOARD, or edgekit bench --local --model FILE"
        )
    files = [item for item in (model, baseline) if item is not None]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file", path=str(file))
    if local:
        reports = _local(files, argv)
    else:
        with opened(str(name), ssh_config) as target, show.talk().status("measuring on the board"):
            reports = [] if model else [boards.bench(target, argv)]
            reports += [boards.bench_file(target, file, argv) for file in files]
    if output is not None:
        _write(output, reports)
    if json:
        plain = [schema.plain(report) for report in reports]
        show.data(plain[0] if baseline is None else {"report": plain[0], "baseline": plain[1]})
    else:
        show_bench(reports)


def _local(files: list[Path], argv: list[str]) -> list[BenchReport]:
    """This computer, in processes of their own: a model file can crash its interpreter."""
    from edgekit.board import local as localbench

    if not files:
        raise UserError("--local measures a file", hint="add --model FILE.tflite")
    return [localbench.bench(file, argv) for file in files]


def show_bench(reports: list[BenchReport]) -> None:
    """One column a report; the ratio when there are two."""
    first = reports[0]
    columns = ["", *(report.model for report in reports), *(["ratio"] if len(reports) == 2 else [])]
    rows: list[tuple[Any, ...]] = []
    for key in RESULT:
        values = [getattr(report.latency, key) for report in reports]
        ratio = [f"{values[1] / values[0]:.2f}x"] if len(values) == 2 and values[0] else []
        rows.append((key.replace("_ms", ", ms"), *(f"{value:.3f}" for value in values), *ratio))
    rows.append(("samples a second", *(f"{report.throughput_per_s:.1f}" for report in reports)))
    rows.append(("model, MB", *(f"{report.model_size_mb:.3f}" for report in reports)))
    rows.append(("peak memory, MiB", *(show.number(report.memory.peak_mem_mb, 1) for report in reports)))
    rows.append(("runs", *(report.latency.num_runs for report in reports)))
    rows.append(("threads, batch", *(f"{report.num_threads}, {report.batch_size}" for report in reports)))
    facts = first.environment
    show.table(
        f"{facts.board or facts.cpu or facts.architecture}: {facts.runtime} {facts.runtime_version}", columns, rows
    )
    parts = [
        f"{part} {value:.3f} ms"
        for part, value in (
            ("preprocess", first.stages.preprocess_ms),
            ("invoke", first.stages.invoke_ms),
            ("postprocess", first.stages.postprocess_ms),
        )
        if value is not None
    ]
    show.out().print("a frame: " + ", ".join(parts))
    for reason in first.validity.reasons:
        show.say(f"[bold red]these times are not valid:[/bold red] {reason}")
    for warning in first.validity.warnings:
        show.say(f"[yellow]warning:[/yellow] {warning}")


def run(
    name: options.BoardName,
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="Image files on this computer.")],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Classes to show.")] = 3,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Samples for each inference.")] = 1,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
) -> None:
    """Classify pictures of this computer with the board's current release."""
    with opened(name, ssh_config) as target:
        frames = boards.frames(pictures, boards.current_preprocess(target))
        answers = boards.predict(target, frames, top_k=top_k, batch_size=batch_size)
    if json:
        show.data(
            [
                {"source": str(path), "classes": schema.plain(item.classes)}
                for path, item in zip(pictures, answers, strict=True)
            ]
        )
        return
    for path, item in zip(pictures, answers, strict=True):
        words = ", ".join(f"{best.label or best.index} {100 * best.score:.1f} %" for best in item.classes)
        show.out().print(f"{path}: {words}", markup=False, soft_wrap=True)


def _write(path: Path, reports: list[BenchReport]) -> None:
    text = benchreport.dumps(reports[0]) if len(reports) == 1 else schema.dump_json([*reports])
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}", path=str(path)) from error
    show.say(f"wrote {path}")
