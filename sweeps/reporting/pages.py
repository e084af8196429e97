"""Pages: blocks of text, tables and charts, as Markdown and as one HTML file that needs nothing else."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from sweeps.reporting.figures import style

MAX_OPEN_ROWS = 8
"""Longer tables that may be folded away are."""


@dataclass(frozen=True)
class Heading:
    """Begins a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class TextTable:
    """Rows of texts; a line break within a text is one in the table too."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_grid: bool = False
    """Whether each text is an entry of its own, its first line the most important; else a row is one thing."""
    numbers: frozenset[int] = frozenset()
    """Columns of numbers."""
    code: frozenset[int] = frozenset()
    """Columns of what one can type."""


@dataclass(frozen=True)
class Chart:
    """One chart of a file."""

    caption: str
    svg: str


@dataclass(frozen=True)
class ChartFile:
    """Charts: one file beside the Markdown, elements within the HTML."""

    file_name: str
    alt: str
    """What there is to see, in words."""
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Code:
    """Lines of a terminal."""

    text: str


@dataclass(frozen=True)
class Folded:
    """What one needn't see at first; in Markdown it is open."""

    title: str
    block: "Block"


Block = Heading | Paragraph | TextTable | ChartFile | Code | Folded


@dataclass(frozen=True)
class Page:
    """A title and what comes after it."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def foldable_table(
    header: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    title: str,
    *,
    numbers: Iterable[int] = (),
    code: Iterable[int] = (),
) -> list[Block]:
    """A table, unless it would be empty; a long one is folded away under its title."""
    if not rows:
        return []
    table = TextTable(header, tuple(rows), numbers=frozenset(numbers), code=frozenset(code))
    return [Folded(f"{title} ({len(rows)})", table) if len(rows) > MAX_OPEN_ROWS else table]


# Markdown.


def markdown(page: Page) -> str:
    """The page as Markdown as GitHub reads it, with its pictures in files beside it."""
    parts = [f"# {_plain(page.title)}", *(_markdown_block(block) for block in page.blocks)]
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case TextTable():
            return _markdown_table(block)
        case ChartFile(file_name, alt):
            return f"![{_plain(alt)}]({file_name})"
        case Code(text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}\n{text}\n{fence}"
        case Folded(title, inner):
            return f"{_plain(title)}:\n\n{_markdown_block(inner)}"


def _markdown_table(table: TextTable) -> str:
    def row(texts: Sequence[str], is_header: bool = False) -> str:
        return (
            f"| {' | '.join(_markdown_cell(text, i in table.code and not is_header) for i, text in enumerate(texts))} |"
        )

    rules = ["---:" if i in table.numbers or (table.is_grid and i) else "---" for i in range(len(table.header))]
    return "\n".join([row(table.header, True), f"| {' | '.join(rules)} |", *(row(texts) for texts in table.rows)])


def _markdown_cell(text: str, is_code: bool) -> str:
    if is_code:
        # <code> rather than backticks, which a text may hold itself; GitHub splits at bars within either.
        return "<br>".join(f"<code>{escape(line).replace('|', '&#124;')}</code>" for line in text.split("\n"))
    return "<br>".join(_plain(line) for line in text.split("\n"))


def _plain(text: str) -> str:
    """A text in which Markdown sees nothing to interpret."""
    text = escape(text, quote=False).replace("\n", " ")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


# HTML.

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #24292f; --soft: #57606a; --rule: #d0d7de; --tint: #f6f8fa;
  LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0d1117; --ink: #e6edf3; --soft: #9da7b1; --rule: #30363d; --tint: #161b22;
    DARK }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem clamp(0.8rem, 3vw, 2.5rem) 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.6rem; padding-bottom: 0.3rem; border-bottom: 1px solid var(--rule); }
p { max-width: 48rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 0.4rem 0.7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
.number { text-align: right; }
.short { white-space: nowrap; }
.list td:first-child { min-width: 12rem; }
td.free { overflow-wrap: anywhere; min-width: 12rem; }
.grid th:first-child { position: sticky; left: 0; background: var(--paper); text-align: left; white-space: nowrap; }
.grid td, .grid th { text-align: right; }
.grid td { white-space: nowrap; color: var(--soft); font-size: 0.85em; }
.grid td b { color: var(--ink); font-size: 1.2em; }
code, pre { font: 0.82rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap; }
pre { background: var(--tint); padding: 0.8rem; border-radius: 6px; margin: 0; }
details { margin: 0.8rem 0; }
summary { cursor: pointer; margin-bottom: 0.4rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1.2rem; }
figure { margin: 0; }
figcaption { font-size: 0.9rem; font-weight: 600; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
svg text { font-family: system-ui, sans-serif; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
@media (max-width: 46rem) {
  .list thead { display: none; }
  .list, .list tbody, .list tr { display: block; }
  .list tr { border: 1px solid var(--rule); border-radius: 6px; margin: 0 0 0.8rem; padding: 0.3rem 0; }
  .list td { display: grid; grid-template-columns: 7.6rem minmax(0, 1fr); gap: 0.8rem; border: 0; min-width: 0;
    padding: 0.15rem 0.8rem; text-align: left; white-space: normal; overflow-wrap: anywhere; }
  .list td::before { content: attr(data-label); color: var(--soft); }
  .list td:first-child { display: block; font-weight: 600; }
  .list td:first-child::before { content: none; }
  .list td.empty { display: none; }
}
"""


