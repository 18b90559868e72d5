"""What the doctor finds in the database: rows that contradict each other, and work that nobody does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from tidemill.doctor.symptom import Symptom
from tidemill.model.lifecycle import STATES, Keeps, State
from tidemill.settings import Settings
from tidemill.store import checkup, facts, findings, servers
from tidemill.store.checkup import Held, Sums
from tidemill.store.findings import Finding
from tidemill.store.servers import Server

SLACK = timedelta(seconds=60)  # that a state may outlast its deadline before somebody looks
SILENT = 3.0  # leases without a sign of life after which a server counts as gone
WAITING = timedelta(seconds=30)  # that due work may wait while a loop runs
LATELY = timedelta(days=7)
GONE_MOST = 10
SKEW = 2.0  # seconds that two clocks may differ
A_DEFECT = "this should not happen; please report it with the server's log"


@dataclass(frozen=True, slots=True)
class Books:
    """What was read, for the report and for what is done about it.

    Attributes:
        sums: nodes whose sums are wrong. to_ring: instances that nobody looks at and somebody should.
        alive: servers that gave a sign of life. held: devices and their holders.
        restored_at: when the database was restored, while orphans are held for that; or "".
        gone: orphans that went of late, newest first.
    """

    symptoms: list[Symptom]
    sums: list[Sums]
    to_ring: list[str]
    alive: list[Server]
    held: list[Held]
    restored_at: str
    gone: list[Finding]


def look(connection: Connection, now: datetime, settings: Settings) -> Books:
    """Everything that SQL can say, in one transaction."""
    everybody = servers.everybody(connection)
    silence = timedelta(seconds=SILENT * settings.lease)
    alive = [server for server in everybody if abs(now - server.seen_at) <= silence]
    books = Books(
        symptoms=[],
        sums=checkup.wrong_sums(connection),
        to_ring=[],
        alive=alive,
        held=checkup.held_devices(connection, now),
        restored_at=facts.get(connection, facts.RESTORED_AT) or "",
        gone=findings.ended(connection, since=now - LATELY, limit=GONE_MOST),
    )
    books.symptoms.extend(_integrity(connection))
    books.symptoms.extend(_unreadable(connection))
    books.symptoms.extend(_shares(connection, books, now))
    books.symptoms.extend(_devices(connection, books.held))
    books.symptoms.extend(_ports_and_meters(connection))
    books.symptoms.extend(_work(connection, books, now, settings))
    return books


def _integrity(connection: Connection) -> Iterator[Symptom]:
    for line in checkup.integrity(connection):
        yield Symptom(
            "databaseDamaged",
            "database",
            line,
            "stop the server and restore a backup; keep a copy of the damaged file",
        )


def _unreadable(connection: Connection) -> Iterator[Symptom]:
    for id, word, last in checkup.unreadable(connection):
        yield Symptom(
            "unreadable",
            id,
            f"{word!r} in its row is no word that this version knows: it is left alone",
            "if a newer version wrote it, install that; if it was edited by hand, put back what was there "
            f"(its last state was {last})",
        )


def look_at_clock(about: str, at: datetime, now: datetime) -> Iterator[Symptom]:
    """Whether another clock differs from this machine's."""
    ahead = (at - now).total_seconds()
    if abs(ahead) > SKEW:
        yield Symptom(
            "clockDiffers",
            about,
            f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's",
            "set both by NTP",
        )


def _shares(connection: Connection, books: Books, now: datetime) -> Iterator[Symptom]:
    for sums in books.sums:
        yield Symptom(
            "reservationSum",
            f"node {sums.node}",
            f"it counts {sums.cpu_says} thousandths of a core and {sums.memory_says} MiB as given; its "
            f"reservations add up to {sums.cpu_is} and {sums.memory_is}",
            "--fix counts them anew",
        )
    for id, state in checkup.shares_without_need(connection, now):
        yield Symptom("shareKept", id, f"it is {state} and keeps its share of a node", A_DEFECT)
    for id, state in checkup.need_without_share(connection):
        yield Symptom(
            "shareMissing",
            id,
            f"it is {state} without a share of its node, which may be given to others",
            f"stop it and start it again; {A_DEFECT}",
        )


def _devices(connection: Connection, held: list[Held]) -> Iterator[Symptom]:
    for device in held:
        where = f"{device.node}/{device.device}"
        if not device.is_instance or device.state is State.RELEASED:
            yield Symptom(
                "deviceOfNobody",
                where,
                f"it is kept for {device.holder}, which is "
                + ("Released" if device.is_instance else "no instance")
                + "; nobody else gets it meanwhile",
                "what the engine has of that is among the orphans; once it has nothing, a server frees the "
                "device at its next full pass",
            )
        elif device.state is None:
            continue  # it cannot be read, which is said of it already
        elif STATES[device.state].keeps is Keeps.NO and not device.in_term:
            yield Symptom(
                "deviceKept", where, f"{device.holder} is {device.state} and still holds it", A_DEFECT
            )
    for id, has, should in checkup.wrong_device_counts(connection):
        yield Symptom("deviceCount", id, f"it holds {has} devices instead of {should}", A_DEFECT)


def _ports_and_meters(connection: Connection) -> Iterator[Symptom]:
    for port, id in checkup.ports_of_nobody(connection):
        yield Symptom("portKept", f"node port {port}", f"it is kept for {id}, which is Released", A_DEFECT)
    for id, state, is_open in checkup.wrong_meters(connection):
        meaning = "has a meter that runs" if is_open else "has no meter that runs"
        yield Symptom("meter", id, f"it is {state} and {meaning}", A_DEFECT)


def _work(connection: Connection, books: Books, now: datetime, settings: Settings) -> Iterator[Symptom]:
    for id, state in checkup.forgotten(connection):
        books.to_ring.append(id)
        yield Symptom(
            "forgotten",
            id,
            f"it is {state} and nobody is to look at it",
            f"--fix has it looked at; {A_DEFECT}",
        )
    allowed = {
        state: timedelta(seconds=getattr(settings, row.deadline)) + SLACK
        for state, row in STATES.items()
        if row.deadline is not None
    }
    for late in checkup.late(connection, now, allowed):
        lasted = f"{(now - late.since).total_seconds():.0f} s"
        if late.told:
            yield Symptom(
                "endNotConfirmed",
                late.instance_id,
                f"it has been {late.state} for {lasted}: the engine does not confirm the end",
                "see what the engine says about it; it is being tried again",
            )
            continue
        books.to_ring.append(late.instance_id)
        yield Symptom(
            "stuck",
            late.instance_id,
            f"it has been {late.state} for {lasted}, longer than its deadline",
            "start a server if none runs; --fix has it looked at at once",
        )
    for region, many in checkup.overdue_work(connection, now - WAITING).items():
        what = "nobody works on it" if books.alive else "no server gives a sign of life"
        yield Symptom(
            "workWaits",
            region,
            f"{many} instances have waited for more than {WAITING.seconds} s, and {what}",
            "see the server's log" if books.alive else "start the server",
        )
    for server, many in checkup.leased_to_nobody(connection, [one.id for one in books.alive]).items():
        yield Symptom(
            "leaseOfNobody",
            server,
            f"it holds leases on {many} instances and gives no sign of life",
            "another server ends them within seconds; if none runs, start one",
            passing=True,
        )
