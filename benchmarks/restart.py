"""How long a server is away when it is started again, with a hundred thousand instances running.

    uv run python benchmarks/restart.py [--instances 100000] [--rounds 3]

Two deployments with the same machines (eight accelerators each) on SQLite and the simulated driver, whose
engine is a file: an empty one, and one whose database and engine are filled in bulk with instances that run
as they should, one accelerator each. `tidemill serve`, pinned to one core, is started on each in turn: after
it was told to stop, and after SIGKILL while eight clients launched and terminated. The client, on another
core, asks all the while. What is told, in seconds from the start of the process: until it serves; until the
first pass has compared every instance with the engine and written down that it did; until the loop rests.
And how long calls took from the first answer until then, beside those at rest; how far the log had grown
that was to be recovered; how many lines of history a start wrote; and, because no other engine is read like
this, how long the reading of the simulated engine's file takes by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import secrets
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy import Connection, bindparam, insert, select, update

from tidemill.catalogue import Tables
from tidemill.clock import SystemClock
from tidemill.deployment import deployment_label
from tidemill.drivers.contract import Device, Driver, Port, Workload
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.drivers.simulated.objects import Made
from tidemill.model.observation import Phase, Seen
from tidemill.server import offering
from tidemill.server.engines import make_drivers
from tidemill.settings import load
from tidemill.store import backup, schema
from tidemill.store.database import Database

CATALOGUE = '[[type]]\nname = "one"\ncpu = 4\nmemoryGB = 32\ngpuName = "SIM-H100"\ngpuNum = 1\nperHour = 0\n'
PORT = 8435
SERVER_CORE, CLIENT_CORE = 0, 1
GPUS = 8  # of each machine
SPARE = 20  # machines that nothing runs on, for what is launched before a kill
TENANTS = 1000
BATCH = 5000
SCRIPT = "#!/bin/sh\n" + "echo one line of an init script\n" * 16
LAUNCHERS = 8
GET_EVERY, LIST_EVERY = 0.02, 0.1  # seconds
QUIET = 3.0  # seconds in which a loop at rest passes no more often than it beats
AT_REST = 5.0  # seconds of calls at rest
PATIENCE = 3600.0


@dataclass
class Deployment:
    """One data folder, and what its starts took."""

    folder: Path
    nodes: int
    told: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    @property
    def database(self) -> Path:
        return self.folder / "tidemill.db"

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "TIDEMILL_DRIVER": "simulated",
            "TIDEMILL_SIMULATED_NODES": str(self.nodes),
            "TIDEMILL_SIMULATED_PULL_SECONDS": "0",
            "TIDEMILL_SIMULATED_START_SECONDS": "0",
            "TIDEMILL_SIMULATED_STOP_SECONDS": "0",
            "TIDEMILL_FULL_PASS": "3600",  # the first one alone is within a run
            "TIDEMILL_HOST": "127.0.0.1",
            "TIDEMILL_PORT": str(PORT),
            "TIDEMILL_DATA_DIR": str(self.folder),
        }

    def keep(self, **found: Any) -> None:
        for name, value in found.items():
            self.told.setdefault(name, []).append(value)

    def driver(self) -> Driver:
        """A way to its engine, as a server would make it."""
        configuration = load(self.folder / "tidemill.toml", {}, self.environment)
        database = Database(f"sqlite:///{self.database}")
        try:
            deployment = deployment_label(database, configuration.settings)
        finally:
            database.close()
        tables = Tables(configuration.tables)
        regions = offering.regions_of(configuration.settings, tables)
        made = make_drivers(configuration, tables, regions, deployment, SystemClock())
        return made[regions[0].id]

    def read(self, statement: str, *values: object) -> Any:
        """One value of its database."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return connection.execute(statement, values).fetchone()[0]


