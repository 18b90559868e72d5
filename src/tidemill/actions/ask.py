"""Start, stop, restart, terminate: write down what is wanted and ring the bell."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.actions.funds import hold_for_start
from tidemill.actions.quota import check_quota
from tidemill.model.account import Caller
from tidemill.model.errors import Conflict, NotFound
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Event, Keeps, State, Wanted
from tidemill.model.money import shown
from tidemill.settings import Settings
from tidemill.store import instances, ledger, tariffs
from tidemill.store.instances import Stale

TRIES = 10


def not_found() -> NotFound:
    """The one answer for "not there", "not yours" and "released"; the live service's words."""
    return NotFound("ent: instance not found", code="instanceNotFound")


async def ask(context: Context, caller: Caller, instance_id: str, event: Event) -> None:
    """Move the caller's instance by a user's event; what holds already is success.

    Raises NotFound, Conflict (the state forbids it), OutOfStock (no room to start
    again), Forbidden (a quota), NotEnoughMoney.
    """
    now = context.clock.now()

    def work(connection: Connection) -> tuple[Instance, Instance]:
        instance = instances.get(connection, instance_id, user_id=caller.user.id)
        if instance is None or instance.state is State.RELEASED:
            raise not_found()
        if event is Event.START and STATES[instance.state].keeps is Keeps.NO:
            check_quota(
                connection, context.settings, caller.user.id, new_instances=0, new_gpus=instance.gpu_num
            )
        changed = instances.record(connection, instance, event, now)
        if event is Event.START and STATES[instance.state].wanted is not Wanted.RUNNING:
            changed = _paid_for(connection, context.settings, changed, now)
        return instance, changed

    for attempt in range(TRIES):
        try:
            before, after = await context.database.write(work)
        except Stale:  # the loop wrote between our read and our write (PostgreSQL): look again
            if attempt == TRIES - 1:
                raise
            continue
        if after is not before:
            context.metrics.moves.add(after.region_id, event.value, after.state.value)
        break
    context.wake.set()


def _paid_for(connection: Connection, settings: Settings, instance: Instance, now: datetime) -> Instance:
    """Set aside what this start needs; a new term is bought at the price of today."""
    if instance.tariff_id is None:  # from before there were prices
        return instance
    if instance.max_spend_micro is not None:
        spent = ledger.cost_of(connection, instance.id)
        if spent >= instance.max_spend_micro:
            raise Conflict(
                f"The instance has cost {shown(spent)} {settings.currency}, and was launched with a "
                "maxSpend of no more; launch another one",
                code="maxSpendReached",
            )
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
    hold_for_start(connection, settings, instance, price, now)
    return instance
