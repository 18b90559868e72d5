"""Money follows what runs: held, charged to the second, settled once, and stopped before it is a debt."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from tests.billing.town import NIGHT, Town
from tidemill.model.cap import MONTH, Cap
from tidemill.model.errors import Conflict, NotEnoughMoney
from tidemill.model.ledger import Cause
from tidemill.model.lifecycle import Event, State
from tidemill.model.offer import ChargeMode
from tidemill.reconcile import purses
from tidemill.store import caps, ledger

HOUR = 3_600_000_000  # micro-units: a price that is a thousandth of a unit for each second
H, M, S = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


async def test_an_hour_costs_its_price_to_the_second(town: Town) -> None:
    town.price(HOUR)
    town.funds(10 * HOUR)
    id = town.launch()
    assert town.amounts() == {"balance": 9 * HOUR, "held": HOUR}
    town.clock.pass_by(100)
    town.do(id, Event.REACHABLE)
    await town.pass_by(61 * M)
    town.clock.pass_by(1)
    town.stop(id)
    await town.settle()
    assert town.spent(id) == HOUR + 61 * HOUR // 3600
    assert town.amounts() == {"balance": 9 * HOUR - 61 * HOUR // 3600, "held": 0}


async def test_a_launch_that_failed_costs_nothing(town: Town) -> None:
    town.price(HOUR, disk=1_000_000)
    town.funds(2 * HOUR)
    id = town.launch(data_disk_gb=10)
    town.clock.pass_by(500)
    town.do(id, Event.REFUSED, Event.ABSENT, reason="Refused")
    await town.settle()
    assert town.amounts() == {"balance": 2 * HOUR, "held": 0}
    assert town.entries(Cause.CHARGE) == []
    assert [each.cause for each in town.entries(Cause.HOLD, Cause.RELEASE)] == [Cause.HOLD, Cause.RELEASE]


async def test_who_has_not_enough_is_told_how_much_it_takes(town: Town) -> None:
    town.price(HOUR)
    town.funds(HOUR - 1)
    with pytest.raises(NotEnoughMoney, match=r"3600 EUR must be set aside .* 3599\.999999 EUR is available"):
        town.launch()
    assert town.everybody() == []
    assert town.amounts() == {"balance": HOUR - 1, "held": 0}


async def test_what_was_not_seen_running_is_not_charged(town: Town) -> None:
    town.price(HOUR)
    id = town.run()
    await town.pass_by(10 * M)
    town.clock.pass_by(3600)  # the engine is silent
    await town.billing.run_pass()
    assert town.spent(id) == HOUR // 6
    town.do(id, Event.ABSENT)  # when it answers, it is gone
    await town.billing.run_pass()
    assert town.spent(id) == HOUR // 6


async def test_often_or_once_is_the_same(town: Town) -> None:
    """Odd prices, cut into odd parts: the parts add up to what the whole costs."""
    town.price(1_234_567)
    id = town.run()
    for seconds in (1, 299.999_999, 300.000_001, 17, 3333.333_333, 0.000_001, 86_400):
        town.clock.pass_by(seconds)
        town.see()
        for _ in range(2):
            await town.billing.run_pass()
    whole = sum((1, 299.999_999, 300.000_001, 17, 3333.333_333, 0.000_001, 86_400))
    town.stop(id)
    await town.settle()
    assert town.spent(id) == round(whole * 1e6) * 1_234_567 // HOUR


async def test_the_tide_changes_under_a_running_instance(town: Town) -> None:
    """From 12:00 for a whole day: ten hours of the night at half the price."""
    half = type(NIGHT)(NIGHT.name, NIGHT.weekdays, NIGHT.begins, NIGHT.ends, HOUR // 2)
    town.price(HOUR, ChargeMode.TIDE_PER_HOUR, bands=[half])
    town.funds(100 * HOUR)
    id = town.run(charge_mode=ChargeMode.TIDE_PER_HOUR)
    await town.pass_by(24 * H)
    assert town.spent(id) == 14 * HOUR + 10 * HOUR // 2


async def test_a_running_instance_keeps_its_terms(town: Town) -> None:
    town.price(HOUR)
    town.funds(100 * HOUR)
    first = town.run()
    town.price(2 * HOUR)
    second = town.run()
    await town.pass_by(1 * H)
    assert (town.spent(first), town.spent(second)) == (HOUR, 2 * HOUR)


async def test_vouchers_first_and_what_expires_soonest_before(town: Town) -> None:
    town.price(HOUR)
    town.funds(10 * HOUR)
    town.voucher(HOUR, name="late")
    town.voucher(HOUR // 2, town.clock.now() + 30 * H, name="soon")
    id = town.run()
    assert town.amounts()["balance"] == 9 * HOUR, "what is only held is what would be spent last"
    await town.pass_by(45 * M)
    assert town.amounts() | {"held": 0} == {
        "balance": 9 * HOUR,
        "held": 0,
        "voucher/late": HOUR - HOUR // 4,
        "voucher/soon": 0,
    }
    town.stop(id)
    await town.settle()
    assert town.amounts()["balance"] == 10 * HOUR


async def test_a_hold_that_is_broken_into_is_spent_where_it_came_from(town: Town) -> None:
    """A voucher that is all set aside is empty until then; what was paid in later is spent after it."""
    town.price(HOUR)
    town.funds(0)
    town.voucher(HOUR)
    id = town.run()
    town.clock.pass_by(1)
    town.funds(HOUR // 10)
    town.clock.pass_by(719)
    town.see()
    await town.billing.post()
    assert town.amounts() == {"balance": HOUR // 10, "held": 0, "voucher/gift": HOUR - HOUR // 5}
    assert town.spent(id) == HOUR // 5


async def test_a_voucher_that_expires_in_the_middle_of_an_hour(town: Town) -> None:
    """It pays for the time before, also what is posted later; what is left of it goes back."""
    town.price(HOUR)
    town.funds(10 * HOUR)
    town.voucher(HOUR, town.clock.now() + 20 * M + 1 * S)
    id = town.run()
    await town.pass_by(1 * H)
    town.stop(id)
    await town.settle()
    used = 1201 * HOUR // 3600
    assert town.amounts() == {"balance": 10 * HOUR - (HOUR - used), "held": 0, "voucher/gift": 0}
    (gone,) = town.entries(Cause.EXPIRY)
    assert gone.amount == HOUR - used


async def test_what_was_used_and_not_posted_cannot_be_spent_on_something_new(town: Town) -> None:
    town.price(HOUR)
    town.funds(3 * HOUR)
    id = town.run()
    town.clock.pass_by(2 * 3600 + 1)  # and nothing is posted yet
    town.see()
    with pytest.raises(NotEnoughMoney, match=r"3600 EUR must be set aside .* 3599 EUR is available"):
        town.launch()
    town.stop(id)
    await town.settle()
    assert town.spent(id) == 2 * HOUR + HOUR // 3600
    assert town.lost() == 0


async def test_before_anything_is_lost_what_is_held_for_others_pays(town: Town) -> None:
    town.price(HOUR)
    town.funds(3 * HOUR)
    first, second = town.run(), town.run()
    town.clock.pass_by(5400)  # nothing was posted for an hour and a half
    town.see()
    town.stop(first)
    town.stop(second)
    await town.settle()
    assert (town.spent(first), town.spent(second)) == (HOUR * 3 // 2, HOUR * 3 // 2)
    assert town.lost() == 0
    assert town.amounts() == {"balance": 0, "held": 0}


async def test_money_that_goes_elsewhere_ends_what_runs_sooner(town: Town) -> None:
    town.price(HOUR)
    town.price(2 * HOUR, ChargeMode.PER_DAY)
    town.funds(10 * HOUR)
    id = town.run()
    await town.pass_by(M)  # the next look at the money is hours away
    town.run(charge_mode=ChargeMode.PER_DAY, duration=4)
    await town.pass_by(2 * H, step=10 * S)
    assert town.state(id) is State.STOPPING
    assert town.lost() == 0


async def test_a_voucher_that_expires_while_it_is_held_is_no_money_any_more(town: Town) -> None:
    town.price(6 * HOUR)
    town.funds(0)
    town.voucher(10 * HOUR, town.clock.now() + 20 * M)
    id = town.run()
    await town.pass_by(40 * M, step=5 * S)
    assert town.state(id) is State.STOPPING
    assert 0 <= town.spent(id) - 2 * HOUR <= HOUR // 60, "what it cost until the voucher expired"
    assert town.lost() <= HOUR // 60, "no more than the seconds until that was seen"


async def test_at_zero_it_is_stopped_and_owes_nothing(town: Town) -> None:
    town.price(HOUR)
    town.funds(5 * HOUR)
    id = town.run()
    await town.pass_by(5 * H + 10 * M, step=5 * S)
    instance = town.get(id)
    assert (instance.state, instance.reason) == (State.STOPPING, "OutOfMoney")
    assert "moneyLow" in town.told(id)
    town.do(id, Event.ABSENT)
    await town.settle()
    left = sum(town.amounts().values())
    assert 0 <= left <= HOUR * 20 // 3600
    assert town.spent(id) == 5 * HOUR - left
    assert town.lost() == 0
    with pytest.raises(NotEnoughMoney):
        town.do(id, Event.START)
    town.funds(5 * HOUR)
    town.do(id, Event.START, Event.REACHABLE)
    assert town.state(id) is State.RUNNING


async def test_each_notice_is_given_once(town: Town) -> None:
    town.price(HOUR)
    town.funds(6 * HOUR)
    id = town.run()
    await town.pass_by(5 * H + 30 * M, step=1 * M)
    assert town.told(id).count("moneyLow") == 3  # less than a day at once, then 4 hours, then one
    town.funds(100 * HOUR)
    await town.pass_by(1 * M)
    assert town.told(id).count("moneyLow") == 3
    await town.pass_by(98 * H, step=10 * M)
    assert town.told(id).count("moneyLow") == 5, "and again after it was paid in"


async def test_data_is_kept_for_a_while_and_paid_for_until_then(town: Town) -> None:
    town.price(0, disk=HOUR // 10)
    town.funds(3 * HOUR)
    id = town.run(data_disk_gb=10)
    town.stop(id)
    await town.pass_by(4 * H, step=10 * S)
    assert town.state(id) is State.ARCHIVED
    assert town.spent(id) == pytest.approx(3 * HOUR, abs=HOUR * 20 // 3600)
    assert town.told(id).count("paid") == 0, "and does not come back for the seconds that are left"
    town.funds(HOUR - 1)
    await town.pass_by(S)
    assert town.state(id) is State.ARCHIVED
    town.funds(50 * HOUR)
    await town.settle()
    assert town.state(id) is State.STOPPED
    before = town.spent(id)
    await town.pass_by(2 * H)
    assert town.spent(id) - before == pytest.approx(2 * HOUR, abs=HOUR * 20 // 3600)
    town.funds(0)
    await town.pass_by(1 * M, step=5 * S)
    assert town.state(id) is State.ARCHIVED
    await town.pass_by(8 * 24 * H, step=1 * H)
    assert town.state(id) is State.TERMINATING
    assert town.told(id).count("retentionEnds") == 2


async def test_a_limit_of_time_and_one_of_money(town: Town) -> None:
    town.price(HOUR)
    town.funds(100 * HOUR)
    timed = town.run(stop_after_seconds=600)
    capped = town.run(max_spend_micro=2 * HOUR)
    await town.pass_by(9 * M, step=5 * S)
    assert (town.state(timed), town.state(capped)) == (State.RUNNING, State.RUNNING)
    await town.pass_by(2 * M, step=5 * S)
    assert (town.state(timed), town.get(timed).reason) == (State.STOPPING, "StopAfter")
    await town.pass_by(2 * H, step=5 * S)
    assert (town.state(capped), town.get(capped).reason) == (State.STOPPING, "MaxSpend")
    town.do(capped, Event.ABSENT)
    await town.settle()
    assert 2 * HOUR <= town.spent(capped) <= 2 * HOUR + HOUR * 10 // 3600
    with pytest.raises(Conflict, match="maxSpend"):
        town.do(capped, Event.START)


async def test_nobody_changes_what_is_written(town: Town) -> None:
    town.price(HOUR)
    town.run()
    for statement in ("UPDATE entries SET amount_micro = 1", "DELETE FROM entries"):
        with pytest.raises(DBAPIError, match="only ever added"):
            town.stocked.database.run(lambda c, sql=statement: c.execute(text(sql)))


async def test_no_account_goes_below_zero(town: Town) -> None:
    from tidemill.model.ledger import REVENUE, Line, Posting, balance_of

    town.funds(5)
    mine = balance_of(town.user.id)
    posting = Posting("x", town.clock.now(), Cause.CHARGE, town.user.id, (Line(mine, REVENUE, 6),))
    with pytest.raises(IntegrityError):
        town.stocked.database.run(lambda c: ledger.post(c, [posting]))
    assert town.amounts()["balance"] == 5


async def test_money_for_a_million_years_is_no_error(town: Town) -> None:
    """More hours than a date can hold: of all that was paid in, and of a cap."""
    town.price(10)
    town.funds(10**15)
    made = Cap(town.user.id, MONTH, 10**15, town.clock.now())
    town.stocked.database.run(lambda c: caps.put(c, made))
    id = town.run()
    await town.pass_by(H)
    assert (town.state(id), town.spent(id)) == (State.RUNNING, 10)


async def until_stopping(town: Town, id: str) -> None:
    """Let at most three hours pass."""
    end = town.clock.now() + 3 * H
    while town.state(id) is not State.STOPPING and town.clock.now() < end:
        await town.pass_by(5 * S, step=5 * S)


@pytest.mark.parametrize("mode", [ChargeMode.PER_HOUR, ChargeMode.PER_MONTH])
async def test_a_disk_that_nobody_pays_stops_what_has_no_price_by_the_hour(
    town: Town, mode: ChargeMode
) -> None:
    """A free type, or a term that was paid in advance: its data disk is not kept for nothing."""
    town.price(0 if mode.hourly else HOUR, mode, disk=HOUR // 10)
    town.funds(HOUR + (0 if mode.hourly else HOUR))
    id = town.run(data_disk_gb=10, charge_mode=mode)
    await until_stopping(town, id)
    assert (town.state(id), town.get(id).reason) == (State.STOPPING, "OutOfMoney")
    assert "moneyLow" in town.told(id)
    town.do(id, Event.ABSENT)
    await town.pass_by(M, step=5 * S)
    assert (town.state(id), town.lost()) == (State.ARCHIVED, 0)


async def test_the_disk_of_what_could_not_be_started_is_archived_as_well(town: Town) -> None:
    town.price(HOUR, disk=HOUR // 10)
    town.funds(3 * HOUR)
    id = town.run(data_disk_gb=10)
    town.do(id, Event.EXITED, Event.REFUSED, Event.ABSENT)
    await until_stopping(town, id)
    assert town.state(id) is State.STOPPING
    town.do(id, Event.ABSENT)
    await town.pass_by(M, step=5 * S)
    assert (town.state(id), town.lost()) == (State.ARCHIVED, 0)


async def test_what_is_archived_stays_so_until_somebody_pays(town: Town) -> None:
    """An hour is enough, also where a server dies between the look that finds it and the move."""
    town.price(HOUR, disk=HOUR // 10)
    town.funds(3 * HOUR)
    id = town.run(data_disk_gb=10)
    town.stop(id)
    await town.pass_by(4 * H, step=5 * S)
    assert (town.state(id), town.told(id).count("unpaid"), town.lost()) == (State.ARCHIVED, 1, 0)
    town.funds(HOUR)
    looked = town.stocked.database.run(
        lambda c: purses.look(c, town.settings, town.user.id, town.clock.now())
    )
    assert [each.event for each in looked] == [Event.PAID]
    await town.pass_by(M, step=5 * S)
    assert town.state(id) is State.STOPPED
    assert town.told(id).count("paid") == 1


async def test_nothing_is_enough_for_a_time_that_is_free(town: Town) -> None:
    """A night that costs nothing, without any money: until it ends."""
    free = NIGHT._replace(begins=12 * 60, ends=20 * 60, rate=0)
    town.price(HOUR, ChargeMode.TIDE_PER_HOUR, bands=[free])
    town.funds(0)
    id = town.run(charge_mode=ChargeMode.TIDE_PER_HOUR)
    await town.pass_by(8 * H - M)
    assert town.state(id) is State.RUNNING
    assert "moneyLow" in town.told(id)
    await town.pass_by(M, step=5 * S)
    assert (town.state(id), town.lost()) == (State.STOPPING, 0)


async def test_what_is_released_into_a_voucher_expires_with_it(town: Town) -> None:
    """A launch that held all of it failed; after it expired, and before."""
    town.price(HOUR)
    town.funds(0)
    for minutes in (10, 30):
        town.voucher(HOUR, town.clock.now() + minutes * M, f"for-{minutes}")
        id = town.launch()
        await town.pass_by(20 * M)
        town.do(id, Event.REFUSED, Event.ABSENT, reason="Refused")
        await town.pass_by(20 * M)
        assert town.amounts()[f"voucher/for-{minutes}"] == 0
    assert len(town.entries(Cause.EXPIRY)) == 2
