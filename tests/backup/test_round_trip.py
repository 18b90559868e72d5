"""What a backup holds comes back, on either database, from either, also from an older version."""

from __future__ import annotations

import stat
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, select
from tests.backup.filled import OWN_TEXT, Filled, as_restored, contents, fill
from tests.postgres import PostgresServer
from tests.stock import NODE, REGION, HandClock

from tidemill.backup.restore import Restored, restore
from tidemill.backup.take import back_up, private_file
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import Event, State
from tidemill.settings import Settings
from tidemill.store import accounts, backup, facts, instances, nodes, schema
from tidemill.store.database import Database, parsed
from tidemill.store.migrate import upgrade

MICROSECOND = schema.MICROSECOND


@pytest.fixture
def filled(tmp_path: Path, database_url: str, clock: HandClock) -> Filled:
    return fill(tmp_path / "from", database_url, clock)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where there is nothing yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'to' / 'tidemill.db'}"
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.new_database(migrated=False)


def bring_back(path: Path, folder: Path, url: str, clock: HandClock, **options: Any) -> Restored:
    given = {"database_url": url}
    settings = Settings(data_dir=folder)
    return restore(path, settings, None, given, clock, replace=options.get("replace", False))


def micros(clock: HandClock) -> int:
    return (clock.now() - schema.EPOCH) // MICROSECOND


def test_everything_comes_back_on_either_database(
    filled: Filled, empty_url: str, tmp_path: Path, clock: HandClock
) -> None:
    before = contents(filled.settings.database_url)
    assert [name for name, rows in before.items() if not rows] == [], "every table has something to lose"
    made_at = micros(clock)
    manifest = filled.back_up(tmp_path / "backup.tar.gz")
    assert {name: len(rows) for name, rows in before.items()} == manifest.rows()
    clock.pass_by(3600)
    bring_back(tmp_path / "backup.tar.gz", tmp_path / "to", empty_url, clock)
    after = contents(empty_url)
    kept = {row["name"]: row["value"] for row in after.pop("facts")}
    wanted = as_restored(before, made_at, micros(clock))
    wanted.pop("facts")
    assert after == wanted
    assert kept.keys() == {facts.DEPLOYMENT, facts.RESTORED_AT, facts.RESTORE}
    assert (kept[facts.DEPLOYMENT], kept[facts.RESTORED_AT]) == ("d1", clock.now().isoformat())


