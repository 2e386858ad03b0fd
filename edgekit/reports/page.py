"""What every HTML page of edgekit has in common: one file, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1f24}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse}td,th{padding:.25rem 1.2rem .25rem 0;text-align:left;border-bottom:1px solid #d9dee3}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.warn{color:#9a4b00}.bad{color:#b01e1e;font-weight:600}
.bar{display:flex;height:1.2rem;margin:.5rem 0}.bar div{min-width:2px}.key{display:inline-block;margin-right:1.2rem}
.dot{display:inline-block;width:.8em;height:.8em;margin-right:.4em}img{max-width:100%;border:1px solid #d9dee3}
code{background:#f2f4f6;padding:.1rem .3rem}small{color:#59636e}svg text{font:12px system-ui,sans-serif;fill:#59636e}
.grid{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;max-width:15rem}figcaption{font-size:.8rem;overflow-wrap:anywhere}
.strip{max-width:none;margin-bottom:1rem}.strip img{width:30%;margin-right:.5rem}.good{color:#16783c}
.confusion td,.confusion th{padding:.2rem .6rem;font-size:.8rem}
"""
COLORS = ("#3b7dd8", "#2d9d78", "#d9822b", "#8957c9")


def document(title: str, parts: Sequence[str]) -> str:
    """The whole page; `parts` are HTML."""
    body = "\n".join(parts)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # names of files may hold bytes that are no text


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The first column to the left, all others are figures; None is shown as "-"."""

    def row(cells: Sequence[Any], tag: str) -> str:
        first, *rest = ("-" if cell is None else escape(str(cell)) for cell in cells)
        return f"<tr><{tag}>{first}</{tag}>" + "".join(f'<{tag} class="n">{cell}</{tag}>' for cell in rest) + "</tr>"

    return "<table>" + row(header, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"
