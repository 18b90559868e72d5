"""Money in a simulation: short hours, what everybody has, and both books compared at the end."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, exists, func, select

from tests.invariants import Asked, Books
from tests.simulation.stage import PRICE, START, prepared
from tests.simulation.store import Shelf
from tests.stock import MONEY, pay_in
from tidemill.audit.books import APART, compare
from tidemill.model import charging
from tidemill.model.ledger import PAYMENTS, WRITE_OFFS, Cause, Line, Posting, balance_of
from tidemill.model.lifecycle import USER_EVENTS, Event
from tidemill.store import ledger, metering, meters, sightings, wallets
from tidemill.store.schema import entries, holds, ledger_accounts
from tidemill.store.schema import meters as meter_rows

HELD = timedelta(seconds=20)  # what a start sets aside
POSTED = timedelta(seconds=6)
COUNTS = timedelta(seconds=25)  # two passes over everything
SET_BY = 2 * 3600 * 10**6  # microseconds: more than a clock is ever set by
SECOND = PRICE // 3600  # what one of the cheapest instance costs
ENDED = {Event.UNPAID.value, Event.EXPIRED.value}
LAST_WORD = ENDED | {each.value for each in USER_EVENTS}


@contextmanager
def short_hours() -> Generator[None]:
    """An hour's hold and the pause between two postings, short against the minutes that a story lasts."""
    with (
        patch.object(charging, "HELD_FOR", HELD),
        patch.object(metering, "POSTED_EVERY", POSTED),
        patch.object(meters, "POSTED_EVERY", POSTED),
        patch.object(sightings, "COUNTS_FOR", COUNTS),
    ):
        yield


def leave(shelf: Shelf, user: int, seconds: float) -> None:
    """Leave a user money for so many seconds of the cheapest instance."""
    id = prepared()[1][user].user.id
    line = Line(balance_of(id), PAYMENTS, MONEY - int(seconds * SECOND))
    posting = Posting(f"payout:{id}", START, Cause.PAYOUT, id, (line,))
    shelf.write(lambda connection: ledger.post(connection, [posting]), durable=True)


def pay(shelf: Shelf, user: int, seconds: float, which: int) -> None:
    """Have a user pay in for so many seconds."""
    id = prepared()[1][user].user.id

    def work(connection: Connection) -> None:
        pay_in(connection, id, int(seconds * SECOND), START, f"again-{which}")
        wallets.look_at(connection, id, START)

    shelf.write(work, durable=True)


_UNPOSTED = select(meter_rows.c.id).where(
    meter_rows.c.closed_at.is_not(None), meter_rows.c.post_at.is_not(None)
)
_UNSETTLED = select(holds.c.id).where(holds.c.ended_at.is_(None), holds.c.settle_at.is_not(None))
_ACCOUNTS = ledger_accounts.alias()
_UNPAID = select(meter_rows.c.instance_id).where(
    meter_rows.c.closed_at.is_(None),
    meter_rows.c.rate_most > 0,
    meter_rows.c.kind == "compute",
    ~exists().where(_ACCOUNTS.c.user_id == meter_rows.c.user_id, _ACCOUNTS.c.amount_micro > 0),
)
_POSTINGS = select(entries.c.kind, func.count(entries.c.posting_id.distinct())).group_by(entries.c.kind)


def waiting(shelf: Shelf) -> list[str]:
    """What is still to be posted or settled."""

    def work(connection: Connection) -> list[str]:
        return [f"meter {id} is closed and not posted" for id in connection.execute(_UNPOSTED).scalars()] + [
            f"hold {id} is to be settled" for id in connection.execute(_UNSETTLED).scalars()
        ]

    return shelf.read(work)


def unpaid(shelf: Shelf) -> list[str]:
    """Who has something running that costs, and nothing to pay it with."""
    ids: list[str] = shelf.read(lambda connection: list(connection.execute(_UNPAID).scalars()))
    return [f"{id} runs, and there is no money left" for id in ids]


def asked(books: Books, wishes: Mapping[str, Asked]) -> dict[str, Asked]:
    """What was asked for last, but that what time or money stopped since is to be stopped."""
    found = dict(wishes)
    for id, wish in wishes.items():
        last = [line.event for line in books.events.get(id, ()) if line.event in LAST_WORD][-1:]
        if wish == "running" and last and last[0] in ENDED:
            found[id] = "stopped"
    return found


def differences(shelf: Shelf, *, clocks_are_true: bool) -> list[str]:
    """What the two books do not agree on."""
    slack = APART if clocks_are_true else SET_BY
    held_for = HELD // timedelta(microseconds=1)
    found = shelf.read(lambda connection: compare(connection, slack, held_for))
    return [f"the books differ: {one.about}: {one.meaning}" for one in found.differences]


def written_off(shelf: Shelf) -> int:
    """What was delivered and nobody paid."""
    lost = select(func.coalesce(func.sum(entries.c.amount_micro), 0)).where(
        entries.c.debit_account == WRITE_OFFS
    )
    return int(shelf.read(lambda connection: connection.execute(lost).scalar_one()))


def counted(shelf: Shelf) -> dict[str, int]:
    """How many postings of each kind there were."""
    rows: Any = shelf.read(lambda connection: connection.execute(_POSTINGS).all())
    return {f"money: {kind}": number for kind, number in rows}
