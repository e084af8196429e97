"""Pages: blocks of text, tables and charts, as Markdown and as HTML (by report.html.j2)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from sweeps.reporting.draw_charts import style

MAX_OPEN_ROWS = 8
"""Rows of a table up to which it isn't folded away."""


@dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A text without line breaks."""

    text: str


@dataclass(frozen=True)
class TextTable:
    """Rows of texts; a line break within a text is one in the table too."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_grid: bool = False
    """Whether each text is a thing of its own, its first line the most important; else a row is one thing."""
    numbers: frozenset[int] = frozenset()
    """Indices of columns of numbers."""
    code: frozenset[int] = frozenset()
    """Indices of columns of what one can type."""
    links: str = ""
    """What leads from the first column to its text: `trials.html#`, to which that is added; empty: nothing does."""


@dataclass(frozen=True)
class Chart:
    """One chart with its caption."""

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
    blocks: tuple["Block", ...]
    anchor: str = ""
    """What a link to it ends with; empty: none leads to it."""


Block = Heading | Paragraph | TextTable | ChartFile | Code | Folded


@dataclass(frozen=True)
class Page:
    """A title and what comes after it."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)

    @property
    def headings(self) -> list[str]:
        """The titles of its sections."""
        return [block.text for block in self.blocks if isinstance(block, Heading)]


def foldable_table(
    header: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    title: str,
    *,
    numbers: Iterable[int] = (),
    code: Iterable[int] = (),
    links: str = "",
) -> list[Block]:
    """A table, unless it would be empty; a long one is folded away under its title."""
    if not rows:
        return []
    table = TextTable(header, tuple(rows), numbers=frozenset(numbers), code=frozenset(code), links=links)
    return [folded_if(len(rows) > MAX_OPEN_ROWS, f"{title} ({len(rows)})", table)]


def folded_if(is_long: bool, title: str, block: Block) -> Block:
    """The block, folded away under a title if there is much of it."""
    return Folded(title, (block,)) if is_long else block


# Markdown.


def markdown(page: Page) -> str:
    """The page as Markdown as GitHub reads it, with its charts in files beside it."""
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
        case Folded(title, blocks):
            return "\n\n".join([f"{_plain(title)}:", *map(_markdown_block, blocks)])


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
    """The text with escapes, so that Markdown sees nothing to interpret in it."""
    text = escape(text, quote=False).replace("\n", " ")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


# HTML.


def html(page: Page) -> str:
    """The page as one HTML file that needs nothing else; report.html.j2 says how it looks."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    colours = {"light": style(on_dark=False), "dark": style(on_dark=True)}
    return environment.get_template("report.html.j2").render(page=page, **colours)
