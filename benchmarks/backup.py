"""What a backup costs: how the API answers meanwhile, how long it takes, and how much memory.

    uv run python benchmarks/backup.py [--instances 100000] [--postgresql URL]

One `tidemill serve` on the simulated driver with that many instances in its database. Eight clients read
one instance, read a page of the list, and launch and terminate; for a while without a backup, while
`tidemill backup` runs beside it as often as fits into the same while, and without one again. What is told:
how long calls took in each phase, and seconds and peak memory of one backup, of its restore into SQLite,
and of the first look of a server at what was restored.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Connection, insert, select

from tidemill.store import schema
from tidemill.store.database import Database

PORT = 8434
CATALOGUE = '[[type]]\nname = "tiny"\ncpu = 0.1\nmemoryGB = 0.02\nperHour = 0\n'
CLIENTS = 8
PAUSE = 0.05  # seconds between the calls of one client
PHASE = 20.0
SCRIPT = "#!/bin/sh\n" + "echo one line of an init script\n" * 16


def environment(folder: Path, url: str) -> dict[str, str]:
    return os.environ | {
        "TIDEMILL_DRIVER": "simulated",
        "TIDEMILL_SIMULATED_FOLDER": "memory",
        "TIDEMILL_SIMULATED_PULL_SECONDS": "0",
        "TIDEMILL_SIMULATED_START_SECONDS": "0",
        "TIDEMILL_CPU_OVERCOMMIT": "1000",
        "TIDEMILL_HOST": "127.0.0.1",
        "TIDEMILL_PORT": str(PORT),
        "TIDEMILL_DATA_DIR": str(folder),
        "TIDEMILL_DATABASE_URL": url,
    }


def tidemill(env: dict[str, str], *words: str) -> tuple[float, float]:
    """Seconds and peak MiB of one command."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "tidemill", *words], env=env, stderr=subprocess.PIPE)
    _, said = process.communicate()
    if process.returncode != 0:
        sys.exit(said.decode())
    return time.perf_counter() - began, 0.0


def measured(env: dict[str, str], *words: str) -> tuple[float, float]:
    """The same, with the peak of its memory in MiB."""
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.execve(sys.executable, [sys.executable, "-m", "tidemill", *words], env)
    _, status, used = os.wait4(child, 0)
    if status != 0:
        sys.exit(f"tidemill {' '.join(words)} failed")
    return time.perf_counter() - began, used.ru_maxrss / 1024


def fill(url: str, count: int) -> None:
    """That many instances at rest, each with three events and a meter."""
    database = Database(url)
    now = datetime.now(UTC)

    def work(connection: Connection) -> None:
        user = connection.execute(
            select(schema.users.c.id).where(schema.users.c.username == "user")
        ).scalar_one()
        region = connection.execute(select(schema.regions.c.id)).scalar_one()
        node = connection.execute(select(schema.nodes.c.id)).scalars().first()
        for start in range(0, count, 5000):
            rows = [
                _instance(f"notebook-{n:036}", user, region, node, now) for n in range(start, start + 5000)
            ]
            connection.execute(insert(schema.instances), rows)
            connection.execute(insert(schema.events), [line for row in rows for line in _events(row)])
            connection.execute(
                insert(schema.meters),
                [{"instance_id": r["id"], "start": 1, "opened_at": now, "closed_at": now} for r in rows],
            )

    try:
        from tidemill.store import backup

        with backup.one_transaction(database.url) as connection:
            work(connection)
    finally:
        database.close()


def _instance(id: str, user: str, region: str, node: str | None, now: datetime) -> dict[str, Any]:
    created = now - timedelta(seconds=int(id[-6:]))
    texts = dict.fromkeys(("type_id", "type_name", "image_id", "image_name", "image_reference"), "x")
    numbers = dict.fromkeys(("shm_mb", "pids", "gpu_num", "data_disk_gb", "docker_storage_gb"), 0)
    return texts | numbers | {
        "id": id, "user_id": user, "name": "at rest", "hostname": "at-rest", "region_id": region,
        "node_id": node, "cpu_milli": 100, "memory_mb": 20, "gpu_name": "", "charge_mode": "perHour",
        "duration": 1, "price_micro": 1, "is_spot": False, "enable_common_data": False,
        "enable_docker": False, "init_script": SCRIPT, "env": {}, "ssh_key_ids": None,
        "host_key": secrets.token_bytes(32), "created_at": created, "state": "Stopped",
        "state_since": created, "start": 1, "version": 3,
    }  # fmt: skip


def _events(row: dict[str, Any]) -> list[dict[str, Any]]:
    line = {
        "instance_id": row["id"], "user_id": row["user_id"], "at": row["created_at"], "start": 1,
        "reason": "", "message": "",
    }  # fmt: skip
    moves = (("launch", "Initializing", "Initializing"), ("running", "Initializing", "Running"))
    stop = ("exited", "Running", "Stopped")
    return [line | {"event": e, "from_state": a, "to_state": b} for e, a, b in (*moves, stop)]


