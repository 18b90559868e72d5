"""Bringing a database to the schema of this version; forward only."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from tidemill.model.errors import Misconfigured, Unavailable
from tidemill.store.database import Database

MIGRATIONS = Path(__file__).with_name("migrations")
VERSIONS = "alembic_version"
TRIES = 12  # of five seconds each

_VERSION = text("SELECT version_num FROM alembic_version")
_TURN = 8420_0001  # names the lock that whoever migrates a PostgreSQL holds


def migrate(database: Database) -> None:
    """Run what migrations are missing. Raises Misconfigured for a newer version's database, Unavailable."""
    tries = TRIES if database.is_sqlite else 1
    while True:
        tries -= 1
        try:
            return database.run(upgrade)
        except Unavailable:  # others who migrate hold the file for longer than any statement waits
            if not tries:
                raise


def upgrade(connection: Connection, to: str = "head") -> None:
    """The same inside of a transaction, and up to a revision."""
    if revision_of(connection) == (newest() if to == "head" else to):
        return  # what migrates takes longer to load than most commands take in all
    from alembic import command
    from alembic.config import Config

    _wait_for_others(connection)
    revision_of(connection)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def _wait_for_others(connection: Connection) -> None:
    """Servers that start at the same instant take turns; migrating may take its time.

    SQLite needs nothing said: whoever writes is alone.
    """
    if connection.dialect.name == "postgresql":
        for name in ("lock_timeout", "statement_timeout"):
            connection.execute(text(f"SET LOCAL {name} = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _TURN})


def revision_of(connection: Connection) -> str | None:
    """Which schema the database has; None for none. Raises Misconfigured for one of a newer version."""
    if not inspect(connection).has_table(VERSIONS):
        return None
    present: str | None = connection.execute(_VERSION).scalar()
    if present is not None and not is_known(present):
        raise Misconfigured(
            "The database was written by a newer version of tidemill; install that version, "
            "or restore a backup made with this one"
        )
    return present


def is_known(revision: str) -> bool:
    """Whether this version has that revision of the schema."""
    return revision in _revisions()


def newest() -> str:
    """The revision that this version needs."""
    return _revisions()[-1]


def _revisions() -> list[str]:
    """All that this version has, oldest first: the names of the files begin with them."""
    return sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
