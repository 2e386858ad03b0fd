"""One self-contained HTML page about a deployment: what it costs, how fast it is, and under which circumstances."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

from edgekit_runtime.benchreport import BenchReport

from edgekit.board import FirstBoot
from edgekit.deployment import Deployment
from edgekit.reports.page import COLORS, document, table


def render(deployment: Deployment, *, sheet: bytes | None = None) -> str:
    """The page. `sheet` is a PNG of pictures with predictions."""
    bench = deployment.bench
    title = f"{deployment.conversion.name} on {deployment.board}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<small>release {deployment.release[:12]} &middot; profile {escape(deployment.conversion.profile)} &middot; "
        f"{escape(bench.environment.runtime or '') if bench else 'not measured'}</small>",
        *(_validity(bench) if bench else _not_measured(deployment.first_boot)),
        "<h2>FP32 against INT8</h2>",
        _comparison(deployment),
    ]
    if bench and not bench.environment.emulated:
        parts += ["<h2>Where the time went</h2>", *_stages(bench)]
    if sheet:
        data = base64.b64encode(sheet).decode("ascii")
        parts += ["<h2>Predictions from the board</h2>", f'<img alt="predictions" src="data:image/png;base64,{data}">']
    if bench and not bench.environment.emulated:
        parts += ["<h2>Latency on the board</h2>", _latency(bench, deployment.float_bench)]
    parts += ["<h2>Circumstances</h2>", _environment(deployment)]
    return document(title, parts)


def _validity(bench: BenchReport) -> list[str]:
    lines = [f'<p class="bad">These times are not valid: {escape(reason)}.</p>' for reason in bench.validity.reasons]
    return lines + [f'<p class="warn">{escape(warning)}</p>' for warning in bench.validity.warnings]


def _not_measured(planned: FirstBoot | None) -> list[str]:
    by = f" by {planned.unit}" if planned and planned.unit else ""
    return [f'<p class="warn">Not measured: the release is checked and activated at the next boot{escape(by)}.</p>']


def _comparison(deployment: Deployment) -> str:
    result = deployment.validation
    rows: list[tuple[Any, ...]] = [
        ("size, kB", f"{result.float_size / 1e3:.1f}", f"{result.int8_size / 1e3:.1f}",
         f"{result.float_size / result.int8_size:.1f}x smaller"),
    ]  # fmt: skip
    rows.extend((metric.name, *metric.shown) for metric in result.metrics)
    if result.top1_agreement is not None:
        rows.append(("same best class", "", f"{result.top1_agreement:.1%}", ""))
    for output in result.outputs:
        sqnr = "exact" if output.sqnr_db is None else f"{output.sqnr_db:.1f} dB"
        rows.append((f"output {output.output}: cosine, SQNR", "", f"{output.cosine:.4f}", sqnr))
    bench = deployment.bench
    if deployment.float_bench and bench and not bench.environment.emulated:
        slow, fast = deployment.float_bench.latency.median_ms, bench.latency.median_ms
        rows.append(("median on the board, ms", f"{slow:.3f}", f"{fast:.3f}", f"{slow / fast:.2f}x"))
    host = result.latency
    rows.append(
        ("median on the host, ms (not the board)", f"{host.float_ms:.3f}", f"{host.int8_ms:.3f}",
         f"{1 / host.ratio:.2f}x")
    )  # fmt: skip
    return table(("", "FP32", "INT8", ""), rows)


def _stages(bench: BenchReport) -> list[str]:
    stages = bench.stages
    named = [
        (name, value)
        for name, value in (
            ("preprocess", stages.preprocess_ms),
            ("invoke", stages.invoke_ms),
            ("postprocess", stages.postprocess_ms),
        )
        if value is not None
    ]
    total = sum(value for _, value in named) or 1.0
    bars = "".join(
        f'<div style="width:{100 * value / total:.2f}%;background:{color}"></div>'
        for (_, value), color in zip(named, COLORS, strict=False)
    )
    keys = "".join(
        f'<span class="key"><span class="dot" style="background:{color}"></span>{name} {value:.3f} ms</span>'
        for (name, value), color in zip(named, COLORS, strict=False)
    )
    return [f'<div class="bar">{bars}</div>', f"<p>{keys}</p>"]


def _latency(bench: BenchReport, float_bench: BenchReport | None) -> str:
    reports = [("INT8", bench)]
    if float_bench:
        reports.insert(0, ("FP32", float_bench))
    keys = (
        "init_ms", "first_ms", "warmup_avg_ms", "min_ms", "median_ms", "avg_ms", "p90_ms", "p99_ms", "max_ms", "std_ms"
    )  # fmt: skip
    rows: list[tuple[Any, ...]] = [
        (key.replace("_ms", ", ms"), *(f"{getattr(report.latency, key):.3f}" for _, report in reports)) for key in keys
    ]
    rows += [
        ("runs", *(report.latency.num_runs for _, report in reports)),
        ("threads", *(report.num_threads for _, report in reports)),
        ("batch", *(report.batch_size for _, report in reports)),
        ("samples a second", *(f"{report.throughput_per_s:.0f}" for _, report in reports)),
        ("peak memory, MiB", *(report.memory.peak_mem_mb for _, report in reports)),
    ]
    if any(report.soak for _, report in reports):
        rows.append(("memory over a soak", *(str(report.soak or "-") for _, report in reports)))
    return table(("", *(name for name, _ in reports)), rows)


def _environment(deployment: Deployment) -> str:
    from edgekit_runtime import schema

    bench = deployment.bench
    facts = {**schema.plain(bench.environment), **schema.plain(bench.sensors_after)} if bench else {}
    rows = [(key, ", ".join(map(str, value)) if isinstance(value, list) else value) for key, value in facts.items()]
    push = deployment.push
    rows.append(("sent to the board", f"{push.sent_bytes} bytes in {push.sent_files} files"))
    rows.append(("was there already", f"{push.reused_bytes} bytes in {push.reused_files} files"))
    versions = deployment.conversion.provenance.versions
    rows.append(("made with", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return table(("", ""), rows)
