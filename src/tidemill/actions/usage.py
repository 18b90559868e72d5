"""What instances were used, and what that cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from tidemill.actions.ask import must_reach, not_found
from tidemill.actions.context import Context
from tidemill.model.account import Caller
from tidemill.model.charging import Metered, MeterKind, owed
from tidemill.model.instance import Instance
from tidemill.store import instances, metering, postings


@dataclass(frozen=True, slots=True)
class Usage:
    """One instance between two instants.

    ``ran`` is the time it was seen running; ``charged`` and ``returned`` are what was posted meanwhile,
    ``accrued`` is what it owes by now and was not posted yet. Micro-units.
    """

    instance: Instance
    ran: timedelta
    charged: int
    returned: int
    accrued: int


async def usage(
    context: Context,
    caller: Caller,
    *,
    since: datetime | None,
    until: datetime | None,
    offset: int,
    limit: int,
) -> tuple[list[Usage], int]:
    """One page of the caller's instances that cost something or ran between two instants, newest first.

    With how many there are in all pages.
    """
    now = context.clock.now()

    def work(connection: Connection) -> tuple[list[Usage], int]:
        ids, total = metering.used_between(
            connection, caller.user.id, since, until, offset=offset, limit=limit
        )
        return _usages(connection, caller.user.id, ids, since, until, now), total

    return await context.database.read_much(work)


async def instance_usage(context: Context, caller: Caller, instance_id: str) -> Usage:
    """All that one of the caller's instances was used so far. Raises NotFound."""
    must_reach(caller, instance_id)
    now = context.clock.now()

    def work(connection: Connection) -> Usage:
        if instances.get(connection, instance_id, user_id=caller.user.id) is None:
            raise not_found()
        return _usages(connection, caller.user.id, [instance_id], None, None, now)[0]

    return await context.database.read_much(work)


def _usages(
    connection: Connection,
    user_id: str,
    ids: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    now: datetime,
) -> list[Usage]:
    found = instances.by_ids(connection, ids)
    costs = postings.costs(connection, user_id, ids, since, until)
    meters: dict[str, list[Metered]] = {id: [] for id in ids}
    for meter in metering.of_instances(connection, ids, now):
        meters[meter.instance_id].append(meter)
    return [
        Usage(
            found[id],
            _ran(meters[id], since, until),
            *costs.get(id, (0, 0)),
            sum(owed(meter) for meter in meters[id]),
        )
        for id in ids
    ]


def _ran(meters: Iterable[Metered], since: datetime | None, until: datetime | None) -> timedelta:
    total = timedelta()
    for meter in meters:
        begin = meter.opened_at if since is None else max(since, meter.opened_at)
        end = meter.until if until is None else min(until, meter.until)
        if meter.kind is MeterKind.COMPUTE and end > begin:
            total += end - begin
    return total
