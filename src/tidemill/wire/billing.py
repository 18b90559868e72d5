"""Money on the wire: what there is, where it went, and what things cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from tidemill.model.funds import Funds
from tidemill.model.instance import Instance
from tidemill.model.ledger import Cause, Line, Posting
from tidemill.model.lifecycle import wire_status
from tidemill.model.money import shown
from tidemill.model.stock import Prices
from tidemill.model.tariff import Segment
from tidemill.wire.answers import Answer, units
from tidemill.wire.fields import Choice, Flag, Instant, Request, Text
from tidemill.wire.limits import PAGE_SIZE_MOST
from tidemill.wire.pages import Pager, PagerInfo
from tidemill.wire.problem import BROKEN_RULE, refusal
from tidemill.wire.tide import PriceInfo, TidePriceInfo, price_infos

KINDS = tuple(cause.value for cause in Cause)
CSV_COLUMNS = (
    "at",
    "kind",
    "id",
    "instanceId",
    "since",
    "until",
    "corrects",
    "memo",
    "amount",
    "owned",
    "currency",
)

Since = Annotated[datetime | None, Instant()]


def not_before_since(until: datetime | None, info: ValidationInfo) -> datetime | None:
    """Refuse an ``until`` that is before its ``since``."""
    since = info.data.get("since")
    if until is not None and since is not None and until < since:
        raise refusal(BROKEN_RULE, rule="is before since")
    return until


def account_name(account: str) -> str:
    """An account of the ledger as its owner reads it: ``balance``, ``voucher/NAME``, ``revenue``."""
    return account.partition("/")[2]


class BalanceAnswer(Answer):
    """What the caller owns, in ``currency``.

    ``balance`` is what was paid in and not spent, with what is ``held`` of it; what can be spent now is in
    the three ``available`` fields. ``hoursLeft`` is for how many hours it lasts at least, null when nothing
    costs.
    """

    balance: int | float
    availableBalance: int | float
    availableVoucherAmount: int | float
    availableCreditAmount: int | float
    held: int | float = 0
    currency: str = ""
    hoursLeft: float | None = None

    @classmethod
    def of(cls, funds: Funds, hours_left: float | None, currency: str) -> BalanceAnswer:
        return cls(
            balance=units(funds.balance),
            availableBalance=units(funds.available_balance),
            availableVoucherAmount=units(funds.available_vouchers),
            availableCreditAmount=units(funds.available_credit),
            held=units(funds.held),
            currency=currency,
            hoursLeft=None if hours_left is None else round(hours_left, 2),
        )


class TransactionFilter(Request):
    """Which postings: written from ``since`` on and before ``until``."""

    since: Since = None
    until: Since = None
    instanceId: Annotated[str | None, Text()] = None
    kinds: list[Annotated[str, Choice(KINDS)]] | None = None

    _order = field_validator("until")(not_before_since)

    def causes(self) -> tuple[Cause, ...]:
        return tuple(Cause(kind) for kind in dict.fromkeys(self.kinds or ()))


class TransactionsRequest(Request):
    """Body of POST /api/billing/transactions."""

    pager: Pager
    filter: TransactionFilter = TransactionFilter()


class LineInfo(Answer):
    """``amount`` went from ``debit`` to ``credit``. Revenue, payments, promotions, writeOffs are ours."""

    debit: str
    credit: str
    amount: int | float

    @classmethod
    def of(cls, line: Line) -> LineInfo:
        return cls(
            debit=account_name(line.debit), credit=account_name(line.credit), amount=units(line.amount)
        )


class PostingInfo(Answer):
    """One posting. ``amount`` is by how much it changed what the user owns.

    ``since`` and ``until`` are the time that is paid for; ``corrects`` is the id of an earlier posting.
    """

    id: str
    at: datetime
    kind: str
    instanceId: str | None
    since: datetime | None
    until: datetime | None
    memo: str
    corrects: str | None
    amount: int | float

    @classmethod
    def of(cls, posting: Posting) -> PostingInfo:
        return cls(
            id=posting.id,
            at=posting.at,
            kind=posting.cause.value,
            instanceId=posting.instance_id,
            since=posting.since,
            until=posting.until,
            memo=posting.memo,
            corrects=posting.corrects,
            amount=units(posting.effect),
        )


class TransactionRow(PostingInfo):
    """One posting with the lines it is made of."""

    lines: list[LineInfo]

    @classmethod
    def of(cls, posting: Posting) -> TransactionRow:
        info = PostingInfo.of(posting).model_dump()
        return cls(**info, lines=[LineInfo.of(line) for line in posting.lines])


class TransactionsAnswer(Answer):
    """One page of the caller's postings, newest first."""

    currency: str
    transactions: list[TransactionRow]
    pager: PagerInfo

    @classmethod
    def of(cls, found: Sequence[Posting], total: int, pager: Pager, currency: str) -> TransactionsAnswer:
        rows = [TransactionRow.of(posting) for posting in found]
        return cls(currency=currency, transactions=rows, pager=PagerInfo.of(pager, total))


