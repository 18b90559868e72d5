"""What an engine has and no instance wants, written down from the moment it is first seen.

A finding is open until it is removed or gone. How long it was watched is kept with
it, so that a grace period survives the server and is counted once however many servers look.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tidemill.store.prepared import Prepared
from tidemill.store.schema import findings

KEPT = timedelta(days=90)  # how long one that is over can be looked up
SWEEP_MOST = 100

INSTANCE = "instance"  # the kind of what a driver's listing shows
REMOVED, GONE = "removed", "gone"  # outcomes

_COLUMNS = tuple(
    findings.c[name]
    for name in (
        "seq",
        "region_id",
        "kind",
        "name",
        "instance_id",
        "found_at",
        "seen_at",
        "watched",
        "message",
        "ended_at",
        "outcome",
    )
)
_OPEN_IN = Prepared(
    select(*_COLUMNS)
    .where(findings.c.region_id == bindparam("here"), findings.c.ended_at.is_(None))
    .order_by(findings.c.seq)
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that nobody wants.

    Attributes:
        kind: "instance" for what an engine runs or ran, else the kind of the trace.
        name: what the engine calls it; with region and kind it names one thing.
        instance_id: whose it was, "" for nobody's.
        seen_at, watched: when it was last seen, and for how many seconds it has been watched.
        message: why it could not be removed, or "".
        outcome: "" while open, then "removed", or "gone": not there any more, or wanted after all.
    """

    seq: int
    region_id: str
    kind: str
    name: str
    instance_id: str
    found_at: datetime
    seen_at: datetime
    watched: float
    message: str
    ended_at: datetime | None
    outcome: str


def open_in(connection: Connection, region_id: str) -> list[Finding]:
    """The open findings of a region, oldest first."""
    return [Finding(*row) for row in _OPEN_IN.all(connection, {"here": region_id})]


def ended(connection: Connection, *, since: datetime, limit: int) -> list[Finding]:
    """Those that were over after ``since``, newest first."""
    return _read(
        connection,
        select(*_COLUMNS)
        .where(findings.c.ended_at > since)
        .order_by(findings.c.ended_at.desc(), findings.c.seq.desc())
        .limit(limit),
    )


def open_by_region(connection: Connection) -> dict[str, int]:
    """How many are open, by region id."""
    rows = connection.execute(
        select(findings.c.region_id, func.count())
        .where(findings.c.ended_at.is_(None))
        .group_by(findings.c.region_id)
    )
    return {row[0]: row[1] for row in rows}


def begin(
    connection: Connection, region_id: str, kind: str, name: str, instance_id: str, at: datetime
) -> bool:
    """Write a new one down; False when another server has it already."""
    row: dict[str, Any] = {
        "region_id": region_id,
        "kind": kind,
        "name": name,
        "instance_id": instance_id,
        "found_at": at,
        "seen_at": at,
        "watched": 0.0,
        "message": "",
        "outcome": "",
    }
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    written = connection.execute(
        make(findings).values(row).on_conflict_do_nothing().returning(findings.c.seq)
    )
    return written.first() is not None


def see(connection: Connection, finding: Finding, at: datetime, watched: float) -> None:
    """It is still there; what another server has counted meanwhile is not counted again."""
    connection.execute(
        update(findings)
        .where(
            findings.c.seq == finding.seq,
            findings.c.ended_at.is_(None),
            findings.c.seen_at == finding.seen_at,
        )
        .values(seen_at=at, watched=watched)
    )


def say(connection: Connection, finding: Finding, message: str) -> None:
    """Why it is still there."""
    connection.execute(update(findings).where(findings.c.seq == finding.seq).values(message=message))


def end(connection: Connection, finding: Finding, at: datetime, outcome: str) -> bool:
    """It is over; False when another server has said so already."""
    old = select(findings.c.seq).where(findings.c.ended_at < at - KEPT).limit(SWEEP_MOST)
    connection.execute(delete(findings).where(findings.c.seq.in_(old)))
    written = connection.execute(
        update(findings)
        .where(findings.c.seq == finding.seq, findings.c.ended_at.is_(None))
        .values(ended_at=at, outcome=outcome, message="")
    )
    return written.rowcount == 1


def drop(connection: Connection, finding: Finding) -> None:
    """It was never one: it went, or was wanted, before its grace was over."""
    connection.execute(delete(findings).where(findings.c.seq == finding.seq, findings.c.ended_at.is_(None)))


def _read(connection: Connection, statement: Any) -> list[Finding]:
    rows: Any = connection.execute(statement).mappings()
    return [_finding(row) for row in rows]


def _finding(row: RowMapping) -> Finding:
    return Finding(**row)
