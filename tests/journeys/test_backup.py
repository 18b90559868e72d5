"""A deployment is taken back to a backup while its instances go on, on a real engine.

Between the backup and the restore everything happens that a backup cannot know of: instances end, stop,
restart, start, change their devices, and new ones come.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.journeys.running import SMALL, Server, Tenant, described, docker, environment
from tests.journeys.visiting import Person, Visit
from tests.journeys.waiting import until
from tests.postgres import PostgresServer

from tidemill.store.schema import findings

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.databases("sqlite")]

CARD = SMALL | {"name": "card", "gpuName": "Card", "gpuNum": 1}
DEVICES = [{"id": f"card-{name}", "name": "Card", "paths": [f"/dev/{name}"]} for name in ("full", "zero")]


@dataclass
class Seen:
    """What the engine has of an instance: its container, and since when that runs."""

    container: str
    name: str
    started: str


def seen(id: str) -> Seen | None:
    said = described(id, "{{.Id}} {{.Name}} {{.State.StartedAt}}").split()
    return Seen(said[0], said[1].removeprefix("/"), said[2]) if said else None


def start_of(id: str) -> int | None:
    found = seen(id)
    return None if found is None else int(found.name.rpartition("-")[2].removesuffix(".starting"))


def card_of(id: str) -> str:
    """The id of the device that the engine gave to an instance."""
    found = seen(id)
    assert found is not None, id
    paths = "{{range .HostConfig.Devices}}{{.PathOnHost}}{{end}}"
    return f"card-{Path(docker('inspect', '--format', paths, found.name)).name}"


def watched(server: Server, id: str) -> float:
    """For how many seconds the servers have watched what no instance wants."""
    statement = select(findings.c.watched).where(findings.c.name == id, findings.c.ended_at.is_(None))
    with server.database() as database:
        return database.run(lambda connection: connection.execute(statement).scalar()) or 0.0


def tried(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        server.command(*words), capture_output=True, text=True, check=False, env=environment()
    )


def tell(server: Server, *words: str) -> str:
    """What a command that must succeed says, on either output."""
    done = server.tidemill(*words)
    return done.stdout + done.stderr


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_back_to_a_backup_while_everything_runs(
    request: pytest.FixtureRequest,
    deployment: Callable[..., Server],
    guest: Path,
    person: Person,
    tmp_path: Path,
    target: str,
) -> None:
    server = deployment(guest=guest, tables={"type": [SMALL, CARD], "device": DEVICES})
    server.start()
    user = server.first_login()
    user.add_key(person.public_line)
    story: dict[str, dict[str, Any]] = {
        "stays": {},
        "restarted": {"type": "card"},
        "terminated": {"type": "card"},
        "stopped": {},
        "started": {"disk": 1},
    }
    ids = {name: user.launch(**fields) for name, fields in story.items()}
    for id in ids.values():
        user.wait(id, "Running")
    visits: dict[str, Visit] = {}
    for name, id in ids.items():
        visits[name] = visit = person.at(user, id)
        until(f"{name} admits", visit.admitted, 20)
        visit.say(f"echo {name} > /root/mark; sync")
    visits["started"].say("echo kept > /root/dataDisk/mark; sync")
    visits["stays"].say("(sleep 1000 & echo $! > /root/pid) > /dev/null 2>&1")
    user.do("stop", ids["started"])
    user.wait(ids["started"], "Stopped")
    old_key = user.post("/api/user/apikey/create", {"name": "old"})["key"]
    old_token = user.token

    archive = tmp_path / "backup.tar.gz"
    said = tell(server, "backup", str(archive))
    assert "Not in it: system disks" in said
    assert user.password not in said
    assert archive.stat().st_mode & 0o777 == 0o600

    # What the backup does not know of.
    new_key = user.post("/api/user/apikey/create", {"name": "new"})["key"]
    user.do("terminate", ids["terminated"])
    unknown = until("its card is free", lambda: launched(user, "card"), 40)
    user.wait(unknown, "Running")
    user.do("stop", ids["stopped"])
    user.wait(ids["stopped"], "Stopped")
    user.do("restart", ids["restarted"])
    until("it is in its second start", lambda: start_of(ids["restarted"]) == 2, 30)
    user.wait(ids["restarted"], "Running")
    user.do("start", ids["started"])
    user.wait(ids["started"], "Running")
    stranger = person.at(user, unknown)
    until("the new one admits", stranger.admitted, 20)
    running = {name: seen(ids[name]) for name in ("stays", "restarted", "started")} | {"new": seen(unknown)}
    assert None not in running.values()
    cards = {card_of(ids["restarted"]), card_of(unknown)}
    assert len(cards) == 2

    refused = tried(server, "restore", str(archive), "--replace")
    assert refused.returncode == 1
    assert "Another tidemill server" in refused.stderr
    server.stop()
    if target == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        server.configure(database_url=postgres.new_database(migrated=False))
    said = tell(server, "restore", str(archive), "--replace")
    assert "Everybody has to log in again" in said
    assert list(server.folder.glob("replaced-*/tidemill.db")) or target == "postgresql"
    server.start()

    # Whoever was logged in is not, keys made since are unknown, those of the backup are good.
    token = {"Authorization": f"Bearer {old_token}"}
    assert server.http.post("/api/instance/list", json={}, headers=token).status_code == 401
    for key, status in ((new_key, 401), (old_key, 200)):
        answer = server.http.get(f"/api/instance/{ids['stays']}", headers={"X-API-Key": key})
        assert answer.status_code == status
    user.log_in()

    for name in ("stays", "restarted", "started"):
        user.wait(ids[name], "Running")
    for name in ("terminated", "stopped"):
        row = until(f"{name} is settled", lambda name=name: lost(user, ids[name]), 40)
        assert row["status"] == "Stopped"
    assert {name: seen(ids[name]) for name in ("stays", "restarted", "started")} | {
        "new": seen(unknown)
    } == running
    visits["stays"].say("kill -0 $(cat /root/pid)")
    for name in ("stays", "restarted", "started"):
        assert visits[name].say("cat /root/mark").strip() == name
    assert visits["started"].say("cat /root/dataDisk/mark").strip() == "kept"

    # What it does not know is nobody's, and is left alone: longer than the grace, over full passes.
    assert user.ask("GET", f"/api/instance/{unknown}").status_code == 404
    grace = server.settings["orphan_grace"]
    until("it was watched for longer than others are", lambda: watched(server, unknown) > 2 * grace, 60)
    examined = tried(server, "doctor")
    assert examined.returncode == 1, examined.stderr
    assert unknown in examined.stdout
    assert seen(unknown) == running["new"]

    # Its card is its own: a launch finds none, and gets it once it is gone.
    full = user.ask("POST", "/api/instance/create", user.request(type="card"))
    assert full.status_code == 409, full.text
    assert stranger.say("echo still here").strip() == "still here"
    assert "the restore is closed" in tried(server, "doctor", "--remove-orphans").stdout
    until("it is gone when the operator says so", lambda: seen(unknown) is None, 40)
    fresh = until("its card is free", lambda: launched(user, "card"), 40)
    user.wait(fresh, "Running")
    assert {card_of(ids["restarted"]), card_of(fresh)} == cards

    # The life of the others goes on: what was lost is started, what was adopted restarts.
    user.do("start", ids["stopped"])
    user.wait(ids["stopped"], "Running")
    assert person.at(user, ids["stopped"]).say("cat /root/mark").strip() == "stopped"
    user.do("restart", ids["restarted"])
    until("it is in its third start", lambda: start_of(ids["restarted"]) == 3, 40)
    user.wait(ids["restarted"], "Running")
    assert visits["restarted"].say("cat /root/mark").strip() == "restarted"
    server.terminate_all(user)
    until("nothing is left", lambda: not server.leftovers(), 20)


def lost(user: Tenant, id: str) -> dict[str, Any] | None:
    runtime = user.runtime(id)
    return runtime if runtime["diagnosisReason"] == "LostInRestore" else None


def launched(user: Tenant, type: str) -> str | None:
    answer = user.ask("POST", "/api/instance/create", user.request(type=type))
    return answer.json()["instanceId"] if answer.status_code == 200 else None
