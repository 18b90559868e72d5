"""What the tables can say against themselves: rows that contradict each other, and work nobody does.

Each question is one statement that returns only what is wrong, so that it costs little however large
the deployment. Whoever writes keeps all of this true in every transaction; what is found here came from
a defect, from somebody's hand, or from a damaged file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, bindparam, case, exists, false, func, or_, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import ColumnElement

from tidemill.model.lifecycle import STATES, Keeps, State, Wanted
from tidemill.model.offer import ChargeMode
from tidemill.store.schema import (
    Instant,
    devices,
    events,
    instances,
    metadata,
    meters,
    node_ports,
    nodes,
    reservations,
)

MOST = 200  # rows of one kind that are named
DAMAGE_MOST = 20  # of what the file itself says

_RELEASED = State.RELEASED.value
_NOT_KEEPING = [state.value for state, row in STATES.items() if row.keeps is Keeps.NO]
_RUNNING = [state.value for state, row in STATES.items() if row.wanted is Wanted.RUNNING]
_PASSING = [state.value for state, row in STATES.items() if row.deadline is not None]
_KNOWN = [state.value for state in State]
_MODES = [mode.value for mode in ChargeMode]
_BILLED = [state.value for state, row in STATES.items() if row.billed]


@dataclass(frozen=True, slots=True)
class Sums:
    """A node whose count of what it gave differs from what is written down as given."""

    node_id: str
    node: str
    region_id: str
    cpu_says: int
    cpu_is: int
    memory_says: int
    memory_is: int


@dataclass(frozen=True, slots=True)
class Late:
    """An instance that is in a passing state for longer than that may last."""

    instance_id: str
    region_id: str
    state: State
    since: datetime
    told: bool  # it says so itself already, and is still being tried


@dataclass(frozen=True, slots=True)
class Held:
    """A device, and who holds it: an instance in ``state``, or something that is none.

    The state is None for what is no instance, and for an instance that cannot be read. ``in_term`` says
    that it is kept for a term that was bought in advance.
    """

    region_id: str
    node: str
    device: str
    model: str
    holder: str
    is_instance: bool
    state: State | None
    in_term: bool


@dataclass(frozen=True, slots=True)
class Row:
    """What of an instance is compared with an engine."""

    instance_id: str
    state: State
    start: int


def integrity(connection: Connection) -> list[str]:
    """What SQLite finds wrong with its own file; PostgreSQL looks after itself."""
    if connection.dialect.name != "sqlite":
        return []
    found = [str(row[0]) for row in connection.execute(text(f"PRAGMA integrity_check({DAMAGE_MOST})"))]
    found = [line for line in found if line != "ok"]
    astray = sorted({tuple(row[:3]) for row in connection.execute(text("PRAGMA foreign_key_check"))}, key=str)
    found += [
        f"the row of {table} with {_key_of(connection, table, rowid)} refers to a row of {parent} that is "
        "not there"
        for table, rowid, parent in astray[:DAMAGE_MOST]
    ]
    if len(astray) > DAMAGE_MOST:
        found.append(f"{len(astray) - DAMAGE_MOST} more rows refer to rows that are not there")
    return found


def _key_of(connection: Connection, table: str, rowid: int | None) -> str:
    """A row's primary key in words; its rowid where that cannot be read."""
    keys = list(metadata.tables[table].primary_key.columns) if table in metadata.tables else []
    row = None
    if keys and rowid is not None:
        wanted = select(*keys).where(text("rowid = :row")).params(row=rowid)
        with suppress(SQLAlchemyError):
            row = connection.execute(wanted).first()
    if row is None:
        return f"rowid {rowid}"
    return " and ".join(f"{key.name} {value}" for key, value in zip(keys, row, strict=True))