class Load:
    """Clients that ask all the time, and how long each kind of call took."""

    def __init__(self, folder: Path) -> None:
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=60)
        self.folder = folder
        self.took: dict[str, list[float]] = {}
        self.going = True
        self.request: dict[str, Any] = {}

    async def log_in(self) -> None:
        logins = json.loads((self.folder / "first-login.json").read_text())
        login = next(each for each in logins if each["username"] == "user")
        answer = await self.http.post(
            "/api/user/login", json={name: login[name] for name in ("username", "password")}
        )
        self.http.headers["Authorization"] = f"Bearer {answer.json()['accessToken']}"
        families = (await self.http.post("/api/resource/user/instance/list", json={})).json()["instanceInfos"]
        images = (await self.http.post("/api/resource/image/list", json={})).json()["images"]
        region = families[0]["regionInfos"][0]
        self.request = {
            "name": "benchmark", "imageId": images[0]["imageId"], "region": region["regionId"],
            "instanceTypeId": region["instanceTypeInfos"][0]["instanceTypeId"],
            "billing": {"chargeMode": "perHour", "duration": 1}, "remoteStorages": [], "nodePorts": [],
            "instanceConfiguration": {
                "enableCommonData": False, "enableDocker": False, "initScript": ""
            },
        }  # fmt: skip

    async def timed(self, kind: str, call: Callable[[], Any]) -> httpx.Response:
        began = time.perf_counter()
        answer: httpx.Response = await call()
        self.took.setdefault(kind, []).append(time.perf_counter() - began)
        answer.raise_for_status()
        return answer

    async def client(self) -> None:
        one = f"notebook-{0:036}"
        page = {"pager": {"currentPage": 1, "pageSize": 20}, "filter": {"status": ["Running"]}}
        while self.going:
            await self.timed("get", lambda: self.http.get(f"/api/instance/{one}"))
            await self.timed("list", lambda: self.http.post("/api/instance/list", json=page))
            made = await self.timed(
                "launch", lambda: self.http.post("/api/instance/create", json=self.request)
            )
            id = made.json()["instanceId"]
            await self.timed(
                "terminate", lambda id=id: self.http.post("/api/instance/terminate", json={"instanceId": id})
            )
            await asyncio.sleep(PAUSE)

    def told(self) -> dict[str, dict[str, float]]:
        found, self.took = self.took, {}
        return {kind: _figures(values) for kind, values in sorted(found.items())}


def _figures(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = lambda share: round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)  # noqa: E731
    return {
        "calls": len(ordered),
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "most_ms": round(1000 * ordered[-1], 1),
    }


async def phases(folder: Path, env: dict[str, str], archive: Path) -> dict[str, Any]:
    load = Load(folder)
    for _ in range(600):
        try:
            if (await load.http.get("/readyz")).status_code == 200:
                break
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.1)
    await load.log_in()
    clients = [asyncio.create_task(load.client()) for _ in range(CLIENTS)]
    await asyncio.sleep(3)
    load.told()
    told: dict[str, Any] = {}
    await asyncio.sleep(PHASE)
    told["without"] = load.told()
    seconds, until = [], time.perf_counter() + PHASE
    while time.perf_counter() < until:
        archive.unlink(missing_ok=True)
        seconds.append((await asyncio.to_thread(tidemill, env, "backup", str(archive)))[0])
    told["during a backup"] = load.told()
    told["backup_seconds_under_load"] = round(statistics.median(seconds), 1)
    await asyncio.sleep(PHASE)
    told["without again"] = load.told()
    load.going = False
    await asyncio.gather(*clients)
    await load.http.aclose()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--postgresql", default="", help="URL of an empty database; SQLite without")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as top:
        folder, archive = Path(top) / "data", Path(top) / "backup.tar.gz"
        folder.mkdir(mode=0o700)
        (folder / "tidemill.toml").write_text(CATALOGUE)
        url = given.postgresql or f"sqlite:///{folder / 'tidemill.db'}"
        env = environment(folder, url)
        tidemill(env, "init")
        server = serve(env, Path(top))
        server.send_signal(signal.SIGTERM)  # it has written its catalogue and its node
        server.wait()
        fill(url, given.instances)
        server = serve(env, Path(top))
        told: dict[str, Any] = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version(),
            "database": "postgresql" if given.postgresql else "sqlite", "instances": given.instances,
        }  # fmt: skip
        told |= asyncio.run(phases(folder, env, archive))
        server.send_signal(signal.SIGTERM)
        server.wait()
        archive.unlink()
        told["backup_seconds"], told["backup_peak_mib"] = map(round1, measured(env, "backup", str(archive)))
        told["archive_mib"] = round1(archive.stat().st_size / 2**20)
        other = Path(top) / "restored"
        elsewhere = env | {"TIDEMILL_DATA_DIR": str(other), "TIDEMILL_DATABASE_URL": ""}
        told["restore_seconds"], told["restore_peak_mib"] = map(
            round1, measured(elsewhere, "restore", str(archive))
        )
        told["seconds_until_all_was_compared"] = round1(until_compared(elsewhere, other, Path(top)))
    print(json.dumps(told, indent=1))


def round1(number: float) -> float:
    return round(number, 1)


def serve(env: dict[str, str], top: Path) -> subprocess.Popen[bytes]:
    with (top / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tidemill", "serve"], env=env, stdout=log, stderr=log
        )
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if httpx.get(f"http://127.0.0.1:{PORT}/readyz", timeout=5).status_code == 200:
                return process
        except httpx.HTTPError:
            if process.poll() is not None:
                break
        time.sleep(0.1)
    sys.exit((top / "log").read_text()[-4000:])


def until_compared(env: dict[str, str], folder: Path, top: Path) -> float:
    """Seconds from the start of a server on what was restored until it has compared all of it."""
    began = time.perf_counter()
    server = serve(env, top)
    database = Database(f"sqlite:///{folder / 'tidemill.db'}")
    rows = schema.instances.c
    left = select(rows.id).where(rows.restored_from.is_not(None), rows.state != "Released").limit(1)
    try:
        while database.run(lambda connection: connection.execute(left).first()) is not None:
            time.sleep(0.5)
            if time.perf_counter() - began > 3600:
                break
    finally:
        database.close()
        server.send_signal(signal.SIGTERM)
        server.wait()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
