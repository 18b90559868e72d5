"""Calls of the operator; for everybody else there is nothing here (NotFound)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from tidemill.client.billing import during
from tidemill.client.effects import Flow, Steps
from tidemill.client.kinds import K, operation, stream
from tidemill.client.modelled import Modelled, checked, pages
from tidemill.client.subject import Amount, amount
from tidemill.wire.admin import (
    CreditRequest,
    MonthlyCreditAnswer,
    MonthlyCreditRequest,
    PostedAnswer,
    PriceRow,
    PricesAnswer,
    PriceSetAnswer,
    PriceSetRequest,
    PricesRequest,
    RefundRequest,
    UserCapRequest,
    UserRow,
    UsersAnswer,
    UsersRequest,
    UserTransactionsRequest,
    VoucherRequest,
)
from tidemill.wire.billing import TransactionRow, TransactionsAnswer
from tidemill.wire.caps import CapRow, CapsAnswer
from tidemill.wire.pages import Pager


class Admin(Modelled[K]):
    """``client.admin``. Money that is given has an ``id``: the same again gives nothing. One is made
    where none is said, so that a lost answer can be asked for again."""

    @stream
    def users(self, *, username: str | None = None) -> Flow[UserRow]:
        """All users with what they own, by name. ``username`` is a part of it."""
        wanted = {"username": username} if username is not None else {}

        def ask(pager: Pager) -> Steps[UsersAnswer]:
            asked = checked(UsersRequest, {"pager": pager, "filter": wanted})
            return self._post("/api/admin/users", UsersAnswer, asked, repeatable=True)

        return pages(ask, lambda page: page.users, lambda page: page.pager, identity=lambda row: row.userId)

    @operation
    def credit(
        self, username: str, paid: Amount, *, id: str | None = None, memo: str = ""
    ) -> Steps[PostedAnswer]:
        """Write down that a user paid in; below 0, that they were paid back. Raises NotFound, Conflict."""
        asked = checked(
            CreditRequest,
            {"username": username, "amount": amount(paid), "id": id or str(uuid4()), "memo": memo},
        )
        return (yield from self._post("/api/admin/credit", PostedAnswer, asked, repeatable=True))

    @operation
    def voucher(
        self,
        username: str,
        worth: Amount,
        *,
        expires_at: datetime | None = None,
        name: str = "",
        id: str | None = None,
        memo: str = "",
    ) -> Steps[PostedAnswer]:
        """Give a user a voucher. Raises NotFound, Conflict."""
        said: dict[str, Any] = {"username": username, "amount": amount(worth), "id": id or str(uuid4())}
        said |= {"name": name, "memo": memo}
        said |= {"expiresAt": expires_at.isoformat()} if expires_at is not None else {}
        asked = checked(VoucherRequest, said)
        return (yield from self._post("/api/admin/voucher", PostedAnswer, asked, repeatable=True))

    @operation
    def monthly_credit(self, username: str, each_month: Amount) -> Steps[MonthlyCreditAnswer]:
        """Give a user credit at the start of each month, good until its end; 0 ends it. Raises NotFound."""
        asked = checked(MonthlyCreditRequest, {"username": username, "amount": amount(each_month)})
        return (
            yield from self._post("/api/admin/monthlyCredit", MonthlyCreditAnswer, asked, repeatable=True)
        )

    @operation
    def refund(
        self, posting_id: str, part: Amount | None = None, *, id: str = "refund", memo: str = ""
    ) -> Steps[PostedAnswer]:
        """Give back what was charged, or a part of it. Raises NotFound, Conflict."""
        said: dict[str, Any] = {"postingId": posting_id, "id": id, "memo": memo}
        said |= {} if part is None else {"amount": amount(part)}
        asked = checked(RefundRequest, said)
        return (yield from self._post("/api/admin/refund", PostedAnswer, asked, repeatable=True))

    @operation
    def cap(self, username: str, per: str, limit: Amount | None) -> Steps[list[CapRow]]:
        """Cap what a user may spend per ``hour`` or ``month``; the user cannot lift it. Raises NotFound."""
        said: dict[str, Any] = {"username": username, "per": per}
        said |= {} if limit is None else {"limit": amount(limit)}
        asked = checked(UserCapRequest, said)
        answer = yield from self._post("/api/admin/cap", CapsAnswer, asked, repeatable=True)
        return answer.caps

    @stream
    def transactions(
        self, username: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> Flow[TransactionRow]:
        """A user's postings, newest first. Raises NotFound."""
        wanted = during(since, until)

        def ask(pager: Pager) -> Steps[TransactionsAnswer]:
            asked = checked(UserTransactionsRequest, {"username": username, "pager": pager, "filter": wanted})
            return self._post("/api/admin/transactions", TransactionsAnswer, asked, repeatable=True)

        return pages(
            ask, lambda page: page.transactions, lambda page: page.pager, identity=lambda row: row.id
        )

    @operation
    def set_price(
        self,
        region: str,
        charge_mode: str,
        price: Amount,
        *,
        instance_type_id: str = "",
        spot: bool = False,
        bands: Sequence[Mapping[str, Any]] = (),
    ) -> Steps[PriceRow]:
        """Set a price for launches from now on. ``bands`` as on the wire. Raises NotFound, BadRequest."""
        said: dict[str, Any] = {"region": region, "chargeMode": charge_mode, "price": amount(price)}
        said |= {"instanceTypeId": instance_type_id} if instance_type_id else {}
        said |= {"isSpotInstance": True} if spot else {}
        said |= {"bands": [dict(band) for band in bands]} if bands else {}
        asked = checked(PriceSetRequest, said)
        answer = yield from self._post("/api/admin/price", PriceSetAnswer, asked, repeatable=True)
        return answer.price

    @stream
    def prices(
        self,
        *,
        instance_type_id: str | None = None,
        region: str | None = None,
        charge_mode: str | None = None,
    ) -> Flow[PriceRow]:
        """All prices there ever were, newest first."""
        given = {"instanceTypeId": instance_type_id, "region": region, "chargeMode": charge_mode}
        wanted = {name: value for name, value in given.items() if value is not None}

        def ask(pager: Pager) -> Steps[PricesAnswer]:
            asked = checked(PricesRequest, {"pager": pager, "filter": wanted})
            return self._post("/api/admin/prices", PricesAnswer, asked, repeatable=True)

        return pages(
            ask, lambda page: page.prices, lambda page: page.pager, identity=lambda row: row.model_dump_json()
        )
