"""Routes: instances."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from tidemill.actions.ask import ask, quote_start
from tidemill.actions.instances import get_instance, history, list_instances
from tidemill.actions.launch import launch, quote
from tidemill.actions.logs import open_logs
from tidemill.api.answering import (
    IDEMPOTENCY_KEY_MOST,
    answer,
    body_of,
    context_of,
    currency_of,
    idempotency_key,
    query_count,
    query_flag,
)
from tidemill.api.callers import signed_in
from tidemill.api.describe import describe, in_header, in_query
from tidemill.api.paths import INSTANCE_ID, instance_id
from tidemill.model.lifecycle import Event
from tidemill.model.quote import Quote
from tidemill.wire.fields import LARGEST
from tidemill.wire.instances import (
    EventsAnswer,
    InstanceAnswer,
    InstanceListAnswer,
    InstanceListRequest,
    InstanceRequest,
    InstanceRow,
    StartRequest,
)
from tidemill.wire.launch import LaunchRequest
from tidemill.wire.quote import QuoteAnswer

EVENTS_MOST = 1000
EVENTS_DEFAULT = 200
SEQ_MOST = 2**53


router = APIRouter(prefix="/api/instance")

_KEY: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MOST}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": LARGEST}
_PLAIN = "text/plain; charset=utf-8"


@router.post(
    "/create",
    **describe(
        "Launch an instance, or with dryRun say what it would cost",
        takes=LaunchRequest,
        gives=InstanceAnswer | QuoteAnswer,
        fails=(402, 404, 409),
        parameters=(
            in_header("Idempotency-Key", _KEY, "the same key and body never make a second instance"),
        ),
    ),
)
async def post_create(request: Request) -> Response:
    caller = await signed_in(request, changes=True)
    sent = await body_of(request, LaunchRequest)
    key = idempotency_key(request)
    if sent.dryRun:
        return _quoted(request, await quote(context_of(request), caller, sent.to_order()))
    made = await launch(context_of(request), caller, sent.to_order(), key=key, body=await request.body())
    return answer(InstanceAnswer(instanceId=made))


@router.post(
    "/list",
    **describe("The caller's instances, newest first", takes=InstanceListRequest, gives=InstanceListAnswer),
)
async def post_list(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    sent = await body_of(request, InstanceListRequest)
    wanted = sent.filter
    views, total = await list_instances(
        context_of(request),
        caller,
        page=sent.pager.currentPage,
        size=sent.pager.pageSize,
        status=None if wanted.status is None else tuple(wanted.status),
        name=wanted.name,
        region=wanted.region,
        include_released=wanted.includeReleased,
    )
    return answer(InstanceListAnswer.of(views, total, sent.pager, currency_of(request)))


async def _ask(request: Request, event: Event) -> Response:
    caller = await signed_in(request, changes=True, by_instance=True)
    sent = await body_of(request, InstanceRequest)
    await ask(context_of(request), caller, sent.instanceId, event)
    return answer(InstanceAnswer(instanceId=sent.instanceId))


def _quoted(request: Request, found: Quote) -> Response:
    return answer(QuoteAnswer.of(found, currency_of(request)))


def _verb(summary: str) -> dict[str, Any]:
    return describe(summary, takes=InstanceRequest, gives=InstanceAnswer, fails=(404, 409))


@router.post(
    "/start",
    **describe(
        "Start a stopped instance, or with dryRun say what it would cost",
        takes=StartRequest,
        gives=InstanceAnswer | QuoteAnswer,
        fails=(402, 404, 409),
    ),
)
async def post_start(request: Request) -> Response:
    caller = await signed_in(request, changes=True)
    sent = await body_of(request, StartRequest)
    if sent.dryRun:
        return _quoted(request, await quote_start(context_of(request), caller, sent.instanceId))
    await ask(context_of(request), caller, sent.instanceId, Event.START)
    return answer(InstanceAnswer(instanceId=sent.instanceId))


@router.post("/stop", **_verb("Stop an instance; its disks are kept"))
async def post_stop(request: Request) -> Response:
    return await _ask(request, Event.STOP)


@router.post("/restart", **_verb("Stop and start an instance"))
async def post_restart(request: Request) -> Response:
    return await _ask(request, Event.RESTART)


@router.post("/terminate", **_verb("End an instance and its disks"))
async def post_terminate(request: Request) -> Response:
    return await _ask(request, Event.TERMINATE)


@router.get(
    "/{instanceId:instance_id}",
    **describe("One instance", gives=InstanceRow, fails=(404,), parameters=(INSTANCE_ID,)),
)
async def get_one(request: Request) -> Response:
    caller = await signed_in(request, changes=False, by_instance=True)
    view = await get_instance(context_of(request), caller, instance_id(request))
    return answer(InstanceRow.of(view, currency_of(request)))


@router.get(
    "/{instanceId:instance_id}/events",
    **describe(
        "What happened to an instance, oldest first",
        gives=EventsAnswer,
        fails=(400, 404),
        parameters=(
            INSTANCE_ID,
            in_query("after", {**_COUNT, "maximum": SEQ_MOST}, "only events with a higher seq"),
            in_query(
                "limit", {**_COUNT, "maximum": EVENTS_MOST, "default": EVENTS_DEFAULT}, "at most so many"
            ),
        ),
    ),
)
async def get_events(request: Request) -> Response:
    caller = await signed_in(request, changes=False, by_instance=True)
    after = query_count(request, "after", 0, SEQ_MOST) or 0
    limit = query_count(request, "limit", EVENTS_DEFAULT, EVENTS_MOST)
    happenings = await history(
        context_of(request),
        caller,
        instance_id(request),
        after=after,
        limit=EVENTS_DEFAULT if limit is None else limit,
    )
    return answer(EventsAnswer.of(happenings))


@router.get(
    "/{instanceId:instance_id}/logs",
    **describe(
        "Output of the init script and the console, as a stream",
        gives={_PLAIN: {"schema": {"type": "string"}}},
        fails=(400, 404),
        parameters=(
            INSTANCE_ID,
            in_query("follow", {"type": "boolean", "default": False}, "go on as more is written"),
            in_query("tail", _COUNT, "only so many last lines"),
        ),
    ),
)
async def get_logs(request: Request) -> Response:
    caller = await signed_in(request, changes=False, by_instance=True)
    stream = await open_logs(
        context_of(request),
        caller,
        instance_id(request),
        follow=query_flag(request, "follow"),
        tail=query_count(request, "tail", None),
    )
    return StreamingResponse(_closing(stream), media_type=_PLAIN)


async def _closing(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """``stream``, which is closed when the reader goes away."""
    try:
        async for chunk in stream:
            yield chunk
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
