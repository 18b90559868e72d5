"""What an instance printed: read through its driver, which is asked for nothing else here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sqlalchemy import Connection

from tidemill.actions.ask import must_reach, not_found
from tidemill.actions.context import Context
from tidemill.drivers.contract import Logs, Unreachable
from tidemill.model.account import Caller
from tidemill.model.errors import Unavailable
from tidemill.model.instance import Instance
from tidemill.store import instances

STOPPING = 2.0  # seconds that what is there already may take when the server stops
PATIENCE = 1.0  # seconds that an answer waits for the first output of an instance that says nothing


async def open_logs(
    context: Context, caller: Caller, instance_id: str, *, follow: bool, tail: int | None
) -> AsyncIterator[bytes]:
    """The output of the init script and the console, oldest first.

    Raises NotFound (no such instance), Unavailable (its engine gives no answer).
    """
    must_reach(caller, instance_id)

    def work(connection: Connection) -> Instance | None:
        return instances.get(connection, instance_id, user_id=caller.user.id)

    instance = await context.database.read(work)
    if instance is None:
        raise not_found()
    driver = context.drivers.get(instance.region_id)
    if not isinstance(driver, Logs):
        raise Unavailable("The region of this instance keeps no logs", code="logsUnavailable")
    stream = driver.logs(instance.id, follow=follow, tail=tail)
    first = asyncio.ensure_future(anext(stream, b""))
    done, _ = await asyncio.wait([first], timeout=PATIENCE)
    if done and isinstance(error := first.exception(), Unreachable):
        raise Unavailable(
            "The machine that runs this instance does not answer; try again later",
            code="engineUnreachable",
            detail=str(error),
        ) from error
    return _chained(first, stream, context.stopping)


async def _chained(
    first: asyncio.Future[bytes], rest: AsyncIterator[bytes], stopping: asyncio.Event
) -> AsyncIterator[bytes]:
    """All of it, or until the server stops: a reader who follows would never let it."""
    following = first
    loop = asyncio.get_running_loop()

    async def stops_at() -> float:
        await stopping.wait()
        return loop.time()

    told = asyncio.ensure_future(stops_at())
    try:
        while True:
            await asyncio.wait([following, told], return_when=asyncio.FIRST_COMPLETED)
            if told.done() and (not following.done() or loop.time() > told.result() + STOPPING):
                yield b"\n[the server is stopping; ask again for the rest]\n"
                return
            yield following.result()
            following = asyncio.ensure_future(anext(rest))
    except StopAsyncIteration:
        return
    except Unreachable:
        yield b"\n[the machine stopped answering; ask again for the rest]\n"
    finally:
        for waiting in (following, told):
            waiting.cancel()
        await asyncio.gather(following, told, return_exceptions=True)
