"""Deployments with something in every table, and what two of them have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert
from tests.stock import GPU_TYPE, REGION, HandClock, Stocked, accept, stock

from tidemill.actions.tokens import Tokens
from tidemill.backup.archive import Manifest
from tidemill.backup.take import back_up, private_file
from tidemill.model.account import ApiKey, Scope, SshKey
from tidemill.model.cap import MONTH, Cap
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import Event, State
from tidemill.settings import OWN_FILE, Settings
from tidemill.store import accounts, backup, caps, facts, instances, launch_keys, schema
from tidemill.store.database import Database

OWN_TEXT = '# mine\nregion_name = "here"\n'
NASTY = 'end of line \n tab \t quote " backslash \\ é 🚀 \u2028 {} %s \x7f'
STORIES: dict[str, tuple[Event, ...]] = {
    "new": (),
    "running": (Event.REACHABLE,),
    "restarted": (Event.REACHABLE, Event.RESTART, Event.REACHABLE),
    "stopped": (Event.REACHABLE, Event.STOP, Event.EXITED),
    "failed": (Event.REFUSED,),
    "going": (Event.TERMINATE,),
    "gone": (Event.REACHABLE, Event.TERMINATE, Event.ABSENT),
}


@dataclass(frozen=True)
class Filled:
    """A deployment in a folder with its database, and its instances by the name of their story."""

    settings: Settings
    stocked: Stocked
    clock: HandClock
    ids: Mapping[str, str]

    @property
    def folder(self) -> Path:
        return self.settings.data_dir

    def back_up(self, path: Path) -> Manifest:
        with private_file(path) as file:
            return back_up(self.settings, self.clock, None, file)

    def archive(self) -> bytes:
        file = BytesIO()
        back_up(self.settings, self.clock, None, file)
        return file.getvalue()


def fill(folder: Path, url: str, clock: HandClock) -> Filled:
    """Make a deployment with something in every table; the database is at the newest schema."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = Settings(data_dir=folder, database_url=url)
    Tokens(folder / "keys", "tidemill", "tidemill", 60)
    (folder / OWN_FILE).write_text(OWN_TEXT)
    (folder / "first-login.json").write_text('[{"username": "admin"}]')
    database = Database(url)
    try:
        stocked = stock(database, clock)
        ids = database.run(lambda connection: _tell_stories(connection, settings, stocked, clock))
        database.run(lambda connection: _add_the_rest(connection, stocked, clock, ids["new"]))
    finally:
        database.close()
    return Filled(settings, stocked, clock, ids)


def _tell_stories(
    connection: Connection, settings: Settings, stocked: Stocked, clock: HandClock
) -> dict[str, str]:
    ids: dict[str, str] = {}
    for name, events in STORIES.items():
        extra: dict[str, Any] = {"init_script": NASTY, "env": {"NASTY": NASTY}, "ssh_key_ids": None}
        if name in {"running", "stopped"}:
            extra["type_id"] = GPU_TYPE.id
        order = stocked.order(name=name, node_ports=(8888,), **extra)
        instance: Instance = accept(connection, settings, stocked.alice, order, clock.now())
        for event in events:
            clock.pass_by(60)
            instance = instances.record(connection, instance, event, clock.now(), reason="Why", message=NASTY)
        ids[name] = instance.id
    return ids


def _add_the_rest(connection: Connection, stocked: Stocked, clock: HandClock, instance_id: str) -> None:
    now, alice = clock.now(), stocked.alice.id
    facts.put(connection, facts.DEPLOYMENT, "d1")
    key = ApiKey("key-1", NASTY, "tm_abc...", Scope.FULL, now, None)
    accounts.add_api_key(connection, alice, key, "f" * 64)
    accounts.add_ssh_key(connection, alice, SshKey("ssh-1", "laptop", "ssh-ed25519 AAAA", "SHA256:x", now))
    launch_keys.keep(connection, alice, "once", "0" * 64, instance_id, now)
    connection.execute(insert(schema.login_failures), {"subject": "bob", "failures": 2, "last_at": now})
    connection.execute(
        insert(schema.servers),
        {
            "id": "server-1", "place": "here", "role": "all", "address": "", "token_keys": ["a", "b"],
            "started_at": now, "seen_at": now, "beats": 3,
        },
    )  # fmt: skip
    connection.execute(
        schema.instances.update().where(schema.instances.c.id == instance_id).values(leased_to="server-1")
    )
    connection.execute(schema.regions.update().values(seen_at=now))
    caps.put(connection, Cap(alice, MONTH, 10**12, now))
    connection.execute(
        insert(schema.findings),
        {
            "region_id": REGION.id, "kind": "instance", "name": "notebook-stray", "instance_id": "",
            "found_at": now, "seen_at": now, "watched": 0.1, "message": NASTY, "outcome": "",
        },
    )  # fmt: skip


def contents(url: str) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, as a backup reads it."""
    database = Database(url)
    try:
        with backup.snapshot(database.url) as connection:
            tables = backup.tables_of(backup.revision(connection))
            return {table.name: [dict(row) for row in backup.read(connection, table)] for table in tables}
    finally:
        database.close()


def as_restored(before: dict[str, list[dict[str, Any]]], made_at: int, now: int) -> dict[str, Any]:
    """What a restore makes of rows: the little that it changes, changed."""
    passing = {"Initializing", "Starting", "PullingImage", "Restarting", "Stopping", "Terminating"}
    after = {name: [dict(row) for row in rows] for name, rows in before.items()}
    after["servers"] = []
    for row in after["users"]:
        row["token_epoch"] += backup.SKIPPED
    for row in after["nodes"]:
        row["present"] = False
    for row in after["instances"]:
        if row["leased_to"] is not None:
            row["leased_to"] = None
        if row["state"] != State.RELEASED:
            row |= {"due_at": now, "restored_from": made_at, "version": row["version"] + 1}
            row["revision"] += backup.SKIPPED
        if row["state"] in passing:
            row["state_since"] = now
    return after
