"""Instances: reading them, and the one function that changes an instance's state."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    RowMapping,
    Update,
    and_,
    bindparam,
    case,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.sql import ColumnElement

from tidemill.model.errors import Conflict
from tidemill.model.instance import Happening, Instance
from tidemill.model.lifecycle import STATES, Event, Keeps, State, Wanted, frees, move
from tidemill.model.offer import ChargeMode
from tidemill.model.placement import Need
from tidemill.store import reservations
from tidemill.store.schema import events, instances, meters

COLUMNS = tuple(field.name for field in fields(Instance))
_SELECT = select(*(instances.c[name] for name in COLUMNS))
_BY_ID = _SELECT.where(instances.c.id == bindparam("wanted_id"))
_INSERT = insert(instances)
_HOLDING = [state.value for state, row in STATES.items() if row.keeps is not Keeps.NO]
_PASSING = [state.value for state, row in STATES.items() if row.deadline is not None]
_EVENT = insert(events).inline()
_OPEN_METER = insert(meters).inline()


class Stale(Exception):
    """The row changed since it was read: read it again and decide anew."""


def from_row(row: RowMapping) -> Instance:
    values: dict[str, Any] = dict(row)
    values["state"] = State(values["state"])
    values["charge_mode"] = ChargeMode(values["charge_mode"])
    if values["ssh_key_ids"] is not None:
        values["ssh_key_ids"] = tuple(values["ssh_key_ids"])
    return Instance(**values)


def need_of(instance: Instance) -> Need:
    return Need(instance.cpu_milli, instance.memory_mb, instance.gpu_num)


def insert_new(connection: Connection, instance: Instance) -> None:
    """Write a new instance with its reservation and its first event. Raises OutOfStock."""
    values = {name: getattr(instance, name) for name in COLUMNS}
    connection.execute(_INSERT, values)
    reservations.reserve(connection, instance.id, instance.node_id, need_of(instance), instance.gpu_name)
    _write_event(connection, instance, "launch", instance.state, instance.created_at, "", "")


def get(connection: Connection, instance_id: str, *, user_id: str | None = None) -> Instance | None:
    """One instance; None when it is not there, or not ``user_id``'s."""
    row = connection.execute(_BY_ID, {"wanted_id": instance_id}).mappings().first()
    if row is None or (user_id is not None and row["user_id"] != user_id):
        return None
    return from_row(row)


def page(
    connection: Connection,
    user_id: str,
    *,
    offset: int,
    limit: int,
    states: Collection[State] | None = None,
    name: str | None = None,
    region_id: str | None = None,
    include_released: bool = False,
) -> tuple[list[Instance], int]:
    """Instances of a user, newest first, and how many there are in all."""
    conditions: list[ColumnElement[bool]] = [instances.c.user_id == user_id]
    if states is not None:
        conditions.append(instances.c.state.in_([state.value for state in states]))
    elif not include_released:
        conditions.append(instances.c.state != State.RELEASED.value)
    if name is not None:
        conditions.append(instances.c.name.contains(name, autoescape=True))
    if region_id is not None:
        conditions.append(instances.c.region_id == region_id)
    total = connection.execute(select(func.count()).select_from(instances).where(*conditions)).scalar_one()
    rows = connection.execute(
        _SELECT.where(*conditions)
        .order_by(instances.c.created_at.desc(), instances.c.id.desc())
        .offset(offset)
        .limit(limit)
    ).mappings()
    return [from_row(row) for row in rows], total


def in_use(connection: Connection, user_id: str) -> tuple[int, int]:
    """How many instances a user has, and how many GPUs those that may run hold."""
    row = connection.execute(
        select(
            func.count(),
            func.coalesce(func.sum(case((instances.c.state.in_(_HOLDING), instances.c.gpu_num), else_=0)), 0),
        ).where(instances.c.user_id == user_id, instances.c.state != State.RELEASED.value)
    ).one()
    return int(row[0]), int(row[1])


