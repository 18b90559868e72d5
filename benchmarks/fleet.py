"""How the API answers while there are ten thousand machines and twenty thousand instances.

    uv run python benchmarks/fleet.py [--nodes 10000] [--instances 20000] [--seconds 60]

One `tidemill serve` with SQLite and the simulated driver, pinned to one core; the client is pinned to
another. Instances are launched over the API and brought to Running; then, for a while that has several
full passes in it, one instance is read again and again, a page of the list is read, and every second one
is launched and one is terminated. What is told: seconds until the server answers, until everything runs,
and how long each kind of call took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

CATALOGUE = (
    '[[type]]\nname = "tiny"\ncpu = 0.5\nmemoryGB = 1\ngpuName = "SIM-H100"\ngpuNum = 1\nperHour = 0\n'
)
PORT = 8433
SERVER_CORE, CLIENT_CORE = 0, 1
LAUNCHERS = 16
FULL_PASS = 10  # seconds: several are to be within the time that is measured


def environment(folder: Path, nodes: int) -> dict[str, str]:
    return os.environ | {
        "TIDEMILL_DRIVER": "simulated",
        "TIDEMILL_SIMULATED_NODES": str(nodes),
        "TIDEMILL_SIMULATED_PULL_SECONDS": "0",
        "TIDEMILL_SIMULATED_START_SECONDS": "0",
        "TIDEMILL_FULL_PASS": str(FULL_PASS),
        "TIDEMILL_DRIVER_CALLS": "64",
        "TIDEMILL_HOST": "127.0.0.1",
        "TIDEMILL_PORT": str(PORT),
        "TIDEMILL_DATA_DIR": str(folder),
    }


async def until(holds: Callable[[], Awaitable[bool]], process: subprocess.Popen[bytes], log: Path) -> float:
    """Seconds until it holds."""
    began = time.perf_counter()
    while not await holds():
        if process.poll() is not None or time.perf_counter() - began > 900:
            sys.exit(log.read_text()[-4000:])
        await asyncio.sleep(0.1)
    return time.perf_counter() - began


class Client:
    """One user of the API."""

    def __init__(self, folder: Path) -> None:
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{PORT}",
            timeout=120,
            limits=httpx.Limits(max_connections=100),
        )
        self.folder = folder
        self.request: dict[str, Any] = {}
        self.ids: list[str] = []

    async def answers(self) -> bool:
        try:
            return (await self.http.get("/healthz")).status_code == 200
        except httpx.HTTPError:
            return False

    async def post(self, path: str, body: object) -> dict[str, Any]:
        answer = await self.http.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    async def log_in(self) -> None:
        logins = json.loads((self.folder / "first-login.json").read_text())
        login = next(entry for entry in logins if not entry["is_admin"])
        token = await self.post(
            "/api/user/login", {"username": login["username"], "password": login["password"]}
        )
        self.http.headers["Authorization"] = f"Bearer {token['accessToken']}"
        family = (await self.post("/api/resource/user/instance/list", {}))["instanceInfos"][0]
        region = family["regionInfos"][0]
        image = (await self.post("/api/resource/image/list", {}))["images"][0]
        self.request = {
            "name": "benchmark",
            "imageId": image["imageId"],
            "instanceTypeId": region["instanceTypeInfos"][0]["instanceTypeId"],
            "region": region["regionId"],
            "billing": {"chargeMode": "perHour", "duration": 1},
            "remoteStorages": [],
            "instanceConfiguration": {
                "extraDataDiskSizeDB": 0,
                "enableCommonData": False,
                "enableDocker": False,
                "dockerStorageSize": 0,
                "initScript": "",
            },
            "isSpotInstance": False,
            "nodePorts": [],
        }

    async def launch(self) -> None:
        self.ids.append((await self.post("/api/instance/create", self.request))["instanceId"])

    async def launch_all(self, count: int) -> None:
        numbers = iter(range(count))

        async def worker() -> None:
            for _ in numbers:
                await self.launch()

        await asyncio.gather(*(worker() for _ in range(LAUNCHERS)))

    async def all_run(self) -> bool:
        body = {"pager": {"currentPage": 1, "pageSize": 1}, "filter": {"status": ["Running"]}}
        found = await self.post("/api/instance/list", body)
        return found["pager"]["totalEntries"] >= len(self.ids)

    async def read_one(self) -> None:
        (await self.http.get(f"/api/instance/{self.ids[0]}")).raise_for_status()

    async def read_page(self) -> None:
        await self.post("/api/instance/list", {"pager": {"currentPage": 1, "pageSize": 50}})

    async def terminate(self) -> None:
        await self.post("/api/instance/terminate", {"instanceId": self.ids.pop()})


async def timed(call: Callable[[], Awaitable[None]], every: float, seconds: float) -> list[float]:
    """How long each call took, begun at a steady pace whether or not those before were answered."""

    async def one() -> float:
        began = time.perf_counter()
        await call()
        return time.perf_counter() - began

    began = time.perf_counter()
    tasks: list[asyncio.Task[float]] = []
    for number in range(int(seconds / every)):
        await asyncio.sleep(max(0.0, began + number * every - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    return sorted(await asyncio.gather(*tasks))


def told(found: list[float]) -> dict[str, float]:
    def at(share: float) -> float:
        return round(found[min(len(found) - 1, int(len(found) * share))] * 1000, 1)

    return {"calls": len(found), "p50_ms": at(0.5), "p99_ms": at(0.99), "most_ms": at(1)}


async def measure(
    folder: Path, process: subprocess.Popen[bytes], asked: argparse.Namespace
) -> dict[str, Any]:
    os.sched_setaffinity(0, {CLIENT_CORE})
    log = folder / "server.log"
    client = Client(folder)
    serving = await until(client.answers, process, log)
    await client.log_in()
    began = time.perf_counter()
    await client.launch_all(asked.instances)
    accepted = time.perf_counter() - began
    await until(client.all_run, process, log)
    running = time.perf_counter() - began
    await asyncio.sleep(FULL_PASS)
    calls = {
        "read one instance": (client.read_one, 0.05),
        "read a page of fifty": (client.read_page, 0.5),
        "launch": (client.launch, 1.0),
        "terminate": (client.terminate, 1.0),
    }
    found = await asyncio.gather(*(timed(call, every, asked.seconds) for call, every in calls.values()))
    return {
        "what": f"{asked.nodes} machines, {asked.instances} instances, a full pass every {FULL_PASS} s",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "serving_after_s": round(serving, 1),
        "launches_accepted_per_second": round(asked.instances / accepted),
        "all_running_after_s": round(running, 1),
        **{name: told(times) for name, times in zip(calls, found, strict=True)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--instances", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=60)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tidemill.toml").write_text(CATALOGUE)
        tidemill = [sys.executable, "-m", "tidemill"]
        variables = environment(folder, asked.nodes)
        subprocess.run([*tidemill, "init"], env=variables, check=True, stdout=subprocess.DEVNULL)
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                ["taskset", "-c", str(SERVER_CORE), *tidemill, "serve"], env=variables, stdout=log, stderr=log
            )
        try:
            result = asyncio.run(measure(folder, process, asked))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    text = json.dumps(result, indent=2)
    print(text)
    (Path(__file__).parent / "results" / "fleet.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
