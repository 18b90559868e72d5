"""Whether all is whole again: the ledger of the clients, the API, the database, the engine and the kernel
say the same of every instance, and nobody has anything else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from tests.invariants import as_asked, in_database, in_engine
from tests.journeys.running import Server, Tenant
from tests.journeys.visiting import Person
from tests.journeys.waiting import until
from tests.kills.engine import IMAGE, OwnEngine, mounts_below
from tests.kills.ledger import Asked, Ledger, Order
from tests.kills.troubles import DEPLOYMENT, INSTANCE

from tidemill.model.observation import Phase, Seen
from tidemill.settings import load
from tidemill.store.database import Database
from tidemill.store.schema import servers

SETTLED_WITHIN = 120.0
VISITORS = 4  # at a time
STATUS = {"running": "Running", "stopped": "Stopped"}
LAST_LINES = 25


def settle(
    tenants: list[Tenant], ledger: Ledger, seconds: float = SETTLED_WITHIN
) -> dict[str, dict[str, Any]]:
    """Wait until nothing is under way; the row of every instance that is there, by its id."""

    def look() -> bool:
        settled.clear()
        rows = {row["instanceMetadata"]["instanceId"]: row for tenant in tenants for row in all_of(tenant)}
        pending.clear()
        pending.update({id: status_of(row) for id, row in rows.items() if not _rests(row, asked.get(id))})
        pending.update({id: "there" for id, order in asked.items() if order.asked == "gone" and id in rows})
        settled.update(rows)
        return not pending

    asked, pending, settled = ledger.by_id(), dict[str, str](), dict[str, dict[str, Any]]()
    try:
        until("everything has come to rest", look, seconds, pause=0.25)
    except AssertionError as error:
        histories = {id: _history(tenants, id) for id in pending}
        raise AssertionError(f"{error}: {pending}: {json.dumps(histories, indent=1)}") from None
    return settled


def _rests(row: dict[str, Any], order: Order | None) -> bool:
    status = status_of(row)
    return status.endswith("Failed") or (order is not None and status == STATUS.get(order.asked))


def _history(tenants: list[Tenant], id: str) -> list[str]:
    for tenant in tenants:
        answer = tenant.ask("GET", f"/api/instance/{id}/events")
        if answer.status_code == 200:
            return [
                f"{each['at']} {each['event']} -> {each['to']}: {each.get('message', '')}"
                for each in answer.json()["events"]
            ][-LAST_LINES:]
    return []


def status_of(row: dict[str, Any]) -> str:
    return row["instanceRuntimeInfo"]["status"]


def all_of(tenant: Tenant, **filter: bool) -> list[dict[str, Any]]:
    """Every instance of a tenant that the filter lets through; without it, all that are not Released."""
    rows: list[dict[str, Any]] = []
    for page in range(1, 1000):
        asked = {"pager": {"currentPage": page, "pageSize": 200}, "filter": filter}
        found = tenant.post("/api/instance/list", asked)["instances"]
        rows += found
        if len(found) < 200:
            break
    return rows


def promises(tenants: list[Tenant], ledger: Ledger, rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Every key has exactly one instance, of its own tenant, which is as it was asked for last."""
    by_id = ledger.by_id()
    names = {order.name: order for order in ledger.orders}
    for order in ledger.orders:
        if order.id and order.asked != "gone" and order.id not in rows:
            yield f"{order.id} was promised to {order.tenant} and is not there"
    launched = Counter[str]()
    for tenant in tenants:
        for row in all_of(tenant, includeReleased=True):
            meta = row["instanceMetadata"]
            launched[meta["name"]] += 1
            order = names.get(meta["name"])
            if order is None or order.id != meta["instanceId"] or order.tenant != tenant.username:
                yield f"{tenant.username} has {meta['instanceId']}, which nobody was promised"
    for name, times in launched.items():
        if times != 1:
            yield f"{name} was launched {times} times with one key"
    for id, row in rows.items():
        status, order = status_of(row), by_id.get(id)
        said = row["instanceRuntimeInfo"]
        if status.endswith("Failed"):
            if not (said["diagnosisReason"] and said["diagnosisMessage"]):
                yield f"{id} is {status} and does not say why"
        elif order is not None and status != STATUS.get(order.asked):
            yield f"{id} is {status}; {order.asked} was asked for"
    for order in [order for order in ledger.orders if order.id][-3:]:
        for tenant in tenants:
            code = tenant.ask("GET", f"/api/instance/{order.id}").status_code
            if (code == 200) != (tenant.username == order.tenant):
                yield f"{tenant.username} asked for {order.tenant}'s {order.id} and was answered {code}"


