"""Until when each metered instance was seen running: what may be billed, and no second more.

An instance at rest costs no write. A full listing of a region's engine is one instant on the region
(``regions.seen_at``), good for every open meter in it, except for those that the listing contradicted:
theirs is on the meter (``meters.seen_until``) until a later listing shows them running again or their
meter is closed. So whoever reads the database, also after a crash, knows the last instant at which each
instance was seen running.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, case, exists, func, select, text, update

from tidemill.model.charging import MeterKind
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import SEEN_EVENTS, Event
from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import Instant, instances, meters, regions

IDS_MOST = 500  # in one statement

_HERE = exists().where(
    instances.c.id == meters.c.instance_id, instances.c.region_id == bindparam("region_id")
)
COUNTS_FOR = timedelta(minutes=3)  # a sighting, where none came after it: three of the usual passes
# Locked until the listing is written down: of two that are at once, the later one is not taken back.
_LAST = Prepared(
    select(regions.c.seen_at).where(regions.c.id == bindparam("region_id")).with_for_update(key_share=True)
)
_MISS = (
    update(meters)
    .where(
        meters.c.instance_id.in_(bindparam("ids", expanding=True)),
        meters.c.kind == MeterKind.COMPUTE.value,
        meters.c.closed_at.is_(None),
        meters.c.seen_until.is_(None),
        meters.c.opened_at <= bindparam("at", type_=Instant),
    )
    .values(seen_until=func.coalesce(bindparam("last", type_=Instant), meters.c.opened_at))
)
_WAITING = Prepared(
    select(meters.c.id, meters.c.instance_id).where(
        meters.c.closed_at.is_(None),
        meters.c.seen_until.is_not(None),
        text("meters.seen_until >= 0"),  # all of them: a range of their own index
        _HERE,
    )
)
_BACK = update(meters).where(meters.c.id.in_(bindparam("ids", expanding=True))).values(seen_until=None)
_SIGHTED = Prepared(
    update(regions)
    .where(regions.c.id == bindparam("id_of_region"))
    .values(seen_at=bindparam("at", type_=Instant))
)
_METER = Prepared(
    select(meters.c.id, meters.c.opened_at, meters.c.seen_until, meters.c.posted_until, regions.c.seen_at)
    .outerjoin(regions, regions.c.id == bindparam("region_id"))
    .where(
        meters.c.instance_id == bindparam("metered"),
        meters.c.kind == MeterKind.COMPUTE.value,
        meters.c.closed_at.is_(None),
    )
)
_POSTED = Prepared(
    select(meters.c.posted_until)
    .where(
        meters.c.instance_id == bindparam("metered"),
        among(meters.c.kind, "kinds"),
        meters.c.closed_at.is_(None),
    )
    .order_by(meters.c.id)
    .with_for_update()
)
_CLOSE = Prepared(
    update(meters)
    .where(meters.c.id == bindparam("meter_id"))
    .values(
        closed_at=bindparam("closes", type_=Instant),
        # What costs something is posted to the end.
        post_at=case((meters.c.rate_most > 0, bindparam("closes", type_=Instant)), else_=None),
    )
)
_CLOSE_DISK = Prepared(
    update(meters)
    .where(
        meters.c.instance_id == bindparam("metered"),
        meters.c.kind == MeterKind.DISK.value,
        meters.c.closed_at.is_(None),
    )
    .values(
        closed_at=func.coalesce(
            case((meters.c.posted_until > bindparam("at", type_=Instant), meters.c.posted_until)),
            case((meters.c.opened_at > bindparam("at", type_=Instant), meters.c.opened_at)),
            bindparam("at", type_=Instant),
        ),
        post_at=bindparam("at", type_=Instant),
    )
)


def sighted(
    connection: Connection, region_id: str, at: datetime, missing: Collection[str], *, now: datetime
) -> None:
    """A listing of the region that was begun at ``at`` showed every metered instance but ``missing``.

    What was metered only since then can be missing from it and is none the worse for it. A listing whose
    answer took so long that another one, begun later, came before it says nothing more. (One that is later
    than ``now`` is of a clock that was set back, or is ahead of ours; it holds nobody up.)
    """
    region = _LAST.first(connection, {"region_id": region_id})
    last = None if region is None else region[0]
    if last is not None and at < last <= now:
        return
    for ids in _batches(sorted(missing)):
        connection.execute(_MISS, {"ids": ids, "at": at, "last": last})
    waiting = _WAITING.all(connection, {"region_id": region_id})
    for ids in _batches([meter_id for meter_id, instance_id in waiting if instance_id not in missing]):
        connection.execute(_BACK, {"ids": ids})
    _SIGHTED.run(connection, {"id_of_region": region_id, "at": at})


def posted(connection: Connection, instance_id: str, kinds: Collection[MeterKind]) -> datetime | None:
    """Until when the instance's open meters of these kinds are posted at the latest; they are locked."""
    rows = _POSTED.all(connection, {"metered": instance_id, "kinds": [kind.value for kind in kinds]})
    return max((until for (until,) in rows if until is not None), default=None)


def close_meter(
    connection: Connection, instance: Instance, event: Event, at: datetime, ended_at: datetime | None
) -> None:
    """Close the instance's open meter because of ``event``.

    What its owner, time or money ended at ``at`` is billed until then, but not for more than COUNTS_FOR
    after it was last seen running. What was seen to have ended is billed until it was last seen running,
    or until the engine says it ended. Never more than that,
    never beyond ``at``, and never before the meter was opened or what was posted of it, even when the clock
    was set back.
    """
    opened = _METER.first(connection, {"metered": instance.id, "region_id": instance.region_id})
    if opened is None:
        return
    meter_id, opened_at, seen_until, posted_until, seen_at = opened
    until = max(seen for seen in (seen_until or seen_at, ended_at, opened_at) if seen is not None)
    if event not in SEEN_EVENTS and seen_until is None:
        until += COUNTS_FOR
    closes = max(opened_at, posted_until or opened_at, min(until, at))
    _CLOSE.run(connection, {"meter_id": meter_id, "closes": closes})


def close_disk_meter(connection: Connection, instance_id: str, at: datetime) -> None:
    """Close the meter of the instance's data disk, if it has one open; never before what was posted of it."""
    _CLOSE_DISK.run(connection, {"metered": instance_id, "at": at})


def _batches(ids: Sequence[str] | Sequence[int]) -> list[Sequence[str] | Sequence[int]]:
    return [ids[start : start + IDS_MOST] for start in range(0, len(ids), IDS_MOST)]
