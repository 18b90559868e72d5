"""Questions to the person at the terminal, on standard error: standard output has the answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import typer

from tidemill.cli.failures import Exit, Failure

T = TypeVar("T")


def is_somebody_there() -> bool:
    """Whether a person can see a question and answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str, meant: Callable[[str], T], default: str = "") -> T:
    """What ``meant`` makes of the answer; asked again, with its reason, while that raises Failure.

    Raises Failure when the input ends.
    """
    while True:
        typer.echo(f"{question}{f' [{default}]' if default else ''}: ", err=True, nl=False)
        line = sys.stdin.readline()
        if not line:
            typer.echo(err=True)
            raise Failure("Nothing was launched", code="notConfirmed")
        try:
            return meant(line.strip() or default)
        except Failure as error:
            typer.echo(f"{error.message}. {error.next}".rstrip(), err=True)


def agrees(question: str) -> bool:
    """Yes, or anything else, which is no."""
    typer.echo(f"{question} [y/N] ", err=True, nl=False)
    line = sys.stdin.readline()
    if not line:
        typer.echo(err=True)
    return line.strip().lower() in {"y", "yes"}


def whole(said: str) -> int:
    """A whole number from 1 on. Raises Failure."""
    if not said.isdecimal() or int(said) < 1:
        raise Failure(f"{said!r} is no whole number above 0", exit=Exit.USAGE, code="usage")
    return int(said)
