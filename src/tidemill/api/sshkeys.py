"""Routes: ssh keys."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tidemill.actions.sshkeys import create_ssh_key, delete_ssh_key, list_ssh_keys
from tidemill.api.answering import answer, body_of, context_of
from tidemill.api.callers import signed_in
from tidemill.api.describe import describe
from tidemill.wire.accounts import (
    EmptyRequest,
    SshKeyCreateAnswer,
    SshKeyCreateRequest,
    SshKeyDeleteRequest,
    SshKeyListAnswer,
    SshKeyRow,
)
from tidemill.wire.answers import Nothing

router = APIRouter(prefix="/api/user/sshkey")


@router.post(
    "/create",
    **describe(
        "Add an ssh key, also to instances that run",
        takes=SshKeyCreateRequest,
        gives=SshKeyCreateAnswer,
        fails=(409,),
    ),
)
async def post_create(request: Request) -> Response:
    caller = await signed_in(request, changes=True)
    sent = await body_of(request, SshKeyCreateRequest)
    key = await create_ssh_key(context_of(request), caller, name=sent.name, public_key=sent.publicKey)
    return answer(SshKeyCreateAnswer(sshKey=SshKeyRow.of(key)))


@router.post("/list", **describe("The account's ssh keys", takes=EmptyRequest, gives=SshKeyListAnswer))
async def post_list(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    await body_of(request, EmptyRequest)
    return answer(SshKeyListAnswer.of(await list_ssh_keys(context_of(request), caller)))


@router.post(
    "/delete",
    **describe(
        "Remove an ssh key, also from instances that run",
        takes=SshKeyDeleteRequest,
        gives=Nothing,
        fails=(404,),
    ),
)
async def post_delete(request: Request) -> Response:
    caller = await signed_in(request, changes=True)
    sent = await body_of(request, SshKeyDeleteRequest)
    await delete_ssh_key(context_of(request), caller, sent.sshKeyId)
    return answer(Nothing())
