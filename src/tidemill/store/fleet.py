"""Instances by the many: lists and counts of them, and what is written to a lot of them without a move."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, and_, bindparam, case, func, select, text, update
from sqlalchemy.sql import ColumnElement

from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Keeps, State, Wanted
from tidemill.store.instances import COLUMNS, readable
from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import Instant, instances

_SELECT = select(*(instances.c[name] for name in COLUMNS))
_HOLDING = [state.value for state, row in STATES.items() if row.keeps is not Keeps.NO]
_RUNNING = [state.value for state, row in STATES.items() if row.wanted is Wanted.RUNNING]
_PASSING = [state.value for state, row in STATES.items() if row.deadline is not None]
_RELEASED_AND_DUE = Prepared(
    select(instances.c.id).where(
        instances.c.region_id == bindparam("here"),
        instances.c.state == State.RELEASED.value,
        text("instances.due_at >= 0"),  # whenever: a range of its own index, which few rows are in
    )
)
_STANDINGS = Prepared(
    select(
        instances.c.id,
        instances.c.state,
        instances.c.start,
        instances.c.init_exit,
        and_(
            instances.c.due_at.is_(None),
            instances.c.restored_from.is_(None),
            instances.c.applied_revision >= instances.c.revision,
        ).label("rests"),
    ).where(instances.c.region_id == bindparam("here"), instances.c.state != State.RELEASED.value)
)
_TIMERS = Prepared(
    select(instances.c.id)
    .where(instances.c.timer_at <= bindparam("now", type_=Instant))
    .order_by(instances.c.timer_at, instances.c.id)
    .limit(bindparam("most"))
)
_ARCHIVED = Prepared(
    _SELECT.where(
        instances.c.user_id == bindparam("of_user"), instances.c.state == State.ARCHIVED.value
    ).order_by(instances.c.id)
)
_TO_RUN = Prepared(
    _SELECT.where(instances.c.user_id == bindparam("of_user"), among(instances.c.state, "states")).order_by(
        instances.c.id
    )
)
_KNOWN = {state.value: state for state in State}


class Standing(NamedTuple):
    """Where an instance stands: what of its row is compared with a listing of everything.

    ``rests`` says that nothing is owed to it by the row alone: it is not due, whenever; its user's keys were
    given; and it does not come from a backup that was not compared with the engine yet.
    """

    id: str
    state: State
    start: int
    init_exit: int | None
    rests: bool


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
    """Instances of a user, newest first, and how many there are in all, with those that cannot be read."""
    conditions: list[ColumnElement[bool]] = [instances.c.user_id == user_id]
    if states is not None:
        conditions.append(instances.c.state.in_([state.value for state in states]))
    elif not include_released:
        conditions.append(instances.c.state != State.RELEASED.value)
    if name is not None:
        conditions.append(_folded(connection).contains(_lowered(name), autoescape=True))
    if region_id is not None:
        conditions.append(instances.c.region_id == region_id)
    total = connection.execute(select(func.count()).select_from(instances).where(*conditions)).scalar_one()
    rows = connection.execute(
        _SELECT.where(*conditions)
        .order_by(instances.c.created_at.desc(), instances.c.id.desc())
        .offset(offset)
        .limit(limit)
    )
    return readable(rows.all()), total


def timers(connection: Connection, now: datetime, limit: int) -> list[str]:
    """Ids of instances that time has something to do for now, the longest due first."""
    return [row[0] for row in _TIMERS.all(connection, {"now": now, "most": limit})]


def archived(connection: Connection, user_id: str) -> list[Instance]:
    """The user's instances whose data is kept though there is no money."""
    return readable(_ARCHIVED.all(connection, {"of_user": user_id}))


def to_run(connection: Connection, user_id: str) -> list[Instance]:
    """The user's instances that run or are to."""
    return readable(_TO_RUN.all(connection, {"of_user": user_id, "states": _RUNNING}))


def in_use(connection: Connection, user_id: str) -> tuple[int, int]:
    """How many instances a user has, and how many GPUs those that may run hold."""
    row = connection.execute(
        select(
            func.count(),
            func.coalesce(func.sum(case((instances.c.state.in_(_HOLDING), instances.c.gpu_num), else_=0)), 0),
        ).where(instances.c.user_id == user_id, instances.c.state != State.RELEASED.value)
    ).one()
    return int(row[0]), int(row[1])


def standings(connection: Connection, region_id: str) -> tuple[list[Standing], dict[str, str]]:
    """Every instance of the region that is not Released, as it stands; a hundred thousand take their time.

    Beside them those that cannot be read, with the word that their state is.
    """
    found: list[Standing] = []
    unreadable: dict[str, str] = {}
    for id, word, start, init_exit, rests in _STANDINGS.all(connection, {"here": region_id}):
        state = _KNOWN.get(word)
        if state is None:
            unreadable[id] = word
        else:
            found.append(Standing(id, state, start, init_exit, bool(rests)))
    return found, unreadable


def released_and_due(connection: Connection, region_id: str) -> list[str]:
    """Ids of instances of the region that are Released and are to be looked at once more, whenever."""
    return [row[0] for row in _RELEASED_AND_DUE.all(connection, {"here": region_id})]


def unreleased(connection: Connection, ids: Collection[str]) -> set[str]:
    """Those of ``ids`` that are instances, in whatever region, and not Released."""
    return set(
        connection.execute(
            select(instances.c.id).where(
                instances.c.id.in_(list(ids)), instances.c.state != State.RELEASED.value
            )
        ).scalars()
    )


def ids_of_region(connection: Connection, region_id: str) -> list[str]:
    """Every instance of the region that is not Released."""
    unreleased = instances.c.state != State.RELEASED.value
    return list(
        connection.execute(
            select(instances.c.id).where(instances.c.region_id == region_id, unreleased)
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


def extend_deadlines(connection: Connection, regions: Sequence[str], at: datetime) -> None:
    """Let the deadline of every state that passes count from ``at``."""
    connection.execute(
        update(instances)
        .where(
            _in_turn(
                instances.c.region_id.in_(list(regions)),
                instances.c.state.in_(_PASSING),
                instances.c.state_since < at,
            )
        )
        .values(state_since=at, version=instances.c.version + 1, due_at=at)
    )


def touch_for_user(connection: Connection, user_id: str, at: datetime) -> None:
    """The user's keys changed: have every instance that may be running brought up to date."""
    connection.execute(
        update(instances)
        .where(_in_turn(instances.c.user_id == user_id, instances.c.state.in_(_RUNNING)))
        .values(revision=instances.c.revision + 1, version=instances.c.version + 1, due_at=at)
    )


def _in_turn(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Many rows, taken by everybody in the same order: two who want the same wait, but not in a circle."""
    chosen = select(instances.c.id).where(*conditions).order_by(instances.c.id).with_for_update()
    return instances.c.id.in_(chosen)


def _folded(connection: Connection) -> ColumnElement[str]:
    """Names with A to Z as a to z and every other letter as it is: the same on both databases."""
    name = instances.c.name
    return func.lower(name.collate("C") if connection.dialect.name == "postgresql" else name)


def _lowered(name: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)
