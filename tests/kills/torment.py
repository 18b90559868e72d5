"""One run: clients work while things go wrong; then all is compared, and at last taken down.

``scripts/torment`` runs it for as long as one likes; the tests run it short.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.journeys.engine_proxy import EngineProxy
from tests.journeys.running import Server, Tenant
from tests.journeys.visiting import Person
from tests.journeys.waiting import until
from tests.kills import whole
from tests.kills.clients import shared
from tests.kills.engine import IMAGE, OwnEngine
from tests.kills.ledger import Ledger
from tests.kills.troubles import START_SECONDS, Place, Trouble
from tests.kills.whole import Machine

CLIENTS = 8
GONE_WITHIN = 60.0
SETTINGS = {
    "restart_pause_most": 3,
    "cpu_overcommit": 64,
    "stop_grace": 2,
}


@dataclass(frozen=True)
class Report:
    """What a run held out. ``failed`` are the reasons of instances that ended in a failed state."""

    seed: str
    seconds: float
    counted: dict[str, int]
    failed: list[str]

    def __str__(self) -> str:
        counted = ", ".join(f"{times} {what}" for what, times in sorted(self.counted.items()))
        return f"seed {self.seed}, {self.seconds:.0f} s: {counted}; failed instances: {self.failed or 'none'}"


def server_on(
    engine: OwnEngine, proxy: EngineProxy, folder: Path, guest: Path, database_url: str = ""
) -> Server:
    """A deployment on ``engine``, whose only image is the engine's own."""
    own = {"database_url": database_url} if database_url else {}
    return Server(
        folder,
        guest=guest,
        settings={"docker_url": proxy.url, "publish_address": engine.address, **SETTINGS, **own},
        tables={"image": [{"name": "kills", "reference": IMAGE}]},
    )


def torment(
    *,
    server: Server,
    engine: OwnEngine,
    proxy: EngineProxy,
    person: Person,
    troubles: Iterable[type[Trouble]],
    operations: int,
    seconds: float = float("inf"),
    seed: str = "",
) -> Report:
    """Run until ``operations`` are done or ``seconds`` have passed. Raises AssertionError with all findings.

    The server is started here, and stopped at the end; nothing of it is left then.
    """
    seed = seed or secrets.token_hex(4)
    print(f"torment: seed {seed}, server's log {server.log_file}, engine's log {engine.folder / 'log'}")
    begun = time.monotonic()
    ledger = Ledger(operations, seconds)
    place = Place(server, engine, proxy, ledger)
    server.start(START_SECONDS)
    clients = shared(server, person, CLIENTS, ledger, seed)
    tenants = list({id(client.tenant): client.tenant for client in clients}.values())
    harm = [kind(place, seed) for kind in troubles]
    for client in clients:
        client.start()
    for client in clients:
        client.is_ready.wait()
    for trouble in harm:
        trouble.start()
    for client in clients:
        client.join()
    for trouble in harm:
        trouble.end()
    assert not ledger.problems, (seed, ledger.problems)
    try:
        failed = compare(server, engine, person, tenants, ledger)
    except AssertionError as error:
        (folder := server.folder.with_suffix(".found")).mkdir()
        (folder / "engine.log").write_text(engine.log)
        (folder / "engine.txt").write_text(engine.described())
        counted = dict(ledger.counted)
        raise AssertionError(f"seed {seed}: {error}; counted: {counted}; see {folder}") from None
    return Report(seed, time.monotonic() - begun, dict(ledger.counted), failed)


