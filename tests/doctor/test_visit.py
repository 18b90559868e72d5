"""A whole visit, beside an engine that is kept in a file: what is looked at, changed, and said."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from tests.stock import CPU_TYPE, MONEY, Stocked, accept, offer, pay_in
from tests.store.line import Line

from tidemill.catalogue import Tables
from tidemill.clock import SystemClock
from tidemill.deployment import deployment_label, initialise, mark, only_server, open_database
from tidemill.doctor import tell
from tidemill.doctor.symptom import Exit, Report
from tidemill.doctor.visit import visit
from tidemill.drivers.contract import Workload
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.errors import Misconfigured
from tidemill.model.lifecycle import State
from tidemill.model.offer import Region
from tidemill.reconcile.loop import Loop
from tidemill.reconcile.nodes import register_nodes
from tidemill.server.engines import make_drivers
from tidemill.server.offering import regions_of
from tidemill.settings import Configuration, Settings
from tidemill.store import accounts, facts, findings, instances
from tidemill.store.database import Database
from tidemill.store.migrate import newest
from tidemill.store.postgres import PATIENCE
from tidemill.store.schema import instances as rows
from tidemill.store.schema import nodes
from tidemill.wake import Wake

CLOCK = SystemClock()
STRANGER = "notebook-0f5a2c1e-0000-4000-8000-0000000000ff"


@dataclass
class Place:
    """A deployment in a folder, as its server left it."""

    configuration: Configuration
    database: Database
    driver: SimulatedDriver
    stocked: Stocked
    region: Region

    @property
    def settings(self) -> Settings:
        return self.configuration.settings

    def loop(self) -> Loop:
        return Loop(
            database=self.database,
            clock=CLOCK,
            wake=Wake(),
            settings=self.settings,
            region_id=self.region.id,
            driver=self.driver,
            owner="server-1",
        )

    async def running(self) -> str:
        """A new instance that runs."""
        id = self.database.run(
            lambda c: accept(
                c,
                self.settings,
                self.stocked.alice,
                replace(self.stocked.order(), region_id=self.region.id),
                CLOCK.now(),
            )
        ).id
        await self.until_running(id)
        return id

    async def until_running(self, id: str) -> None:
        """Have a server at work until it is so."""
        task = asyncio.create_task(self.loop().run())
        async with asyncio.timeout(30):
            while self.state(id) is not State.RUNNING or id not in self.driver.made:
                await CLOCK.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def state(self, id: str) -> State:
        found = self.database.run(lambda c: instances.get(c, id))
        assert found is not None
        return found.state

    async def plant(self, like: str, id: str = STRANGER) -> None:
        made = self.driver.made[like]
        workload: Workload = replace(made.workload, id=id, ports=())
        await self.driver.ensure_running(workload)

    async def visit(self, **asked: bool) -> Report:
        return await visit(self.configuration, CLOCK, **asked)


@asynccontextmanager
async def a_place(folder: Path, **given: object) -> AsyncIterator[Place]:
    quick = dict.fromkeys(("simulated_pull_seconds", "simulated_start_seconds", "simulated_stop_seconds"), 0)
    settings = Settings(data_dir=folder, driver="simulated", beat=0.05, orphan_grace=3600, **(quick | given))
    configuration = Configuration(settings, {})
    initialise(configuration, CLOCK)
    database = open_database(settings)
    label = deployment_label(database, settings)
    tables = Tables({})
    (region,) = regions_of(settings, tables)
    made = make_drivers(configuration, tables, [region], label, CLOCK)[region.id]
    assert isinstance(made, SimulatedDriver)
    database.run(lambda c: offer(c, [CPU_TYPE], region))
    await register_nodes(database, settings, region.id, made)
    alice, bob = (
        database.run(
            lambda c, name=name: accounts.create_user(
                c, username=name, password_hash="never", is_admin=False, now=CLOCK.now()
            )
        )
        for name in ("alice", "bob")
    )
    for user in (alice, bob):
        database.run(lambda c, id=user.id: pay_in(c, id, MONEY, CLOCK.now()))
    try:
        yield Place(configuration, database, made, Stocked(database, alice, bob), region)
    finally:
        await made.close()
        database.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with a_place(tmp_path / "data") as made:
        yield made


@pytest.fixture
async def on_postgres(tmp_path: Path, postgres_url: str) -> AsyncIterator[Place]:
    async with a_place(tmp_path / "data", database_url=postgres_url) as made:
        yield made


def codes(report: Report) -> list[tuple[str, str]]:
    return sorted((symptom.code, symptom.about) for symptom in report.symptoms)


def contents(folder: Path) -> Mapping[str, Any]:
    """Everything in a folder, and every row of its database."""
    found: dict[str, Any] = {
        str(file): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith(("tidemill.db", "engine.db"))
    }
    with sqlite3.connect(folder / "tidemill.db") as connection:
        found["rows"] = list(connection.iterdump())
    return found


async def test_where_all_is_well_nothing_is_found_and_nothing_changes(place: Place) -> None:
    await place.running()
    before = contents(place.settings.data_dir)
    report = await place.visit()
    assert (codes(report), report.done, report.blind) == ([], [], "")
    assert report.exit_code is Exit.WELL
    assert contents(place.settings.data_dir) == before
    assert tell.as_text(report).endswith("Nothing is wrong.")


async def test_the_same_on_postgresql(on_postgres: Place) -> None:
    id = await on_postgres.running()
    report = await on_postgres.visit()
    assert (codes(report), report.done, report.blind) == ([], [], "")
    assert ("database", "PostgreSQL, revision " + str(newest())) in report.facts
    await on_postgres.plant(id)
    on_postgres.database.run(lambda c: c.execute(update(nodes).values(memory_used=0)))
    report = await on_postgres.visit()
    assert codes(report) == [("orphan", f"local: instance {STRANGER}"), ("reservationSum", "node node-0")]
    report = await on_postgres.visit(fix=True, orphans=True)
    assert report.done == ["counted anew what is given of node node-0", f"removed instance {STRANGER}"]
    assert codes(await on_postgres.visit()) == []
    assert set(await on_postgres.driver.observe()) == {id}


async def test_orphans_are_told_and_left_until_somebody_says_otherwise(place: Place) -> None:
    id = await place.running()
    await place.plant(id)
    before = contents(place.settings.data_dir)
    report = await place.visit()
    assert codes(report) == [("orphan", f"local: instance {STRANGER}")]
    assert report.exit_code is Exit.FOUND
    assert contents(place.settings.data_dir) == before
    report = await place.visit(fix=True)
    assert STRANGER in await place.driver.observe(), "its grace is not over"
    assert report.done == []
    report = await place.visit(orphans=True)
    assert report.done == [f"removed instance {STRANGER}"]
    assert set(await place.driver.observe()) == {id}
    report = await place.visit()
    assert codes(report) == []
    told = [text for label, text in report.facts if label == "orphan"]
    assert len(told) == 1
    assert told[0].startswith(f"instance {STRANGER}, found ")
    assert ", removed " in told[0]


async def test_fix_removes_what_was_watched_for_its_grace(place: Place) -> None:
    id = await place.running()
    await place.plant(id)
    loop = place.loop()
    await loop._orphans.look({id, STRANGER}, {id})
    place.database.run(
        lambda c: findings.see(
            c, findings.open_in(c, place.region.id)[0], CLOCK.now(), place.settings.orphan_grace
        )
    )
    report = await place.visit(fix=True)
    assert report.done == [f"removed instance {STRANGER}"]
    assert set(await place.driver.observe()) == {id}


async def test_after_a_restore_only_the_operators_word_removes_and_ends_the_hold(place: Place) -> None:
    id = await place.running()
    await place.plant(id)
    place.database.run(lambda c: facts.put(c, facts.RESTORED_AT, "2026-03-01T12:00:00+00:00"))
    report = await place.visit(fix=True)
    assert STRANGER in await place.driver.observe()
    assert "restored" in report.symptoms[0].remedy
    assert ("restored", "at 2026-03-01T12:00:00+00:00; orphans are held since") in report.facts
    report = await place.visit(orphans=True)
    assert report.done[0] == f"removed instance {STRANGER}"
    assert "restore is closed" in report.done[1]
    assert place.database.run(lambda c: facts.get(c, facts.RESTORED_AT)) is None


async def test_the_hold_stays_while_something_could_not_be_removed(place: Place) -> None:
    id = await place.running()
    await place.plant(id)
    place.database.run(lambda c: facts.put(c, facts.RESTORED_AT, "2026-03-01T12:00:00+00:00"))

    async def busy(self: object, finding: object, thing: object, **_: object) -> str:
        return "device or resource busy"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tidemill.reconcile.orphans.Orphans.remove", busy)
        report = await place.visit(orphans=True)
    assert "could not be removed: device or resource busy" in report.done[0]
    assert "still held" in report.done[1]
    assert place.database.run(lambda c: facts.get(c, facts.RESTORED_AT)) is not None


async def test_what_is_gone_is_found_and_rung_for(place: Place) -> None:
    id = await place.running()
    place.driver.play_vanish(id)
    report = await place.visit()
    assert codes(report) == [("missing", id)]
    report = await place.visit(fix=True)
    assert report.done == ["1 instances are to be looked at, at once when a server runs"]
    await place.until_running(id)


async def test_what_comes_right_by_itself_is_not_told(place: Place) -> None:
    """A server brings it back between the first look and the second."""
    id = await place.running()
    place.driver.play_vanish(id)

    class Meanwhile(SystemClock):
        async def sleep(self, seconds: float) -> None:
            await place.until_running(id)

    report = await visit(place.configuration, Meanwhile())
    assert codes(report) == []


async def test_sums_are_counted_anew_when_asked(place: Place) -> None:
    await place.running()
    place.database.run(lambda c: c.execute(update(nodes).values(cpu_used=nodes.c.cpu_used + 500)))
    assert codes(await place.visit()) == [("reservationSum", "node node-0")]
    report = await place.visit(fix=True)
    assert report.done == ["counted anew what is given of node node-0"]
    assert codes(await place.visit()) == []


async def test_an_engine_that_does_not_answer_is_told(place: Place) -> None:
    await place.running()
    engine = next((place.settings.data_dir / "simulated").rglob("engine.db"))
    kept = engine.read_bytes()
    engine.write_bytes(b"this is no database" * 100)
    for extra in ("-wal", "-shm"):
        engine.with_name(f"engine.db{extra}").unlink(missing_ok=True)
    report = await place.visit()
    assert report.exit_code is not Exit.WELL
    engine.write_bytes(kept)


async def test_who_holds_the_folder_is_told_without_touching_the_lock(place: Place) -> None:
    assert "held by no server" in dict(await facts_of(place))["folder"]
    with only_server(place.settings.data_dir):
        assert f"held by process {os.getpid()}" in dict(await facts_of(place))["folder"]


async def facts_of(place: Place) -> list[tuple[str, str]]:
    return (await place.visit()).facts


async def test_rights_keys_and_another_deployments_files(place: Place) -> None:
    folder = place.settings.data_dir
    folder.chmod(0o755)
    (folder / "tidemill.db").chmod(0o644)
    key = next((folder / "keys").glob("token-*.pem"))
    key.chmod(0o644)
    (folder / "deployment").unlink()
    mark(folder, "another")
    report = await place.visit()
    found = {symptom.code: symptom.about for symptom in report.symptoms}
    assert found == {
        "folderOpen": str(folder),
        "fileOpen": str(folder / "tidemill.db"),
        "tokenKey": str(folder / "keys"),
        "foreignFolder": str(folder),
    }
    key.unlink()
    assert "no key that signs" in tell.as_text(await place.visit())


async def test_settings_that_no_server_would_start_with(place: Place) -> None:
    for wrong in (
        {"region": [{"name": "a", "driver": "kubernetes-of-tomorrow"}]},
        {"type": [{"name": "small"}]},
    ):
        report = await visit(Configuration(place.settings, wrong), CLOCK)
        assert "settings" in {symptom.code for symptom in report.symptoms}, wrong


async def test_a_region_that_is_not_configured_any_more(place: Place) -> None:
    id = await place.running()
    place.database.run(lambda c: c.execute(update(rows).values(region_id="elsewhere")))
    report = await place.visit()
    assert ("regionMissing", "elsewhere") in codes(report)
    assert ("orphan", f"local: instance {id}") not in codes(report), "another region's is nobody's orphan"


async def test_a_database_of_another_version_or_none_is_not_looked_at(place: Place, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no deployment"):
        await visit(Configuration(Settings(data_dir=tmp_path / "nowhere"), {}), CLOCK)
    assert not (tmp_path / "nowhere").exists()
    with sqlite3.connect(place.settings.data_dir / "tidemill.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    report = await place.visit(fix=True, orphans=True)
    assert report.exit_code is Exit.BLIND
    assert "revision 0001" in report.blind
    with sqlite3.connect(place.settings.data_dir / "tidemill.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "newer version" in (await place.visit()).blind


async def test_a_postgresql_that_is_down_is_said_at_once(on_postgres: Place) -> None:
    with Line(on_postgres.settings.database_url) as line:
        url = line.url
    settings = Settings(data_dir=on_postgres.settings.data_dir, database_url=url)
    began = time.monotonic()
    report = await visit(Configuration(settings, {}), CLOCK)
    assert time.monotonic() - began < PATIENCE / 2
    assert report.exit_code is Exit.BLIND
    assert "nothing was changed" in report.blind


async def test_a_damaged_database_is_said(place: Place) -> None:
    await place.running()
    place.database.close()
    path = place.settings.data_dir / "tidemill.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_events_instance'")
    whole = bytearray(path.read_bytes())
    whole[(page[0] - 1) * 4096 : page[0] * 4096] = bytes(4096)
    path.write_bytes(bytes(whole))
    report = await place.visit()
    assert report.blind or "databaseDamaged" in {symptom.code for symptom in report.symptoms}
    assert report.exit_code is not Exit.WELL


async def test_no_secret_is_told(place: Place) -> None:
    id = await place.running()
    secrets = [
        json.loads((place.settings.data_dir / "first-login.json").read_text())[0]["password"],
        place.database.run(lambda c: instances.get(c, id)).host_key.hex(),  # type: ignore[union-attr]
    ]
    place.database.run(lambda c: c.execute(update(rows).values(init_script="curl https://secret.example")))
    place.driver.play_vanish(id)
    report = await place.visit()
    told = tell.as_text(report) + tell.as_json(report)
    assert id in told
    assert not any(secret in told for secret in [*secrets, "secret.example", "PRIVATE KEY"])


async def test_as_json_it_is_for_programs(place: Place) -> None:
    id = await place.running()
    await place.plant(id)
    said = json.loads(tell.as_json(await place.visit()))
    assert said["exitCode"] == 1
    assert said["blind"] is None
    assert [(one["code"], one["about"]) for one in said["findings"]] == [
        ("orphan", f"local: instance {STRANGER}")
    ]
    assert all(one["meaning"] and one["remedy"] for one in said["findings"])
