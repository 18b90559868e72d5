"""Which engine the instances of a region are on: one, for all servers that work on them."""

from __future__ import annotations

from sqlalchemy import Connection

from tidemill.model.offer import offer_id
from tidemill.store import facts, servers

NAME = "engine of "  # a fact for each region; an id of ours, because a region's own may be long


def of(connection: Connection, region_id: str) -> str:
    """How the region's engine is called; "" while nobody has said."""
    return facts.get(connection, _fact(region_id)) or ""


def give(connection: Connection, region_id: str, engine: str, *, server_id: str) -> bool:
    """Say which engine a region has; False when it has another one and a server besides ``server_id``."""
    known = of(connection, region_id)
    if known == engine:
        return True
    if known and any(each.role != "api" and each.id != server_id for each in servers.everybody(connection)):
        return False
    facts.put(connection, _fact(region_id), engine)
    return True


def forget_all(connection: Connection) -> None:
    """For a database that is on a machine of its own from now on: a restored one."""
    facts.drop_all(connection, NAME)


def _fact(region_id: str) -> str:
    return NAME + offer_id("region", region_id)