class UsageRequest(Request):
    """Body of POST /api/billing/usage."""

    pager: Pager
    since: Since = Field(None, description="left out: from the beginning")
    until: Since = Field(None, description="left out: up to now")

    _order = field_validator("until")(not_before_since)


class UsageRow(Answer):
    """What one instance was used in the time asked for.

    ``seconds`` is how long it was seen running. ``cost`` is what was posted for it in that time, ``refunded``
    what was given back; ``accrued`` is what it owes by now and was not posted yet.
    """

    instanceId: str
    instanceName: str
    status: str
    chargeMode: str
    seconds: float
    cost: int | float
    refunded: int | float
    accrued: int | float
    currency: str

    @classmethod
    def of(
        cls,
        instance: Instance,
        *,
        seconds: float,
        charged: int,
        returned: int,
        accrued: int,
        currency: str,
    ) -> UsageRow:
        return cls(
            instanceId=instance.id,
            instanceName=instance.name,
            status=wire_status(instance.state),
            chargeMode=instance.charge_mode.value,
            seconds=seconds,
            cost=units(charged),
            refunded=units(returned),
            accrued=units(accrued),
            currency=currency,
        )


class UsageAnswer(Answer):
    """One page of the instances that ran, or whose disks were kept, in the time asked for; newest first."""

    usage: list[UsageRow]
    pager: PagerInfo


class StatementRequest(Request):
    """Body of POST /api/billing/statement."""

    since: Since = Field(None, description="left out: from the beginning")
    until: Since = Field(None, description="left out, or later than now: up to now")
    format: Annotated[str, Choice(("json", "csv"))] = Field(
        "json", description="csv has every line and needs no pager; so does the header Accept: text/csv"
    )
    pager: Pager = Pager(currentPage=1, pageSize=PAGE_SIZE_MOST)

    _order = field_validator("until")(not_before_since)


class KindTotal(Answer):
    """What all postings of a kind come to."""

    kind: str
    amount: int | float


class StatementAnswer(Answer):
    """What the caller owned at ``since``, what changed it, oldest first, and what they owned at ``until``.

    ``opening`` and all ``totals``, or all lines of all pages, add up to ``closing``. What is only set aside
    stays the caller's and is no line.
    """

    currency: str
    since: datetime | None
    until: datetime
    opening: int | float
    lines: list[PostingInfo]
    totals: list[KindTotal]
    closing: int | float
    pager: PagerInfo


def csv_head() -> str:
    """The names of the columns of a statement as CSV."""
    return _csv([CSV_COLUMNS])


def csv_mark(kind: str, at: datetime | None, owned: int, currency: str) -> str:
    """The first or last line: what is ``owned`` (micro-units), and no amount."""
    return _csv([(_instant(at), kind, "", "", "", "", "", "", "", shown(owned), currency)])


def csv_lines(postings: Iterable[Posting], owned: int, currency: str) -> tuple[str, int]:
    """Lines of a statement, and what is owned after them; both in micro-units."""
    rows: list[tuple[str, ...]] = []
    for posting in postings:
        owned += posting.effect
        rows.append(
            (
                _instant(posting.at),
                posting.cause.value,
                posting.id,
                posting.instance_id or "",
                _instant(posting.since),
                _instant(posting.until),
                posting.corrects or "",
                posting.memo,
                shown(posting.effect),
                shown(owned),
                currency,
            )
        )
    return _csv(rows), owned


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _instant(at: datetime | None) -> str:
    return "" if at is None else at.isoformat().replace("+00:00", "Z")


class PriceRequest(Request):
    """Body of POST /api/billing/price."""

    instanceTypeId: Annotated[str, Text()]
    region: Annotated[str, Text()]
    isSpotInstance: Annotated[bool, Flag()] = False


class SegmentInfo(Answer):
    """A time at one price per hour; ``band`` is "" outside all bands."""

    start: datetime
    end: datetime
    band: str
    price: int | float

    @classmethod
    def of(cls, segment: Segment) -> SegmentInfo:
        return cls(start=segment.start, end=segment.end, band=segment.band, price=units(segment.rate))


class PriceAnswer(Answer):
    """What a type costs for launches of now; ``segments`` are its tide for the next 48 hours.

    They are empty where it does not offer tidePerHour. ``timezone`` is whose clock the bands follow.
    """

    currency: str
    timezone: str
    price: list[TidePriceInfo | PriceInfo]
    segments: list[SegmentInfo]
    dataDiskPrice: int | float

    @classmethod
    def of(
        cls, prices: Prices, curve: Sequence[Segment], *, zone: str, disk_price: int, currency: str
    ) -> PriceAnswer:
        return cls(
            currency=currency,
            timezone=zone,
            price=price_infos(prices),
            segments=[SegmentInfo.of(segment) for segment in curve],
            dataDiskPrice=units(disk_price),
        )