def record(
    connection: Connection,
    instance: Instance,
    event: Event,
    at: datetime,
    *,
    reason: str = "",
    message: str = "",
    not_before: datetime | None = None,
    failures: int | None = None,
) -> Instance:
    """Move ``instance`` by ``event``: the only writer of an instance's state.

    Writes the new state, its event, its reservation and its meter together, on condition that
    nobody changed the row since ``instance`` was read. Returns the instance as it is now; an
    event that changes nothing writes nothing.

    Raises Conflict (no such move), Stale (read again), OutOfStock (no room to start again).
    """
    cell = move(instance.state, event)
    if cell is None:
        raise Conflict(
            f"Cannot {event.value} an instance that is {instance.state.value}", code="stateForbids"
        )
    moved = cell.to is not instance.state or cell.new_start
    released = frees(cell.to, event)
    says = (reason, message) != (instance.reason, instance.message) and bool(reason or message)
    if not moved and not says and not (released and STATES[cell.to].keeps is Keeps.UNTIL_SEEN_STOPPED):
        return instance
    entered = cell.to is not instance.state
    changed = replace(
        instance,
        state=cell.to,
        state_since=at if entered else instance.state_since,
        reason=reason if (moved or says) else instance.reason,
        message=message if (moved or says) else instance.message,
        start=instance.start + 1 if cell.new_start else instance.start,
        not_before=not_before if moved else instance.not_before,
        failures=instance.failures if failures is None else failures,
        progress=None if entered else instance.progress,
        started_at=at if entered and cell.to is State.RUNNING else instance.started_at,
        due_at=None if cell.to is State.RELEASED else at,
    )
    changed = _write(connection, instance, changed)
    if moved or says:
        _write_event(connection, changed, event.value, instance.state, at, reason, message)
    before, after = STATES[instance.state], STATES[cell.to]
    if before.billed and not after.billed:
        _close_meter(connection, instance.id, at)
    if after.billed and not before.billed:
        connection.execute(_OPEN_METER, {"instance_id": instance.id, "start": changed.start, "opened_at": at})
    if released:
        reservations.release(connection, instance.id)
    elif after.wanted is Wanted.RUNNING and before.wanted is not Wanted.RUNNING:
        reservations.reserve_again(
            connection, instance.id, instance.node_id, need_of(instance), instance.gpu_name
        )
    if cell.to is State.RELEASED:
        reservations.release_ports(connection, instance.id)
    return changed


def note(connection: Connection, instance: Instance, **columns: Any) -> Instance:
    """Write what was learned about an instance without moving it.

    ``columns`` may not name the state. Raises Stale.
    """
    if "state" in columns:
        raise ValueError("a state is changed by record() alone")
    return _write(connection, instance, replace(instance, **columns))


def tell(connection: Connection, instance: Instance, at: datetime, happened: str, message: str) -> None:
    """Add a line to the instance's history that is no move."""
    _write_event(connection, instance, happened, instance.state, at, "", message)


@cache
def _update_of(columns: frozenset[str]) -> Update:
    """The guarded update of these columns; few sets of columns ever change together."""
    return (
        update(instances)
        .where(instances.c.id == bindparam("written_id"), instances.c.version == bindparam("seen_version"))
        .values({name: bindparam(f"new_{name}", type_=instances.c[name].type) for name in columns})
    )


def _write(connection: Connection, instance: Instance, changed: Instance) -> Instance:
    changed = replace(changed, version=instance.version + 1)
    columns = frozenset(name for name in COLUMNS if getattr(changed, name) != getattr(instance, name))
    values: dict[str, Any] = {f"new_{name}": getattr(changed, name) for name in columns}
    written = connection.execute(
        _update_of(columns), values | {"written_id": instance.id, "seen_version": instance.version}
    )
    if written.rowcount != 1:
        raise Stale(instance.id)
    return changed


