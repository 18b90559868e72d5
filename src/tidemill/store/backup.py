"""A database as rows that belong to no product: read in one transaction, written in one transaction.

The tables are those of a revision of the schema, not those of this version: what an older version
wrote is loaded into its own tables and migrated from there, the way its database would have been.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    create_engine,
    event,
    func,
    insert,
    inspect,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tidemill.model.errors import Misconfigured
from tidemill.model.lifecycle import STATES, State
from tidemill.store import engines, facts, schema, servers
from tidemill.store.migrate import VERSIONS, revision_of, upgrade
from tidemill.store.sqlite import Begin, open_engine
from tidemill.store.trouble import is_trouble, refusal, unavailable

READ_AT_ONCE = 500
GOING_TENTHS = 20  # tenths of a second that a connection that was closed may still be seen
SKIPPED = 1_000_000  # more than anybody changes a password, keys or signs out between two restores

_KINDS = {JSON: "json", LargeBinary: "bytes", Boolean: "boolean", Integer: "integer", Numeric: "number"}


@cache
def tables_of(revision: str) -> Sequence[Table]:
    """The tables of a revision, those first that others refer to, with types that no product owns."""
    made = MetaData()

    @event.listens_for(made, "column_reflect")
    def _generic(_inspector: Any, _table: Any, column: Any) -> None:
        column["type"] = column["type"].as_generic()

    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            upgrade(connection, revision)
            made.reflect(connection)
    finally:
        engine.dispose()
    return [table for table in made.sorted_tables if table.name != VERSIONS]


def columns_of(table: Table) -> Mapping[str, str]:
    """The columns of a table, with the kind of value that each holds."""
    return {
        column.name: next((kind for base, kind in _KINDS.items() if isinstance(column.type, base)), "text")
        for column in table.columns
    }


@contextmanager
def snapshot(url: URL) -> Generator[Connection]:
    """A connection that sees the database as it is at one instant, and holds up no writer.

    Raises Unavailable when the database gives no answer.
    """
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with _long_transaction(url, "BEGIN", options) as connection:
        yield connection


@contextmanager
def one_transaction(url: URL) -> Generator[Connection]:
    """A connection whose work is committed at the end, all of it or nothing. Raises Unavailable."""
    with _long_transaction(url, "BEGIN IMMEDIATE", {"isolation_level": "READ COMMITTED"}) as connection:
        yield connection


@contextmanager
def _long_transaction(url: URL, on_sqlite: Begin, on_postgresql: Mapping[str, Any]) -> Generator[Connection]:
    """One transaction that may take as long as there is much, on a connection of its own."""
    if url.get_backend_name() == "sqlite":
        engine = open_engine(url, on_sqlite)
    else:
        engine = create_engine(url, execution_options=dict(on_postgresql), hide_parameters=True)
        event.listen(engine, "connect", _take_time)
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        if is_trouble(error):
            raise refusal(error, url) or unavailable(error) from error
        raise
    finally:
        engine.dispose()


def _take_time(connection: Any, _record: Any) -> None:
    """Nothing but a lock that somebody keeps ends a transaction that takes long."""
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        cursor.execute("SET idle_in_transaction_session_timeout = 0")
        cursor.execute("SET lock_timeout = '10s'")
    connection.commit()


def revision(connection: Connection) -> str:
    """Which schema there is to be read. Raises Misconfigured where there is none."""
    found = revision_of(connection)
    if found is None:
        raise Misconfigured("The database is empty; `tidemill init` makes a deployment")
    return found


def read(connection: Connection, table: Table) -> Iterator[Mapping[str, Any]]:
    """Every row of a table, a few at a time."""
    found = connection.execute(
        select(table).order_by(*table.primary_key.columns), execution_options={"yield_per": READ_AT_ONCE}
    )
    for row in found.mappings():
        yield dict(row)


def is_empty(connection: Connection) -> bool:
    """Whether there is no table at all."""
    return not inspect(connection).get_table_names()


def users_of(connection: Connection) -> int:
    """How many others are connected to this database (PostgreSQL): servers, or whoever.

    Who has just gone is seen for a moment longer, and is waited for.
    """
    count = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND usesysid IS NOT NULL"
    )
    others = connection.execute(count).scalar_one()
    for _ in range(GOING_TENTHS):
        if not others:
            break
        connection.execute(text("SELECT pg_sleep(0.1), pg_stat_clear_snapshot()"))
        others = connection.execute(count).scalar_one()
    return others


def set_aside(connection: Connection, name: str) -> None:
    """Move every table of ours into a schema of that ``name`` (PostgreSQL). Raises Misconfigured.

    What is not ours is not touched, and a database that holds no deployment is refused.
    """
    found = revision_of(connection)
    if found is None:
        raise Misconfigured(
            "The database holds tables of another program; give tidemill a database of its own"
        )
    quote = connection.dialect.identifier_preparer.quote
    connection.execute(text(f"CREATE SCHEMA {quote(name)}"))
    for table in [*(table.name for table in tables_of(found)), VERSIONS]:
        connection.execute(text(f"ALTER TABLE {quote(table)} SET SCHEMA {quote(name)}"))


def begin(connection: Connection, at: str) -> None:
    """Make the empty tables of revision ``at``."""
    upgrade(connection, at)


def write(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a table. Raises Misconfigured for what this database cannot hold."""
    if not rows:
        return
    try:
        connection.execute(insert(table), [dict(row) for row in rows])
    except DBAPIError as error:
        if is_trouble(error):
            raise
        raise Misconfigured(
            f"The table {table.name} of the backup does not fit into this database: {_words_of(error)}"
        ) from None


