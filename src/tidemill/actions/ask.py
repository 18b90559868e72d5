"""Start, stop, restart, terminate: write down what is wanted and ring the bell."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.actions.funds import hold_for_start
from tidemill.actions.quota import check_quota
from tidemill.actions.quoting import held_for, quote_of
from tidemill.model.account import Caller
from tidemill.model.errors import Conflict, NotFound
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Event, Keeps, State, Wanted
from tidemill.model.money import shown
from tidemill.model.quote import Quote
from tidemill.settings import Settings
from tidemill.store import instances, ledger, metering, tariffs
from tidemill.store.instances import Stale
from tidemill.store.undone import undone

T = TypeVar("T")

TRIES = 10


def not_found() -> NotFound:
    """The one answer for "not there", "not yours" and "released"; the live service's words."""
    return NotFound("ent: instance not found", code="instanceNotFound")


def must_reach(caller: Caller, instance_id: str | None) -> None:
    """Raise NotFound for the key of an instance that asks for another."""
    if caller.instance_id not in {None, instance_id}:
        raise not_found()


async def ask(context: Context, caller: Caller, instance_id: str, event: Event) -> None:
    """Move the caller's instance by a user's event; what holds already is success.

    Raises NotFound, Conflict (the state forbids it), OutOfStock (no room to start
    again), Forbidden (a quota), NotEnoughMoney.
    """
    must_reach(caller, instance_id)

    def work(connection: Connection) -> tuple[Instance, Instance]:
        return _moved(connection, context, caller, instance_id, event)

    before, after = await _written(context, work)
    if after is not before:
        context.metrics.moves.add(after.region_id, event.value, after.state.value)
    context.wake.set()


async def quote_start(context: Context, caller: Caller, instance_id: str) -> Quote:
    """What starting it would mean, by starting it and undoing that. Raises what ``ask`` raises."""

    def work(connection: Connection) -> Quote:
        now = context.clock.now()
        with undone(connection):
            held = held_for(connection, instance_id)
            owed = metering.uncovered(connection, caller.user.id, now)
            _, after = _moved(connection, context, caller, instance_id, Event.START)
            return quote_of(connection, after, held, owed, now)

    return await _written(context, work, durable=False)


async def _written(context: Context, work: Callable[[Connection], T], *, durable: bool = True) -> T:
    """The same again when the loop wrote between our read and our write (PostgreSQL)."""
    for attempt in range(TRIES):
        try:
            return await context.database.write(work, durable=durable)
        except Stale:
            if attempt == TRIES - 1:
                raise
    raise AssertionError("not reached")


def _moved(
    connection: Connection, context: Context, caller: Caller, instance_id: str, event: Event
) -> tuple[Instance, Instance]:
    """The caller's instance before and after ``event``, which happens once the database has answered.

    Until then it may run on, and be charged for that: an earlier instant would be before what was charged.
    """
    settings = context.settings
    instance = instances.get(connection, instance_id, user_id=caller.user.id)
    if instance is None or instance.state is State.RELEASED:
        raise not_found()
    now = context.clock.now()
    if event is Event.START and STATES[instance.state].keeps is Keeps.NO:
        check_quota(connection, settings, caller.user.id, new_instances=0, new_gpus=instance.gpu_num)
    changed = instances.record(connection, instance, event, now)
    if event is Event.START and STATES[instance.state].wanted is not Wanted.RUNNING:
        changed = _paid_for(connection, settings, changed, now)
    return instance, changed


def _paid_for(connection: Connection, settings: Settings, instance: Instance, now: datetime) -> Instance:
    """Set aside what this start needs; a new term is bought at the price of today."""
    if instance.tariff_id is None:  # from before there were prices
        return instance
    price = tariffs.by_ids(connection, [instance.tariff_id])[instance.tariff_id]
    if not instance.charge_mode.hourly and not instance.in_term(now):
        today = tariffs.current(
            connection,
            instance.type_id,
            instance.region_id,
            instance.charge_mode,
            is_spot=instance.is_spot,
        )
        if today is not None and today.id != price.id:
            price = today
            instance = instances.note(connection, instance, tariff_id=price.id, price_micro=price.amount)
    _check_max_spend(connection, settings, instance, now)
    hold_for_start(connection, settings, instance, price, now)
    return instance


def _check_max_spend(connection: Connection, settings: Settings, instance: Instance, now: datetime) -> None:
    """Raises Conflict when this start may cost nothing more, or buys a term that is more."""
    most = instance.max_spend_micro
    if most is None:
        return
    hourly = instance.charge_mode.hourly
    coming = 0 if hourly or instance.in_term(now) else instance.price_micro * instance.duration
    spent = ledger.cost_of(connection, instance.id)
    if spent + coming > most or (hourly and spent == most):
        what = f", and another term costs {shown(coming)}" if coming else ""
        raise Conflict(
            f"The instance has cost {shown(spent)} {settings.currency}{what}; it was launched with a "
            f"maxSpend of {shown(most)}; launch another one",
            code="maxSpendReached",
        )
