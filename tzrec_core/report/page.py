"""What a page is made of, and the page itself: HTML without scripts, and Markdown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

MISSING = "\N{EN DASH}"
_ROWS_SHOWN = 14
_MAX_ROWS = 150


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        text: What it says.
        detail: Said smaller, below.
        tone: ``good``, ``bad``, ``warn``, ``muted`` or nothing.
    """

    text: str
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column is a name and whose others are numbers.

    Attributes:
        columns: Their titles.
        rows: As many cells each.
        caption: What it shows, and how to read it.
        fold: Words to unfold it by, below the figures; empty: it is visible above them.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    fold: str = ""

    @property
    def shown(self) -> Sequence[Sequence[Cell]]:
        """The rows that are visible at once; a few further ones are, too."""
        if self.fold:
            return ()
        return self.rows if len(self.rows) <= _ROWS_SHOWN + 2 else self.rows[:_ROWS_SHOWN]

    @property
    def folded(self) -> Sequence[Sequence[Cell]]:
        """The rows to unfold."""
        return self.rows[len(self.shown) : _MAX_ROWS]

    @property
    def num_hidden(self) -> int:
        """How many rows only the files beside the page have."""
        return max(0, len(self.rows) - _MAX_ROWS)


@dataclass(frozen=True)
class Figure:
    """A drawing with a title and a sentence on how to read it."""

    title: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        tables: Come first.
        figures: Come below.
        notes: Sentences, such as why something is left out.
    """

    title: str
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Tile:
    """A number that stands out."""

    title: str
    value: str
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Page:
    """All of it.

    Attributes:
        title: What it is about.
        subtitle: A sentence below.
        link: To MLflow; may be empty.
        tiles: Come first.
        sections: Come below.
        numbers_file: Has the rows that tables have no room for; empty: none has.
    """

    title: str
    subtitle: str
    link: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    numbers_file: str = ""


def to_html(page: Page) -> str:
    """Returns a page that needs nothing but itself."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    template = environment.get_template("page.html")
    return template.render(
        page=page, style=Markup((Path(__file__).parent / "page.css").read_text())
    )


def to_markdown(page: Page) -> str:
    """Returns the page's tables, below a link if there is one."""
    lines = [f"[MLflow run]({page.link})", ""] if page.link else []
    lines += [f"# {_escaped(page.title)}", "", _escaped(page.subtitle), ""]
    for section in page.sections:
        if not section.tables and not section.notes:
            continue
        lines += [f"## {_escaped(section.title)}", ""]
        for table in section.tables:
            lines += _markdown_table(table)
        for note in section.notes:
            lines += [_escaped(note), ""]
    return "\n".join(lines)


def to_text(page: Page) -> str:
    """Returns the page's tables for a terminal, in aligned columns."""
    lines = [page.title, page.subtitle]
    for section in page.sections:
        lines += ["", section.title.upper()]
        for table in section.tables:
            cells = [[f"{c.text}  {c.detail}".strip() for c in row] for row in table.rows]
            lines += [*_aligned([list(table.columns), *cells]), ""]
        lines += section.notes
    return "\n".join(lines)


def number(value: float | None, *, signed: bool = False) -> str:
    """Returns four decimals, or four digits of what is small or large; a dash if there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    form = ".4f" if size == 0 or 0.001 <= size < 1000 else ".3e" if size < 0.001 else ",.4g"
    if float(value).is_integer() and size >= 1000:
        form = ",.0f"
    return format(value, f"+{form}" if signed else form).replace("-", "\N{MINUS SIGN}")


def share(value: float | None) -> str:
    """Returns per cent; a dash if there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    if 0 < value < 0.001:
        return "< 0.1\N{NO-BREAK SPACE}%"
    return f"{value:.1%}".replace("%", "\N{NO-BREAK SPACE}%").replace("-", "\N{MINUS SIGN}")


def between(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Returns an interval, nothing if an end is missing."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{number(low, signed=signed)} … {number(high, signed=signed)}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _breakable(text: str) -> Markup:
    """Returns a name that may break after an underscore."""
    return Markup(escape(text).replace("_", Markup("_<wbr>")))


def _markdown_table(table: Table) -> list[str]:
    lines = [
        "| " + " | ".join(map(_escaped, table.columns)) + " |",
        "| :-- |" + " --: |" * (len(table.columns) - 1),
    ]
    for row in table.rows[:_MAX_ROWS]:
        cells = [f"{c.text} ({c.detail})" if c.detail else c.text for c in row]
        lines.append("| " + " | ".join(map(_escaped, cells)) + " |")
    if table.num_hidden:
        lines += ["", f"and {table.num_hidden} more"]
    return [*lines, "", *([_escaped(table.caption), ""] if table.caption else [])]


def _escaped(text: str) -> str:
    for mark in "\\`*_|<>[]":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
