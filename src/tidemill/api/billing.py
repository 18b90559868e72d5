"""Routes: the caller's money, where it went, and what things cost."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from tidemill.actions.balance import balance
from tidemill.actions.price_curve import price_curve
from tidemill.actions.statement import Statement, all_lines, statement
from tidemill.actions.transactions import transactions
from tidemill.actions.usage import Usage, instance_usage, usage
from tidemill.api.answering import answer, body_of, context_of, currency_of
from tidemill.api.callers import signed_in
from tidemill.api.describe import describe
from tidemill.api.paths import INSTANCE_ID, instance_id
from tidemill.model.account import Caller
from tidemill.wire.accounts import EmptyRequest
from tidemill.wire.answers import units
from tidemill.wire.billing import (
    BalanceAnswer,
    KindTotal,
    PostingInfo,
    PriceAnswer,
    PriceRequest,
    StatementAnswer,
    StatementRequest,
    TransactionsAnswer,
    TransactionsRequest,
    UsageAnswer,
    UsageRequest,
    UsageRow,
    csv_head,
    csv_lines,
    csv_mark,
)
from tidemill.wire.pages import PagerInfo

router = APIRouter(prefix="/api")

CSV = "text/csv; charset=utf-8"


@router.get("/balance", **describe("What the caller owns", gives=BalanceAnswer))
async def get_balance(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    found = await balance(context_of(request), caller)
    return answer(BalanceAnswer.of(found.funds, found.hours_left, currency_of(request)))


@router.post("/balance", **describe("What the caller owns", takes=EmptyRequest, gives=BalanceAnswer))
async def post_balance(request: Request) -> Response:
    await body_of(request, EmptyRequest)
    return await get_balance(request)


@router.post(
    "/billing/transactions",
    **describe(
        "The caller's ledger, newest posting first", takes=TransactionsRequest, gives=TransactionsAnswer
    ),
)
async def post_transactions(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    sent = await body_of(request, TransactionsRequest)
    found, total = await transactions(
        context_of(request),
        caller,
        offset=sent.pager.offset,
        limit=sent.pager.pageSize,
        since=sent.filter.since,
        until=sent.filter.until,
        instance_id=sent.filter.instanceId,
        causes=sent.filter.causes(),
    )
    return answer(TransactionsAnswer.of(found, total, sent.pager, currency_of(request)))


@router.post(
    "/billing/usage",
    **describe("What the caller's instances were used", takes=UsageRequest, gives=UsageAnswer),
)
async def post_usage(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    sent = await body_of(request, UsageRequest)
    found, total = await usage(
        context_of(request),
        caller,
        since=sent.since,
        until=sent.until,
        offset=sent.pager.offset,
        limit=sent.pager.pageSize,
    )
    rows = [_used(each, currency_of(request)) for each in found]
    return answer(UsageAnswer(usage=rows, pager=PagerInfo.of(sent.pager, total)))


@router.get(
    "/instance/{instanceId:instance_id}/usage",
    **describe("What one instance was used so far", gives=UsageRow, fails=(404,), parameters=(INSTANCE_ID,)),
)
async def get_instance_usage(request: Request) -> Response:
    caller = await signed_in(request, changes=False, by_instance=True)
    found = await instance_usage(context_of(request), caller, instance_id(request))
    return answer(_used(found, currency_of(request)))


def _used(found: Usage, currency: str) -> UsageRow:
    return UsageRow.of(
        found.instance,
        seconds=found.ran.total_seconds(),
        charged=found.charged,
        returned=found.returned,
        accrued=found.accrued,
        currency=currency,
    )


@router.post(
    "/billing/statement",
    **describe(
        "What the caller owned, every change of it, and what they own then",
        takes=StatementRequest,
        gives=StatementAnswer,
        also={CSV: {"schema": {"type": "string"}}},
    ),
)
async def post_statement(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    sent = await body_of(request, StatementRequest)
    as_csv = sent.format == "csv" or "text/csv" in request.headers.get("accept", "")
    found = await statement(
        context_of(request),
        caller,
        since=sent.since,
        until=sent.until,
        offset=sent.pager.offset,
        limit=0 if as_csv else sent.pager.pageSize,
    )
    if as_csv:
        return StreamingResponse(_csv(request, caller, found), media_type=CSV)
    return answer(
        StatementAnswer(
            currency=currency_of(request),
            since=found.since,
            until=found.until or found.at,
            opening=units(found.opening),
            lines=[PostingInfo.of(posting) for posting in found.lines],
            totals=[
                KindTotal(kind=cause.value, amount=units(amount)) for cause, amount in found.totals.items()
            ],
            closing=units(found.closing),
            pager=PagerInfo.of(sent.pager, found.count),
        )
    )


async def _csv(request: Request, caller: Caller, found: Statement) -> AsyncGenerator[str]:
    """Whole, and with what is owned after each line; what the lines add up to is the last line's."""
    currency, owned = currency_of(request), found.opening
    yield csv_head() + csv_mark("opening", found.since, owned, currency)
    async for lines in all_lines(context_of(request), caller, found):
        text, owned = csv_lines(lines, owned, currency)
        yield text
    yield csv_mark("closing", found.until or found.at, owned, currency)


@router.post(
    "/billing/price",
    **describe(
        "What a type costs over the next 48 hours", takes=PriceRequest, gives=PriceAnswer, fails=(404,)
    ),
)
async def post_price(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    sent = await body_of(request, PriceRequest)
    found = await price_curve(
        context_of(request),
        caller,
        type_id=sent.instanceTypeId,
        region_id=sent.region,
        spot=sent.isSpotInstance,
    )
    return answer(
        PriceAnswer.of(
            found.prices,
            found.segments,
            zone=found.region.zone,
            disk_price=found.disk_price,
            currency=currency_of(request),
        )
    )
