"""Bugs of money to be planted, one at a time: the simulation has to find each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, update

from tidemill.model import charging
from tidemill.model.charging import Hold, Metered, Paid
from tidemill.model.instance import Instance
from tidemill.model.ledger import Posting, Purse
from tidemill.model.tariff import Tariff, weight
from tidemill.reconcile import purses
from tidemill.store import holds, ledger, metering, sightings
from tidemill.store.schema import ledger_accounts

Patch = pytest.MonkeyPatch


def charges_again_what_was_charged(patch: Patch) -> None:
    """Until when a meter was posted is not written down, and a charge is named by its instant."""
    real = metering._row

    def row(meter: Metered, paid: Paid, again: datetime) -> tuple[Any, ...]:
        return real(meter, paid._replace(posted_until=meter.posted_until or meter.opened_at), again)

    patch.setattr(metering, "_row", row)
    real_charge = charging.charge

    def charge(meter: Metered, purse: Purse, now: datetime, holds: Sequence[Hold] = ()) -> Paid:
        paid = real_charge(meter, purse, now, holds)
        named = tuple(each._replace(id=f"{each.id}:{charging.micros(now)}") for each in paid.postings)
        return paid._replace(postings=named)

    patch.setattr(metering, "charge", charge)


def forgets_a_hold(patch: Patch) -> None:
    """What was set aside for a start that failed is kept for ever."""
    real = holds.ask_to_settle

    def ask_to_settle(connection: Connection, instance_id: str, at: datetime) -> None:
        if int(instance_id[-1], 16) % 4:
            real(connection, instance_id, at)

    patch.setattr(holds, "ask_to_settle", ask_to_settle)


def releases_a_hold_twice(patch: Patch) -> None:
    """A hold that was broken into is settled as well."""
    real = charging.release

    def charge(meter: Metered, purse: Purse, now: datetime, holds: Sequence[Hold] = ()) -> Paid:
        paid = charging.charge(meter, purse, now, holds)
        return paid._replace(broken=())

    def release(hold: Hold, now: datetime, purse: Purse | None = None) -> Posting:
        return real(hold, now, purse)._replace(id=f"release:{hold.id}:{charging.micros(now)}")

    patch.setattr(metering, "charge", charge)
    patch.setattr(metering, "release", release)


def charges_until_now(patch: Patch) -> None:
    """Time is charged up to now, whether or not anybody saw it running."""
    real = metering._metered

    def metered(connection: Connection, rows: Sequence[Any], now: datetime) -> list[Metered]:
        found = real(connection, rows, now)
        return [each if each.closed else each._replace(until=max(each.until, now)) for each in found]

    patch.setattr(metering, "_metered", metered)


def spends_the_same_money_twice(patch: Patch) -> None:
    """What is charged stays in the account that it is taken from."""
    real = ledger._move

    def move(connection: Connection, lines: Any) -> None:
        taken = list(lines)
        real(connection, taken)
        for line in taken:
            if line.credit == ledger.REVENUE and line.amount > 1_000_000:
                connection.execute(
                    update(ledger_accounts)
                    .where(ledger_accounts.c.id == line.debit)
                    .values(amount_micro=ledger_accounts.c.amount_micro + line.amount)
                )

    patch.setattr(ledger, "_move", move)


def sets_aside_nothing_for_a_disk(patch: Patch) -> None:
    """A start sets money aside for the instance alone."""
    real = charging.to_hold

    def to_hold(instance: Instance, *given: Any) -> int:
        return real(replace(instance, disk_price_micro=0), *given)

    patch.setattr("tidemill.actions.funds.to_hold", to_hold)


def rounds_each_charge(patch: Patch) -> None:
    """What was not enough for a micro-unit is forgotten from charge to charge."""
    real = metering._row

    def row(meter: Metered, paid: Paid, now: datetime) -> dict[str, Any]:
        return real(meter, paid, now) | {"rest": 0}

    patch.setattr(metering, "_row", row)


def stops_too_late(patch: Patch) -> None:
    """Who runs dry is stopped a while after."""
    real = purses._outlook

    def outlook(connection: Connection, settings: Any, user_id: str, funds: int, *others: Any) -> Any:
        rate = others[0]
        return real(connection, settings, user_id, funds + rate * 40 // 3600, *others)

    patch.setattr(purses, "_outlook", outlook)


def never_stops_who_runs_dry(patch: Patch) -> None:
    """Nobody is stopped for having no money."""
    patch.setattr(purses, "_stopped", lambda *_: [])


def bills_the_disk_after_its_end(patch: Patch) -> None:
    """The meter of a disk is closed with the next charge instead of with the disk."""

    def close_disk_meter(connection: Connection, instance_id: str, at: datetime) -> None:
        real(connection, instance_id, at + timedelta(seconds=20))

    real = sightings.close_disk_meter
    patch.setattr(sightings, "close_disk_meter", close_disk_meter)


def charges_the_base_rate_at_night(patch: Patch) -> None:
    """The bands of a tariff are not looked at when it is charged."""

    def without_bands(tariff: Tariff, start: datetime, end: datetime) -> int:
        return weight(tariff._replace(bands=()), start, end)

    patch.setattr(charging, "weight", without_bands)


MONEY_BUGS = (
    charges_again_what_was_charged,
    forgets_a_hold,
    releases_a_hold_twice,
    charges_until_now,
    spends_the_same_money_twice,
    sets_aside_nothing_for_a_disk,
    rounds_each_charge,
    stops_too_late,
    never_stops_who_runs_dry,
    bills_the_disk_after_its_end,
    charges_the_base_rate_at_night,
)
