"""An Idempotency-Key is one instance: whatever came of it since, whoever else uses the word, whatever failed.

Many at the same instant are tests/store/test_races.py's; a server that ends in the middle is a story of
test_every_point.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import Connection, func, select
from tests.failures.house import House
from tests.stock import GPU_TYPE, NODE, REGION, Stocked

from tidemill.actions.ask import ask
from tidemill.actions.launch import launch
from tidemill.model.account import User
from tidemill.model.errors import Conflict, Forbidden, NotFound, OutOfStock, TidemillError, Unavailable
from tidemill.model.instance import Order
from tidemill.model.lifecycle import Event, State
from tidemill.settings import Settings
from tidemill.store import instances, launch_keys, nodes
from tidemill.store.schema import instances as instance_rows
from tidemill.store.schema import launch_keys as key_rows

KEY, BODY = "the same key", b"the same body"


@pytest.fixture
async def house(stocked: Stocked) -> AsyncIterator[House]:
    made = House(stocked, Settings())
    made.boot()
    yield made
    await made.process.gone()


async def order(
    house: House, wanted: Order | None = None, *, by: User | None = None, body: bytes = BODY
) -> str:
    wanted = wanted or house.stocked.order()
    return await launch(house.process.context, house.caller(by), wanted, key=KEY, body=body)


def counted(house: House) -> tuple[int, int]:
    """How many instances and keys there are."""

    def work(connection: Connection) -> tuple[int, int]:
        return tuple(  # type: ignore[return-value]
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (instance_rows, key_rows)
        )

    return house.database.run(work)


async def test_the_same_word_of_another_user_is_another_key(house: House) -> None:
    mine = await order(house)
    theirs = await order(house, by=house.stocked.bob, body=b"another body")
    assert mine != theirs
    assert await order(house) == mine
    assert await order(house, by=house.stocked.bob, body=b"another body") == theirs
    found = house.database.run(lambda c: instances.get(c, theirs))
    assert found is not None
    assert found.user_id == house.stocked.bob.id
    assert counted(house) == (2, 2)


async def test_whatever_became_of_the_instance_the_answer_is_the_same(house: House) -> None:
    id = await order(house)
    for event, state in (
        (None, State.RUNNING),
        (Event.STOP, State.STOPPED),
        (Event.TERMINATE, State.RELEASED),
    ):
        if event is not None:
            await ask(house.process.context, house.caller(), id, event)
        await house.rest()
        found = house.database.run(lambda c: instances.get(c, id))
        assert found is not None
        assert found.state is state
        assert await order(house) == id
        with pytest.raises(Conflict) as raised:
            await order(house, body=b"another body")
        assert raised.value.code == "idempotencyKeyReused"
    assert counted(house) == (1, 1)
    house.clock.pass_by(launch_keys.KEPT.total_seconds() + 1)
    assert await order(house, body=b"another body") != id


def _fill(house: House) -> None:
    house.database.run(lambda c: nodes.register(c, REGION.id, [replace(NODE, cpu_milli=1)]))


def _empty(house: House) -> None:
    house.database.run(lambda c: nodes.register(c, REGION.id, [NODE]))


@dataclass(frozen=True)
class Refusal:
    """A launch that fails, and the settings and the order that make it fail."""

    settings: Settings
    wanted: dict[str, Any]
    error: type[TidemillError]


# The last of them fails when the instance and its key are written already.
REFUSALS = {
    "no quota": Refusal(Settings(quota_gpus=1), {"type_id": GPU_TYPE.id}, Forbidden),
    "no such image": Refusal(Settings(), {"image_id": "nothing"}, NotFound),
    "no node port": Refusal(Settings(node_ports="31000-31001"), {"node_ports": (1, 2, 3)}, Unavailable),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_launch_that_failed_uses_no_key_up(stocked: Stocked, refusal: Refusal) -> None:
    house = House(stocked, refusal.settings)
    context = house.boot().context
    if refusal.error is Forbidden:  # this much is allowed, and no more
        await launch(context, house.caller(), stocked.order(**refusal.wanted), key="other", body=BODY)
    before = counted(house)
    for _ in range(2):
        with pytest.raises(refusal.error):
            await order(house, stocked.order(**refusal.wanted))
        assert counted(house) == before
    ids = {await order(house, body=b"a body that the key does not know") for _ in range(2)}
    assert len(ids) == 1
    assert counted(house) == (before[0] + 1, before[1] + 1)
    await house.process.gone()


async def test_out_of_stock_uses_no_key_up(house: House) -> None:
    _fill(house)
    with pytest.raises(OutOfStock):
        await order(house)
    assert counted(house) == (0, 0)
    _empty(house)
    id = await order(house)
    _fill(house)
    assert await order(house) == id


async def test_a_key_and_its_instance_are_kept_together_or_not_at_all(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails last, after key and instance were written, takes both with it."""

    def fail(*_: object) -> None:
        raise RuntimeError("at the very end")

    with monkeypatch.context() as patched:
        patched.setattr("tidemill.actions.launch._say_what_is_missing", fail)
        with pytest.raises(RuntimeError, match="at the very end"):
            await order(house)
    assert counted(house) == (0, 0)
    await order(house)
    assert counted(house) == (1, 1)
