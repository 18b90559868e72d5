"""What the calls of all subjects share: the line they go over, how they are tried, whose service it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import ValidationError

from tidemill.client.effects import Flow, Item, Steps
from tidemill.client.errors import ClientError
from tidemill.client.kinds import AsyncLine, K, Resource, SyncLine
from tidemill.client.sending import Retries, call
from tidemill.client.service import Service
from tidemill.wire.answers import Answer
from tidemill.wire.fields import Request
from tidemill.wire.pages import PAGE_SIZE_MOST, Pager, PagerInfo
from tidemill.wire.problem import explain

A = TypeVar("A", bound=Answer)
R = TypeVar("R", bound=Request)
T = TypeVar("T")

Amount = int | float | Decimal | str  # of currency units
LARGEST = 30  # powers of ten of it: more takes longer to write than anybody waits


@dataclass(frozen=True, slots=True)
class Manner:
    """How calls are made."""

    service: Service
    retries: Retries


class Subject(Resource[K]):
    """Calls about one subject."""

    def __init__(self, line: SyncLine | AsyncLine, manner: Manner, *, awaits: bool) -> None:
        super().__init__(line, awaits=awaits)
        self.manner = manner

    def _get(self, path: str, gives: type[A], query: Mapping[str, str] | None = None) -> Steps[A]:
        return call(self.manner, "GET", path, gives, repeatable=True, query=query)

    def _post(
        self,
        path: str,
        gives: type[A],
        body: Request | Mapping[str, Any] | None = None,
        *,
        repeatable: bool,
        headers: Mapping[str, str] | None = None,
    ) -> Steps[A]:
        return call(self.manner, "POST", path, gives, body=body or {}, repeatable=repeatable, headers=headers)


def pages(
    ask: Callable[[Pager], Steps[A]],
    rows: Callable[[A], list[T]],
    about: Callable[[A], PagerInfo],
    *,
    identity: Callable[[T], object],
    size: int = PAGE_SIZE_MOST,
) -> Flow[T]:
    """All rows of all pages. A row that slides to the next page while they are read comes once."""
    number, before = 1, frozenset[object]()
    while True:
        page = yield from ask(Pager(currentPage=number, pageSize=size))
        found = rows(page)
        for row in found:
            if identity(row) not in before:
                yield Item(row)
        if number * size >= about(page).totalEntries or not found:
            return
        before = frozenset(identity(row) for row in found)
        number += 1


def checked(model: type[R], said: Mapping[str, Any]) -> R:
    """A request of these fields. Raises ClientError, in the server's own words, for what no server takes."""
    try:
        return model.model_validate(said)
    except ValidationError as error:
        raise ClientError(explain(error).message) from None


def amount(said: Amount) -> int | float:
    """An amount as a JSON number. Raises ClientError for what is no amount."""
    try:
        exact = Decimal(str(said))
    except ArithmeticError:
        raise ClientError(f"{said!r} is no amount of money; write it as 12.50") from None
    if not exact.is_finite() or exact.adjusted() > LARGEST:
        raise ClientError(f"{said!r} is no amount of money")
    return int(exact) if exact == exact.to_integral_value() else float(exact)
