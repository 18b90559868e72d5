"""The whole audit: instance by instance, then user by user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import Connection

from tidemill.audit.findings import KEPT, Findings
from tidemill.audit.instances import Examined, posting_of
from tidemill.audit.prices import HOUR
from tidemill.audit.purses import replay
from tidemill.store import auditing
from tidemill.store.auditing import InstanceRow, PriceRow

APART = 5 * 10**6  # microseconds by which the clocks of servers may differ
FOR_INSTANCES = ("charge", "term", "hold", "release")

R = TypeVar("R")


def compare(connection: Connection, slack: int = APART, held_for: int = HOUR) -> Findings:
    """Reckon everything anew and compare; the caller's transaction must see one state of the database.

    ``slack`` is by how many microseconds clocks may have been apart, or were set; ``held_for`` for how many
    microseconds of time a start sets money aside.
    """
    findings = Findings()
    prices = auditing.prices(connection)
    after = ""
    while some := auditing.some_instances(connection, after):
        _instances(connection, some, prices, (slack, held_for), findings)
        after = some[-1].id
    user = ""
    while some_users := auditing.some_users(connection, user):
        for user in some_users:
            _user(connection, user, findings)
    for posting_id in auditing.of_nobody(connection, FOR_INSTANCES, KEPT):
        findings.differs(posting_id, "it is for nobody and nothing that there is, or corrects nothing")
    findings.sums = auditing.own_sums(connection)
    return findings


def _instances(
    connection: Connection,
    some: Sequence[InstanceRow],
    prices: Sequence[PriceRow],
    bounds: tuple[int, int],
    findings: Findings,
) -> None:
    ids = [instance.id for instance in some]
    history = _by_instance(auditing.events_of(connection, ids))
    meters = _by_instance(auditing.meters_of(connection, ids))
    holds = _by_instance(auditing.holds_of(connection, ids))
    examined = {
        one.id: Examined(
            one,
            history.get(one.id, []),
            meters.get(one.id, []),
            holds.get(one.id, []),
            prices,
            bounds,
            lambda sentence, id=one.id: findings.differs(id, sentence),
        )
        for one in some
    }
    lines = auditing.entries_of_instances(connection, ids)
    for (id, _), group in groupby(lines, key=lambda line: (line.instance_id, line.posting_id)):
        posting = None
        for line in group:
            posting = posting or posting_of(line)
            posting.lines.append((line.debit, line.credit, line.amount))
        if posting is not None and id is not None:
            findings.counts[f"{posting.kind} postings"] += 1
            examined[id].take(posting)
    for one in examined.values():
        one.end()
    findings.counts["instances"] += len(some)
    for word, found in (("events", history), ("meters", meters), ("holds", holds)):
        findings.counts[word] += sum(map(len, found.values()))
    findings.counts["meters with more to post"] += sum(
        meter.waits and meter.closed_at is not None for each in meters.values() for meter in each
    )


def _by_instance(rows: Iterable[R]) -> dict[str, list[R]]:
    found: dict[str, list[R]] = {}
    for row in rows:
        named: Any = row
        found.setdefault(named.instance_id, []).append(row)
    return found


def _user(connection: Connection, user_id: str, findings: Findings) -> None:
    accounts = auditing.accounts_of(connection, user_id)
    held = auditing.open_holds(connection, user_id)
    lines = auditing.entries_of_user(connection, user_id)
    findings.counts["entries"] += replay(user_id, accounts, lines, held, findings.differs)
    findings.counts["users"] += 1
    findings.counts["accounts of users"] += len(accounts)