def make(folder: Path, instances: int, count: int) -> Deployment:
    """A deployment with its catalogue and machines, and ``count`` instances."""
    folder.mkdir(mode=0o700)
    made = Deployment(folder, instances // GPUS + SPARE)
    (folder / "tidemill.toml").write_text(CATALOGUE)
    subprocess.run([*TIDEMILL, "init"], env=made.environment, check=True, stdout=subprocess.DEVNULL)
    with serving(made) as process:  # writes its catalogue and its machines
        asyncio.run(_until_served(process, made))
    if count:
        fill(made, count)
    return made


TIDEMILL = [sys.executable, "-m", "tidemill"]


@contextlib.contextmanager
def serving(deployment: Deployment) -> Iterator[subprocess.Popen[bytes]]:
    with (deployment.folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), *TIDEMILL, "serve"],
            env=deployment.environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def fill(deployment: Deployment, count: int) -> None:
    """That many instances that run, in the database and in the engine."""
    made: list[dict[str, Any]] = []
    now = datetime.now(UTC)
    database = Database(f"sqlite:///{deployment.database}")
    try:
        with backup.one_transaction(database.url) as connection:
            users = [str(uuid4()) for _ in range(TENANTS - 1)]
            connection.execute(
                insert(schema.users),
                [
                    {
                        "id": id,
                        "username": f"user-{id}",
                        "password_hash": "never",
                        "is_admin": False,
                        "created_at": now,
                    }
                    for id in users
                ],
            )
            us = select(schema.users.c.id).where(schema.users.c.username == "user")
            users.append(connection.execute(us).scalar_one())
            nodes = connection.execute(select(schema.nodes.c.id, schema.nodes.c.name)).all()
            terms = _terms(connection)
            for start in range(0, count, BATCH):
                rows = [
                    _instance(n, users[n % TENANTS], nodes[n // GPUS][0], terms, now)
                    for n in range(start, min(count, start + BATCH))
                ]
                _write(connection, rows, now)
                made += [
                    {"id": row["id"], "user": row["user_id"], "node": nodes[(start + at) // GPUS][1]}
                    for at, row in enumerate(rows)
                ]
    finally:
        database.close()
    driver = deployment.driver()
    assert isinstance(driver, SimulatedDriver)
    with driver.engine.turn():
        for number, one in enumerate(made):
            driver.engine.put(_made(number, one))
    asyncio.run(driver.close())


def _terms(connection: Connection) -> dict[str, Any]:
    """What an instance has of the catalogue."""
    region = connection.execute(select(schema.regions.c.id)).scalar_one()
    kind = connection.execute(select(schema.instance_types)).mappings().first()
    image = connection.execute(select(schema.images)).mappings().first()
    assert kind is not None
    assert image is not None
    return {
        "region_id": region, "type_id": kind["id"], "type_name": kind["name"], "image_id": image["id"],
        "image_name": image["name"], "image_reference": image["reference"],
        **{name: kind[name] for name in ("cpu_milli", "memory_mb", "shm_mb", "pids", "gpu_name", "gpu_num")},
    }  # fmt: skip


def _instance(n: int, user: str, node: str, terms: dict[str, Any], now: datetime) -> dict[str, Any]:
    created = now - timedelta(seconds=n + 60)
    return terms | {
        "id": f"notebook-{uuid4()}", "user_id": user, "name": f"instance {n}", "hostname": f"instance-{n}",
        "node_id": node, "charge_mode": "perHour", "duration": 1, "price_micro": 1_000_000, "is_spot": False,
        "data_disk_gb": 0, "enable_common_data": False, "enable_docker": False, "docker_storage_gb": 0,
        "init_script": SCRIPT, "init_exit": 0, "env": {}, "ssh_key_ids": None,
        "host_key": secrets.token_bytes(32), "created_at": created, "state": "Running",
        "state_since": created, "started_at": created, "start": 1, "version": 4,
    }  # fmt: skip


def _write(connection: Connection, rows: list[dict[str, Any]], now: datetime) -> None:
    """Instances with all that belongs to one that runs."""
    connection.execute(insert(schema.instances), rows)
    line = {"start": 1, "reason": "", "message": ""}
    moves = (
        ("launch", "Initializing", "Initializing"), ("placed", "Initializing", "Starting"),
        ("reachable", "Starting", "Running"),
    )  # fmt: skip
    connection.execute(
        insert(schema.events),
        [
            line
            | {"instance_id": row["id"], "user_id": row["user_id"], "at": row["created_at"]}
            | {"event": event, "from_state": before, "to_state": after}
            for row in rows
            for event, before, after in moves
        ],
    )
    connection.execute(
        insert(schema.meters),
        [{"instance_id": row["id"], "start": 1, "opened_at": row["created_at"]} for row in rows],
    )
    held = ("node_id", "cpu_milli", "memory_mb")
    connection.execute(
        insert(schema.reservations),
        [{"instance_id": row["id"]} | {name: row[name] for name in held} for row in rows],
    )
    connection.execute(
        insert(schema.node_ports),
        [
            {"instance_id": row["id"], "node_id": row["node_id"], "port": 22, "node_port": 31000 + at % GPUS}
            for at, row in enumerate(rows)
        ],
    )
    nodes, devices = schema.nodes, schema.devices
    connection.execute(
        update(nodes)
        .where(nodes.c.id == bindparam("on"))
        .values(
            cpu_used=nodes.c.cpu_used + bindparam("cpu"),
            memory_used=nodes.c.memory_used + bindparam("memory"),
        ),
        [{"on": row["node_id"], "cpu": row["cpu_milli"], "memory": row["memory_mb"]} for row in rows],
    )
    names = {
        id: name.removeprefix("node-") for id, name in connection.execute(select(nodes.c.id, nodes.c.name))
    }
    connection.execute(
        update(devices)
        .where(devices.c.node_id == bindparam("on"), devices.c.device_id == bindparam("which"))
        .values(instance_id=bindparam("holder")),
        [
            {"on": row["node_id"], "which": f"gpu-{names[row['node_id']]}-{at % GPUS}", "holder": row["id"]}
            for at, row in enumerate(rows)
        ],
    )


def _made(number: int, one: dict[str, Any]) -> Made:
    """The same one as the engine has it."""
    device = Device(f"gpu-{one['node'].removeprefix('node-')}-{number % GPUS}", "SIM-H100")
    workload = Workload(
        id=one["id"], start=1, tenant=one["user"], hostname=f"instance-{number}", image="benchmark", cpu=4,
        memory_mb=30517, shm_mb=64, pids=1000, ports=(Port(22, 31000 + number % GPUS),), authorized_keys=(),
        host_key=b"", init_script=SCRIPT, devices=(device,), node=one["node"],
    )  # fmt: skip
    return Made(workload, Seen(1, Phase.REACHABLE, init_exit=0), [1], one["node"])


class Client:
    """Whoever asks a server, with a token that outlives it."""

    def __init__(self, deployment: Deployment, token: str = "") -> None:
        self.deployment = deployment
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{PORT}",
            timeout=120,
            limits=httpx.Limits(max_connections=200, keepalive_expiry=2),  # before the server lets them go
        )
        if token:
            self.http.headers["Authorization"] = f"Bearer {token}"

    async def log_in(self) -> str:
        logins = json.loads((self.deployment.folder / "first-login.json").read_text())
        login = next(entry for entry in logins if not entry["is_admin"])
        told = await self.post(
            "/api/user/login", {"username": login["username"], "password": login["password"]}
        )
        return str(told["accessToken"])

    async def post(self, path: str, body: object) -> dict[str, Any]:
        answer = await self.http.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    async def read_oneself(self) -> None:
        (await self.http.get("/api/user/me")).raise_for_status()

    async def read_page(self) -> None:
        await self.post("/api/instance/list", {"pager": {"currentPage": 1, "pageSize": 50}})

    async def passes(self) -> float:
        """How often the loop has looked since the start."""
        text = (await self.http.get("/metrics")).text
        name = "tidemill_reconcile_pass_duration_seconds_count"
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    async def launch_and_terminate(self, until: float) -> None:
        families = (await self.post("/api/resource/user/instance/list", {}))["instanceInfos"]
        image = (await self.post("/api/resource/image/list", {}))["images"][0]
        region = families[0]["regionInfos"][0]
        request = {
            "name": "benchmark", "imageId": image["imageId"], "region": region["regionId"],
            "instanceTypeId": region["instanceTypeInfos"][0]["instanceTypeId"],
            "billing": {"chargeMode": "perHour", "duration": 1}, "remoteStorages": [], "nodePorts": [],
            "instanceConfiguration": {"enableCommonData": False, "enableDocker": False, "initScript": ""},
        }  # fmt: skip
        while time.perf_counter() < until:
            try:
                id = (await self.post("/api/instance/create", request))["instanceId"]
                await self.post("/api/instance/terminate", {"instanceId": id})
            except httpx.HTTPStatusError as error:  # no room until what was terminated is gone
                if error.response.status_code < 500 and error.response.status_code != 409:
                    raise
                await asyncio.sleep(0.1)


async def _until_served(process: subprocess.Popen[bytes], deployment: Deployment) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as http:
        until = time.perf_counter() + PATIENCE
        while process.poll() is None and time.perf_counter() < until:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get("/healthz")).status_code == 200:
                    return
            await asyncio.sleep(0.01)
    sys.exit((deployment.folder / "server.log").read_text()[-4000:])


class Asked:
    """Calls at a steady pace, begun whether or not those before were answered."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: list[asyncio.Task[tuple[str, float, float]]] = []
        self._asking = [
            asyncio.create_task(self._ask("read oneself", client.read_oneself, GET_EVERY)),
            asyncio.create_task(self._ask("read a page of fifty", client.read_page, LIST_EVERY)),
        ]

    async def _ask(self, name: str, call: Callable[[], Awaitable[None]], every: float) -> None:
        began, number = time.perf_counter(), 0
        while True:
            await asyncio.sleep(max(0.0, began + number * every - time.perf_counter()))
            self._tasks.append(asyncio.create_task(self._one(name, call)))
            number += 1

    @staticmethod
    async def _one(name: str, call: Callable[[], Awaitable[None]]) -> tuple[str, float, float]:
        began = time.perf_counter()
        await call()
        return name, began, time.perf_counter() - began

    async def told(self, until: float) -> dict[str, dict[str, float]]:
        """Stop asking; how long calls took that were begun before ``until``."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        took: dict[str, list[float]] = {}
        for name, began, seconds in await asyncio.gather(*self._tasks):
            if began < until:
                took.setdefault(name, []).append(seconds)
        return {name: _figures(sorted(found)) for name, found in sorted(took.items())}


def _figures(found: list[float]) -> dict[str, float]:
    def at(share: float) -> float:
        return round(found[min(len(found) - 1, int(len(found) * share))] * 1000, 1)

    return {"calls": len(found), "p50_ms": at(0.5), "p99_ms": at(0.99), "most_ms": at(1)}


async def start(deployment: Deployment, token: str, *, kind: str, kill_after: float = 0.0) -> None:
    """One start, from the process to a loop at rest; told under ``kind``."""
    wal = deployment.database.with_name(deployment.database.name + "-wal")
    log_mib = round(wal.stat().st_size / 2**20, 1) if wal.exists() else 0.0
    lines = deployment.read("SELECT max(seq) FROM events") or 0
    wall, began = time.time(), time.perf_counter()
    with serving(deployment) as process:
        await _until_served(process, deployment)
        served = time.perf_counter() - began
        client = Client(deployment, token)
        asked = Asked(client)
        while (deployment.read("SELECT seen_at FROM regions") or 0) < wall * 1e6:
            await asyncio.sleep(0.02)
        passed = time.perf_counter() - began
        rests = await _until_rest(client)
        calls = await asked.told(rests)
        asked = Asked(client)
        await asyncio.sleep(AT_REST)
        at_rest = await asked.told(time.perf_counter())
        deployment.keep(
            **{
                f"{kind}: serving_s": round(served, 2),
                f"{kind}: first_pass_through_s": round(passed, 2),
                f"{kind}: loop_at_rest_s": round(max(rests - began, passed), 2),
                f"{kind}: calls until then": calls,
                f"{kind}: calls at rest": at_rest,
                f"{kind}: log_to_recover_mib": log_mib,
                f"{kind}: lines_of_history": (deployment.read("SELECT max(seq) FROM events") or 0) - lines,
                f"{kind}: peak_memory_mib": _peak_mib(process),
            }
        )
        if kill_after:
            until = time.perf_counter() + kill_after
            working = [asyncio.create_task(client.launch_and_terminate(until + 60)) for _ in range(LAUNCHERS)]
            await asyncio.sleep(kill_after)
            process.kill()
            process.wait()
            await asyncio.gather(*working, return_exceptions=True)
        await client.http.aclose()


async def _until_rest(client: Client) -> float:
    """When the loop began to pass no more often than it beats; nothing rings for those who only look."""
    began, passes = time.perf_counter(), await client.passes()
    while True:
        await asyncio.sleep(QUIET)
        now = await client.passes()
        if now - passes <= QUIET:
            return began
        began, passes = time.perf_counter(), now


def _peak_mib(process: subprocess.Popen[bytes]) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def read_engine(deployment: Deployment) -> float:
    """Seconds that the simulated engine's file takes to be read, as at a start."""
    began = time.perf_counter()
    driver = deployment.driver()
    took = time.perf_counter() - began
    asyncio.run(driver.close())
    return round(took, 2)


async def token_of(deployment: Deployment) -> str:
    with serving(deployment) as process:
        await _until_served(process, deployment)
        client = Client(deployment)
        token = await client.log_in()
        await client.http.aclose()
    return token


def measure(top: Path, asked: argparse.Namespace) -> dict[str, Any]:
    empty = make(top / "empty", asked.instances, 0)
    full = make(top / "full", asked.instances, asked.instances)
    os.sched_setaffinity(0, {CLIENT_CORE})
    tokens = [asyncio.run(token_of(each)) for each in (empty, full)]
    for _ in range(asked.rounds):
        asyncio.run(start(empty, tokens[0], kind="empty"))
        asyncio.run(start(full, tokens[1], kind="stopped", kill_after=asked.seconds))
        asyncio.run(start(full, tokens[1], kind="killed"))
    told = empty.told | full.told
    middle = lambda name: statistics.median(told[name])  # noqa: E731
    return {
        "what": f"starting `tidemill serve`: {asked.instances} running instances, {full.nodes} machines",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "beside": asked.beside,
        "reading_the_simulated_engine_s": read_engine(full),
        "database_mib": round(full.database.stat().st_size / 2**20),
        "serving_median_s": {kind: middle(f"{kind}: serving_s") for kind in ("empty", "stopped", "killed")},
        "first_pass_through_median_s": {
            kind: middle(f"{kind}: first_pass_through_s") for kind in ("empty", "stopped", "killed")
        },
        "serving_ratio": round(middle("stopped: serving_s") / middle("empty: serving_s"), 2),
        "first_pass_ratio": round(
            middle("stopped: first_pass_through_s") / middle("empty: first_pass_through_s"), 2
        ),
        "starts": told,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of launches before each kill")
    parser.add_argument("--beside", default="nothing", help="what else the machine does, for the record")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), asked)
    text = json.dumps(result, indent=2)
    print(text)
    (Path(__file__).parent / "results" / "restart.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
