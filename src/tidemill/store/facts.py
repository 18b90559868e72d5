"""What is true of the deployment as a whole, kept as named words."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from tidemill.store.schema import facts

DEPLOYMENT = "deployment"  # the label on everything made in an engine
RESTORED_AT = "restored_at"  # RFC 3339; there while nobody has said that what a restore found may go
RESTORE = "restore"  # which restore wrote this database


def get(connection: Connection, name: str) -> str | None:
    return connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar()


def put(connection: Connection, name: str, value: str) -> None:
    written = connection.execute(update(facts).where(facts.c.name == name).values(value=value))
    if written.rowcount == 0:
        connection.execute(insert(facts), {"name": name, "value": value})


def drop(connection: Connection, name: str) -> None:
    connection.execute(delete(facts).where(facts.c.name == name))


def drop_all(connection: Connection, beginning: str) -> None:
    """Drop every fact whose name begins so."""
    connection.execute(delete(facts).where(facts.c.name.startswith(beginning, autoescape=True)))
