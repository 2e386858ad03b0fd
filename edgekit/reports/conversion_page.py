"""One self-contained HTML page about a conversion: what INT8 costs, where, and what else was tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from edgekit_runtime import schema

from edgekit.conversion.candidate import Candidate
from edgekit.conversion.evidence import Evidence
from edgekit.conversion.layers import Histogram, LayerError, LayerReport
from edgekit.conversion.pruning import Pruning
from edgekit.conversion.record import Conversion
from edgekit.errors import CheckFailed
from edgekit.reports import examples_section
from edgekit.reports.page import COLORS, document, table
from edgekit.validation.validate import Validation

_WIDTH, _ROW = 640, 18
_PLOT = 46
_SHOWN = 24  # layers; of hundreds only the worst tell anything


def render(made: Conversion, result: Validation, evidence: Evidence) -> str:
    """The page of a conversion that was validated."""
    provenance = made.provenance
    parts = [
        f"<h1>{escape(made.name)}: {escape(provenance.source_format)} to {escape(made.kind)}</h1>",
        f"<small>profile {escape(made.profile)} &middot; source {provenance.source_sha256[:12]} &middot; model "
        f"{made.model_sha256[:12]} &middot; {provenance.calibration.samples} calibration samples, seed "
        f"{provenance.calibration.seed}</small>",
        *(f'<p class="warn">{escape(str(finding))}</p>' for finding in made.findings),
        *(f"<p>{escape(note)}</p>" for note in made.notes),
        f"<h2>FP32 against {escape(made.kind)}, {result.samples} samples</h2>",
        _costs(result),
        *_pruned(evidence.pruning),
    ]
    if len(made.candidates) > 1:
        parts += _tried(made.candidates, made.kind, made.float_size)
    parts += examples_section.parts(evidence.examples, made.kind, made.preprocess)
    parts += _layers(evidence.layers, "" if evidence.layers_of == made.kind else f" of {evidence.layers_of}, not taken")
    return document(f"{made.name}: {made.kind}", parts)


def refused(model: str, failure: CheckFailed) -> str:
    """The page of a repair of which no candidate fits."""
    candidates = [schema.read(Candidate, one, "candidates") for one in failure.fields["candidates"]]
    title = f"{model}: not converted"
    told = [f'<p class="warn">{escape(failure.message)}</p>', f"<p>{escape(failure.hint or '')}</p>"]
    return document(title, [f"<h1>{escape(title)}</h1>", *told, *_tried(candidates)])


def _tried(candidates: Sequence[Candidate], taken: str | None = None, float_size: int = 0) -> list[str]:
    return ["<h2>What was tried</h2>", _candidates(candidates, taken), _frontier(candidates, taken, float_size)]


def _pruned(found: Pruning | None) -> list[str]:
    if found is None:
        return []
    parts = [("as it was given", found.before), ("frozen and pruned", found.after)]
    rows = [
        (name, one.nodes, f"{one.size / 1e3:.1f}", None if one.ms is None else f"{one.ms:.3f}") for name, one in parts
    ]
    head = ("", "nodes", "size, kB", "median of TensorFlow on this computer, ms")
    failure = [] if found.failure is None else [f"<small>{escape(found.failure)}</small>"]
    return ["<h2>What inference needs of the source</h2>", table(head, rows), *failure]


def _layers(layers: LayerReport, whose: str) -> list[str]:
    if not layers.errors:
        return []
    worst = sorted(layers.errors, key=lambda layer: -layer.own)[:_SHOWN]
    shown = [layer for layer in layers.errors if layer in worst]
    return [
        f"<h2>Error by layer{escape(whose)}: the {len(shown)} that add the most, in the model's order</h2>",
        _errors(shown),
        "<small>RMS difference from float, divided by float's RMS; dark: what the layer itself adds</small>",
        "<h2>Values against the ranges that were chosen</h2>",
        _histograms([layer.tensor for layer in shown], layers),
        "<small>light: the range of the stored values, with its ends; dark: how many of float's values lie where "
        "(logarithmic); line: where 99.99 % of them are. Light without dark is steps that are wasted, dark without "
        "light is values that are cut off</small>",
    ]


def _costs(result: Validation) -> str:
    rows = [
        ("size, kB", f"{result.float_size / 1e3:.1f}", f"{result.int8_size / 1e3:.1f}", ""),
        ("median on this computer, ms", f"{result.latency.float_ms:.3f}", f"{result.latency.int8_ms:.3f}", ""),
    ]
    rows.extend((metric.name, *metric.shown) for metric in result.metrics)
    if result.top1_agreement is not None:
        rows.append(("same best class", "", f"{result.top1_agreement:.1%}", ""))
    for output in result.outputs:
        sqnr = "exact" if output.sqnr_db is None else f"{output.sqnr_db:.1f} dB"
        rows.append((f"output {output.output}", f"cosine {output.cosine:.4f}", sqnr, ""))
    return table(("", "FP32", "converted", ""), rows)


def _candidates(candidates: Sequence[Candidate], taken: str | None) -> str:
    rows = [
        (
            f"{one.name} (taken)" if one.name == taken else one.name,
            None if one.size is None else f"{one.size / 1e3:.1f} kB",
            None if one.drop is None else f"{one.drop:.2%}",
            None if one.latency_ratio is None else f"{one.latency_ratio:.2f}x",
            one.outcome,
        )
        for one in candidates
    ]
    metric = next((one.metric for one in reversed(candidates) if one.metric), "")
    return table(("", "size", f"loses of {metric}", "time / float here", ""), rows)


def _frontier(candidates: Sequence[Candidate], taken: str | None, float_size: int) -> str:
    """Size to the right, loss upwards (logarithmic): the lower left is what everybody wants."""
    points = [(one, one.size, max(one.drop, 1e-5)) for one in candidates if one.drop is not None and one.size]
    if len(points) < 2:
        return ""
    height, left, largest = 260, 70, max(float_size, *(size for _, size, _ in points))
    steps = [10.0**power for power in range(-5, 1)]
    lines = []
    for step in steps:
        y = _height(step, height)
        lines.append(f'<line x1="{left}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d9dee3"/>')
        lines.append(f'<text x="0" y="{y + 4:.1f}">{step:.3%}</text>')
    for one, size, drop in points:
        x, y = left + (_WIDTH - left - 110) * size / largest, _height(drop, height)
        color = COLORS[2] if one.name == taken else COLORS[0]
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}"/>')
        lines.append(f'<text x="{x + 8:.1f}" y="{y + 4:.1f}">{escape(one.name)}</text>')
    return _svg(height + 20, lines)


def _height(share: float, height: int) -> float:
    return 10 + (height - 20) * -math.log10(min(max(share, 1e-5), 1.0)) / 5


def _errors(layers: Sequence[LayerError]) -> str:
    most = max(1e-9, *(layer.error for layer in layers))
    lines = []
    for number, layer in enumerate(layers):
        y, width = number * _ROW, (_WIDTH - 320) / most
        lines.append(f'<text x="0" y="{y + 13}">{_short(layer.operator, layer.tensor)}</text>')
        lines.append(_bar(320, y, layer.error * width, "#bcd3f2"))
        lines.append(_bar(320, y, layer.own * width, COLORS[0]))
        lines.append(
            f'<text x="{min(324 + layer.error * width, _WIDTH - 40):.1f}" y="{y + 13}">{layer.error:.3f}</text>'
        )
    return _svg(len(layers) * _ROW, lines)


def _histograms(tensors: Sequence[str], report: LayerReport) -> str:
    """Each row has a scale of its own: the wider of the two ranges fills it."""
    known = [name for name in tensors if name in report.histograms and name in report.chosen]
    lines = []
    for number, name in enumerate(known):
        held, chosen, (first, last) = report.histograms[name], report.chosen[name], report.ranges[name]
        least, span = min(chosen[0], held.low), max(chosen[1], held.high) - min(chosen[0], held.low) or 1.0
        scale, y = (_WIDTH - 320) / span, number * _PLOT
        left, right = (320 + (end - least) * scale for end in chosen)
        lines.append(f'<text x="0" y="{y + 20}">{_short("", name)}</text>')
        lines.append(f'<text x="0" y="{y + 34}">{chosen[0]:.3g} to {chosen[1]:.3g}</text>')
        lines.append(
            f'<rect x="{left:.1f}" y="{y + 2}" width="{max(right - left, 1):.1f}" height="{_PLOT - 8}" fill="#bfe3d6"/>'
        )
        lines.append(f'<path d="{_steps(held, 320 - least * scale, scale, y + _PLOT - 6)}" fill="{COLORS[1]}"/>')
        ends = [320 + (end - least) * scale for end in (first, last)]
        lines.append(f'<path d="M{ends[0]:.1f} {y + _PLOT - 4}H{ends[1]:.1f}" stroke="#1b1f24" stroke-width="2"/>')
    return _svg(len(known) * _PLOT, lines)


def _steps(held: Histogram, offset: float, scale: float, base: float) -> str:
    """The outline of a histogram as an SVG path."""
    width, tallest = (held.high - held.low) / len(held.counts) * scale, math.log1p(max(held.counts)) or 1.0
    x = offset + held.low * scale
    path = [f"M{x:.1f} {base:.1f}"]
    for count in held.counts:
        x += width
        path.append(f"V{base - (_PLOT - 10) * math.log1p(count) / tallest:.1f}H{x:.1f}")
    return "".join((*path, f"V{base:.1f}Z"))


def _short(operator: str, tensor: str) -> str:
    """The end of the name; all of it when pointed at."""
    name = tensor.split(";", maxsplit=1)[0]
    short = f"{operator} {'...' + name[-30:] if len(name) > 33 else name}".strip()
    return f"{escape(short)}<title>{escape(tensor)}</title>"


def _bar(x: float, y: float, width: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y + 3}" width="{max(width, 1):.1f}" height="{_ROW - 6}" fill="{color}"/>'


def _svg(height: int, lines: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">{"".join(lines)}</svg>'