def database(server: Server, seen: dict[str, Seen], ledger: Ledger) -> Iterator[str]:
    """What the shared checks find while no server is there."""
    settings = load(server.folder / "tidemill.toml", {}, {}).settings
    asked: dict[str, Asked] = {id: order.asked for id, order in ledger.by_id().items()}
    with server.database() as opened:
        now = datetime.now(UTC)  # noqa: TID251 - the real server's clock is the real one
        yield from in_database(opened, now=now, settings=settings, servers=_late(opened, now))
        yield from in_engine(opened, seen)
        yield from as_asked(opened, seen, asked)


def _late(database: Database, now: datetime) -> set[str]:
    """Servers that are there, also one that was killed until it is buried."""
    query = select(servers.c.id)
    return set(database.run(lambda connection: connection.execute(query).scalars().all()))


@dataclass(frozen=True)
class Machine:
    """What the engine and the kernel have of a deployment, found without asking the deployment.

    What somebody else put there (``bystanders``) does not count.
    """

    containers: list[dict[str, Any]]
    networks: set[str]
    images: set[str]
    volumes: set[str]
    listening: set[int]
    watched: set[str]
    mounted: set[str]
    loops: list[str]
    folders: dict[str, set[str]]

    @classmethod
    def of(cls, server: Server, engine: OwnEngine, bystanders: Container[str] = ()) -> Machine:
        folders = {name: server.folder / name for name in ("instances", "disks", "mounts")}
        low, high = server.ports
        return cls(
            containers=[
                row for row in engine.rows("ps", "--all", "--no-trunc") if row["Names"] not in bystanders
            ],
            networks={row["Name"] for row in engine.rows("network", "ls", "--filter", "type=custom")},
            images={f"{row['Repository']}:{row['Tag']}" for row in engine.rows("images", "--all")} - {IMAGE},
            volumes={row["Name"] for row in engine.rows("volume", "ls")},
            listening={port for port in engine.listening() if low <= port <= high},
            watched=engine.watched(),
            mounted={Path(mount).name for mount in mounts_below(server.folder)},
            loops=sorted(_loops_in(server.folder)),
            folders={
                name: {path.name for path in folder.iterdir()} if folder.exists() else set()
                for name, folder in folders.items()
            },
        )

    def strange(self, deployment: str) -> list[str]:
        """Names that are not, or not alone, an instance's."""
        proper = {f"tidemill-{deployment}-{id}-{seen.start}" for id, seen in self.seen(deployment).items()}
        return [
            f"{row['Names']} ({row['Status']})" for row in self.containers if self._plain(row) not in proper
        ]

    @staticmethod
    def _plain(row: dict[str, Any]) -> str:
        name: str = row["Names"]
        return name if row["State"] == "running" else name.removesuffix(".starting")

    def seen(self, deployment: str) -> dict[str, Seen]:
        """The instances among the containers, by what they are called and how the engine says they are.

        One that was stopped in the middle of its start may keep the name that it had then.
        """
        found: dict[str, Seen] = {}
        for row in self.containers:
            labels = dict(each.partition("=")[::2] for each in row["Labels"].split(","))
            id = labels.get(INSTANCE, "")
            start = self._plain(row).removeprefix(f"tidemill-{deployment}-{id}-")
            phase = {"created": Phase.CREATED, "running": Phase.STARTED}.get(row["State"], Phase.EXITED)
            if labels.get(DEPLOYMENT) == deployment and start.isdecimal():
                found[id] = Seen(int(start), phase)
        return found


def _loops_in(folder: Path) -> Iterator[str]:
    """The instances whose disks a loop device has, once for each device."""
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = device.read_text().strip()
        except OSError:
            continue
        if file.startswith(f"{folder}/"):
            yield file.removeprefix(f"{folder}/disks/").replace(".img", "")


