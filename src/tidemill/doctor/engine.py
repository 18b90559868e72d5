"""What the doctor finds between a region's engine and the database: lacking, too much, or otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from tidemill.doctor.books import look_at_clock
from tidemill.doctor.machine import look_at_room
from tidemill.doctor.symptom import Symptom
from tidemill.drivers.contract import Driver, EngineReport, Port, Publishes, Reports, Trace
from tidemill.model.lifecycle import STATES, Wanted
from tidemill.model.observation import InstanceId, Phase, Seen
from tidemill.model.offer import Region
from tidemill.reconcile.orphans import Orphans, Unwanted
from tidemill.settings import Settings
from tidemill.store import checkup, findings
from tidemill.store.checkup import Row
from tidemill.store.database import Database
from tidemill.store.findings import Finding

UP = frozenset({Phase.STARTED, Phase.REACHABLE})
DOWN = frozenset({Phase.EXITED, Phase.CREATED})
ONCE_MORE = "the server brings it about at its next full pass; --fix has it looked at at once"


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen of one region.

    Attributes:
        report: what the engine says of itself, where it does.
        many: how many instances it has.
        unwanted: what nobody wants. known: what of it the server has written down.
        to_ring: instances that are not as they are wanted.
    """

    report: EngineReport | None
    many: int
    symptoms: list[Symptom]
    unwanted: Unwanted
    known: list[Finding]
    to_ring: list[str]


async def look(
    region: Region, driver: Driver, orphans: Orphans, database: Database, now: datetime, settings: Settings
) -> Looked:
    """Compare; the engine first, so that whatever is launched meanwhile is in the database.

    Raises DriverError, TimeoutError, Unavailable.
    """
    async with asyncio.timeout(settings.driver_patience):
        report = await driver.report() if isinstance(driver, Reports) else None
        nodes = await driver.nodes()
        seen = await driver.observe()
        published: Mapping[InstanceId, frozenset[Port]] = {}
        if isinstance(driver, Publishes):
            published = await driver.published()
    unwanted = await orphans.unwanted(set(seen))

    def work(
        connection: Connection,
    ) -> tuple[list[Row], dict[str, str], list[Finding], dict[str, frozenset[tuple[int, int]]]]:
        return (
            checkup.rows_of(connection, region.id),
            checkup.holders_of(connection, region.id),
            findings.open_in(connection, region.id),
            checkup.ports_in(connection, region.id),
        )

    rows, holders, known, held_ports = await database.read_much(work)
    symptoms = list(compare(rows, seen))
    to_ring = [symptom.about for symptom in symptoms]
    symptoms += devices(seen, holders)
    symptoms += ports(rows, seen, published, held_ports)
    symptoms += machines(region, [device.id for node in nodes for device in node.devices], holders)
    if report is not None and report.at is not None:
        symptoms += look_at_clock(f"engine of {region.name}", report.at, now)
    if report is not None and report.free_gb is not None:
        symptoms += look_at_room("engineRoom", report.folder, report.free_gb)
    symptoms += _orphans(region, unwanted, known, settings)
    return Looked(report, len(seen), symptoms, unwanted, known, to_ring)


def compare(rows: Sequence[Row], seen: Mapping[InstanceId, Seen]) -> Iterator[Symptom]:
    """Instances at rest that the engine does not have as they are wanted.

    What is on its way somewhere is left alone until its deadline.
    """
    for row in rows:
        there = seen.get(row.instance_id)
        row_is_at_rest = STATES[row.state].deadline is None
        if there is not None and there.start > row.start:
            yield Symptom(
                "laterStart",
                row.instance_id,
                f"it is in start {row.start}, and the engine has it in start {there.start}",
                "the database is older than the engine, as after a restore; " + ONCE_MORE,
                passing=True,
            )
        elif not row_is_at_rest:
            continue
        elif STATES[row.state].wanted is Wanted.RUNNING:
            yield from _should_run(row, there)
        elif there is not None and there.phase in UP:
            yield Symptom(
                "runsThoughStopped",
                row.instance_id,
                f"it is {row.state} and runs in the engine",
                ONCE_MORE,
                passing=True,
            )


