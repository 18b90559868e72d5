"""Routes: what the operator alone may do. For everybody else there is nothing here."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tidemill.actions.credit import credit
from tidemill.actions.list_users import list_users
from tidemill.actions.monthly_credit import monthly_credit
from tidemill.actions.operator import check_operator
from tidemill.actions.price_history import price_history
from tidemill.actions.refund import refund
from tidemill.actions.set_price import set_price
from tidemill.actions.spend_caps import set_users_cap
from tidemill.actions.transactions import transactions_of
from tidemill.actions.voucher import voucher
from tidemill.api.answering import answer, body_of, context_of, currency_of
from tidemill.api.callers import signed_in
from tidemill.api.describe import describe
from tidemill.model.ledger import Posting
from tidemill.store.tariffs import Price
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
from tidemill.wire.answers import units
from tidemill.wire.billing import TransactionRow, TransactionsAnswer
from tidemill.wire.caps import CapsAnswer
from tidemill.wire.pages import PagerInfo

router = APIRouter(prefix="/api/admin")


async def _operator(request: Request, *, changes: bool) -> None:
    """Raises what ``signed_in`` raises, and NotFound for who is not the operator."""
    check_operator(await signed_in(request, changes=changes))


def _posted(request: Request, posting: Posting) -> Response:
    return answer(PostedAnswer(currency=currency_of(request), transaction=TransactionRow.of(posting)))


@router.post(
    "/credit",
    **describe(
        "Write down that a user paid in, or was paid back",
        takes=CreditRequest,
        gives=PostedAnswer,
        fails=(404, 409),
    ),
)
async def post_credit(request: Request) -> Response:
    await _operator(request, changes=True)
    sent = await body_of(request, CreditRequest)
    made = await credit(
        context_of(request),
        user_id=sent.userId,
        username=sent.username,
        amount=sent.amount,
        id=sent.id,
        memo=sent.memo,
    )
    return _posted(request, made)


@router.post(
    "/cap",
    **describe(
        "Cap what a user may spend per hour or month; the user cannot lift it",
        takes=UserCapRequest,
        gives=CapsAnswer,
        fails=(404,),
    ),
)
async def post_cap(request: Request) -> Response:
    await _operator(request, changes=True)
    sent = await body_of(request, UserCapRequest)
    user_id, found = await set_users_cap(
        context_of(request), user_id=sent.userId, username=sent.username, per=sent.per, limit=sent.limit
    )
    return answer(CapsAnswer.of(found, user_id, currency_of(request)))


@router.post(
    "/voucher",
    **describe("Give a user a voucher", takes=VoucherRequest, gives=PostedAnswer, fails=(404, 409)),
)
async def post_voucher(request: Request) -> Response:
    await _operator(request, changes=True)
    sent = await body_of(request, VoucherRequest)
    made = await voucher(
        context_of(request),
        user_id=sent.userId,
        username=sent.username,
        amount=sent.amount,
        expires_at=sent.expiresAt,
        name=sent.name,
        id=sent.id,
        memo=sent.memo,
    )
    return _posted(request, made)


@router.post(
    "/monthlyCredit",
    **describe(
        "Give a user credit each month, good until the month ends",
        takes=MonthlyCreditRequest,
        gives=MonthlyCreditAnswer,
        fails=(404,),
    ),
)
async def post_monthly_credit(request: Request) -> Response:
    await _operator(request, changes=True)
    sent = await body_of(request, MonthlyCreditRequest)
    user = await monthly_credit(
        context_of(request), user_id=sent.userId, username=sent.username, amount=sent.amount
    )
    return answer(
        MonthlyCreditAnswer(
            userId=user.id,
            username=user.username,
            monthlyCredit=units(sent.amount),
            currency=currency_of(request),
        )
    )


@router.post(
    "/refund",
    **describe(
        "Give back what was charged, or a part of it",
        takes=RefundRequest,
        gives=PostedAnswer,
        fails=(404, 409),
    ),
)
async def post_refund(request: Request) -> Response:
    await _operator(request, changes=True)
    sent = await body_of(request, RefundRequest)
    made = await refund(
        context_of(request), posting_id=sent.postingId, amount=sent.amount, id=sent.id, memo=sent.memo
    )
    return _posted(request, made)


@router.post(
    "/transactions",
    **describe(
        "A user's ledger, newest posting first",
        takes=UserTransactionsRequest,
        gives=TransactionsAnswer,
        fails=(404,),
    ),
)
async def post_transactions(request: Request) -> Response:
    await _operator(request, changes=False)
    sent = await body_of(request, UserTransactionsRequest)
    found, total = await transactions_of(
        context_of(request),
        user_id=sent.userId,
        username=sent.username,
        offset=sent.pager.offset,
        limit=sent.pager.pageSize,
        since=sent.filter.since,
        until=sent.filter.until,
        instance_id=sent.filter.instanceId,
        causes=sent.filter.causes(),
    )
    return answer(TransactionsAnswer.of(found, total, sent.pager, currency_of(request)))


@router.post(
    "/price",
    **describe(
        "Set a price for launches from now on", takes=PriceSetRequest, gives=PriceSetAnswer, fails=(404,)
    ),
)
async def post_price(request: Request) -> Response:
    await _operator(request, changes=True)
    sent = await body_of(request, PriceSetRequest)
    made = await set_price(
        context_of(request),
        type_id=sent.instanceTypeId,
        region_id=sent.region,
        mode=sent.chargeMode,
        is_spot=sent.isSpotInstance,
        amount=sent.price,
        bands=[band.to_band() for band in sent.bands],
    )
    return answer(PriceSetAnswer(currency=currency_of(request), price=_price(made)))


@router.post(
    "/prices",
    **describe(
        "All prices there ever were, newest first", takes=PricesRequest, gives=PricesAnswer, fails=(404,)
    ),
)
async def post_prices(request: Request) -> Response:
    await _operator(request, changes=False)
    sent = await body_of(request, PricesRequest)
    found, total = await price_history(
        context_of(request),
        offset=sent.pager.offset,
        limit=sent.pager.pageSize,
        type_id=sent.filter.instanceTypeId,
        region_id=sent.filter.region,
        mode=sent.filter.chargeMode,
        since=sent.filter.since,
        until=sent.filter.until,
    )
    return answer(
        PricesAnswer(
            currency=currency_of(request),
            prices=[_price(each) for each in found],
            pager=PagerInfo.of(sent.pager, total),
        )
    )


def _price(found: Price) -> PriceRow:
    return PriceRow.of(
        type_id=found.type_id,
        region_id=found.region_id,
        mode=found.mode,
        is_spot=found.is_spot,
        amount=found.amount,
        bands=found.bands,
        zone=found.zone,
        valid_from=found.valid_from,
        source=found.source,
    )


@router.post(
    "/users",
    **describe("The users, with what they own", takes=UsersRequest, gives=UsersAnswer, fails=(404,)),
)
async def post_users(request: Request) -> Response:
    await _operator(request, changes=False)
    sent = await body_of(request, UsersRequest)
    found, total = await list_users(
        context_of(request),
        offset=sent.pager.offset,
        limit=sent.pager.pageSize,
        username=sent.filter.username,
        since=sent.filter.since,
        until=sent.filter.until,
    )
    return answer(
        UsersAnswer(
            currency=currency_of(request),
            users=[UserRow.of(each.user, each.funds, each.monthly_credit) for each in found],
            pager=PagerInfo.of(sent.pager, total),
        )
    )