def machine(found: Machine, server: Server, rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The engine and the kernel have what the instances need, each once, and nothing else."""
    seen = found.seen(server.deployment)
    if len(seen) != len(found.containers):
        yield f"containers that are no instance, or twice one: {found.strange(server.deployment)}"
    running = {row["ID"] for row in found.containers if row["State"] == "running"}
    yield from _set("processes of containers", found.watched, running, running)
    up = {id for id, row in rows.items() if status_of(row) == "Running"}
    with_disk = {id for id, row in rows.items() if _disk(row)}
    owner = {id: row["instanceMetadata"]["userId"] for id, row in rows.items()}
    needed, allowed = (
        {f"tidemill-{server.deployment}-{owner[id]}" for id in ids if id in owner} for ids in (seen, rows)
    )
    yield from _set("networks", found.networks, needed, allowed)
    # An instance that was moved to another container stands on a copy of its system disk.
    copies = {image for image in found.images if image.partition(":")[0].rpartition("/")[2] in seen}
    yield from _set("images", found.images, set(), copies)
    yield from _set("volumes", found.volumes, set(), set())
    ports = ports_of(rows)
    yield from _set("ports listened on", found.listening, ports, ports)
    yield from _set("mounts", found.mounted, set(), with_disk)
    yield from _set("loop devices", set(found.loops), up & with_disk, with_disk)
    if len(set(found.loops)) != len(found.loops):
        yield f"a disk has two loop devices: {found.loops}"
    yield from _set("folders of instances", found.folders["instances"], set(seen), set(rows))
    yield from _set("mount points", found.folders["mounts"], set(), with_disk)
    files = {f"{id}.img" for id in with_disk}
    yield from _set("disks", found.folders["disks"], {f"{id}.img" for id in with_disk & set(seen)}, files)


def ports_of(rows: dict[str, dict[str, Any]]) -> set[int]:
    """The node ports of all that is Running."""
    specs = [row["instanceSpecInfo"] for row in rows.values() if status_of(row) == "Running"]
    return {port["nodePort"] for spec in specs for port in spec["nodePorts"]}


def nothing(found: Machine) -> Iterator[str]:
    """Nothing is left of anything, once every instance was terminated."""
    for name, files in found.folders.items():
        if files:
            yield f"left in {name}: {sorted(files)}"
    for kind, things in asdict(found).items():
        if things and kind != "folders":
            yield f"left: {kind}: {things}"


def _set(what: str, found: set[Any], needed: set[Any], allowed: set[Any]) -> Iterator[str]:
    if needed - found:
        yield f"missing {what}: {sorted(needed - found)}"
    if found - allowed:
        yield f"left over {what}: {sorted(found - allowed)}"


def _disk(row: dict[str, Any]) -> int:
    return row["instanceSpecInfo"]["instanceConfiguration"]["extraDataDiskSizeDB"]


def doors(person: Person, rows: dict[str, dict[str, Any]], ledger: Ledger) -> list[str]:
    """ssh answers in all that is Running, and what was written there is there."""
    by_id = ledger.by_id()

    def look(id: str) -> list[str]:
        visit = person.to(rows[id])
        order = by_id.get(id)
        done = visit.ssh("ls /root /root/dataDisk")
        if done.returncode != 0:
            return [f"{id} is Running and ssh says {done.returncode}: {done.stderr.decode()}"]
        if order is None:
            return []
        root, _, disk = done.stdout.decode().partition("/root/dataDisk:")
        lost = [each.name for each in order.kept() if each.name not in root]
        lost += [f"{each.name} (data disk)" for each in order.kept_on_data_disk() if each.name not in disk]
        return [f"{id} has lost {name}" for name in lost]

    running = [id for id, row in rows.items() if status_of(row) == "Running"]
    with ThreadPoolExecutor(VISITORS) as pool:
        return [sentence for found in pool.map(look, running) for sentence in found]


def log(server: Server) -> Iterator[str]:
    """No defect of a pass, of an instance's step, of a request."""
    lines = server.log.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("Traceback"):
            yield "a defect in the log: " + "\n".join(lines[max(0, number - 2) : number + 40])
            return


def said_of(server: Server, ids: Iterable[str]) -> str:
    """The server's last lines about some instances, for whoever has to find out."""
    lines = server.log.splitlines()
    return "\n\n".join("\n".join([line for line in lines if id in line][-LAST_LINES:]) for id in ids)
