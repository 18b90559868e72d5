"""Routes: API keys."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tidemill.actions.apikeys import create_api_key, delete_api_key, list_api_keys
from tidemill.api.answering import answer, body_of, context_of
from tidemill.api.callers import signed_in
from tidemill.api.describe import describe
from tidemill.model.account import Scope
from tidemill.wire.accounts import (
    ApiKeyCreateAnswer,
    ApiKeyCreateRequest,
    ApiKeyDeleteRequest,
    ApiKeyListAnswer,
    ApiKeyRow,
    EmptyRequest,
)
from tidemill.wire.answers import Nothing

router = APIRouter(prefix="/api/user/apikey")


@router.post(
    "/create",
    **describe(
        "Make an API key; its secret is shown this once", takes=ApiKeyCreateRequest, gives=ApiKeyCreateAnswer
    ),
)
async def post_create(request: Request) -> Response:
    caller = await signed_in(request, changes=True)
    sent = await body_of(request, ApiKeyCreateRequest)
    key, secret = await create_api_key(
        context_of(request), caller, name=sent.name, scope=Scope(sent.scope), expires_at=sent.expiresAt
    )
    return answer(ApiKeyCreateAnswer(apiKey=ApiKeyRow.of(key), key=secret))


@router.post("/list", **describe("The account's API keys", takes=EmptyRequest, gives=ApiKeyListAnswer))
async def post_list(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    await body_of(request, EmptyRequest)
    return answer(ApiKeyListAnswer.of(await list_api_keys(context_of(request), caller)))


@router.post(
    "/delete", **describe("Delete an API key", takes=ApiKeyDeleteRequest, gives=Nothing, fails=(404,))
)
async def post_delete(request: Request) -> Response:
    caller = await signed_in(request, changes=True)
    sent = await body_of(request, ApiKeyDeleteRequest)
    await delete_api_key(context_of(request), caller, sent.apiKeyId)
    return answer(Nothing())
