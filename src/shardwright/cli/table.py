"""Tables in the style of rladmin: a heading, columns padded with spaces, one line per row. Pure.

Without borders and colors, so that grep, awk and diff work on them.
"""

from collections.abc import Iterable, Sequence

UNKNOWN = "N/A"
"""The cell's text if the API gave no value."""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> str:
    """The text of a table, without a newline at its end. Every row must have a cell for every column."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[number]) for line in (list(columns), *cells)) for number in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in (columns, *cells)
    ]
    return "\n".join([f"{title}:", *lines] if title else lines)


def fields(pairs: Iterable[tuple[str, object]]) -> str:
    """One line ``name  value`` per pair, with aligned values."""
    listed = [(name, _cell(value)) for name, value in pairs]
    width = max((len(name) for name, _ in listed), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in listed)


def _cell(value: object) -> str:
    match value:
        case None | "":
            return UNKNOWN
        case bool():
            return "enabled" if value else "disabled"
        case _:
            return str(value)
