"""Failed logins by account and by address, counted before they are known to have failed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tidemill.store.schema import login_failures

SWEEP_MOST = 100


@dataclass(frozen=True, slots=True)
class Failures:
    """How many within the window, and when the last one was."""

    count: int
    last_at: datetime


def read(connection: Connection, subject: str) -> Failures | None:
    row = connection.execute(
        select(login_failures.c.failures, login_failures.c.last_at).where(login_failures.c.subject == subject)
    ).first()
    return None if row is None else Failures(row.failures, row.last_at)


def lock(connection: Connection, subject: str, now: datetime) -> Failures:
    """The row of ``subject``, made when it is not there, held until the transaction ends.

    Whoever holds several takes the address before the account.
    """
    row = {"subject": subject, "failures": 0, "last_at": now}
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    found = None
    while found is None:  # between the two statements it may be forgotten, or swept away
        connection.execute(make(login_failures).values(row).on_conflict_do_nothing())
        found = connection.execute(
            select(login_failures.c.failures, login_failures.c.last_at)
            .where(login_failures.c.subject == subject)
            .with_for_update()
        ).first()
    return Failures(found.failures, found.last_at)


def write(connection: Connection, subject: str, count: int, at: datetime) -> None:
    connection.execute(
        update(login_failures).where(login_failures.c.subject == subject).values(failures=count, last_at=at)
    )


def forget(connection: Connection, subject: str) -> None:
    connection.execute(delete(login_failures).where(login_failures.c.subject == subject))


def take_back(connection: Connection, subject: str) -> None:
    """Count one less."""
    connection.execute(
        update(login_failures)
        .where(login_failures.c.subject == subject, login_failures.c.failures > 0)
        .values(failures=login_failures.c.failures - 1)
    )


def sweep(connection: Connection, now: datetime, window: timedelta) -> None:
    """Remove some of what is too old to count, so that the table stays small; waits for nobody.

    For the end of a transaction: what it removes is held until then.
    """
    old = (
        select(login_failures.c.subject)
        .where(login_failures.c.last_at < now - window)
        .limit(SWEEP_MOST)
        .with_for_update(skip_locked=True)
    )
    connection.execute(delete(login_failures).where(login_failures.c.subject.in_(old)))
