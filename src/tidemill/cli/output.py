"""What a command prints: a table for people, or the wire's own rows for programs.

``json`` and ``yaml`` have the fields that the API has, by the names that it gives them; a list is a list.
``name`` is one name or id on each line, for ``xargs``. Standard output has the answer and nothing else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, TypeVar, cast

import typer

from tidemill.cli import table
from tidemill.cli.failures import AS_JSON, Exit, Failure
from tidemill.cli.streams import has_all_letters
from tidemill.cli.table import Column

R = TypeVar("R")
LEAST_PAUSE = 0.5  # seconds between two looks of --watch


class Form(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def _tells_programs(ctx: typer.Context, value: Form | None) -> Form | None:
    """Errors take the form of the answer."""
    if value is Form.JSON:
        ctx.meta[AS_JSON] = True
    return value


Output = Annotated[
    Form,
    typer.Option(
        "--output", "-o", callback=_tells_programs, help="For people or for programs.", show_default=False
    ),
]
Watch = Annotated[
    float | None,
    typer.Option(
        "--watch",
        "-w",
        metavar="SECONDS",
        help="Look again every so many seconds, until Ctrl-C.",
        show_default=False,
    ),
]


def show_rows(
    rows: Sequence[R],
    columns: Sequence[Column],
    form: Form,
    *,
    name: Callable[[R], str],
    empty: str,
) -> None:
    """A list. ``empty`` is what a person is told, on standard error, where there is nothing."""
    match form:
        case Form.NAME:
            _print("".join(f"{name(row)}\n" for row in rows))
        case Form.TABLE if not rows:
            typer.echo(empty, err=True)
        case Form.TABLE:
            coloured = table.is_coloured(sys.stdout, os.environ)
            shown = table.lines(rows, columns, width=table.terminal_width(), coloured=coloured)
            _print("\n".join(shown) + "\n")
        case _:
            _machine([plain(row) for row in rows], form)


def show_one(row: R, facts: Sequence[tuple[str, str]], form: Form, *, name: Callable[[R], str]) -> None:
    """One thing. ``facts`` are for people: a title and its text; those without a text are left out."""
    match form:
        case Form.NAME:
            _print(f"{name(row)}\n")
        case Form.TABLE:
            _print(told(facts))
        case _:
            _machine(plain(row), form)


def told(facts: Sequence[tuple[str, str]]) -> str:
    """A line for each fact that has a text."""
    known = [(title, text) for title, text in facts if text]
    widest = max((table.wide(title) for title, _ in known), default=0)
    return "".join(f"{title:<{widest}}  {table.seemly(text)}\n" for title, text in known)


def stream_row(row: Any, line: str, form: Form, *, name: str) -> None:
    """One more of a list without an end, as it comes: a line for people, one JSON object on a line."""
    match form:
        case Form.TABLE:
            _print(table.seemly(line) + "\n")
        case Form.NAME:
            _print(f"{name}\n")
        case Form.JSON:
            _print(json.dumps(plain(row), ensure_ascii=not has_all_letters()) + "\n")
        case Form.YAML:
            _print("---\n")
            _machine(plain(row), form)


def watched(seconds: float | None, look: Callable[[], None]) -> None:
    """Show it once, or again and again. On a terminal each look takes the place of the one before."""
    if seconds is None:
        look()
        return
    if not seconds >= LEAST_PAUSE:  # not a number is not, either
        raise Failure(f"--watch takes at least {LEAST_PAUSE:g} seconds", exit=Exit.USAGE, code="invalidWatch")
    from threading import Event

    pause, clears = Event(), sys.stdout.isatty()
    while True:
        if clears:
            _print("\x1b[H\x1b[2J")
        look()
        pause.wait(seconds)


def plain(row: Any) -> Any:
    """A row as JSON has it: what the wire's models say, and no other names."""
    dump = getattr(row, "model_dump", None)
    if dump is not None:
        return dump(mode="json", by_alias=True)
    if isinstance(row, dict):
        return {name: plain(value) for name, value in cast(dict[str, Any], row).items()}
    if isinstance(row, list | tuple):
        return [plain(each) for each in cast(Sequence[Any], row)]
    if isinstance(row, datetime | date):
        return row.isoformat()
    if isinstance(row, Decimal):
        return int(row) if row == row.to_integral_value() else float(row)
    return row


def _machine(value: Any, form: Form) -> None:
    if form is Form.JSON:
        _print(json.dumps(value, ensure_ascii=not has_all_letters(), indent=2) + "\n")
        return
    import yaml

    _print(yaml.safe_dump(value, sort_keys=False, allow_unicode=has_all_letters(), width=10_000))


def _print(text: str) -> None:
    """Whole, at once; whoever reads it sees it before the next."""
    sys.stdout.write(text)
    sys.stdout.flush()
