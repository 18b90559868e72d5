"""What somebody did to the books behind the ledger's back is told by the audit, and by its exit code."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Connection, text

from tests.billing.audited import differences
from tests.billing.town import Town
from tests.stock import HandClock, Stocked
from tidemill.audit import tell
from tidemill.audit.books import compare
from tidemill.model.lifecycle import Event

HOUR = 3_600_000_000


async def running(stocked: Stocked, clock: HandClock) -> Town:
    """One that ran for two hours, with a disk, and was stopped, and one that runs."""
    town = Town(stocked, clock)
    town.price(HOUR, disk=1_000_000)
    town.funds(10 * HOUR)
    town.voucher(HOUR)
    first = town.run(data_disk_gb=10)
    await town.pass_by(timedelta(hours=2), timedelta(minutes=20))
    town.stop(first)
    town.run()
    await town.pass_by(timedelta(hours=1), timedelta(minutes=20))
    return town


async def test_all_that_was_compared_is_told(stocked: Stocked, clock: HandClock) -> None:
    ran = await running(stocked, clock)
    findings = ran.stocked.database.run(compare)
    told = tell.as_text(findings, "EUR")
    assert findings.many == 0
    assert told.endswith("Everything agrees, to the micro-unit.")
    counts = findings.counts
    assert (counts["instances"], counts["meters"], counts["holds"], counts["users"]) == (2, 3, 2, 2)
    assert findings.sums["own/revenue"] == ran.spent()


def sql(statement: str) -> Callable[[Connection], None]:
    return lambda connection: connection.execute(text(statement)) and None


def post_again(connection: Connection) -> None:
    """The last charge once more, under another id."""
    row = connection.execute(text("SELECT * FROM entries WHERE kind = 'charge' ORDER BY seq DESC")).first()
    assert row is not None
    values = dict(row._mapping) | {"posting_id": "again"}
    values.pop("seq")
    columns = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO entries ({columns}) VALUES ({places})"), values)


WRONGS = {
    "a charge twice": (post_again, "charges time that was charged before"),
    "an amount": (
        sql("UPDATE ledger_accounts SET amount_micro = amount_micro + 1 WHERE id LIKE '%/balance'"),
        "its lines come to",
    ),
    "a longer meter": (
        sql("UPDATE meters SET closed_at = closed_at + 60000000 WHERE kind = 'compute'"),
        "ran longer than its history says",
    ),
    "a shorter meter": (
        sql("UPDATE meters SET closed_at = closed_at - 1000000 WHERE kind = 'compute'"),
        "charged for time after it ended",
    ),
    "a meter of nothing": (sql("DELETE FROM events WHERE event = 'running'"), "times for compute"),
    "a hold that is open": (
        sql("UPDATE holds SET ended_at = NULL, outcome = '' WHERE ended_at IS NOT NULL"),
        "the open holds come to",
    ),
    "a hold of another amount": (
        sql("UPDATE holds SET amount_micro = amount_micro + 1"),
        "the parts of hold",
    ),
    "another price": (
        sql("UPDATE tariffs SET price_micro = price_micro + 1 WHERE charge_mode = 'perHour'"),
        "its time costs",
    ),
    "what nobody saw": (sql("UPDATE regions SET seen_at = seen_at - 3600000000"), "in which nobody saw it"),
}


@pytest.mark.parametrize("wrong", WRONGS, ids=lambda name: name.replace(" ", "-"))
async def test_what_was_changed_is_found(stocked: Stocked, clock: HandClock, wrong: str) -> None:
    ran = await running(stocked, clock)
    change, said = WRONGS[wrong]
    ran.stocked.database.run(change)
    found = differences(ran.stocked.database)
    assert any(said in sentence for sentence in found), found
    findings = ran.stocked.database.run(compare)
    assert f"{findings.many:,} differences." in tell.as_text(findings, "EUR")


async def test_time_on_two_meters_is_found(stocked: Stocked, clock: HandClock) -> None:
    town = Town(stocked, clock)
    town.price(HOUR)
    town.funds(10 * HOUR)
    instance = town.run()
    await town.pass_by(timedelta(hours=1), timedelta(minutes=20))
    town.stop(instance)
    town.do(instance, Event.START, Event.REACHABLE)
    await town.pass_by(timedelta(hours=1), timedelta(minutes=20))
    assert not differences(stocked.database)
    stocked.database.run(sql("UPDATE meters SET opened_at = opened_at - 1000000 WHERE start = 2"))
    assert any("charged the same time" in sentence for sentence in differences(stocked.database))
