"""Migrations: the schema that the code expects, from whatever was there before, with what was in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from tests.postgres import PostgresServer
from tests.store.populated import content, fill, tables

from tidemill.model.errors import Misconfigured, Unavailable
from tidemill.store.database import Database
from tidemill.store.migrate import migrate, revision_of, upgrade
from tidemill.store.schema import metadata

_CONFIG = Config()
_CONFIG.set_main_option("script_location", str(Path(migrate.__code__.co_filename).with_name("migrations")))
REVISIONS = [script.revision for script in ScriptDirectory.from_config(_CONFIG).walk_revisions()][::-1]

# What a revision does to what was there before: (revision, table, column) that are otherwise afterwards.
CHANGED: set[tuple[str, str, str]] = set()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with nothing in it, not even tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_database(migrated=False)
    yield url
    server.drop(url)


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    yield database
    database.close()


def _named(rows: list[Any]) -> dict[str, Any]:
    return {str(row["name"]): {key: _plain(value) for key, value in row.items()} for row in rows}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if each not in (None, {}, [])}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def described(connection: Connection) -> dict[str, Any]:
    """Everything a database says of its tables, but the order of columns."""
    found, is_sqlite = inspect(connection), connection.dialect.name == "sqlite"
    return {
        name: {
            "columns": _named(list(found.get_columns(name))),
            "primary key": _plain(dict(found.get_pk_constraint(name))),
            "foreign keys": _named(
                # SQLite forgets the name of one that came with a column; nothing asks for it.
                [
                    {**key, "name": key["constrained_columns"]} if is_sqlite else key
                    for key in found.get_foreign_keys(name)
                ]
            ),
            "unique": _named(list(found.get_unique_constraints(name))),
            "checks": _named(list(found.get_check_constraints(name))),
            "indexes": _named(list(found.get_indexes(name))),
        }
        for name in found.get_table_names()
        if name != "alembic_version"
    }


def test_the_migrations_give_the_schema_that_the_code_expects(empty: Database) -> None:
    migrate(empty)
    found = empty.run(described)
    empty.run(metadata.drop_all)
    assert empty.run(described) == {}, "a table that the code does not know"
    empty.run(metadata.create_all)
    expected = empty.run(described)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name


def test_revisions_are_one_line_and_numbered() -> None:
    assert [int(revision) for revision in REVISIONS] == list(range(1, len(REVISIONS) + 1))


def test_every_revision_keeps_what_was_there(empty: Database) -> None:
    """Each on the data of the one before, in which no table is empty."""
    for revision in REVISIONS:
        before = empty.run(content)
        schema = empty.run(tables)
        empty.run(lambda c, to=revision: upgrade(c, to))
        assert empty.run(revision_of) == revision
        after = empty.run(content)
        for name, rows in before.items():
            assert len(after[name]) == len(rows), (revision, name)
            for old, new in zip(rows, after[name], strict=True):
                kept = {column: value for column, value in old.items() if column in new}
                for column, value in kept.items():
                    if (revision, name, column) not in CHANGED:
                        assert new[column] == value, (revision, name, column)
        empty.run(lambda c, old=schema: fill(c, old))
        assert all(empty.run(content).values()), f"a table is empty at {revision}"


def test_a_database_of_the_first_version_is_one_that_the_code_can_use(empty: Database) -> None:
    from tidemill.model.lifecycle import State
    from tidemill.store import accounts, fleet, offers, reservations

    empty.run(lambda c: upgrade(c, "0001"))
    empty.run(lambda c: fill(c, {}))
    migrate(empty)

    def look(connection: Connection) -> set[State]:
        users = [accounts.by_username(connection, name) for name in ("admin", "ZOË")]
        found = [
            row
            for user in users
            if user is not None
            for row in fleet.page(connection, user.id, offset=0, limit=50, include_released=True)[0]
        ]
        assert len(found) == 11
        assert len(reservations.ports_of(connection, [row.id for row in found])) == 10
        assert len(offers.all_regions(connection)) == 1
        assert {row.price_micro for row in found} == {9_007_199_254_740_993}
        assert found[0].host_key == bytes(range(32))
        return {row.state for row in found}

    assert len(empty.run(look)) == 11


def test_servers_that_migrate_at_the_same_instant_do_it_once(empty_url: str) -> None:
    meeting = threading.Barrier(4)

    def server() -> None:
        database = Database(empty_url)
        try:
            meeting.wait(30)
            migrate(database)
        finally:
            database.close()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(server) for _ in range(4)]:
            done.result(timeout=120)
    database = Database(empty_url)
    try:
        assert database.run(revision_of) == REVISIONS[-1]
        assert database.run(lambda c: c.execute(text("SELECT count(*) FROM alembic_version")).scalar()) == 1
    finally:
        database.close()


def test_a_migration_that_fails_leaves_everything_as_it_was(empty: Database) -> None:
    """All that are missing are one transaction: the next start begins at the same place."""
    empty.run(lambda c: upgrade(c, REVISIONS[0]))
    empty.run(lambda c: fill(c, {}))
    in_the_way = "CREATE TABLE findings (x integer)"  # as 0003 wants to make it
    empty.run(lambda c: c.execute(text(in_the_way)))
    before = empty.run(described)
    with pytest.raises((DBAPIError, Unavailable)):
        migrate(empty)
    assert empty.run(revision_of) == REVISIONS[0]
    assert empty.run(described) == before
    empty.run(lambda c: c.execute(text("DROP TABLE findings")))
    migrate(empty)
    assert empty.run(revision_of) == REVISIONS[-1]


def test_migrating_again_changes_nothing_and_a_newer_database_is_refused(database: Database) -> None:
    before = database.run(described)
    migrate(database)
    assert database.run(described) == before
    database.run(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(Misconfigured, match="newer version"):
        migrate(database)
