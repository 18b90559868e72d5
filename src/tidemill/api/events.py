"""Routes: the stream of what happens, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from tidemill.actions.events import Piece, open_events
from tidemill.api.answering import context_of, count_of, query_count, query_flag
from tidemill.api.callers import signed_in
from tidemill.api.describe import describe, in_header, in_query
from tidemill.model.errors import Forbidden, Unauthenticated, Unavailable
from tidemill.wire.events import InstanceEvent, Reset

SEQ_MOST = 2**53
RETRY = 2000  # milliseconds after which a browser connects again
STILL_SIGNED_IN = 60.0  # seconds between looks whether the caller is
STREAM = "text/event-stream"
LAST = "Last-Event-ID"
RESET = (
    "The server does not know the event that this stream was to go on after: it was restored from a backup. "
    "List the instances again; what happens from now on follows"
)

router = APIRouter(prefix="/api")

_SEQ: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": SEQ_MOST}


@router.get(
    "/events",
    **describe(
        "What happens to the caller's instances, as server-sent events",
        gives={
            STREAM: {
                "schema": {
                    "type": "string",
                    "description": "frames of an id to go on after, an event and as data a JSON object, with "
                    "comments in between. The event is instance, with x-data; or reset, with a message, when "
                    "the id is of a time that a restore undid: list the instances again",
                    "x-data": InstanceEvent.model_json_schema(mode="serialization"),
                }
            }
        },
        fails=(400, 404, 429),
        parameters=(
            in_header(LAST, _SEQ, "the id of the last event that was seen; else it begins with what is next"),
            in_query("after", _SEQ, "the same, where no header can be sent; the header comes first"),
            in_query("instanceId", {"type": "string"}, "only this instance"),
            in_query("follow", {"type": "boolean", "default": True}, "go on as more happens"),
        ),
    ),
)
async def get_events(request: Request) -> Response:
    caller = await signed_in(request, changes=False, by_instance=True)
    follow = query_flag(request, "follow", default=True)
    last = request.headers.get(LAST)
    after = (
        query_count(request, "after", None if follow else 0, SEQ_MOST)
        if not last
        else count_of(last, f"header {LAST}", SEQ_MOST)
    )
    pieces = await open_events(
        context_of(request),
        caller,
        after=after,
        instance_id=request.query_params.get("instanceId"),
        follow=follow,
    )
    return StreamingResponse(
        _frames(request, pieces),
        media_type=STREAM,
        headers={"X-Accel-Buffering": "no"},  # a proxy that keeps frames back makes them late
    )


async def _frames(request: Request, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[bytes]:
    """The pieces as they go over the wire; it ends when the reader goes away, or is not let in any more."""
    now = asyncio.get_running_loop().time
    looked = now()
    async with aclosing(pieces):
        first = True
        async for piece in pieces:
            if first:
                yield _opening(piece)
                first = False
            elif piece.changes:
                yield b"".join(
                    _frame(each.happening.seq, InstanceEvent.told(each.happening, each.instance_name))
                    for each in piece.changes
                )
            else:
                yield b": still here\n\n"
            if now() - looked >= STILL_SIGNED_IN:
                looked = now()
                if not await _is_signed_in(request):
                    return
    if context_of(request).stopping.is_set():
        yield b": the server is stopping; connect again for the rest\n\n"


async def _is_signed_in(request: Request) -> bool:
    with suppress(Unavailable):
        try:
            await signed_in(request, changes=False, by_instance=True)
        except (Unauthenticated, Forbidden):
            return False
    return True


def _opening(piece: Piece) -> bytes:
    """Where it begins: an id alone, so that who loses the connection before the first event can go on."""
    if piece.lost:
        data = Reset(message=RESET).model_dump_json()
        return f"retry: {RETRY}\nid: {piece.until}\nevent: reset\ndata: {data}\n\n".encode()
    return f": what happens after event {piece.until}\nretry: {RETRY}\nid: {piece.until}\n\n".encode()


def _frame(seq: int, event: InstanceEvent) -> bytes:
    return f"id: {seq}\nevent: instance\ndata: {event.model_dump_json(by_alias=True)}\n\n".encode()
