"""Start, stop, restart, terminate: write down what is wanted and ring the bell."""

from __future__ import annotations

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.actions.quota import check_quota
from tidemill.model.account import Caller
from tidemill.model.errors import NotFound
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Event, Keeps, State
from tidemill.store import instances
from tidemill.store.instances import Stale

TRIES = 10


def not_found() -> NotFound:
    """The one answer for "not there", "not yours" and "released"; the live service's words."""
    return NotFound("ent: instance not found", code="instanceNotFound")


async def ask(context: Context, caller: Caller, instance_id: str, event: Event) -> None:
    """Move the caller's instance by a user's event; what holds already is success.

    Raises NotFound, Conflict (the state forbids it), OutOfStock (no room to start
    again), Forbidden (a quota).
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
        return instance, instances.record(connection, instance, event, now)

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
