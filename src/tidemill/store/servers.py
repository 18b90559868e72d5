"""The servers of one deployment: each says at intervals that it lives; who falls silent is buried.

A lease names the server that works on an instance (``instances.leased_to``, a foreign key), and ends
with its server: burying one and ending its leases is one transaction, and nobody can hold a lease who is
not here. A sign of life is a count that goes up: whoever watches judges by its own monotonic clock how
long it stood still, and no two clocks are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import Instant, instances, servers


@dataclass(frozen=True, slots=True)
class Server:
    """One life of one server process.

    Attributes:
        id: whom its leases name.
        place: the data folder it holds for itself alone; "" when it holds none.
        role, address: for people who look after it.
        token_keys: which keys it verifies access tokens with; the last one signs.
        seen_at: when it gave its last sign of life, by its own clock: for people.
        beats: goes up with every sign of life.
    """

    id: str
    place: str
    role: str
    address: str
    token_keys: tuple[str, ...]
    started_at: datetime
    seen_at: datetime
    beats: int = 0


_BEAT = Prepared(
    update(servers)
    .where(servers.c.id == bindparam("server_id"))
    .values(beats=servers.c.beats + 1, seen_at=bindparam("said_at", type_=Instant))
)
_EVERYBODY = Prepared(
    select(*(servers.c[field.name] for field in fields(Server))).order_by(servers.c.started_at, servers.c.id)
)


_JOIN = Prepared(insert(servers), columns=[field.name for field in fields(Server)])
# Locked first: a claim that is under way ends before it, a later one finds nobody to lease to.
_ALL = select(servers.c.id).with_for_update()
_EACH = Prepared(_ALL)
_ONE = Prepared(_ALL.where(servers.c.id == bindparam("server_id")))
_SILENT = Prepared(_ALL.where(servers.c.id == bindparam("server_id"), servers.c.beats == bindparam("heard")))
_THERE = Prepared(_ALL.where(servers.c.place == bindparam("there")))
_LET_GO = Prepared(
    update(instances)
    .where(among(instances.c.leased_to, "ids"))
    .values(leased_to=None, due_at=bindparam("at", type_=Instant))
)
_GONE = Prepared(delete(servers).where(among(servers.c.id, "ids")))


def join(connection: Connection, server: Server) -> None:
    """Begin to be there."""
    leave(connection, server.id, server.started_at)  # an earlier call whose answer was lost
    _JOIN.run(connection, asdict(server) | {"token_keys": list(server.token_keys)})


def beat(connection: Connection, server_id: str, at: datetime) -> bool:
    """Give a sign of life; False for one that was buried."""
    return _BEAT.run(connection, {"server_id": server_id, "said_at": at}) == 1


def everybody(connection: Connection) -> list[Server]:
    """All that are there, also those that fell silent and are not buried yet."""
    return [
        Server(id, place, role, address, tuple(token_keys), started_at, seen_at, beats)
        for id, place, role, address, token_keys, started_at, seen_at, beats in _EVERYBODY.all(connection, {})
    ]


def leave(connection: Connection, server_id: str, at: datetime) -> None:
    """Stop being there: all its leases end, and what it worked on is due at once."""
    _end(connection, _ONE.all(connection, {"server_id": server_id}), at)


def bury(connection: Connection, silent: Server, at: datetime) -> bool:
    """The same for another one, unless it has given a sign of life since ``silent`` was read."""
    same = {"server_id": silent.id, "heard": silent.beats}
    return _end(connection, _SILENT.all(connection, same), at)


def bury_all(connection: Connection, at: datetime) -> None:
    """The same for everybody: for whoever knows that nobody else can be there."""
    _end(connection, _EACH.all(connection, {}), at)


def bury_those_at(connection: Connection, place: str, at: datetime) -> None:
    """The same for whoever was at ``place``: for whoever holds that place now."""
    _end(connection, _THERE.all(connection, {"there": place}), at)


def _end(connection: Connection, locked: Sequence[Sequence[Any]], at: datetime) -> bool:
    if not locked:
        return False
    ids = [row[0] for row in locked]
    # Whatever they had noticed, only they knew: everything is to be looked at again.
    _LET_GO.run(connection, {"ids": ids, "at": at})
    _GONE.run(connection, {"ids": ids})
    return True
