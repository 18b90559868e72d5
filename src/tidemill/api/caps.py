"""Routes: spend caps of the caller's account and keys."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tidemill.actions.spend_caps import list_caps, set_own_cap
from tidemill.api.answering import answer, body_of, context_of, currency_of
from tidemill.api.callers import signed_in
from tidemill.api.describe import describe
from tidemill.wire.accounts import EmptyRequest
from tidemill.wire.caps import CapRequest, CapsAnswer

router = APIRouter(prefix="/api/billing")


@router.post(
    "/cap",
    **describe(
        "Cap what the account, or one of its keys, may spend per hour or month",
        takes=CapRequest,
        gives=CapsAnswer,
        fails=(404,),
    ),
)
async def post_cap(request: Request) -> Response:
    caller = await signed_in(request, changes=True)
    sent = await body_of(request, CapRequest)
    found = await set_own_cap(
        context_of(request), caller, per=sent.per, limit=sent.limit, key_id=sent.apiKeyId
    )
    return answer(CapsAnswer.of(found, caller.user.id, currency_of(request)))


@router.post("/caps", **describe("The caps that hold", takes=EmptyRequest, gives=CapsAnswer))
async def post_caps(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    await body_of(request, EmptyRequest)
    return answer(
        CapsAnswer.of(await list_caps(context_of(request), caller), caller.user.id, currency_of(request))
    )
