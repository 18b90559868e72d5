"""Events of all instances in one order that nobody has to go back in.

An event gets its number when it is written and is seen when that is committed. SQLite has one writer, and
there the two are the same order. On PostgreSQL a number may become visible after higher ones, and one that
is missing may be on its way or was rolled back. Whoever could still fill a gap holds a lock on the table
since before they drew the number and until it can be seen: while none of those who held it when the gap was
seen does so any more, the gap stays one. What :class:`tidemill.actions.news.News` makes of that is how far
everything is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, text

from tidemill.model.instance import Happening
from tidemill.model.lifecycle import State
from tidemill.store.prepared import Prepared
from tidemill.store.schema import events, instances

_NEWEST = Prepared(select(func.coalesce(func.max(events.c.seq), 0)))
_AFTER = Prepared(
    select(events.c.seq, events.c.user_id)
    .where(events.c.seq > bindparam("after"))
    .order_by(events.c.seq)
    .limit(bindparam("most"))
)
_HAPPENING = tuple(
    events.c[name]
    for name in (
        *("seq", "instance_id", "at", "event", "from_state", "to_state", "start", "reason", "message"),
    )
)
_OF_USER = (
    select(*_HAPPENING, instances.c.name)
    .join_from(events, instances, instances.c.id == events.c.instance_id)
    .where(
        events.c.user_id == bindparam("of_user"),
        events.c.seq > bindparam("after"),
        events.c.seq <= bindparam("until"),
    )
    .order_by(events.c.seq)
    .limit(bindparam("most"))
)
_ALL_OF_USER = Prepared(_OF_USER)
_OF_INSTANCE = Prepared(_OF_USER.where(events.c.instance_id == bindparam("of_instance")))
_WRITERS = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' "
    "AND granted AND relation = to_regclass('events')::oid "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened to an instance, with the name that its owner knows it by."""

    happening: Happening
    instance_name: str


def newest(connection: Connection) -> int:
    """The highest number that can be seen; 0 where nothing happened yet."""
    row = _NEWEST.first(connection, {})
    return 0 if row is None else int(row[0])


def after(connection: Connection, seq: int, most: int) -> list[tuple[int, str]]:
    """The numbers after ``seq`` that can be seen, in order, each with its user's id."""
    return [(row[0], row[1]) for row in _AFTER.all(connection, {"after": seq, "most": most})]


def writers(connection: Connection) -> frozenset[str]:
    """Every transaction that may have drawn a number which cannot be seen yet, by a name of its own."""
    if connection.dialect.name == "sqlite":
        return frozenset()
    return frozenset(connection.execute(_WRITERS).scalars())


def of_user(
    connection: Connection, user_id: str, *, after: int, until: int, most: int, instance_id: str | None
) -> tuple[list[Change], int]:
    """What happened to the user's instances (or to one) from after ``after`` to ``until``, oldest first.

    With the number up to which that is all: ``until``, or less when there are more than ``most``. One whose
    state is a word that this version does not know is left out.
    """
    given: dict[str, Any] = {"of_user": user_id, "after": after, "until": until, "most": most}
    if instance_id is None:
        rows = _ALL_OF_USER.all(connection, given)
    else:
        rows = _OF_INSTANCE.all(connection, {**given, "of_instance": instance_id})
    found: list[Change] = []
    for seq, of, at, event, before, to, start, reason, message, name in rows:
        try:
            states = State(before), State(to)
        except ValueError:
            continue
        found.append(Change(Happening(seq, of, at, event, *states, start, reason, message), name))
    return found, (rows[-1][0] if len(rows) == most else until)
