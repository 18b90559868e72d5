"""What is wrong with one user, or one row, keeps nobody else from being charged and looked after."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from tests.billing.town import Town
from tests.stock import accept
from tidemill.model.lifecycle import Event, State
from tidemill.reconcile import billing, purses
from tidemill.store import ledger
from tidemill.store.schema import instances as rows

HOUR = 3_600_000_000
H, M = timedelta(hours=1), timedelta(minutes=1)


def edit(town: Town, id: str, **columns: Any) -> None:
    """Change a row by hand."""
    town.stocked.database.run(lambda c: c.execute(update(rows).where(rows.c.id == id).values(columns)))


def of_bob(town: Town) -> str:
    """An instance of somebody else that runs."""
    bob = town.stocked.bob
    order = town.stocked.order()
    id = town.stocked.database.run(lambda c: accept(c, town.settings, bob, order, town.clock.now())).id
    town.do(id, Event.REACHABLE)
    return id


def cost(town: Town, id: str) -> int:
    return town.stocked.database.run(lambda c: ledger.cost_of(c, id))


async def test_who_cannot_be_charged_keeps_nobody_waiting(town: Town) -> None:
    town.price(HOUR)
    town.funds(10 * HOUR)
    id, other, of_other = town.run(), town.run(), of_bob(town)
    (was,) = {town.get(each).tariff_id for each in (id, other, of_other)}
    edit(town, id, tariff_id=987_654)
    with capture_logs() as said:
        await town.pass_by(20 * M)
    assert (cost(town, id), cost(town, other), cost(town, of_other)) == (0, 0, HOUR // 3)
    named = [each for each in said if each.get("user") == town.user.id]
    assert named, "who could not be charged is in the log"
    assert all(each["log_level"] == "error" for each in named)
    edit(town, id, tariff_id=was)
    await town.pass_by(10 * M)
    assert (cost(town, id), cost(town, other), cost(town, of_other)) == (HOUR // 2,) * 3


async def test_a_charge_mode_that_nobody_knows_is_one_instance_alone(town: Town) -> None:
    town.price(HOUR)
    town.funds(10 * HOUR)
    id, other = town.run(), town.run()
    edit(town, id, charge_mode="perParsec")
    with capture_logs() as said:
        await town.pass_by(20 * M)
    assert (cost(town, id), cost(town, other)) == (0, HOUR // 3)
    assert any(each.get("instance") == id and "perParsec" in each["what"] for each in said if "what" in each)
    edit(town, id, charge_mode="perHour")
    await town.pass_by(10 * M)
    assert (cost(town, id), cost(town, other)) == (HOUR // 2, HOUR // 2)


async def test_one_whose_money_cannot_be_looked_after_is_not_all(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.price(HOUR)
    town.funds(2 * HOUR)
    id = town.run()
    look = purses.look

    def fails(connection: Any, settings: Any, user_id: str, now: Any) -> Any:
        if user_id != town.user.id:
            raise ValueError("this wallet is in no order")
        return look(connection, settings, user_id, now)

    of_bob(town)
    monkeypatch.setattr(purses, "look", fails)
    monkeypatch.setattr(billing, "LOOKS", 1)  # the bad one is always the first
    with capture_logs() as said:
        await town.pass_by(3 * H)
    assert town.state(id) is State.STOPPING
    assert any(each.get("user") == town.stocked.bob.id for each in said)
    monkeypatch.undo()
    town.do(id, Event.ABSENT)
    await town.settle()
