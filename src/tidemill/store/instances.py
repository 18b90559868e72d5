"""Instances one by one: reading them, and the one function that changes an instance's state."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, insert, select, update

from tidemill.model.errors import Conflict, OutOfStock, Unavailable
from tidemill.model.instance import Happening, Instance
from tidemill.model.lifecycle import STATES, Event, Keeps, State, Wanted, frees, move
from tidemill.model.notice import with_notice
from tidemill.model.offer import ChargeMode
from tidemill.model.placement import Need
from tidemill.store import meters, reservations
from tidemill.store.database import RECORDED
from tidemill.store.prepared import Prepared
from tidemill.store.schema import events, instances

COLUMNS = tuple(field.name for field in fields(Instance))
_SELECT = select(*(instances.c[name] for name in COLUMNS))
_BY_ID = Prepared(_SELECT.where(instances.c.id == bindparam("wanted_id")))
_INSERT = Prepared(insert(instances), columns=COLUMNS)
_EVENT = Prepared(
    insert(events).inline(),
    columns=(
        "instance_id",
        "user_id",
        "at",
        "event",
        "from_state",
        "to_state",
        "start",
        "reason",
        "message",
    ),
)
_AT_ID, _AT_USER, _AT_STATE, _AT_MODE, _AT_KEYS = (
    COLUMNS.index(name) for name in ("id", "user_id", "state", "charge_mode", "ssh_key_ids")
)

APART = timedelta(seconds=5)  # by how much the clocks of servers may differ that share a database


class Unreadable(Unavailable):
    """A row holds what this version does not know: it was edited by hand, or a newer version wrote it."""

    code = "unreadable"


class Stale(Exception):
    """The row changed since it was read: read it again and decide anew."""


def from_row(row: Sequence[Any]) -> Instance:
    """An instance from a row of ``COLUMNS``. Raises Unreadable."""
    values = list(row)
    try:
        values[_AT_STATE] = State(values[_AT_STATE])
        values[_AT_MODE] = ChargeMode(values[_AT_MODE])
    except ValueError as error:
        raise Unreadable(
            f"The instance {values[_AT_ID]} is in a state that the server does not know, and is left alone; "
            "its operator has to see to it (tidemill doctor)",
            detail=str(error),
        ) from None
    if values[_AT_KEYS] is not None:
        values[_AT_KEYS] = tuple(values[_AT_KEYS])
    return Instance(*values)


def readable(rows: Iterable[Sequence[Any]]) -> list[Instance]:
    """Instances from rows of ``COLUMNS``, without those that cannot be read: these are left alone."""
    found: list[Instance] = []
    for row in rows:
        with suppress(Unreadable):
            found.append(from_row(row))
    return found


def need_of(instance: Instance) -> Need:
    return Need(instance.cpu_milli, instance.memory_mb, instance.gpu_num)


def insert_new(connection: Connection, instance: Instance) -> None:
    """Write a new instance with its reservation and its first event.

    Raises Stale when its place was taken since it was chosen.
    """
    values = {name: getattr(instance, name) for name in COLUMNS}
    _INSERT.run(connection, values)
    try:
        reservations.reserve(connection, instance.id, instance.node_id, need_of(instance), instance.gpu_name)
    except OutOfStock:
        raise Stale(instance.node_id) from None
    _write_event(connection, instance, "launch", instance.state, instance.created_at, "", "")


def get(connection: Connection, instance_id: str, *, user_id: str | None = None) -> Instance | None:
    """One instance; None when it is not there, or not ``user_id``'s.

    One that cannot be read is left alone: it is not there for the server itself. Raises Unreadable for its
    ``user_id``.
    """
    row = _BY_ID.first(connection, {"wanted_id": instance_id})
    if row is None or user_id not in {None, row[_AT_USER]}:
        return None
    try:
        return from_row(row)
    except Unreadable:
        if user_id is not None:
            raise
        return None


def by_ids(connection: Connection, instance_ids: Collection[str]) -> dict[str, Instance]:
    """Instances by their ids; of anybody. One that cannot be read is left out."""
    rows = connection.execute(_SELECT.where(instances.c.id.in_(sorted(instance_ids))))
    return {instance.id: instance for instance in readable(rows.all())}


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
    start: int | None = None,
    ended_at: datetime | None = None,
) -> Instance:
    """Move ``instance`` by ``event``: the only writer of an instance's state.

    Writes the new state, its event, its reservation and its meter together, on condition that
    nobody changed the row since ``instance`` was read. Returns the instance as it is now; an
    event that changes nothing writes nothing. ``start`` is the start that the engine is in, where
    the row did not know it; ``ended_at`` is when its process ended, where the engine knows.

    Raises Conflict (no such move), Stale (read again), OutOfStock (no room to start again),
    Unavailable (it came from a backup, and what it is now is not known yet).
    """
    if event is Event.RESTART and instance.restored_from is not None:  # nobody could tell it was done
        raise Unavailable(
            "The server was restored from a backup and has not found this instance yet; try again later",
            code="notFoundYet",
        )
    cell = move(instance.state, event)
    if cell is None:
        raise Conflict(
            f"Cannot {event.value} an instance that is {instance.state.value}", code="stateForbids"
        )
    due, at = at, _not_before(instance.state_since, at)
    posted = meters.posted(connection, instance, cell.to)
    if posted is not None:
        at = _not_before(posted, at)
    moved = cell.to is not instance.state or cell.new_start
    released = frees(cell.to, event) and not (
        instance.in_term(at) and STATES[cell.to].wanted is Wanted.STOPPED
    )
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
        start=instance.start + 1 if cell.new_start else (start or instance.start),
        not_before=not_before if moved else instance.not_before,
        failures=instance.failures if failures is None else failures,
        progress=None if entered else instance.progress,
        started_at=at if entered and cell.to is State.RUNNING else instance.started_at,
        due_at=None if cell.to is State.RELEASED else due,
        restored_from=None if moved else instance.restored_from,
        stop_at=instance.stop_at if STATES[cell.to].wanted is Wanted.RUNNING else None,
    )
    begins = STATES[cell.to].wanted is Wanted.RUNNING and STATES[instance.state].wanted is not Wanted.RUNNING
    if begins and instance.notices:  # they were of the time before it was stopped
        changed = replace(changed, notices=(), revision=instance.revision + 1)
    if entered and cell.to is State.RUNNING:
        changed = meters.began(connection, changed, at)
    if entered and cell.to is State.ARCHIVED:
        changed = replace(changed, timer_at=at)
    changed = _write(connection, instance, changed)
    if moved or says:
        _write_event(connection, changed, event.value, instance.state, at, reason, message)
    meters.follow(connection, instance, changed, event, at, ended_at)
    if released:
        reservations.release(connection, instance.id)
    elif event is Event.ADOPTED:
        reservations.take_what_it_has(
            connection, instance.id, instance.node_id, need_of(instance), instance.gpu_name
        )
    elif begins:
        reservations.reserve_again(
            connection, instance.id, instance.node_id, need_of(instance), instance.gpu_name
        )
    if cell.to is State.RELEASED:
        reservations.release_ports(connection, instance.id)
    return changed


def _not_before(before: datetime, at: datetime) -> datetime:
    """``at``, or ``before`` when another server wrote that by a clock a little ahead of this one's.

    So a history does not go back in time, and no second is on two meters: what follows a meter begins where
    that ended, which is never before what was posted of it.
    """
    return before if at < before <= at + APART else at


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


def announce(
    connection: Connection, instance: Instance, at: datetime, kind: str, text: str | None
) -> Instance:
    """Have whoever is inside know ``text``, or that nothing of ``kind`` holds any more (None).

    Writes nothing where it is so already. Raises Stale.
    """
    notices = with_notice(instance.notices, kind, text, at)
    if notices == instance.notices:
        return instance
    return note(connection, instance, notices=notices, revision=instance.revision + 1, due_at=at)


@cache
def _update_of(columns: frozenset[str]) -> Prepared:
    """The guarded update of these columns; few sets of columns ever change together."""
    return Prepared(
        update(instances)
        .where(instances.c.id == bindparam("written_id"), instances.c.version == bindparam("seen_version"))
        .values({name: bindparam(f"new_{name}", type_=instances.c[name].type) for name in sorted(columns)})
    )


def _write(connection: Connection, instance: Instance, changed: Instance) -> Instance:
    changed = replace(changed, version=instance.version + 1)
    columns = frozenset(name for name in COLUMNS if getattr(changed, name) != getattr(instance, name))
    values: dict[str, Any] = {f"new_{name}": getattr(changed, name) for name in columns}
    values |= {"written_id": instance.id, "seen_version": instance.version}
    if _update_of(columns).run(connection, values) != 1:
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
    connection.info[RECORDED] = True
    _EVENT.run(
        connection,
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
