"""The examples of docs/billing.md, worked by hand there and by the product here.

Each example of the document ends with a line ``Total: 123.456789``, in the order of these tests; the
document says it, the test computes it, and neither may change alone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from tests.billing.town import Town
from tidemill.model.ledger import Cause
from tidemill.model.lifecycle import Event
from tidemill.model.offer import ChargeMode
from tidemill.model.tariff import Band

DOCUMENT = Path(__file__).parents[2] / "docs" / "billing.md"
UNIT = 1_000_000
H, M = timedelta(hours=1), timedelta(minutes=1)


def said(heading: str) -> Decimal:
    """The total that the document gives below a heading."""
    text = DOCUMENT.read_text("utf-8")
    section = text.split(f"### {heading}\n", 1)[1].split("\n### ", 1)[0]
    (total,) = re.findall(r"Total: ([0-9.]+)", section)
    return Decimal(total)


def units(micro: int) -> Decimal:
    return Decimal(micro) / UNIT


def at(town: Town, *when: int) -> None:
    """Move the clock to an instant of UTC."""
    town.clock.pass_by((datetime(*when, tzinfo=UTC) - town.clock.now()).total_seconds())  # type: ignore[misc]


@pytest.fixture
def rich(town: Town) -> Town:
    town.funds(1000 * UNIT)
    return town


async def test_a_tide_night_over_the_autumn_clock_change(rich: Town) -> None:
    """Berlin, 24 October 2026 20:00 to 25 October 09:00: the hour from two to three comes twice."""
    night = Band("night", frozenset(range(7)), 22 * 60, 8 * 60, 3 * UNIT)
    rich.price(6 * UNIT, ChargeMode.TIDE_PER_HOUR, bands=[night], zone="Europe/Berlin")
    at(rich, 2026, 10, 24, 18)
    id = rich.run(charge_mode=ChargeMode.TIDE_PER_HOUR)
    at_the_end = datetime(2026, 10, 25, 8, tzinfo=UTC)
    await rich.pass_by(at_the_end - rich.clock.now())
    rich.stop(id)
    await rich.settle()
    assert units(rich.spent(id)) == said("A night over the autumn clock change")


async def test_a_three_week_subscription_stopped_twice(rich: Town) -> None:
    rich.price(100 * UNIT, ChargeMode.PER_WEEK)
    id = rich.run(charge_mode=ChargeMode.PER_WEEK, duration=3)
    for _ in range(2):
        await rich.pass_by(3 * 24 * H, step=H)
        rich.stop(id)
        await rich.pass_by(2 * 24 * H, step=H)
        rich.do(id, Event.START, Event.REACHABLE)
    await rich.pass_by(12 * 24 * H, step=H)
    assert units(rich.spent(id)) == said("A subscription of three weeks, stopped twice")


async def test_a_voucher_that_expires_in_the_middle_of_an_hour(rich: Town) -> None:
    rich.price(6 * UNIT)
    rich.voucher(10 * UNIT, rich.clock.now() + 20 * M)
    id = rich.run()
    await rich.pass_by(1 * H)
    rich.stop(id)
    await rich.settle()
    paid = units(1000 * UNIT - rich.amounts()["balance"])
    assert paid == said("A voucher that expires in the middle of an hour")
    (gone,) = rich.entries(Cause.EXPIRY)
    assert units(gone.amount) == 8


async def test_a_launch_that_failed(rich: Town) -> None:
    rich.price(6 * UNIT, disk=UNIT)
    id = rich.launch(data_disk_gb=100)
    await rich.pass_by(20 * M)
    rich.do(id, Event.REFUSED, Event.ABSENT, reason="Refused")
    await rich.settle()
    assert units(rich.spent()) == said("A launch that failed")
    assert rich.amounts()["balance"] == 1000 * UNIT


async def test_an_odd_price_and_odd_seconds(rich: Town) -> None:
    rich.price(1_234_567)
    id = rich.run()
    await rich.pass_by(timedelta(seconds=1234.5))
    rich.stop(id)
    await rich.settle()
    assert units(rich.spent(id)) == said("Odd seconds at an odd price")
