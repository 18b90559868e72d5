"""From pages to rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tidemill.client.effects import Flow, Item, Steps

A = TypeVar("A")
T = TypeVar("T")


def walk(
    ask: Callable[[int], Steps[A]],
    rows: Callable[[A], list[T]],
    total: Callable[[A], int],
    *,
    identity: Callable[[T], object],
    size: int,
) -> Flow[T]:
    """All rows of all pages; ``ask`` is given a page's number, from 1, and ``size`` is that of each.

    A row that slides to the next page while they are read comes once.
    """
    number, before = 1, frozenset[object]()
    while True:
        page = yield from ask(number)
        found = rows(page)
        for row in found:
            if identity(row) not in before:
                yield Item(row)
        if number * size >= total(page) or not found:
            return
        before = frozenset(identity(row) for row in found)
        number += 1
