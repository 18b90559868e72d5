"""Spend caps: refuse a start that is more, and stop what runs over."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.billing.town import NIGHT, Town
from tidemill.model.cap import HOUR, MONTH, Cap, by_operator
from tidemill.model.errors import Forbidden
from tidemill.model.lifecycle import Event, State
from tidemill.model.offer import ChargeMode
from tidemill.store import caps, wallets

UNIT = 1_000_000
H, S = timedelta(hours=1), timedelta(seconds=1)


def cap(town: Town, per: str, limit: int, subject: str | None = None) -> None:
    made = Cap(subject or town.user.id, per, limit, town.clock.now())

    def work(connection: object) -> None:
        caps.put(connection, made)  # type: ignore[arg-type]
        wallets.look_at(connection, town.user.id, town.clock.now())  # type: ignore[arg-type]

    town.stocked.database.run(work)


async def test_per_hour(town: Town) -> None:
    """A third that costs 3.6 is too much for 8 an hour; lowered, the last launched is stopped."""
    town.price(36 * UNIT // 10)
    cap(town, HOUR, 8 * UNIT)
    first = town.run()
    town.clock.pass_by(1)
    second = town.run()
    with pytest.raises(Forbidden, match=r"cap of this account per hour: the limit is 8 EUR.*would be 10\.8"):
        town.launch()
    cap(town, HOUR, 4 * UNIT, by_operator(town.user.id))
    town.clock.pass_by(1)
    await town.settle()
    assert (town.state(first), town.state(second)) == (State.RUNNING, State.STOPPING)
    assert town.get(second).reason == "SpendCap"


async def test_per_hour_in_the_dearest_band(town: Town) -> None:
    """One costs 2 by day and 5 at night: two of them are too much for 8 at any time."""
    night = NIGHT._replace(rate=5 * UNIT)
    town.price(2 * UNIT, ChargeMode.TIDE_PER_HOUR, bands=[night])
    cap(town, HOUR, 8 * UNIT)
    town.run(charge_mode=ChargeMode.TIDE_PER_HOUR)
    with pytest.raises(Forbidden, match="with this start it would be 10"):
        town.launch(charge_mode=ChargeMode.TIDE_PER_HOUR)


async def test_per_month(town: Town) -> None:
    """Ten are reached after less than three hours of 3.6; in the next month there is room again."""
    town.price(36 * UNIT // 10)
    cap(town, MONTH, 10 * UNIT)
    id = town.run()
    await town.pass_by(3 * H, step=30 * S)
    assert (town.state(id), town.get(id).reason) == (State.STOPPING, "SpendCap")
    town.stop(id)
    await town.settle()
    assert 10 * UNIT <= town.spent(id) <= 10 * UNIT + UNIT // 10
    with pytest.raises(Forbidden, match="per month"):
        town.launch()
    town.clock.pass_by(timedelta(days=31).total_seconds())
    town.launch()


async def test_of_one_key(town: Town) -> None:
    """What others launched does not count for it."""
    town.price(36 * UNIT // 10)
    town.run()
    cap(town, HOUR, 1, "key-1")
    town.run()
    await town.settle()
    assert all(town.state(id) is State.RUNNING for id in town.everybody())


async def test_a_term_is_not_renewed_over_a_cap(town: Town) -> None:
    town.price(6 * UNIT, ChargeMode.PER_WEEK)
    cap(town, MONTH, 10 * UNIT)
    id = town.run(charge_mode=ChargeMode.PER_WEEK, auto_renew=True)
    await town.pass_by(timedelta(days=8), step=H)
    assert (town.state(id), town.get(id).reason) == (State.STOPPING, "TermEnded")
    assert town.spent(id) == 6 * UNIT


async def test_a_start_with_what_is_set_aside_still_is_refused_over_a_cap(town: Town) -> None:
    """Stopped, something else launched, and started again before the billing came to it."""
    town.price(6 * UNIT)
    cap(town, HOUR, 6 * UNIT)
    first = town.run()
    town.stop(first)
    town.run()
    with pytest.raises(Forbidden, match="per hour"):
        town.do(first, Event.START)
    assert town.state(first) is State.STOPPED
