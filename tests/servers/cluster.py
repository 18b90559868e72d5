"""Several server processes on one PostgreSQL and one simulated engine, each with a data folder of its own.

Their drivers are slowed down and keep a diary of every call (``witness.py``), so that a test can tell who
asked what when.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select
from tests.journeys.running import Server, Tenant, give_money
from tests.journeys.waiting import until

from tidemill.store.database import Database
from tidemill.store.schema import servers as server_rows

TINY = {"name": "tiny", "cpu": 0.01, "memoryGB": 0.016, "perHour": 1}


class Member(Server):
    """One server of a cluster."""

    def command(self, *words: str) -> list[str]:
        if words[0] != "serve" or "diary" not in self.options:
            return super().command(*words)
        arguments = [*words, "--data-dir", str(self.folder)]
        return [sys.executable, "-m", "tests.servers.witness", self.options["diary"], *arguments]

    options: dict[str, str] = {}  # noqa: RUF012 - set by the cluster for each member


@dataclass
class Cluster:
    """``add`` servers to it; the first one's token keys are everybody's."""

    folder: Path
    url: str
    settings: dict[str, Any] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)

    @property
    def diary(self) -> Path:
        return self.folder / "diary"

    def add(self, *, keys: bool = True, start: bool = True, witness: bool = True, **settings: Any) -> Member:
        folder = self.folder / f"server-{len(self.members)}"
        folder.mkdir(mode=0o700)
        if keys and self.members:
            (folder / "keys").symlink_to(self.members[0].folder / "keys")
        own = {
            "deployment": "cluster",
            "database_url": self.url,
            "driver": "simulated",
            "simulated_folder": str(self.folder / "engine"),
            "node_ports": "1025-65535",
            "cpu_overcommit": 100,
            **self.settings,
            **settings,
        }
        if own["driver"] == "docker":
            del own["simulated_folder"]
        member = Member(folder, settings=own, tables={"type": [TINY]})
        member.options = {"diary": str(self.diary)} if witness else {}
        self.members.append(member)
        return member.start() if start else member

    def tenant(self, at: Member | None = None) -> Tenant:
        """The first user, logged in at one of the servers."""
        logins = json.loads((self.members[0].folder / "first-login.json").read_text())
        login = next(each for each in logins if not each["is_admin"])
        database = Database(self.url)
        give_money(database, login["username"])
        database.close()
        return Tenant(at or self.members[0], login["username"], login["password"]).log_in()

    def server_names(self) -> set[str]:
        """Who is there according to the database."""
        database = Database(self.url)
        try:
            return database.run(lambda c: set(c.execute(select(server_rows.c.id)).scalars()))
        finally:
            database.close()

    def close(self) -> None:
        for member in self.members:
            try:
                member.stop(signal.SIGKILL)
            finally:
                member.http.close()

    def log(self) -> str:
        return "\n".join(f"--- {member.folder.name}\n{member.log[-6000:]}" for member in self.members)


@contextmanager
def cluster(folder: Path, url: str, **settings: Any) -> Iterator[Cluster]:
    made = Cluster(folder, url, settings)
    try:
        yield made
    except BaseException:
        print(made.log())
        raise
    finally:
        made.close()


@dataclass(frozen=True)
class Call:
    """One driver call as its diary has it; ``end`` is None for one that its process did not survive."""

    process: int
    call: str
    id: str
    began: float
    end: float | None


def read_diary(path: Path) -> list[Call]:
    began: dict[tuple[int, int], tuple[str, str, float]] = {}
    calls: list[Call] = []
    for line in path.read_text().splitlines():
        process, number, what, call, id, at = json.loads(line)
        if what == "begin":
            began[process, number] = (call, id, at)
        else:
            call, id, since = began.pop((process, number))
            calls.append(Call(process, call, id, since, at))
    calls += [Call(process, call, id, since, None) for (process, _), (call, id, since) in began.items()]
    return sorted(calls, key=lambda call: call.began)


def overlaps(calls: list[Call], deaths: dict[int, float]) -> list[tuple[Call, Call]]:
    """Pairs of calls that two processes made about one instance at the same time.

    ``deaths`` says when a process was killed, which ends its calls.
    """
    found: list[tuple[Call, Call]] = []
    by_id: dict[str, list[Call]] = {}
    for call in calls:
        for earlier in by_id.get(call.id, []):
            end = earlier.end if earlier.end is not None else deaths.get(earlier.process, float("inf"))
            if earlier.process != call.process and call.began < end:
                found.append((earlier, call))
        by_id.setdefault(call.id, []).append(call)
    return found


def launch_many(cluster: Cluster, tenants: list[Tenant], count: int, pace: float, seed: int) -> list[str]:
    """``count`` launches at random servers, ``pace`` seconds apart, each asked for until accepted."""
    drawn, ids = random.Random(seed), []
    offer = tenants[0].offer(type="tiny")
    for number in range(count):
        body = tenants[0].request(type="tiny") | offer

        def accepted(body: dict[str, Any] = body, number: int = number) -> str:
            tenant = drawn.choice(tenants)
            try:
                answer = tenant.ask(
                    "POST", "/api/instance/create", body, headers={"Idempotency-Key": f"{seed}-{number}"}
                )
            except httpx.HTTPError:  # the server is not there, or went away
                return ""
            return answer.json()["instanceId"] if answer.status_code == 200 else ""

        ids.append(until(f"launch {number} is accepted", accepted, 30))
        time.sleep(pace)
    return ids
