"""`edgekit bench` and `edgekit run`: figures and answers from a board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from edgekit_runtime import schema
from edgekit_runtime.benchreport import BenchReport

from edgekit import board as boards
from edgekit.board import Board
from edgekit.board import local as localbench
from edgekit.cli import complete, files, options, show
from edgekit.cli.boards import opened
from edgekit.cli.help import Command
from edgekit.errors import UserError
from edgekit.models import flatbuffer

KINDS = {"int8": "INT8", "float": "FP32"}
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
MEASURING = "Measuring (names and stop rule of TFLite's benchmark_model)"


def add_to(root: typer.Typer) -> None:
    for command in (bench, run):
        root.command(cls=Command, rich_help_panel="Boards")(command)


def bench(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="BOARD",
            help="user@host, user@host:port, an ssh alias, or 'embedded'; none with --local.",
            autocompletion=complete.boards,
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Measure a file on this computer instead; needs --model.")
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="Measure this .tflite from a temporary folder instead of the current release, which stays as it is.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", metavar="FILE", help="Measure this .tflite too (the float model, say), for a second column."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", "--result-json", metavar="FILE", help="Write what --json prints here too."),
    ] = None,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
    num_runs: Annotated[
        int,
        typer.Option(
            "--num-runs", "--num_runs", metavar="N", min=1, help="At least so many runs.", rich_help_panel=MEASURING
        ),
    ] = 50,
    min_secs: Annotated[
        float,
        typer.Option(
            "--min-secs",
            "--min_secs",
            metavar="SECONDS",
            min=0,
            help="And at least so long.",
            rich_help_panel=MEASURING,
        ),
    ] = 1.0,
    max_secs: Annotated[
        float,
        typer.Option(
            "--max-secs", "--max_secs", metavar="SECONDS", min=0, help="But not longer.", rich_help_panel=MEASURING
        ),
    ] = 150.0,
    warmup_runs: Annotated[
        int,
        typer.Option(
            "--warmup-runs", "--warmup_runs", metavar="N", min=1, help="Runs before those.", rich_help_panel=MEASURING
        ),
    ] = 1,
    num_threads: Annotated[
        int | None,
        typer.Option(
            "--num-threads",
            "--num_threads",
            metavar="N",
            min=1,
            help="Threads of the interpreter; default: the release's, or 1.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", "--batch_size", metavar="N", min=1, help="Samples in each run.", rich_help_panel=MEASURING
        ),
    ] = 1,
    frame: Annotated[
        str | None,
        typer.Option(
            "--frame",
            metavar="WxH[:FORMAT]",
            help="The frames that your camera gives, as 1920x1080:NV12: what they cost, and what could be spared.",
        ),
    ] = None,
    soak: Annotated[
        int | None,
        typer.Option(
            "--soak", metavar="N", min=5000, help="Then infer N times more, to see whether memory grows: 100000, say."
        ),
    ] = None,
) -> None:
    """Measure latency, throughput and memory on the board, with the circumstances that make the figures true.

    Example: edgekit bench pi@raspberrypi.local --baseline model.edgekit/float.tflite
    """
    argv = [
        *("--num-runs", str(num_runs), "--min-secs", str(min_secs), "--max-secs", str(max_secs)),
        *("--warmup-runs", str(warmup_runs), "--batch-size", str(batch_size)),
        *(() if num_threads is None else ("--num-threads", str(num_threads))),
        *(() if soak is None else ("--soak", str(soak))),
        *(() if frame is None else ("--frame", frame)),
    ]
    if local == (name is not None):
        raise UserError(
            "say either a BOARD or --local", hint="edgekit bench BOARD, or edgekit bench --local --model FILE"
        )
    if local and model is None:
        raise UserError("--local measures a file", hint="add --model FILE.tflite")
    given = [item for item in (model, baseline) if item is not None]
    kinds = [_kind(file) for file in given]
    if local:
        with show.talk().status("measuring on this computer"):
            reports = [
                localbench.bench(file, argv, timeout=localbench.TIME_LIMIT_S if soak is None else None)
                for file in given
            ]
    else:
        with opened(str(name), ssh_config) as target, show.talk().status("measuring on the board"):
            if model is None:
                reports = [boards.bench(target, argv)]
                kinds = [_current_kind(target) if baseline else None, *kinds]
                if num_threads is None:  # a comparison is fair with as many threads only
                    argv += ["--num-threads", str(reports[0].num_threads)]
            else:
                reports = []
            reports += [boards.bench_file(target, file, argv) for file in given]
    plain = [schema.plain(report) for report in reports]
    document = plain[0] if baseline is None else {"report": plain[0], "baseline": plain[1]}
    if output is not None:
        files.write(output, schema.dump_json(document))
    if json:
        show.data(document)
        return
    show_bench(reports, kinds)
    if output is not None:
        show.say(f"wrote {output}")
    if not local and baseline is None:
        show.next_step("edgekit", "bench", name, "--baseline", "FLOAT.tflite")


def _kind(file: Path) -> str | None:
    if not file.is_file():
        raise UserError(f"{file}: no such file", path=str(file))
    return KINDS.get(flatbuffer.read(file).quantization)


def _current_kind(board: Board) -> str | None:
    return KINDS["int8"] if any(spec.scale is not None for spec in boards.current_manifest(board).inputs) else None


def show_bench(reports: Sequence[BenchReport], kinds: Sequence[str | None]) -> None:
    """One column a report; with two the ratio, if both may be compared. An emulated board's times are not shown."""
    first = reports[0]
    reasons = show_reasons(reports)
    emulated = any(report.environment.emulated for report in reports)
    if emulated:
        show.line("they are left out here; --json has them")
    names = [kind if kind and len(set(kinds)) == len(kinds) else None for kind in kinds]
    titles = [kind or report.model for kind, report in zip(names, reports, strict=True)]
    rows = [] if emulated else _times(reports, ratio=not reasons)
    with_ratio = len(reports) == 2 and bool(rows) and not reasons
    rows += [
        ("model, MiB", *(f"{report.model_size_mb:.2f}" for report in reports)),
        ("peak memory, MiB", *(show.number(report.memory.peak_mem_mb, 1) for report in reports)),
        ("runs", *(report.latency.num_runs for report in reports)),
        ("threads, batch", *(f"{report.num_threads}, {report.batch_size}" for report in reports)),
    ]
    facts = first.environment
    columns = ["", *titles, *([f"{titles[1]} / {titles[0]}"] if with_ratio else [])]
    width = len(columns)
    show.table(
        f"{facts.board or facts.cpu or facts.architecture}: {facts.runtime} {facts.runtime_version}",
        columns,
        [(*row, *[""] * (width - len(row))) for row in rows],
    )
    if not emulated:
        _show_stages(first)
    if first.plan is not None and not emulated:
        show.line(f"plan {first.plan}")
    if first.throughput_plan is not None and not emulated:
        show.line(f"throughput plan, a sample {first.throughput_plan}")
    for finding in first.findings:
        show.say(finding, label="finding:", style="yellow")
    for title, report in zip(titles, reports, strict=True):
        if report.soak is not None:
            show.line(f"{title}: memory {report.soak}", "bold red" if report.soak.verdict == "growing" else "")
    show_warnings(reports)


