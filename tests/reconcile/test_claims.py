"""Leases that nobody works on do not stay, whatever answer of the database is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection
from tests.reconcile.house import House, settle

from tidemill.model.errors import Unavailable
from tidemill.model.lifecycle import State
from tidemill.store import leases


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