def _write_event(
    connection: Connection,
    instance: Instance,
    event: str,
    before: State,
    at: datetime,
    reason: str,
    message: str,
) -> None:
    connection.execute(
        _EVENT,
        {
            "instance_id": instance.id,
            "user_id": instance.user_id,
            "at": at,
            "event": event,
            "from_state": before.value,
            "to_state": instance.state.value,
            "start": instance.start,
            "reason": reason,
            "message": message,
        },
    )


def _close_meter(connection: Connection, instance_id: str, at: datetime) -> None:
    """Close the open meter; never before it was opened, even when the clock was set back."""
    opened = connection.execute(
        select(meters.c.id, meters.c.opened_at).where(
            meters.c.instance_id == instance_id, meters.c.closed_at.is_(None)
        )
    ).first()
    if opened is not None:
        connection.execute(
            update(meters).where(meters.c.id == opened.id).values(closed_at=max(at, opened.opened_at))
        )


def extend_deadlines(connection: Connection, regions: Sequence[str], at: datetime) -> None:
    """Let the deadline of every state that passes count from ``at``."""
    connection.execute(
        update(instances)
        .where(
            instances.c.region_id.in_(list(regions)),
            instances.c.state.in_(_PASSING),
            instances.c.state_since < at,
        )
        .values(state_since=at, version=instances.c.version + 1, due_at=at)
    )


def awake(connection: Connection, regions: Sequence[str]) -> list[str]:
    """Instances that something is owed to, whenever: a clock that was set back puts due times far away."""
    return list(
        connection.execute(
            select(instances.c.id).where(
                instances.c.region_id.in_(list(regions)), instances.c.due_at.is_not(None)
            )
        ).scalars()
    )


def unreleased(connection: Connection, ids: Collection[str]) -> set[str]:
    """Those of ``ids`` that are instances, in whatever region, and not Released."""
    return set(
        connection.execute(
            select(instances.c.id).where(
                instances.c.id.in_(list(ids)), instances.c.state != State.RELEASED.value
            )
        ).scalars()
    )


def regions_in_use(connection: Connection) -> dict[str, int]:
    """How many instances that are not Released there are, by region id."""
    rows = connection.execute(
        select(instances.c.region_id, func.count())
        .where(instances.c.state != State.RELEASED.value)
        .group_by(instances.c.region_id)
    )
    return {row[0]: row[1] for row in rows}


def wanted(connection: Connection, regions: Sequence[str]) -> dict[str, Wanted]:
    """What is wanted of every instance that is not Released."""
    rows = connection.execute(
        select(instances.c.id, instances.c.state).where(
            instances.c.region_id.in_(list(regions)), instances.c.state != State.RELEASED.value
        )
    )
    return {row.id: STATES[State(row.state)].wanted for row in rows}


def touch_for_user(connection: Connection, user_id: str, at: datetime) -> None:
    """The user's keys changed: have every instance that may be running brought up to date."""
    running = [state.value for state, row in STATES.items() if row.wanted is Wanted.RUNNING]
    connection.execute(
        update(instances)
        .where(and_(instances.c.user_id == user_id, instances.c.state.in_(running)))
        .values(revision=instances.c.revision + 1, version=instances.c.version + 1, due_at=at)
    )


def history(connection: Connection, instance_id: str, *, after: int, limit: int) -> list[Happening]:
    """The instance's events after ``after``, oldest first."""
    rows = connection.execute(
        select(
            events.c.seq,
            events.c.instance_id,
            events.c.at,
            events.c.event,
            events.c.from_state,
            events.c.to_state,
            events.c.start,
            events.c.reason,
            events.c.message,
        )
        .where(events.c.instance_id == instance_id, events.c.seq > after)
        .order_by(events.c.seq)
        .limit(limit)
    ).mappings()
    return [_happening(row) for row in rows]


def _happening(row: RowMapping) -> Happening:
    values: dict[str, Any] = dict(row)
    values["from_state"] = State(values["from_state"])
    values["to_state"] = State(values["to_state"])
    return Happening(**values)