def test_keys_and_files_come_back_private(
    filled: Filled, empty_url: str, tmp_path: Path, clock: HandClock
) -> None:
    filled.back_up(tmp_path / "backup.tar.gz")
    bring_back(tmp_path / "backup.tar.gz", tmp_path / "to", empty_url, clock)
    to = tmp_path / "to"
    assert (to / "tidemill.toml").read_text() == OWN_TEXT
    for name in ("first-login.json", *(f"keys/{key.name}" for key in (filled.folder / "keys").iterdir())):
        assert (to / name).read_bytes() == (filled.folder / name).read_bytes()
        assert stat.S_IMODE((to / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((to / "keys").stat().st_mode) == 0o700
    if (to / "tidemill.db").exists():
        assert stat.S_IMODE((to / "tidemill.db").stat().st_mode) == 0o600
    left = {file.name for file in to.iterdir()} - {"tidemill.db", "tidemill.db.lock"}
    assert left == {"keys", "first-login.json", "tidemill.toml", "server.lock"}


def test_what_was_restored_goes_on(filled: Filled, empty_url: str, tmp_path: Path, clock: HandClock) -> None:
    """Counters go on after the highest number, and state is written as ever."""
    filled.back_up(tmp_path / "backup.tar.gz")
    bring_back(tmp_path / "backup.tar.gz", tmp_path / "to", empty_url, clock)
    before = contents(empty_url)

    def work(connection: Connection) -> Instance:
        nodes.register(connection, REGION.id, [NODE])  # till then nothing of a machine is given out
        found = instances.get(connection, filled.ids["running"])
        assert found is not None
        for event in (Event.STOP, Event.EXITED, Event.START, Event.REACHABLE):
            found = instances.record(connection, found, event, clock.now())
        return found

    database = Database(empty_url)
    try:
        assert database.run(work).state is State.RUNNING
    finally:
        database.close()
    after = contents(empty_url)
    for table, counter in (("events", "seq"), ("meters", "id")):
        highest = max(row[counter] for row in before[table])
        added = [row[counter] for row in after[table] if row not in before[table] and row[counter] > highest]
        assert added, table


def test_a_meter_ends_where_the_backup_last_saw_it_running(
    filled: Filled, empty_url: str, tmp_path: Path, clock: HandClock
) -> None:
    """Stopped an hour after the restore and a day after the backup: nobody knows that it ran in between."""
    made_at = filled.back_up(tmp_path / "backup.tar.gz").made_at
    clock.pass_by(86400)
    bring_back(tmp_path / "backup.tar.gz", tmp_path / "to", empty_url, clock)
    clock.pass_by(3600)
    database = Database(empty_url)

    def work(connection: Connection) -> datetime:
        found = instances.get(connection, filled.ids["running"])
        assert found is not None
        instances.record(connection, found, Event.LOST, clock.now())
        meters = schema.meters
        return connection.execute(
            select(meters.c.closed_at).where(meters.c.instance_id == filled.ids["running"])
        ).scalar_one()

    try:
        assert database.run(work) == made_at
    finally:
        database.close()


def test_no_token_given_out_before_or_since_is_good(
    filled: Filled, empty_url: str, tmp_path: Path, clock: HandClock
) -> None:
    """Also one that its user has revoked since: the backup does not know of that."""
    alice = filled.stocked.alice
    database = filled.stocked.database
    database.run(lambda c: accounts.revoke_tokens(c, alice.id))
    filled.back_up(tmp_path / "backup.tar.gz")
    epochs = []
    for _ in range(5):
        database.run(lambda c: accounts.revoke_tokens(c, alice.id))
        epochs.append(database.run(lambda c: accounts.by_id(c, alice.id)).token_epoch)
    bring_back(tmp_path / "backup.tar.gz", tmp_path / "to", empty_url, clock)
    other = Database(empty_url)
    try:
        now = other.run(lambda c: accounts.by_id(c, alice.id))
        assert now is not None
        assert now.token_epoch > max(epochs) + 1000
    finally:
        other.close()


def test_a_backup_of_an_older_version_is_migrated(empty_url: str, tmp_path: Path, clock: HandClock) -> None:
    folder = tmp_path / "old"
    folder.mkdir(mode=0o700)
    url = parsed(f"sqlite:///{folder / 'tidemill.db'}")
    tables = {table.name: table for table in backup.tables_of("0001")}
    with backup.one_transaction(url) as connection:
        upgrade(connection, "0001")
        user = {"id": "u1", "username": "alice", "password_hash": "never", "is_admin": True}
        backup.write(connection, tables["users"], [user | {"token_epoch": 1, "created_at": 5}])
        values = {column.name: _something(column) for column in tables["instances"].columns}
        values |= {"id": "notebook-1", "user_id": "u1", "state": "Running", "lease_owner": "server-9"}
        backup.write(connection, tables["instances"], [values])
        meter = {"id": 7, "instance_id": "notebook-1", "start": 1, "opened_at": 5, "closed_at": None}
        backup.write(connection, tables["meters"], [meter])
    with private_file(tmp_path / "backup.tar.gz") as file:
        manifest = back_up(Settings(data_dir=folder), clock, None, file)
    assert manifest.revision == "0001"
    assert contents(f"sqlite:///{folder / 'tidemill.db'}")["instances"][0]["lease_owner"] == "server-9"
    bring_back(tmp_path / "backup.tar.gz", tmp_path / "to", empty_url, clock)
    after = contents(empty_url)
    assert set(after) == set(schema.metadata.tables)
    assert [(row["id"], row["leased_to"]) for row in after["instances"]] == [("notebook-1", None)]
    assert [(row["id"], row["closed_at"]) for row in after["meters"]] == [(7, None)]


def _something(column: Column[Any]) -> Any:
    if column.nullable:
        return None
    kind = backup.columns_of(column.table)[column.name]  # type: ignore[arg-type]
    return {"json": [], "bytes": b"x", "boolean": False, "integer": 1, "text": "x", "number": 0.5}[kind]


def test_every_revision_can_be_read_and_has_its_own_tables() -> None:
    assert {table.name for table in backup.tables_of("0001")} < set(schema.metadata.tables)
    newest = {table.name: set(table.columns.keys()) for table in backup.tables_of("head")}
    assert newest == {name: set(table.columns.keys()) for name, table in schema.metadata.tables.items()}
