"""Tables for people: aligned columns, whole on a pipe, as wide as the terminal on one.

They are laid out here, not by Rich: its import costs a short command more than the question to the server.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

GAP = "  "
LEAST = 6  # characters that a column keeps when the terminal is narrow
CUT = "…"

# The colour that a word has wherever it begins a cell; what is not here has none.
COLOURS: Mapping[str, str] = {
    "Running": "32",
    "InStock": "32",
    "Initializing": "33",
    "PullingImage": "33",
    "Starting": "33",
    "Restarting": "33",
    "Stopping": "33",
    "StartingFailed": "31",
    "InitializationFailed": "31",
    "OutOfStock": "31",
    "Stopped": "2",
    "Archived": "2",
    "Released": "2",
}


@dataclass(frozen=True, slots=True)
class Column:
    """``cell`` gives what a row has in it. ``right``: numbers. ``firm``: it is never cut (what is copied)."""

    title: str
    cell: Callable[[Any], str]
    right: bool = False
    firm: bool = False


def lines(
    rows: Sequence[Any], columns: Sequence[Column], *, width: int | None = None, coloured: bool = False
) -> list[str]:
    """The heading and one line for each row. With ``width``, long cells are cut so that lines fit into it."""
    cells = [[seemly(column.cell(row)) for column in columns] for row in rows]
    titles = [column.title for column in columns]
    widths = [max(map(wide, each)) for each in zip(titles, *cells, strict=True)]
    if width is not None:
        widths = _fitted(widths, [column.firm for column in columns], width)
    found = [_line(titles, columns, widths, "1" if coloured else "")]
    found.extend(_line(row, columns, widths, None if coloured else "") for row in cells)
    return found


def seemly(text: str) -> str:
    """What comes from others, without control characters: a name cannot move the cursor."""
    return "".join("�" if unicodedata.category(char) in {"Cc", "Cf", "Cs"} else char for char in text)


def wide(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def is_coloured(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether colours are for a reader who can see them. ``NO_COLOR`` and ``TERM=dumb`` say no."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def terminal_width() -> int | None:
    """Of standard output; None on a pipe, where nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _fitted(widths: list[int], firm: list[bool], width: int) -> list[int]:
    """The widest columns give first, until the line fits or nothing can be given."""
    widths = list(widths)
    room = width - len(GAP) * (len(widths) - 1)
    while sum(widths) > room:
        loose = [each for each in range(len(widths)) if not firm[each] and widths[each] > LEAST]
        if not loose:
            break
        widths[max(loose, key=lambda each: widths[each])] -= 1
    return widths


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], colour: str | None) -> str:
    """``colour``: of all cells; None: each cell's own."""
    found: list[str] = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        text = _cut(cell, width)
        pad = " " * (width - wide(text))
        code = COLOURS.get(cell.partition(" ")[0], "") if colour is None else colour
        shown = f"\x1b[{code}m{text}\x1b[0m" if code else text
        found.append(pad + shown if column.right else shown + pad)
    return GAP.join(found).rstrip()


def _cut(text: str, width: int) -> str:
    if wide(text) <= width:
        return text
    kept = text
    while kept and wide(kept) > width - 1:
        kept = kept[:-1]
    return kept + CUT
