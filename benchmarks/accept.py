"""Launches accepted per second, against the same stack answering the same body without a database.

    uv run python benchmarks/accept.py [--seconds 5] [--connections 16] [--rounds 5]

Both sides are whole server processes with uvicorn, FastAPI, the wire's validation and the token check,
pinned to one core; the client is pinned to another. The durable side is `tidemill serve` with SQLite
(synchronous=FULL) and the simulated driver, loop and all: every accepted launch is brought to Running
meanwhile. The bare side answers after validation with an id and keeps nothing. Rounds alternate; the
result is the median of the ratios, and the durable side's latency at half its rate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx

CATALOGUE = '[[type]]\nname = "tiny"\ncpu = 0.1\nmemoryGB = 0.016\nperHour = 0\n'
ENVIRONMENT = {
    "TIDEMILL_DRIVER": "simulated",
    "TIDEMILL_SIMULATED_FOLDER": "memory",  # an engine that costs nothing and takes no time
    "TIDEMILL_SIMULATED_NODES": "2",  # room for every launch of a run
    "TIDEMILL_SIMULATED_PULL_SECONDS": "0",
    "TIDEMILL_SIMULATED_START_SECONDS": "0",
    "TIDEMILL_NODE_PORTS": "1025-65535",
    "TIDEMILL_CPU_OVERCOMMIT": "100000",
    "TIDEMILL_HOST": "127.0.0.1",
}
SERVER_CORE, CLIENT_CORE = 0, 1


def serve_bare() -> None:
    """The same application with the two calls that need a database taken out."""
    from tidemill import server
    from tidemill.actions.context import Context
    from tidemill.api import callers, instances
    from tidemill.model.account import Caller, User
    from tidemill.model.instance import Order

    user: list[User] = []

    async def by_token(context: Context, token: str) -> Caller:
        claims = context.tokens.verify(token, context.clock.now())
        if not user:
            user.append(User(claims.user_id, "user", False, claims.epoch, context.clock.now()))
        return Caller(user[0])

    async def launch(context: Context, caller: Caller, order: Order, *, key: str | None, body: bytes) -> str:
        return f"notebook-{uuid4()}"

    callers.by_token = by_token  # type: ignore[assignment]
    instances.launch = launch  # type: ignore[assignment]
    from tidemill.settings import load

    folder = Path(os.environ["TIDEMILL_DATA_DIR"])
    server.main(load(folder / "tidemill.toml", {}))


@dataclass
class Side:
    """One server process and what is sent to it."""

    port: int
    folder: Path
    request: bytes = b""
    rates: list[float] = field(default_factory=list)


@contextlib.contextmanager
def server(port: int, folder: Path, command: list[str]) -> Iterator[Side]:
    environment = os.environ | ENVIRONMENT | {"TIDEMILL_PORT": str(port), "TIDEMILL_DATA_DIR": str(folder)}
    (folder / "tidemill.toml").write_text(CATALOGUE)
    tidemill = [sys.executable, "-m", "tidemill"]
    subprocess.run([*tidemill, "init"], env=environment, check=True, stdout=subprocess.DEVNULL)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), *(command or [*tidemill, "serve"])],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        side = Side(port, folder)
        side.request = first_request(side)
        yield side
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def first_request(side: Side) -> bytes:
    """Wait until the server answers, log in, and write the launch down as the bytes of one request."""
    with httpx.Client(base_url=f"http://127.0.0.1:{side.port}") as client:
        deadline = time.monotonic() + 30
        while True:
            try:
                client.get("/healthz").raise_for_status()
                break
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    sys.exit((side.folder / "server.log").read_text())
                time.sleep(0.05)
        logins = json.loads((side.folder / "first-login.json").read_text())
        login = next(entry for entry in logins if not entry["is_admin"])
        token = client.post(
            "/api/user/login", json={"username": login["username"], "password": login["password"]}
        ).json()["accessToken"]
        client.headers["Authorization"] = f"Bearer {token}"
        family = client.post("/api/resource/user/instance/list", json={}).json()["instanceInfos"][0]
        region = family["regionInfos"][0]
        image = client.post("/api/resource/image/list", json={}).json()["images"][0]
    body = json.dumps(
        {
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
    ).encode()
    head = (
        "POST /api/instance/create HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> float:
    """Send one launch and read its answer; returns seconds."""
    began = time.perf_counter()
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    answer = await reader.readexactly(length)
    if b" 200 " not in head[:20]:
        raise RuntimeError(answer.decode())
    return time.perf_counter() - began


@contextlib.asynccontextmanager
async def connection(side: Side) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", side.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def flood(side: Side, connections: int, seconds: float) -> float:
    """Launches per second with every connection busy."""
    count = 0
    began = time.perf_counter()

    async def worker() -> None:
        nonlocal count
        async with connection(side) as (reader, writer):
            while time.perf_counter() - began < seconds:
                await one(reader, writer, side.request)
                count += 1

    await asyncio.gather(*(worker() for _ in range(connections)))
    return count / (time.perf_counter() - began)


async def paced(side: Side, connections: int, seconds: float, rate: float) -> list[float]:
    """Latencies at a steady rate; a request that has to wait for a connection waits on the record."""
    began = time.perf_counter()
    found: list[float] = []
    numbers = iter(range(int(rate * seconds)))

    async def worker() -> None:
        async with connection(side) as (reader, writer):
            for number in numbers:
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                await one(reader, writer, side.request)
                found.append(time.perf_counter() - due)

    await asyncio.gather(*(worker() for _ in range(connections)))
    return sorted(found)


async def compare(bare: Side, durable: Side, asked: argparse.Namespace) -> dict[str, object]:
    os.sched_setaffinity(0, {CLIENT_CORE})
    for side in (bare, durable):
        await flood(side, asked.connections, 1)
    for _ in range(asked.rounds):
        for side in (bare, durable):
            side.rates.append(await flood(side, asked.connections, asked.seconds))
    ratios = [b / a for a, b in zip(bare.rates, durable.rates, strict=True)]
    rate = statistics.median(durable.rates)
    latencies = await paced(durable, asked.connections, asked.seconds, rate / 2)
    return {
        "what": "launches accepted per second: durable (SQLite, synchronous=FULL) / bare (no database)",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "durable_per_second": [round(value) for value in durable.rates],
        "bare_per_second": [round(value) for value in bare.rates],
        "ratios": [round(value, 3) for value in ratios],
        "ratio_median": round(statistics.median(ratios), 3),
        "half_load_per_second": round(rate / 2),
        "half_load_p50_ms": round(latencies[len(latencies) // 2] * 1000, 1),
        "half_load_p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1000, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve-bare", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve_bare:
        serve_bare()
        return
    with (
        tempfile.TemporaryDirectory() as bare_folder,
        tempfile.TemporaryDirectory() as durable_folder,
        server(8431, Path(bare_folder), [sys.executable, __file__, "--serve-bare"]) as bare,
        server(8432, Path(durable_folder), []) as durable,
    ):
        result = asyncio.run(compare(bare, durable, asked))
    text = json.dumps(result, indent=2)
    print(text)
    (Path(__file__).parent / "results" / "accept.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
