"""What there is in all, counted: for whoever looks at the deployment as a whole."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, case, func, or_, select

from tidemill.model.lifecycle import State
from tidemill.store.schema import devices, instances, nodes, regions, servers

UNREADABLE = "unreadable"  # for a state that this version does not know
_KNOWN = frozenset(state.value for state in State)


@dataclass(frozen=True, slots=True)
class Census:
    """The deployment in numbers, by region id.

    Attributes:
        instances: (region, type's name, state), without Released ones; a state that this version does not
            know is UNREADABLE.
        servers: how many are there, by role.
        leases: how many leases are held. oldest_due: when the oldest due work became due.
        devices: (region, model, "free" | "held" | "missing").
        cpu_milli, memory_mb: given and in all, of the nodes that are present.
    """

    instances: dict[tuple[str, str, str], int]
    servers: dict[str, int]
    leases: dict[str, int]
    oldest_due: dict[str, datetime]
    devices: dict[tuple[str, str, str], int]
    cpu_milli: dict[str, tuple[int, int]]
    memory_mb: dict[str, tuple[int, int]]


def take(connection: Connection, now: datetime) -> Census:
    """Count everything; reads whole tables, so it is for a thread."""
    counted = Census({}, {}, {}, {}, {}, {}, {})
    for role, many in connection.execute(select(servers.c.role, func.count()).group_by(servers.c.role)):
        counted.servers[role] = many
    for region in connection.execute(select(regions.c.id)).scalars():
        counted.leases[region] = 0
    leased = case((instances.c.leased_to.is_not(None), 1), else_=0)
    for row in connection.execute(
        select(
            instances.c.region_id,
            instances.c.type_name,
            instances.c.state,
            func.count().label("many"),
            func.sum(leased).label("leased"),
            func.min(instances.c.due_at).label("due"),
        )
        .where(instances.c.state != State.RELEASED.value)
        .group_by(instances.c.region_id, instances.c.type_name, instances.c.state)
    ):
        state = row.state if row.state in _KNOWN else UNREADABLE
        place = row.region_id, row.type_name, state
        counted.instances[place] = counted.instances.get(place, 0) + row.many
        counted.leases[row.region_id] = counted.leases.get(row.region_id, 0) + int(row.leased)
        if row.due is not None and row.due <= now:
            counted.oldest_due[row.region_id] = min(row.due, counted.oldest_due.get(row.region_id, row.due))
    _count_nodes(connection, counted)
    return counted


def _count_nodes(connection: Connection, counted: Census) -> None:
    for row in connection.execute(
        select(
            nodes.c.region_id,
            func.sum(nodes.c.cpu_used).label("cpu_used"),
            func.sum(nodes.c.cpu_milli).label("cpu"),
            func.sum(nodes.c.memory_used).label("memory_used"),
            func.sum(nodes.c.memory_mb).label("memory"),
        )
        .where(nodes.c.present)
        .group_by(nodes.c.region_id)
    ):
        counted.cpu_milli[row.region_id] = (int(row.cpu_used), int(row.cpu))
        counted.memory_mb[row.region_id] = (int(row.memory_used), int(row.memory))
    state = case(
        (devices.c.instance_id.is_not(None), "held"),
        (or_(devices.c.present.is_(False), nodes.c.present.is_(False)), "missing"),
        else_="free",
    )
    for region, model, word, many in connection.execute(
        select(nodes.c.region_id, devices.c.name, state, func.count())
        .join(nodes, nodes.c.id == devices.c.node_id)
        .group_by(nodes.c.region_id, devices.c.name, state)
    ):
        counted.devices[region, model, word] = many


def any_instance_ever(connection: Connection) -> bool:
    """Whether this database has ever known an instance; rows are never deleted."""
    return connection.execute(select(instances.c.id).limit(1)).first() is not None


def tenants_with_instances(connection: Connection, user_ids: Collection[str]) -> set[str]:
    """Those of ``user_ids`` who have an instance that is not Released."""
    return set(
        connection.execute(
            select(instances.c.user_id)
            .where(instances.c.user_id.in_(list(user_ids)), instances.c.state != State.RELEASED.value)
            .distinct()
        ).scalars()
    )