def _words_of(error: DBAPIError) -> str:
    """The database's own words, without the values that its details hold."""
    diagnosis = getattr(error.orig, "diag", None)
    return str(getattr(diagnosis, "message_primary", None) or error.orig)


def finish(connection: Connection, at: str, *, made_at: datetime, now: datetime, restore: str) -> None:
    """Bring rows of revision ``at``, all of them written, to this version, as rows of a restored database.

    - What was given out since the backup was made counts for nothing: every token is over (one that was
      revoked since would be good again otherwise), every lease too.
    - Each instance is compared with its engine before anything is done about it, and each machine
      before anything of it is given out.
    """
    if connection.dialect.name == "postgresql":
        for table in tables_of(at):
            _set_counter(connection, table)
    upgrade(connection)
    servers.bury_all(connection, now)
    engines.forget_all(connection)
    instances, users, nodes = schema.instances, schema.users, schema.nodes
    connection.execute(update(users).values(token_epoch=users.c.token_epoch + SKIPPED))
    connection.execute(
        update(instances)
        .where(instances.c.state != State.RELEASED.value)
        .values(
            due_at=now,
            restored_from=func.coalesce(instances.c.restored_from, literal(made_at, schema.Instant())),
            version=instances.c.version + 1,
            revision=instances.c.revision + SKIPPED,  # the engine may have been given later ones
        )
    )
    passing = [state.value for state, row in STATES.items() if row.deadline is not None]
    connection.execute(update(instances).where(instances.c.state.in_(passing)).values(state_since=now))
    connection.execute(update(nodes).values(present=False))
    facts.put(connection, facts.RESTORED_AT, now.isoformat())
    facts.put(connection, facts.RESTORE, restore)


def _set_counter(connection: Connection, table: Table) -> None:
    """Let a column that counts by itself go on after the highest number that was loaded."""
    for column in table.primary_key.columns:
        if columns_of(table)[column.name] != "integer":
            continue
        quoted = connection.dialect.identifier_preparer.quote(table.name)
        counter = connection.execute(select(func.pg_get_serial_sequence(quoted, column.name))).scalar()
        if counter is not None:
            highest = connection.execute(select(func.max(column))).scalar()
            connection.execute(select(func.setval(counter, highest or 1, highest is not None)))


def wrote(connection: Connection, restore: str) -> bool:
    """Whether this database is what that restore wrote."""
    return (
        inspect(connection).has_table(schema.facts.name) and facts.get(connection, facts.RESTORE) == restore
    )
