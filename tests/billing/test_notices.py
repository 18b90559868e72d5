"""What whoever is inside of an instance is told: when it begins to hold, and as long as it does."""

from __future__ import annotations

from datetime import timedelta

from tests.billing.town import Town
from tidemill.model.lifecycle import Event, State
from tidemill.model.offer import ChargeMode

HOUR = 3_600_000_000
DAY, H, M, S = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


def told(town: Town, id: str) -> dict[str, str]:
    return {each.kind: each.text for each in town.get(id).notices}


async def test_little_money_is_told_until_it_is_paid_in(town: Town) -> None:
    town.price(HOUR)
    town.funds(30 * HOUR)
    id = town.run()
    await town.pass_by(5 * H, step=10 * M)
    assert (told(town, id), town.get(id).revision) == ({}, 0)
    await town.pass_by(2 * H, step=10 * M)
    since = town.get(id).notices[0].at
    assert told(town, id) == {
        "money": "At the present rate the money lasts for less than 24 hours; then it is stopped"
    }
    assert town.clock.now() - 2 * H < since < town.clock.now()
    assert town.get(id).due_at is not None, "the loop is asked to hand it over"
    await town.pass_by(10 * H, step=10 * M)
    assert (town.get(id).notices[0].at, town.get(id).revision) == (since, 1), "said once"
    await town.pass_by(10 * H, step=10 * M)
    assert "less than 4 hours" in told(town, id)["money"]
    assert town.get(id).revision == 2
    town.funds(10 * HOUR)
    await town.pass_by(1 * M)
    assert "less than 24 hours" in told(town, id)["money"], "a little was paid in"
    town.funds(100 * HOUR)
    await town.pass_by(1 * M)
    assert (told(town, id), town.get(id).revision) == ({}, 4)
    assert town.told(id).count("moneyLow") == 2


async def test_who_comes_later_is_told_too_and_who_costs_nothing_is_not(town: Town) -> None:
    town.price(HOUR, disk=1000)
    town.price(HOUR, ChargeMode.PER_WEEK)
    town.funds(5 * HOUR)
    subscribed = town.run(charge_mode=ChargeMode.PER_WEEK)
    with_disk = town.run(charge_mode=ChargeMode.PER_WEEK, data_disk_gb=1)
    first = town.run()
    await town.settle()
    town.clock.pass_by(60)
    second = town.run()
    await town.settle()
    assert "money" in told(town, first)
    assert told(town, first) == told(town, second)
    assert told(town, first) == told(town, with_disk), "its disk is paid by the hour: it is stopped as well"
    assert told(town, subscribed) == {}, "it is not stopped when the money is used up"
    town.do(first, Event.EXITED)
    await town.settle()
    assert "money" in told(town, first), "it is back in a moment"
    town.do(first, Event.REACHABLE)
    town.stop(second)
    town.do(second, Event.START)
    assert told(town, second) == {}, "of the time before nothing greets anybody"
    revision = town.get(second).revision
    town.do(second, Event.REACHABLE)
    await town.settle()
    assert "money" in told(town, second)
    assert town.get(second).revision == revision + 1
    town.funds(1000 * HOUR)
    await town.settle()
    assert told(town, first) == told(town, second) == {}


async def test_other_prices_and_charges_are_no_news(town: Town) -> None:
    town.price(HOUR)
    town.funds(20 * HOUR)
    id = town.run()
    await town.settle()
    revision = town.get(id).revision
    for _ in range(20):
        town.price(2 * HOUR)
        town.funds(town.amounts()["balance"] + HOUR // 100)
        await town.pass_by(5 * M)
    assert town.get(id).revision == revision == 1


async def test_the_end_of_a_term_is_told_until_it_is_renewed(town: Town) -> None:
    town.price(HOUR, ChargeMode.PER_WEEK)
    town.funds(2 * HOUR)
    id = town.run(charge_mode=ChargeMode.PER_WEEK, auto_renew=True)
    await town.settle()
    ends = town.get(id).term_ends_at
    assert ends is not None
    await town.pass_by(4 * DAY - H, step=H)
    assert told(town, id) == {}
    await town.pass_by(1 * DAY, step=H)
    words = f"Its term ends at {ends:%Y-%m-%d %H:%M:%S} UTC, and is renewed then"
    assert told(town, id) == {"term": words}
    await town.pass_by(1 * DAY + 12 * H, step=H)
    assert (told(town, id), town.get(id).revision) == ({"term": words}, 1), "said once"
    await town.pass_by(1 * DAY, step=H)
    assert (told(town, id), town.get(id).revision) == ({}, 2)


async def test_whoever_starts_it_when_its_term_ends_soon_is_told(town: Town) -> None:
    town.price(HOUR, ChargeMode.PER_WEEK)
    town.funds(2 * HOUR)
    id = town.run(charge_mode=ChargeMode.PER_WEEK)
    await town.settle()
    await town.pass_by(3 * DAY, step=H)
    town.stop(id)
    await town.pass_by(2 * DAY, step=H)
    assert told(town, id) == {}, "nobody is inside"
    town.do(id, Event.START, Event.REACHABLE)
    await town.settle()
    assert "and it is stopped then" in told(town, id)["term"]
    town.stop(id)
    await town.pass_by(3 * DAY, step=H)
    assert town.state(id) is State.STOPPED
    town.do(id, Event.START, Event.REACHABLE)
    await town.settle()
    assert told(town, id) == {}, "another term began"
    assert town.told(id).count("termEnds") == 3
