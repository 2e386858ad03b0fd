"""The part of a page that shows examples: what is taken for what, where float and INT8 differ, boxes and masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from edgekit_runtime.manifest import Preprocess

from edgekit.conversion.examples import Answer, Box, Confusion, Disagreement, Examples, Found, Mask
from edgekit.reports.page import COLORS

_WIDTH = 240
_GOOD, _BAD = "good", "bad"
_LABEL = "font-weight:600;paint-order:stroke;stroke:#fff;stroke-width:3"


def parts(examples: Examples, kind: str, spec: Preprocess | None) -> list[str]:
    """HTML; `kind` names the converted model, `spec` is that of its pictures. Nothing for a model without examples."""
    name = escape(kind)
    html: list[str] = []
    if examples.confusion:
        html += ["<h2>What is taken for what</h2>", *_confusion(examples.confusion, name)]
    if examples.disagreed:
        html.append(f"<h2>Where float and {name} differ: {examples.disagreed} of {examples.samples} samples</h2>")
        html.append(_grid(_disagreement(one, examples.pictures, kind) for one in examples.disagreements))
    if examples.found and spec is not None:
        height = _WIDTH * spec.height / spec.width
        html.append(f"<h2>Boxes: the worst of {examples.samples} pictures</h2>")
        html.append(
            f'<small><span style="color:{COLORS[0]}">&#9632; float</span>, '
            f'<span style="color:{COLORS[2]}">&#9632; {name} (dashed)</span>; score 0.3 or more</small>'
        )
        html.append(_grid(_found(one, examples.pictures, height) for one in examples.found))
    if examples.masks:
        html.append(f"<h2>Masks: the worst of {examples.samples} pictures</h2>")
        html.append(f"<small>the picture, float, {name}; both on float's scale</small>")
        html += [_mask(one, examples.pictures) for one in examples.masks]
    return html


def _confusion(found: Confusion, kind: str) -> list[str]:
    """One table: a row for each true class, float's count in a cell, and the other one's where it is another."""
    width = len(found.classes)
    left = bool(found.left_out)
    head = "".join(f"<th>{escape(name)}</th>" for name in found.classes) + ("<th>another</th>" if left else "")
    rows = []
    for index, name in enumerate(found.classes):
        cells = [
            _cell(found.float[index][column], found.int8[index][column], column == index)
            for column in range(width + left)
        ]
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    said = f"a row for each true class, a column for each answer; where {kind} counts otherwise: float &rarr; {kind}"
    if found.left_out:
        said += f"; {found.left_out} classes that are less often confused are left out"
    return [f'<table class="confusion"><tr><th></th>{head}</tr>{"".join(rows)}</table>', f"<small>{said}</small>"]


def _cell(before: int, after: int, right: bool) -> str:
    if before == after:
        return f'<td class="n">{before or ""}</td>'
    mood = _GOOD if (after > before) == right else _BAD
    return f'<td class="n {mood}">{before} &rarr; {after}</td>'


def _disagreement(one: Disagreement, pictures: dict[str, str], kind: str) -> str:
    shown = f'<img alt="" src="{_data(pictures, one.picture)}">' if one.picture else ""
    lines = [_answer("float", one.float, one.truth), _answer(kind, one.int8, one.truth)]
    truth = "" if one.truth is None else f"<br>is {escape(one.truth)}"
    return f"{shown}<figcaption>{'<br>'.join(lines)}{truth}<br><small>{escape(one.sample)}</small></figcaption>"


def _answer(who: str, answer: Answer, truth: str | None) -> str:
    mood = "" if truth is None else _GOOD if truth == answer.label else _BAD
    return f'{escape(who)}: <span class="{mood}">{escape(answer.label)}</span> {answer.score:.2f}'


def _found(one: Found, pictures: dict[str, str], height: float) -> str:
    size = f'width="{_WIDTH}" height="{height:.0f}"'
    drawn = _drawn(one.float, height, "float") + _drawn(one.int8, height, "converted")
    said = f"float {len(one.float)}, lost {one.lost}, added {one.added}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" {size}><image {size} href="{_data(pictures, one.picture)}"/>{drawn}'
        f"</svg><figcaption>{said}<br><small>{escape(one.sample)}</small></figcaption>"
    )


def _drawn(boxes: Sequence[Box], height: float, who: str) -> str:
    """Each box says what it is when pointed at; the best one is labelled: float's at its top."""
    color, dashes = (COLORS[0], "") if who == "float" else (COLORS[2], ' stroke-dasharray="5 3"')
    lines = []
    for number, box in enumerate(boxes):
        top, left, bottom, right = (value * size for value, size in zip(box.corners, (height, _WIDTH) * 2, strict=True))
        said = escape(f"{who}: {box.label} {box.score:.2f}")
        lines.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="none" '
            f'stroke="{color}" stroke-width="2"{dashes}><title>{said}</title></rect>'
        )
        if number == 0:
            y = bottom - 4 if dashes else max(top, 0) + 13
            text = escape(f"{box.label[:16]} {box.score:.2f}")
            lines.append(f'<text x="{left + 4:.1f}" y="{y:.1f}" style="{_LABEL};fill:{color}">{text}</text>')
    return "".join(lines)


def _mask(one: Mask, pictures: dict[str, str]) -> str:
    shown = (
        f'<img alt="{name}" src="{_data(pictures, key)}">'
        for name, key in (("picture", one.picture), ("float", one.float), ("converted", one.int8))
    )
    said = f"mean difference {one.difference:.2%} of float's range"
    caption = f"<figcaption>{said}<br><small>{escape(one.sample)}</small></figcaption>"
    return f'<figure class="strip">{"".join(shown)}{caption}</figure>'


def _grid(figures: Iterable[str]) -> str:
    return f'<div class="grid">{"".join(f"<figure>{figure}</figure>" for figure in figures)}</div>'


def _data(pictures: dict[str, str], key: str) -> str:
    return f"data:image/jpeg;base64,{escape(pictures[key])}"