def show_reasons(reports: Sequence[BenchReport], of: str = "") -> list[str]:
    """Why times are not valid; each line begins with `of`."""
    reasons = list(dict.fromkeys(reason for report in reports for reason in report.validity.reasons))
    for reason in reasons:
        show.line(f"{of}times are not valid: {reason}", "bold red")
    return reasons


def show_warnings(reports: Sequence[BenchReport], of: str = "") -> None:
    """What else the figures have to be read with."""
    for warning in dict.fromkeys(warning for report in reports for warning in report.validity.warnings):
        show.say(of + warning, label="warning:", style="yellow")


def _times(reports: Sequence[BenchReport], *, ratio: bool) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for key in RESULT:
        values = [getattr(report.latency, key) for report in reports]
        compared = (
            [f"{values[1] / values[0]:.2f}x"] if ratio and key != "std_ms" and len(values) == 2 and values[0] else []
        )
        rows.append((key.replace("_ms", ", ms"), *(f"{value:.3f}" for value in values), *compared))
    rows.append(("samples a second", *(f"{report.throughput_per_s:.1f}" for report in reports)))
    return rows


def _show_stages(report: BenchReport) -> None:
    stages = report.stages
    parts = (
        ("preprocess", stages.preprocess_ms),
        ("invoke", stages.invoke_ms),
        ("postprocess", stages.postprocess_ms),
    )
    told = ", ".join(f"{part} {value:.3f} ms" for part, value in parts if value is not None)
    show.line(f"a frame{f' of {report.frame}' if report.frame else ''}: {told}")


def run(
    name: options.BoardName,
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE", help="Image files on this computer.")],
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="N", min=1, help="Classes or boxes to show, best first.")
    ] = 3,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", metavar="N", min=1, help="Samples for each inference, if the board proves it harmless."
        ),
    ] = 1,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
) -> None:
    """Classify pictures of this computer, or find objects in them, with the board's current release."""
    with opened(name, ssh_config) as target:
        frames = boards.frames(pictures, boards.current_preprocess(target))
        answers = boards.predict(target, frames, top_k=top_k, batch_size=batch_size)
    if json:
        show.data([_plain(path, item) for path, item in zip(pictures, answers, strict=True)])
        return
    for path, item in zip(pictures, answers, strict=True):
        show.line(f"{path}: {', '.join(_words(item, top_k)) or 'nothing'}")
    show.next_step("edgekit", "bench", name)


def _plain(path: Path, item: boards.Answer) -> dict[str, Any]:
    found: dict[str, Any] = schema.plain(replace(item, source=str(path)))
    detects = item.num_detections is not None
    return {key: value for key, value in found.items() if key == "source" or (key == "classes") is not detects}


def _words(item: boards.Answer, top_k: int) -> list[str]:
    if item.num_detections is None:
        return [f"{best.label or best.index} {100 * best.score:.1f} %" for best in item.classes]
    found = zip(
        item.detection_class_names, item.detection_classes, item.detection_scores, item.detection_boxes, strict=True
    )
    return [
        f"{name or kind} {100 * score:.1f} % at {' '.join(f'{side:.2f}' for side in box)}"
        for name, kind, score, box in list(found)[:top_k]
    ]