def html(page: Page) -> str:
    """The page as one file: style and charts are in it, and it asks the network for nothing."""
    rules = _STYLE.replace("LIGHT", style(on_dark=False)).replace("DARK", style(on_dark=True))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    body = "\n".join(_html_block(block) for block in page.blocks)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{escape(page.title)}</title>
<style>{rules}</style>
</head>
<body>
<h1>{escape(page.title)}</h1>
{body}
</body>
</html>
"""


def _html_block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case TextTable():
            return _html_table(block)
        case ChartFile(_, alt, charts):
            return (
                f'<div class="charts" role="group" aria-label="{escape(alt)}">{"".join(map(_html_chart, charts))}</div>'
            )
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Folded(title, inner):
            return f"<details><summary>{escape(title)}</summary>{_html_block(inner)}</details>"


def _html_chart(chart: Chart) -> str:
    caption = escape(chart.caption)
    svg = chart.svg.replace("<svg", f'<svg role="img" aria-label="{caption}"', 1)
    return f"<figure><figcaption>{caption}</figcaption>{svg}</figure>"


def _html_table(table: TextTable) -> str:
    def kind(i: int, text: str) -> str:
        names = ["number"] * (i in table.numbers) + ["empty"] * (not text)
        names += ["free"] * (i in table.code or len(text) > 60) + ["short"] * (len(text) <= 24)
        return f' class="{" ".join(names)}"' if names else ""

    head = "".join(f"<th{kind(i, text)}>{_lines(text)}</th>" for i, text in enumerate(table.header))
    rows = []
    for texts in table.rows:
        cells = []
        for i, text in enumerate(texts):
            if table.is_grid:
                first, _, rest = text.partition("\n")
                entry = f"<b>{escape(first)}</b>" + (f"<br>{_lines(rest)}" if rest else "")
                cells.append(f"<th scope=row>{_lines(text)}</th>" if i == 0 else f"<td>{entry}</td>")
            else:
                content = f"<code>{escape(text)}</code>" if i in table.code and text else _lines(text)
                label = escape(table.header[i].replace("\n", " "))
                cells.append(f'<td{kind(i, text)} data-label="{label}"><div>{content}</div></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    name = "grid" if table.is_grid else "list"
    body = "\n".join(rows)
    return (
        f'<div class="wide"><table class="{name}"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    )


def _lines(text: str) -> str:
    return "<br>".join(map(escape, text.split("\n")))