def unreadable(connection: Connection) -> list[tuple[str, str, str]]:
    """Instances that this version cannot read: id, the word that it does not know, the last known state."""
    last = (
        select(events.c.to_state)
        .where(events.c.instance_id == instances.c.id, events.c.to_state.in_(_KNOWN))
        .order_by(events.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(instances.c.id, instances.c.state, instances.c.charge_mode, last.label("last"))
        .where(or_(instances.c.state.not_in(_KNOWN), instances.c.charge_mode.not_in(_MODES)))
        .order_by(instances.c.id)
        .limit(MOST)
    )
    return [
        (row.id, row.charge_mode if row.state in _KNOWN else row.state, row.last or "Stopped") for row in rows
    ]


def clock_of(connection: Connection) -> datetime | None:
    """The database's own clock; None for one that has none of its own."""
    if connection.dialect.name == "sqlite":
        return None
    return connection.execute(select(func.clock_timestamp())).scalar_one()


def wrong_sums(connection: Connection) -> list[Sums]:
    """Nodes whose sums are not those of their reservations."""
    given = (
        select(
            reservations.c.node_id,
            func.sum(reservations.c.cpu_milli).label("cpu"),
            func.sum(reservations.c.memory_mb).label("memory"),
        )
        .group_by(reservations.c.node_id)
        .subquery()
    )
    cpu, memory = func.coalesce(given.c.cpu, 0), func.coalesce(given.c.memory, 0)
    rows = connection.execute(
        select(
            nodes.c.id, nodes.c.name, nodes.c.region_id, nodes.c.cpu_used, cpu, nodes.c.memory_used, memory
        )
        .outerjoin(given, given.c.node_id == nodes.c.id)
        .where(or_(nodes.c.cpu_used != cpu, nodes.c.memory_used != memory))
        .limit(MOST)
    )
    return [Sums(row[0], row[1], row[2], row[3], int(row[4]), row[5], int(row[6])) for row in rows]


def count_anew(connection: Connection, node_id: str) -> None:
    """Make a node's sums those of its reservations.

    The node's row is locked before its reservations are read, as whoever changes them does: what is
    not committed by then adds or takes its own part afterwards.
    """
    connection.execute(select(nodes.c.id).where(nodes.c.id == node_id).with_for_update())
    row = connection.execute(
        select(
            func.coalesce(func.sum(reservations.c.cpu_milli), 0),
            func.coalesce(func.sum(reservations.c.memory_mb), 0),
        ).where(reservations.c.node_id == node_id)
    ).one()
    connection.execute(
        update(nodes).where(nodes.c.id == node_id).values(cpu_used=int(row[0]), memory_used=int(row[1]))
    )


def shares_without_need(connection: Connection, now: datetime) -> list[tuple[str, State]]:
    """Instances that keep a share of a node in a state in which they may not."""
    rows = connection.execute(
        select(instances.c.id, instances.c.state)
        .join(reservations, reservations.c.instance_id == instances.c.id)
        .where(instances.c.state.in_(_NOT_KEEPING), ~_in_term(now))
        .limit(MOST)
    )
    return [(row.id, State(row.state)) for row in rows]


def _in_term(now: datetime) -> ColumnElement[bool]:
    """Whether a term that was bought in advance lasts: its devices are kept through a stop."""
    return func.coalesce(instances.c.term_ends_at > bindparam("now", now, Instant), false())


def need_without_share(connection: Connection) -> list[tuple[str, State]]:
    """Instances that are to run and have no share of a node, so that it may be given to others."""
    has = exists().where(reservations.c.instance_id == instances.c.id)
    rows = connection.execute(
        select(instances.c.id, instances.c.state).where(instances.c.state.in_(_RUNNING), ~has).limit(MOST)
    )
    return [(row.id, State(row.state)) for row in rows]


def held_devices(connection: Connection, now: datetime) -> list[Held]:
    """Every device that somebody holds."""
    rows = connection.execute(
        select(
            nodes.c.region_id,
            nodes.c.name.label("node"),
            devices.c.device_id,
            devices.c.name.label("model"),
            devices.c.instance_id,
            instances.c.state,
            _in_term(now).label("in_term"),
        )
        .join(nodes, nodes.c.id == devices.c.node_id)
        .outerjoin(instances, instances.c.id == devices.c.instance_id)
        .where(devices.c.instance_id.is_not(None))
        .order_by(nodes.c.region_id, nodes.c.name, devices.c.device_id)
    )
    return [
        Held(
            row.region_id,
            row.node,
            row.device_id,
            row.model,
            row.instance_id,
            row.state is not None,
            State(row.state) if row.state in _KNOWN else None,
            bool(row.in_term),
        )
        for row in rows
    ]


def holders_of(connection: Connection, region_id: str) -> dict[str, str]:
    """Who holds the devices of a region's machines that are there, by device."""
    rows = connection.execute(
        select(devices.c.device_id, devices.c.instance_id)
        .join(nodes, nodes.c.id == devices.c.node_id)
        .where(nodes.c.region_id == region_id, nodes.c.present, devices.c.instance_id.is_not(None))
    )
    return {row.device_id: row.instance_id for row in rows}


def rows_of(connection: Connection, region_id: str) -> list[Row]:
    """Every instance of a region that is not Released and can be read."""
    rows = connection.execute(
        select(instances.c.id, instances.c.state, instances.c.start).where(
            instances.c.region_id == region_id,
            instances.c.state != _RELEASED,
            instances.c.state.in_(_KNOWN),
        )
    )
    return [Row(row.id, State(row.state), row.start) for row in rows]


def wrong_device_counts(connection: Connection) -> list[tuple[str, int, int]]:
    """Instances with a share of a node and more or fewer devices than they have: id, has, should have."""
    held = (
        select(devices.c.instance_id, func.count().label("many"))
        .where(devices.c.instance_id.is_not(None))
        .group_by(devices.c.instance_id)
        .subquery()
    )
    many = func.coalesce(held.c.many, 0)
    rows = connection.execute(
        select(instances.c.id, many, instances.c.gpu_num)
        .join(reservations, reservations.c.instance_id == instances.c.id)
        .outerjoin(held, held.c.instance_id == instances.c.id)
        .where(many != instances.c.gpu_num)
        .limit(MOST)
    )
    return [(row[0], int(row[1]), row[2]) for row in rows]


def ports_of_nobody(connection: Connection) -> list[tuple[int, str]]:
    """Node ports that are kept for what is Released: port and instance."""
    rows = connection.execute(
        select(node_ports.c.node_port, node_ports.c.instance_id)
        .join(instances, instances.c.id == node_ports.c.instance_id)
        .where(instances.c.state == _RELEASED)
        .limit(MOST)
    )
    return [(row.node_port, row.instance_id) for row in rows]


def given_ports(connection: Connection, region_id: str) -> set[int]:
    """Node ports of a region that belong to instances."""
    return set(
        connection.execute(
            select(node_ports.c.node_port)
            .join(nodes, nodes.c.id == node_ports.c.node_id)
            .where(nodes.c.region_id == region_id)
        ).scalars()
    )


def ports_in(connection: Connection, region_id: str) -> dict[str, frozenset[tuple[int, int]]]:
    """Ports of a region's instances, by instance: each as the port inside and the node port."""
    found: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    for id, port, node_port in connection.execute(
        select(node_ports.c.instance_id, node_ports.c.port, node_ports.c.node_port)
        .join(nodes, nodes.c.id == node_ports.c.node_id)
        .where(nodes.c.region_id == region_id)
    ):
        found[id].add((port, node_port))
    return {id: frozenset(ports) for id, ports in found.items()}


def wrong_meters(connection: Connection) -> list[tuple[str, State, bool]]:
    """Instances that are billed without an open meter, or the other way round; True: a meter is open."""
    runs = exists().where(
        meters.c.instance_id == instances.c.id, meters.c.kind == "compute", meters.c.closed_at.is_(None)
    )
    billed = instances.c.state.in_(_BILLED)
    rows = connection.execute(
        select(instances.c.id, instances.c.state, case((runs, True), else_=False).label("is_open"))
        .where(or_(and_(billed, ~runs), and_(~billed, runs)), instances.c.state.in_(_KNOWN))
        .limit(MOST)
    )
    return [(row.id, State(row.state), bool(row.is_open)) for row in rows]


def forgotten(connection: Connection) -> list[tuple[str, State]]:
    """Instances in a passing state that nobody is to look at again, and that nobody works on."""
    rows = connection.execute(
        select(instances.c.id, instances.c.state)
        .where(instances.c.state.in_(_PASSING), instances.c.due_at.is_(None), instances.c.leased_to.is_(None))
        .limit(MOST)
    )
    return [(row.id, State(row.state)) for row in rows]


def late(connection: Connection, now: datetime, allowed: Mapping[State, timedelta]) -> list[Late]:
    """Instances that have been passing for longer than ``allowed`` for their state."""
    over = or_(
        false(),
        *(
            and_(instances.c.state == state.value, instances.c.state_since < now - most)
            for state, most in allowed.items()
        ),
    )
    rows = connection.execute(
        select(
            instances.c.id,
            instances.c.region_id,
            instances.c.state,
            instances.c.state_since,
            instances.c.reason,
        )
        .where(over)
        .order_by(instances.c.state_since)
        .limit(MOST)
    )
    return [
        Late(row.id, row.region_id, State(row.state), row.state_since, row.reason == "Overdue")
        for row in rows
    ]


def overdue_work(connection: Connection, before: datetime) -> dict[str, int]:
    """By region, how many instances were due before that and are still not looked at."""
    rows = connection.execute(
        select(instances.c.region_id, func.count())
        .where(instances.c.due_at < before, instances.c.leased_to.is_(None))
        .group_by(instances.c.region_id)
    )
    return {row[0]: row[1] for row in rows}


def ring(connection: Connection, instance_ids: Collection[str], at: datetime) -> int:
    """Have the loop look at these; returns at how many."""
    rung = 0
    ids = sorted(instance_ids)
    for first in range(0, len(ids), MOST):
        rung += connection.execute(
            update(instances)
            .where(
                instances.c.id.in_(ids[first : first + MOST]),
                instances.c.state != _RELEASED,
                or_(instances.c.due_at.is_(None), instances.c.due_at > at),
            )
            .values(due_at=at)
        ).rowcount
    return rung


def leased_to_nobody(connection: Connection, alive: Collection[str]) -> dict[str, int]:
    """How many leases are held by servers that give no sign of life, by server."""
    rows = connection.execute(
        select(instances.c.leased_to, func.count())
        .where(instances.c.leased_to.is_not(None), instances.c.leased_to.not_in(list(alive)))
        .group_by(instances.c.leased_to)
    )
    return {row[0]: row[1] for row in rows}
