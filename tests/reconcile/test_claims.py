"""Leases that nobody works on do not stay, whatever answer of the database is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, update
from tests.reconcile.house import House, settle
from tests.stock import REGION, Stocked

from tidemill.model.errors import Unavailable
from tidemill.model.lifecycle import State
from tidemill.store import instances, leases, servers
from tidemill.store.schema import instances as rows
from tidemill.store.servers import Server


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("call", ["claim", "settle"])
async def test_a_lease_is_given_back_though_a_call_failed(
    house: House, monkeypatch: pytest.MonkeyPatch, call: str, done: bool
) -> None:
    """Once a call about leases fails; ``done``: only its answer was lost."""
    failures = 0
    write, real = house.stocked.database.write, getattr(leases, call)

    class Undone(Exception):
        pass

    async def failing(work: Callable[[Connection], Any], *, durable: bool = True) -> Any:
        called: list[bool] = []

        def noticed(*args: Any, **named: Any) -> Any:
            called.append(True)
            return real(*args, **named)

        def half(connection: Connection) -> Any:
            with monkeypatch.context() as patched:
                patched.setattr(leases, call, noticed)
                answer = work(connection)
            if called and not done and not failures:
                raise Undone
            return answer

        nonlocal failures
        try:
            answer = await write(half, durable=durable)
        except Undone:
            failures += 1
            raise Unavailable("it was not done") from None
        if called and not failures:
            failures += 1
            raise Unavailable("the answer was lost")
        return answer

    monkeypatch.setattr(house.stocked.database, "write", failing)
    loop, id = house.loop(), house.launch()
    await loop.run_pass()
    await settle(loop)
    assert failures == 1
    assert (house.leased_to(id) is not None) == ((call == "claim") == done)
    await house.until_state(loop, id, State.RUNNING, passes=8)
    assert house.leased_to(id) is None
    assert house.driver.made[id].starts == [1]


async def test_a_pass_that_ends_in_the_middle_leaves_no_lease(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.driver.dials.never = True
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.STARTING)
    house.driver.dials.never = False
    house.clock.pass_by(house.settings.beat)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_observe", defect)
        with pytest.raises(RuntimeError, match="a defect"):
            await loop.run_pass()
    assert house.leased_to(id) is not None
    house.clock.pass_by(house.settings.beat)
    await loop.run_pass()
    await settle(loop)
    assert house.leased_to(id) is None


async def defect() -> None:
    raise RuntimeError("a defect")


SOON, LATER = timedelta(seconds=1), timedelta(seconds=9)


@pytest.mark.parametrize(
    ("before", "meanwhile", "due", "after"),
    [
        (None, {}, SOON, SOON),
        (LATER, {}, None, None),
        (LATER, {"changed": True}, SOON, SOON),  # who changed it said nothing of when
        (None, {"changed": True}, SOON, SOON),
        (LATER, {"changed": True}, None, LATER),
        (None, {"changed": True, "due": SOON}, LATER, SOON),  # who changed it wants it looked at
        (None, {"changed": True, "due": SOON}, None, SOON),
    ],
)
async def test_what_was_changed_meanwhile_is_looked_at_when_the_earlier_says(
    stocked: Stocked,
    house: House,
    before: timedelta | None,
    meanwhile: dict[str, Any],
    due: timedelta | None,
    after: timedelta | None,
) -> None:
    now, id = house.clock.now(), house.launch()

    def write(connection: Connection) -> tuple[bool, Any]:
        me = Server("me", "", "all", "", (), now, now)
        servers.join(connection, me)
        instances.note(connection, house.get(id, connection), due_at=now)
        (claimed,) = leases.claim(connection, owner=me.id, now=now, region_id=REGION.id, ids=(), limit=1)
        values = {"due_at": None if before is None else now + before}
        connection.execute(update(rows).where(rows.c.id == id).values(values))
        if meanwhile:
            said = {"due_at": now + meanwhile["due"]} if "due" in meanwhile else {}
            instances.note(connection, claimed, progress=50, **said)
        next_due = None if due is None else now + due
        settled = leases.settle(connection, id, me.id, claimed.version, next_due)
        return settled, connection.execute(select(rows.c.due_at).where(rows.c.id == id)).scalar_one()

    assert stocked.database.run(write) == (not meanwhile, None if after is None else now + after)
