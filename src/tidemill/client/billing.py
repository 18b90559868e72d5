"""Calls about the caller's money."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from tidemill.client.effects import Flow, Item, Outgoing, Read, Steps
from tidemill.client.kinds import K, operation, stream
from tidemill.client.modelled import Modelled, checked, pages
from tidemill.client.sending import opened
from tidemill.client.subject import Amount, amount
from tidemill.wire.accounts import EmptyRequest
from tidemill.wire.billing import (
    BalanceAnswer,
    PriceAnswer,
    PriceRequest,
    StatementAnswer,
    StatementRequest,
    TransactionRow,
    TransactionsAnswer,
    TransactionsRequest,
    UsageAnswer,
    UsageRequest,
    UsageRow,
)
from tidemill.wire.caps import CapRequest, CapRow, CapsAnswer
from tidemill.wire.limits import PAGE_SIZE_MOST
from tidemill.wire.pages import Pager


class Billing(Modelled[K]):
    """``client.billing``. Times are aware datetimes: from ``since`` on, and before ``until``."""

    @operation
    def balance(self) -> Steps[BalanceAnswer]:
        """What the caller owns, and for how many hours it lasts."""
        return (yield from self._get("/api/balance", BalanceAnswer))

    @stream
    def transactions(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        instance_id: str | None = None,
        kinds: Collection[str] | None = None,
        page_size: int = PAGE_SIZE_MOST,
    ) -> Flow[TransactionRow]:
        """The caller's postings, newest first."""
        wanted = during(since, until)
        wanted |= {"instanceId": instance_id} if instance_id is not None else {}
        wanted |= {"kinds": list(kinds)} if kinds else {}

        def ask(pager: Pager) -> Steps[TransactionsAnswer]:
            asked = checked(TransactionsRequest, {"pager": pager, "filter": wanted})
            return self._post("/api/billing/transactions", TransactionsAnswer, asked, repeatable=True)

        return pages(
            ask,
            lambda page: page.transactions,
            lambda page: page.pager,
            identity=lambda row: row.id,
            size=page_size,
        )

    @stream
    def usage(self, *, since: datetime | None = None, until: datetime | None = None) -> Flow[UsageRow]:
        """What each instance was used, and what it cost, in that time; the newest instance first."""
        wanted = during(since, until)

        def ask(pager: Pager) -> Steps[UsageAnswer]:
            asked = checked(UsageRequest, {"pager": pager, **wanted})
            return self._post("/api/billing/usage", UsageAnswer, asked, repeatable=True)

        return pages(
            ask, lambda page: page.usage, lambda page: page.pager, identity=lambda row: row.instanceId
        )

    @operation
    def statement(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        number: int = 1,
        size: int = PAGE_SIZE_MOST,
    ) -> Steps[StatementAnswer]:
        """What was owned, one page of what changed it, and what was owned then."""
        pager = Pager(currentPage=number, pageSize=size)
        asked = checked(StatementRequest, {"pager": pager, **during(since, until)})
        return (yield from self._post("/api/billing/statement", StatementAnswer, asked, repeatable=True))

    @stream
    def statement_csv(self, *, since: datetime | None = None, until: datetime | None = None) -> Flow[bytes]:
        """The whole statement as CSV, UTF-8, in pieces as they come."""
        asked = checked(StatementRequest, {"format": "csv", **during(since, until)})
        body = asked.model_dump_json(exclude_unset=True).encode()
        sent = Outgoing("POST", "/api/billing/statement", body, {"Accept": "text/csv"})
        tap = yield from opened(self.manner.retries, sent)
        while (piece := (yield Read(tap))) is not None:
            yield Item(piece)

    @operation
    def price(self, instance_type_id: str, region: str, *, spot: bool = False) -> Steps[PriceAnswer]:
        """What a type costs now, and its tide for the next 48 hours. Raises NotFound."""
        asked = PriceRequest(instanceTypeId=instance_type_id, region=region, isSpotInstance=spot)
        return (yield from self._post("/api/billing/price", PriceAnswer, asked, repeatable=True))

    @operation
    def caps(self) -> Steps[list[CapRow]]:
        """The spend caps that hold for the account and its keys."""
        answer = yield from self._post("/api/billing/caps", CapsAnswer, EmptyRequest(), repeatable=True)
        return answer.caps

    @operation
    def cap(self, per: str, limit: Amount | None, *, api_key_id: str = "") -> Steps[list[CapRow]]:
        """Cap what may be spent per ``hour`` or ``month``; None lifts the cap. Gives those that hold."""
        asked: dict[str, Any] = {"per": per, "apiKeyId": api_key_id}
        asked |= {} if limit is None else {"limit": amount(limit)}
        body = checked(CapRequest, asked)
        answer = yield from self._post("/api/billing/cap", CapsAnswer, body, repeatable=True)
        return answer.caps


def during(since: datetime | None, until: datetime | None) -> dict[str, Any]:
    """The fields of a time that is asked for. Raises ValueError for an instant without an offset."""
    found: dict[str, Any] = {}
    for name, instant in (("since", since), ("until", until)):
        if instant is None:
            continue
        if instant.tzinfo is None:
            raise ValueError(f"{name} needs a time zone, such as {instant.replace(tzinfo=UTC).isoformat()}")
        found[name] = instant.isoformat()
    return found
