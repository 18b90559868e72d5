"""The timers of instances: what their owner or their term set is brought about when its time has come."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from sqlalchemy import Connection

from tidemill.model.charging import owed, term
from tidemill.model.instance import Instance
from tidemill.model.ledger import Purse
from tidemill.model.lifecycle import STATES, Wanted, move
from tidemill.model.notice import TERM
from tidemill.model.tariff import month_of, runs_out
from tidemill.model.timing import Limits, renewed_until, timed
from tidemill.settings import Settings
from tidemill.store import caps, instances, ledger, metering, tariffs

HORIZON = timedelta(days=7)  # how far ahead it is reckoned when money will be used up
SOON = timedelta(seconds=5)  # until what passes is looked at again


def ring(connection: Connection, settings: Settings, instance_id: str, now: datetime) -> Instance | None:
    """Do what the timer of one instance is for, and set it anew; the instance, where it was moved.

    Raises Stale.
    """
    instance = instances.get(connection, instance_id)
    if instance is None or instance.timer_at is None or instance.timer_at > now:
        return None
    limits = Limits(settings.term_notices, timedelta(seconds=settings.retention), settings.retention_notices)
    found = timed(instance, now, limits, _spent_at(connection, instance, now))
    if found.renews and _renew(connection, settings, instance, now):
        return None
    for word, sentence in found.told:
        instances.tell(connection, instance, now, word, sentence)
    if found.event is None and STATES[instance.state].wanted is Wanted.RUNNING:
        instance = instances.announce(connection, instance, now, TERM, found.notice)
    moved, again = instance, found.again
    if found.event is not None:
        if move(instance.state, found.event) is None:  # it passes: looked at when it has
            again = now + SOON if STATES[instance.state].deadline else None
        else:
            moved = instances.record(
                connection, instance, found.event, now, reason=found.reason, message=found.message
            )
            again = found.again
    instances.note(connection, moved, timer_at=again)
    return None if moved is instance else moved


def _spent_at(connection: Connection, instance: Instance, now: datetime) -> datetime | None:
    """When the instance will have cost its maxSpend; the horizon, where that is not before."""
    if instance.max_spend_micro is None:
        return None
    meters = [each for each in metering.of_instance(connection, instance.id, now) if not each.closed]
    cost = ledger.cost_of(connection, instance.id) + sum(owed(meter) for meter in meters)
    rates = Counter(meter.tariff for meter in meters)
    horizon = now + HORIZON
    return runs_out(rates, instance.max_spend_micro - cost, now, horizon) or horizon


def _renew(connection: Connection, settings: Settings, instance: Instance, now: datetime) -> bool:
    """Buy another term at the price of today; False when there is not enough money that may be spent."""
    price = tariffs.current(
        connection, instance.type_id, instance.region_id, instance.charge_mode, is_spot=instance.is_spot
    )
    if price is None or instance.term_ends_at is None:
        return False
    ledger.take_turns(connection, [instance.user_id])
    metering.settle_term(connection, instance, now)
    purse = Purse(ledger.accounts_of(connection, [instance.user_id])[instance.user_id])
    amount = price.amount * instance.duration
    if purse.available(now) < amount + metering.uncovered(connection, instance.user_id, now):
        return False
    month_began = month_of(now, settings.timezone)[0]
    if caps.over(connection, instance.user_id, instance.api_key_id, amount, month_began) is not None:
        return False
    most = instance.max_spend_micro
    if most is not None and ledger.cost_of(connection, instance.id) + amount > most:
        return False
    ends = renewed_until(instance, price.zone)
    bought = term(instance, amount, instance.term_ends_at, ends, purse, now)
    if bought is not None:
        ledger.post(connection, [bought])
    changed = instances.note(
        connection,
        instance,
        term_ends_at=ends,
        tariff_id=price.id,
        price_micro=price.amount,
        timer_at=now,
    )
    instances.tell(connection, changed, now, "renewed", f"Renewed until {ends:%Y-%m-%d %H:%M:%S} UTC")
    return True