def compare(
    server: Server, engine: OwnEngine, person: Person, tenants: list[Tenant], ledger: Ledger
) -> list[str]:
    """Everything is where it was asked to be; then all that is stopped is started; then all is ended."""
    rows = whole.settle(tenants, ledger)
    if _give_lost_ports_back(server, engine, rows, ledger):
        rows = whole.settle(tenants, ledger)
    bystanders = ledger.bystanders(rows)
    owners = {row["instanceMetadata"]["userId"] for row in rows.values()}
    wanted = {f"tidemill-{server.deployment}-{owner}" for owner in owners}

    def strangers() -> list[str]:
        there = Machine.of(server, engine, bystanders)
        unknown = there.seen(server.deployment).keys() - rows.keys()
        return there.strange(server.deployment) + sorted(unknown | (there.networks - wanted))

    _gone("strangers are gone", strangers, lambda: _count_endpoints_again(server, engine, ledger, wanted))
    findings = list(whole.promises(tenants, ledger, rows))
    assert server.stop() == 0
    found = Machine.of(server, engine, bystanders)  # with no server there, so that nothing is under way
    findings += whole.machine(found, server, rows)
    findings += whole.database(server, found.seen(server.deployment), ledger)
    findings += whole.doors(person, rows, ledger)
    server.start(START_SECONDS)
    _none(findings, server, rows)

    failed = [_why(row) for row in rows.values() if whole.status_of(row).endswith("Failed")]
    by_id = ledger.by_id()
    for tenant in tenants:
        for row in whole.all_of(tenant):
            id = row["instanceMetadata"]["instanceId"]
            if whole.status_of(row) != "Running":
                tenant.do("start", id)
                by_id[id].asked = "running"
    rows = whole.settle(tenants, ledger)
    _none(
        [f"{id}: {_why(row)}" for id, row in rows.items() if whole.status_of(row) != "Running"], server, rows
    )
    _none(whole.doors(person, rows, ledger), server, rows)

    server.terminate_all(*tenants)
    for order in ledger.orders:
        order.asked = "gone"
    _gone(
        "nothing is left",
        lambda: list(whole.nothing(Machine.of(server, engine, ledger.bystanders()))),
        lambda: _count_endpoints_again(server, engine, ledger, set()),
    )
    there = {row["Names"] for row in engine.rows("ps", "--all")}
    lost = [name for name, each in ledger.bystanders().items() if each.is_made and name not in there]
    assert not lost, f"containers of others were removed: {lost}"
    assert server.stop() == 0
    _none([*whole.database(server, {}, ledger), *whole.log(server)], server, rows)
    return failed


def _give_lost_ports_back(
    server: Server, engine: OwnEngine, rows: dict[str, dict[str, Any]], ledger: Ledger
) -> bool:
    """Start an engine once more that has ports for nobody; whether it had any.

    Docker that is killed while it starts containers comes back with their ports taken, and frees them when it
    is started the next time. What needs one meanwhile fails and says which.
    """
    lost = Machine.of(server, engine).listening - whole.ports_of(rows)
    if not lost or not ledger.counted["engines killed"]:
        return False
    ledger.counted["ports that a killed engine kept"] += len(lost)
    engine.kill()
    engine.start(live_restore=True)
    return True


def _gone(what: str, left: Callable[[], list[str]], help_on: Callable[[], bool]) -> None:
    """Wait until there is nothing left; once more if that helps on."""
    last: list[str] = []

    def all_gone() -> bool:
        last[:] = left()
        return not last

    try:
        until(what, all_gone, GONE_WITHIN)
    except AssertionError as error:
        if not help_on():
            raise AssertionError(f"{error}: {last}") from None
        until(f"{what} with the engine started once more", all_gone, GONE_WITHIN)


def _count_endpoints_again(server: Server, engine: OwnEngine, ledger: Ledger, wanted: set[str]) -> bool:
    """Start an engine once more that counts endpoints of networks that have none; whether it had any.

    Docker that is asked to remove a container in the middle of its start may count its endpoint for ever, and
    refuses to remove the network until it is started the next time ("inconsistent endpoint_cnt" in its log).
    """
    stuck = Machine.of(server, engine).networks - wanted
    for name in sorted(stuck):
        code, said = engine.try_docker("network", "inspect", name)
        members = json.loads(said)[0]["Containers"] if code == 0 else {}
        code, said = engine.try_docker("network", "rm", name)
        if members or code == 0 or "active endpoints" not in said:
            return False
    ledger.counted["networks that the engine could not remove"] += len(stuck)
    engine.kill()
    engine.start(live_restore=True)
    return bool(stuck)


def _why(row: dict[str, Any]) -> str:
    runtime = row["instanceRuntimeInfo"]
    return f"{runtime['status']}, {runtime['diagnosisReason']}: {runtime['diagnosisMessage']}"


def _none(findings: list[str], server: Server, rows: Iterable[str]) -> None:
    concerned = [id for id in rows if any(id in sentence for sentence in findings)]
    assert not findings, "\n".join(["what should be otherwise:", *findings, whole.said_of(server, concerned)])
