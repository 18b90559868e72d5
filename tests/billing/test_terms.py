"""Subscriptions: bought in advance, begun when reachable, kept through a stop, renewed or ended."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Connection, text, update

from tests.billing.town import Town
from tests.stock import GPU_TYPE, START
from tidemill.doctor import books
from tidemill.model.errors import Conflict, Invalid, NotEnoughMoney
from tidemill.model.ledger import Cause
from tidemill.model.lifecycle import Event, State
from tidemill.model.offer import ChargeMode
from tidemill.store.schema import instances

DAY, H = timedelta(days=1), timedelta(hours=1)
WEEK = 100_000_000


async def test_a_subscription_that_is_stopped_twice(town: Town) -> None:
    """Three weeks, paid once; stops cost and give back nothing."""
    town.price(WEEK, ChargeMode.PER_WEEK)
    town.funds(10 * WEEK)
    id = town.launch(charge_mode=ChargeMode.PER_WEEK, duration=3)
    assert town.amounts() == {"balance": 7 * WEEK, "held": 3 * WEEK}
    await town.pass_by(20 * timedelta(minutes=1))
    town.do(id, Event.REACHABLE)
    began = town.clock.now()
    await town.settle()
    assert town.amounts() == {"balance": 7 * WEEK, "held": 0}
    for _ in range(2):
        await town.pass_by(2 * DAY, step=H)
        town.stop(id)
        await town.pass_by(1 * DAY, step=H)
        town.do(id, Event.START, Event.REACHABLE)
    assert town.get(id).term_ends_at == began + 21 * DAY
    await town.pass_by(15 * DAY, step=H)
    assert (town.state(id), town.get(id).reason) == (State.STOPPING, "TermEnded")
    assert town.told(id).count("termEnds") == 3
    assert town.spent(id) == 3 * WEEK
    (bought,) = town.entries(Cause.TERM)
    assert (bought.since, bought.until) == (began, began + 21 * DAY)


async def test_devices_are_kept_through_a_stop_within_the_term(town: Town) -> None:
    town.price(WEEK, ChargeMode.PER_WEEK)

    def stock() -> int:
        from sqlalchemy import func, select

        from tidemill.store.schema import devices

        free = select(func.count()).select_from(devices).where(devices.c.instance_id.is_(None))
        return town.stocked.database.run(lambda c: c.execute(free).scalar_one())

    from tests.billing.town import tariffs
    from tests.stock import REGION

    town.stocked.database.run(
        lambda c: tariffs.add(
            c, tariffs.Price(0, GPU_TYPE.id, REGION.id, "perDay", False, 5, (), "UTC", START, "admin")
        )
    )
    town.stocked.database.run(_offer_per_day)
    id = town.run(type_id=GPU_TYPE.id, charge_mode=ChargeMode.PER_DAY)
    free = stock()
    town.stop(id)
    assert stock() == free
    wrong = town.stocked.database.run(lambda c: books.look(c, town.clock.now(), town.settings)).symptoms
    assert [each for each in wrong if each.code in {"shareKept", "deviceKept"}] == [], (
        "the doctor knows terms"
    )
    await town.pass_by(1 * DAY + H, step=H)
    assert (town.state(id), stock()) == (State.STOPPED, free + 1)


def _offer_per_day(connection: object) -> None:
    from dataclasses import replace

    from tests.stock import CPU_TYPE, IMAGE, REGION
    from tidemill.store import offers

    both = [CPU_TYPE, replace(GPU_TYPE, prices={**GPU_TYPE.prices, ChargeMode.PER_DAY: 5})]
    offers.publish(connection, new_regions=[REGION], new_images=[IMAGE], new_types=both)  # type: ignore[arg-type]


async def test_a_subscription_that_never_ran_costs_nothing(town: Town) -> None:
    town.price(WEEK, ChargeMode.PER_WEEK)
    town.funds(3 * WEEK)
    id = town.launch(charge_mode=ChargeMode.PER_WEEK, duration=3)
    town.do(id, Event.REFUSED, Event.ABSENT, reason="Refused")
    await town.settle()
    assert town.amounts() == {"balance": 3 * WEEK, "held": 0}
    with pytest.raises(NotEnoughMoney):
        town.launch(charge_mode=ChargeMode.PER_WEEK, duration=4)


async def test_a_term_is_bought_with_all_that_a_voucher_has(town: Town) -> None:
    town.price(WEEK, ChargeMode.PER_WEEK)
    town.funds(0)
    town.voucher(WEEK)
    id = town.run(charge_mode=ChargeMode.PER_WEEK)
    await town.settle()
    assert town.amounts() == {"balance": 0, "held": 0, "voucher/gift": 0}
    assert town.spent(id) == WEEK
    assert all(each.debit != "own/writeOffs" for each in town.entries())


async def test_what_comes_back_after_its_term_is_given_none_for_nothing(town: Town) -> None:
    """It ends by itself a moment before the term does, and is back before the timer rings."""
    town.price(WEEK, ChargeMode.PER_WEEK)
    town.funds(10 * WEEK)
    id = town.run(charge_mode=ChargeMode.PER_WEEK)
    await town.settle()
    ends = town.get(id).term_ends_at
    assert ends is not None
    town.clock.pass_by((ends - town.clock.now()).total_seconds() - 1)
    town.see()
    town.do(id, Event.EXITED)
    town.clock.pass_by(2)
    town.do(id, Event.REACHABLE)
    await town.settle()
    found = town.get(id)
    assert (found.state, found.reason, found.term_ends_at) == (State.STOPPING, "TermEnded", ends)
    assert town.spent(id) == WEEK


async def test_renewed_at_the_price_of_the_day_or_ended(town: Town) -> None:
    """Months from the 31st come back to it; the second month is dearer; the third cannot be paid."""
    town.clock.pass_by((DAY * 30).total_seconds())  # 31 March 12:00
    town.price(WEEK, ChargeMode.PER_MONTH)
    town.funds(3 * WEEK + WEEK // 2)
    id = town.run(charge_mode=ChargeMode.PER_MONTH, auto_renew=True)
    await town.settle()
    ends = town.get(id).term_ends_at
    assert ends is not None
    assert (ends.month, ends.day) == (4, 30)
    town.price(2 * WEEK, ChargeMode.PER_MONTH)
    await town.pass_by(31 * DAY, step=H)
    ends = town.get(id).term_ends_at
    assert ends is not None
    assert (ends.month, ends.day) == (5, 31)
    assert town.spent(id) == 3 * WEEK
    assert "renewed" in town.told(id)
    await town.pass_by(31 * DAY, step=H)
    assert town.state(id) is State.STOPPING
    assert town.spent(id) == 3 * WEEK
    town.do(id, Event.ABSENT)
    with pytest.raises(NotEnoughMoney):
        town.do(id, Event.START)
    town.funds(2 * WEEK)
    town.do(id, Event.START, Event.REACHABLE)
    await town.settle()
    assert town.spent(id) == 5 * WEEK


async def test_a_start_after_a_term_in_which_the_billing_stood_still(town: Town) -> None:
    """The term that is over is paid with what was set aside for it, once, and another one is bought."""
    town.price(WEEK, ChargeMode.PER_WEEK)
    town.funds(2 * WEEK)
    id = town.run(charge_mode=ChargeMode.PER_WEEK)
    began = town.get(id).term_began_at
    town.stop(id)
    assert town.amounts() == {"balance": WEEK, "held": WEEK}
    town.clock.pass_by((8 * DAY).total_seconds())
    town.do(id, Event.START)
    assert town.amounts() == {"balance": 0, "held": WEEK}
    assert [each.since for each in town.entries(Cause.TERM)] == [began]
    town.do(id, Event.REACHABLE)
    again = town.get(id).term_began_at
    await town.settle()
    assert town.spent(id) == 2 * WEEK
    assert {each.since for each in town.entries(Cause.TERM)} == {began, again}


async def test_such_a_start_without_money_for_another_term_changes_nothing(town: Town) -> None:
    town.price(WEEK, ChargeMode.PER_WEEK)
    town.funds(WEEK)
    id = town.run(charge_mode=ChargeMode.PER_WEEK)
    town.stop(id)
    town.clock.pass_by((8 * DAY).total_seconds())
    with pytest.raises(NotEnoughMoney):
        town.do(id, Event.START)
    assert (town.state(id), town.amounts()) == (State.STOPPED, {"balance": 0, "held": WEEK})
    await town.settle()
    assert town.spent(id) == WEEK


async def test_a_term_is_not_lengthened_by_what_was_set_aside_for_the_one_before(town: Town) -> None:
    """It restarts by itself after its term, which the billing has not come to yet."""
    town.price(WEEK, ChargeMode.PER_WEEK)
    town.funds(10 * WEEK)
    id = town.run(charge_mode=ChargeMode.PER_WEEK)
    ends = town.get(id).term_ends_at
    town.clock.pass_by((8 * DAY).total_seconds())
    town.see()
    town.do(id, Event.EXITED, Event.REACHABLE)
    await town.settle()
    found = town.get(id)
    assert (found.state, found.reason, found.term_ends_at) == (State.STOPPING, "TermEnded", ends)
    assert town.spent(id) == WEEK


async def test_a_voucher_that_was_set_aside_pays_for_its_term_also_when_that_is_posted_late(
    town: Town,
) -> None:
    town.price(WEEK, ChargeMode.PER_WEEK)
    town.funds(0)
    town.voucher(WEEK, town.clock.now() + DAY)
    id = town.run(charge_mode=ChargeMode.PER_WEEK)
    town.clock.pass_by(1)
    town.funds(WEEK)
    town.clock.pass_by((2 * DAY).total_seconds())
    await town.settle()
    assert town.spent(id) == WEEK
    assert town.amounts() == {"balance": WEEK, "held": 0, "voucher/gift": 0}


async def test_the_term_of_one_that_cannot_be_read_is_paid_once_it_can(town: Town) -> None:
    """What was set aside for it is not given back meanwhile."""
    town.price(WEEK, ChargeMode.PER_WEEK)
    town.funds(WEEK)
    id = town.run(charge_mode=ChargeMode.PER_WEEK)
    put = update(instances).where(instances.c.id == id)

    def garble(connection: Connection) -> None:
        of = "" if connection.dialect.name == "sqlite" else " ON instances"
        connection.execute(text(f"DROP TRIGGER instances_known_state{of}"))
        connection.execute(put.values(state="Melted"))

    town.stocked.database.run(garble)
    await town.settle()
    assert town.amounts() == {"balance": 0, "held": WEEK}
    town.stocked.database.run(lambda c: c.execute(put.values(state="Running")))
    await town.settle()
    assert (town.spent(id), town.amounts()) == (WEEK, {"balance": 0, "held": 0})


async def test_a_start_at_another_price_costs_that_one(town: Town) -> None:
    """Stopped before it was reachable, and started again before what was set aside went back."""
    town.price(WEEK, ChargeMode.PER_WEEK)
    town.funds(2 * WEEK)
    id = town.launch(charge_mode=ChargeMode.PER_WEEK)
    town.do(id, Event.STOP, Event.ABSENT)
    town.clock.pass_by(60)
    town.price(WEEK // 2, ChargeMode.PER_WEEK)
    town.clock.pass_by(60)
    town.do(id, Event.START)
    assert town.amounts() == {"balance": 3 * WEEK // 2, "held": WEEK // 2}
    town.do(id, Event.REACHABLE)
    await town.settle()
    assert (town.get(id).price_micro, town.spent(id)) == (WEEK // 2, WEEK // 2)


async def test_a_term_is_not_bought_for_more_than_max_spend(town: Town) -> None:
    """Paid in full and stopped at once would be money for nothing; as much as a term is one."""
    town.price(WEEK, ChargeMode.PER_WEEK)
    town.funds(10 * WEEK)
    with pytest.raises(Invalid, match='"maxSpend" must be at least what the term costs, 200 EUR'):
        town.launch(charge_mode=ChargeMode.PER_WEEK, duration=2, max_spend_micro=2 * WEEK - 1)
    id = town.run(charge_mode=ChargeMode.PER_WEEK, max_spend_micro=WEEK, auto_renew=True)
    await town.pass_by(DAY, step=H)
    town.stop(id)
    town.do(id, Event.START, Event.REACHABLE)
    await town.pass_by(DAY, step=H)
    assert town.state(id) is State.RUNNING
    await town.pass_by(6 * DAY, step=H)
    assert (town.state(id), town.get(id).reason, town.spent(id)) == (State.STOPPING, "TermEnded", WEEK)
    town.do(id, Event.ABSENT)
    with pytest.raises(Conflict, match="has cost 100 EUR, and another term costs 100"):
        town.do(id, Event.START)