def _should_run(row: Row, there: Seen | None) -> Iterator[Symptom]:
    if there is None:
        yield Symptom(
            "missing",
            row.instance_id,
            f"it is {row.state}, and the engine does not have it",
            "somebody removed it behind our back; " + ONCE_MORE,
            passing=True,
        )
    elif there.start < row.start:
        yield Symptom(
            "earlierStart",
            row.instance_id,
            f"it is in start {row.start}, and the engine has it in start {there.start}",
            ONCE_MORE,
            passing=True,
        )
    elif there.phase in DOWN:
        yield Symptom(
            "endedThoughRunning",
            row.instance_id,
            f"it is {row.state}, and its main process has ended",
            ONCE_MORE,
            passing=True,
        )


def devices(seen: Mapping[InstanceId, Seen], holders: Mapping[str, str]) -> Iterator[Symptom]:
    """Accelerators that more than one has, or another one than the database says."""
    has: dict[str, InstanceId] = {}
    for id, there in seen.items():
        for device in there.devices if there.phase in UP else ():
            if device in has:
                yield Symptom(
                    "deviceShared",
                    device,
                    f"{has[device]} and {id} both run with it",
                    "stop one of them at once, and report it with the server's log",
                )
            elif holders.get(device, id) != id:
                yield Symptom(
                    "deviceElsewhere",
                    device,
                    f"{id} runs with it, and it is given to {holders[device]}",
                    "stop one of them at once, and report it with the server's log",
                    passing=True,
                )
            has[device] = id


def ports(
    rows: Sequence[Row],
    seen: Mapping[InstanceId, Seen],
    published: Mapping[InstanceId, frozenset[Port]],
    held: Mapping[InstanceId, frozenset[tuple[int, int]]],
) -> Iterator[Symptom]:
    """Instances that run, in the start that they are in, with other ports than they were given.

    A port that another instance was given is named by itself: its owner's users come to the wrong place.
    """
    given = {node_port: id for id, ports in held.items() for _, node_port in ports}
    for row in rows:
        there = seen.get(row.instance_id)
        if there is None or there.phase is not Phase.REACHABLE or there.start != row.start:
            continue
        has = {(port.port, port.node_port) for port in published.get(row.instance_id, ())}
        should = set(held.get(row.instance_id, ()))
        if has != should and row.instance_id in published:
            yield Symptom(
                "portsDiffer",
                row.instance_id,
                f"the engine publishes {_pairs(has)}, and it was given {_pairs(should)}",
                "restart the instance: it is made with the ports that it was given",
                passing=True,
            )
    for id, ports in published.items():
        for port in sorted(ports, key=lambda port: port.node_port):
            owner = given.get(port.node_port, id)
            if owner != id:
                yield Symptom(
                    "portElsewhere",
                    f"node port {port.node_port}",
                    f"{id} has it in the engine, and it is given to {owner}",
                    f"restart {id}, or remove it if it is among the orphans",
                    passing=True,
                )


def _pairs(ports: Collection[tuple[int, int]]) -> str:
    """Ports as "22 at 30001"."""
    return ", ".join(f"{port} at {node_port}" for port, node_port in sorted(ports)) or "none"


def machines(region: Region, found: Sequence[str], holders: Mapping[str, str]) -> Iterator[Symptom]:
    """Accelerators that somebody holds and no machine has any more."""
    for device, holder in sorted(holders.items()):
        if device not in found:
            yield Symptom(
                "deviceGone",
                device,
                f"{holder} holds it, and no machine of {region.name} shows it",
                "see whether its driver and the card are well (nvidia-smi)",
            )


def _orphans(
    region: Region, unwanted: Unwanted, known: Sequence[Finding], settings: Settings
) -> Iterator[Symptom]:
    watched = {(one.kind, one.name): one for one in known}
    for name, thing in unwanted.things.items():
        finding = watched.get(name)
        seen_for = "not seen before" if finding is None else f"watched for {finding.watched:.0f} s"
        if finding is not None and finding.message:
            seen_for += f"; it could not be removed: {finding.message}"
        yield Symptom(
            "orphan",
            f"{region.name}: {describe(thing)}",
            f"no instance wants it ({seen_for})",
            f"held, because {unwanted.held}; --remove-orphans removes all of them"
            if unwanted.held
            else f"a server removes it after {settings.orphan_grace:g} s; --remove-orphans at once",
            passing=True,
        )


def describe(thing: Trace) -> str:
    """A thing in words."""
    of = f" of {thing.instance}" if thing.instance and thing.instance not in thing.name else ""
    return f"{thing.kind} {thing.name}{of}"


def unreachable(region: Region, error: Exception) -> Symptom:
    said = str(error) or "it did not answer in time"
    return Symptom(
        "engineUnreachable", region.name, said, "nothing of this region can be compared until it answers"
    )
