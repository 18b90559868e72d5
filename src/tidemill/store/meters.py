"""Meters follow the state: opened, closed and told apart in the transaction that changes it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, text

from tidemill.model.charging import MeterKind
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Event, State, Wanted
from tidemill.model.tariff import POSTED_EVERY, period_end
from tidemill.store import holds, sightings, tariffs, wallets
from tidemill.store.prepared import Prepared
from tidemill.store.schema import Instant

_OPEN = Prepared(
    text(
        "INSERT INTO meters (instance_id, start, opened_at, kind, user_id, rate_most, post_at) "
        "VALUES (:instance_id, :start, :opened_at, :kind, :user_id, :rate_most, :post_at) "
        "ON CONFLICT DO NOTHING"
    ).bindparams(bindparam("opened_at", type_=Instant), bindparam("post_at", type_=Instant))
)


def follow(
    connection: Connection,
    instance: Instance,
    changed: Instance,
    event: Event,
    at: datetime,
    ended_at: datetime | None,
) -> None:
    """Bring meters and hold to where ``event`` took an instance: from ``instance`` to ``changed``."""
    before, after = STATES[instance.state], STATES[changed.state]
    if before.billed and not after.billed:
        # Nobody saw it running between the backup that it came from and now.
        until = instance.restored_from or at
        sightings.close_meter(connection, instance, event, until, ended_at)
    if after.billed and not before.billed:
        _open(connection, changed, MeterKind.COMPUTE, at)
    if after.stores and (after.billed or not before.stores) and changed.started_at is not None:
        _open(connection, changed, MeterKind.DISK, at)
    if before.stores and not after.stores:
        sightings.close_disk_meter(connection, instance.id, at)
    runs, ran = after.wanted is Wanted.RUNNING, before.wanted is Wanted.RUNNING
    if ran and not runs and instance.tariff_id is not None:
        holds.ask_to_settle(connection, instance.id, at)


def posted(connection: Connection, instance: Instance, to: State) -> datetime | None:
    """Until when the meters are posted that a move to ``to`` closes, by the clock of whoever saw it run.

    Until the transaction ends nobody posts more of them.
    """
    before, after = STATES[instance.state], STATES[to]
    closes = {MeterKind.COMPUTE} if before.billed and not after.billed else set[MeterKind]()
    if before.stores and not after.stores:
        closes.add(MeterKind.DISK)
    return sightings.posted(connection, instance.id, closes) if closes else None


def began(connection: Connection, instance: Instance, at: datetime) -> Instance:
    """It is reachable: what it was given in time counts from here, and a term that was bought begins."""
    if instance.stop_after_seconds is not None and instance.stop_at is None:
        instance = replace(instance, stop_at=at + timedelta(seconds=instance.stop_after_seconds))
    if instance.stop_at is not None or instance.max_spend_micro is not None:
        instance = replace(instance, timer_at=at)
    if instance.charge_mode.hourly:
        return instance
    if instance.in_term(at):  # whoever comes in is told if it ends soon
        return replace(instance, timer_at=min(at, instance.timer_at or at))
    price = _price_of(connection, instance)
    zone = "UTC" if price is None else price.zone
    ends = period_end(instance.charge_mode, at, instance.duration, zone)
    captured = holds.ask_to_capture(connection, instance.id, at)
    if instance.term_ends_at is not None and instance.price_micro and not captured:
        return replace(instance, timer_at=at)  # nobody paid for another one: it is renewed, or stopped
    return replace(instance, term_began_at=at, term_ends_at=ends, timer_at=at)


def _price_of(connection: Connection, instance: Instance) -> tariffs.Price | None:
    if instance.tariff_id is None:
        return None
    return tariffs.by_ids(connection, [instance.tariff_id])[instance.tariff_id]


def _open(connection: Connection, instance: Instance, kind: MeterKind, at: datetime) -> None:
    """Open a meter of a kind, unless it has one open; a data disk that costs nothing has none."""
    rate = 0
    if kind is MeterKind.DISK:
        rate = instance.disk_price_micro * instance.data_disk_gb
        if not rate:
            return
    elif instance.charge_mode.hourly and instance.price_micro:
        price = _price_of(connection, instance)
        rate = 0 if price is None else price.tariff.rate_most
    values = {
        "instance_id": instance.id,
        "start": instance.start,
        "opened_at": at,
        "kind": kind.value,
        "user_id": instance.user_id,
        "rate_most": rate,
        "post_at": at + POSTED_EVERY if rate else None,
    }
    _OPEN.run(connection, values)
    if rate:
        wallets.look_at(connection, instance.user_id, at)
