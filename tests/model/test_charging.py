"""What a meter owes, under anything: the same total however it is cut, and never more than there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.test_tariff import tariffs

from tidemill.audit.prices import Grid, Rates, stretch
from tidemill.model.charging import Metered, MeterKind, charge, micros
from tidemill.model.ledger import OWN, Account, AccountKind, Purse
from tidemill.model.tariff import HELD_FOR, Tariff, due, segments

OPENED = datetime(2026, 3, 28, 20, 0, tzinfo=UTC)  # the night before the clocks go forward in Europe
KINDS = st.sampled_from([AccountKind.VOUCHER, AccountKind.CREDIT, AccountKind.BALANCE])
lengths = st.lists(st.timedeltas(timedelta(0), timedelta(hours=15)), min_size=1, max_size=5)
funds = st.lists(
    st.tuples(KINDS, st.integers(0, 10**10), st.none() | st.timedeltas(timedelta(0), timedelta(days=3))),
    max_size=4,
)


def accounts(given_funds: list[tuple[AccountKind, int, timedelta | None]]) -> list[Account]:
    return [
        Account(f"u/{number}", "u", kind, amount, None if lasts is None else OPENED + lasts)
        for number, (kind, amount, lasts) in enumerate(given_funds)
    ]


def meter(tariff: Tariff, until: datetime) -> Metered:
    return Metered(1, MeterKind.COMPUTE, "u", "i", tariff, OPENED, None, 0, 0, until, closed=False)


@settings(max_examples=60, deadline=None)
@given(tariffs, lengths, funds)
def test_split_anywhere_is_the_same_and_nothing_goes_below_zero(
    tariff: Tariff, parts: list[timedelta], given_funds: list[tuple[AccountKind, int, timedelta | None]]
) -> None:
    left = {account.id: account.amount for account in accounts(given_funds)}
    purse, now, came_in = Purse(accounts(given_funds)), meter(tariff, OPENED), 0
    for part in parts:
        now = now._replace(until=now.until + part)
        paid = charge(now, purse, now.until)
        again = charge(now._replace(posted_until=paid.posted_until, rest=paid.rest), purse, now.until)
        assert again.postings == (), "posting again adds nothing"
        for posting in paid.postings:
            for line in posting.lines:
                assert line.amount > 0
                assert line.credit in OWN
                if line.debit not in OWN:
                    left[line.debit] -= line.amount
                came_in += line.amount
        now = now._replace(posted_until=paid.posted_until, posted=paid.spent, rest=paid.rest)
    assert came_in == now.posted == due(segments(tariff, OPENED, now.until))
    assert all(amount >= 0 for amount in left.values())


@settings(max_examples=60, deadline=None)
@given(tariffs, st.timedeltas(timedelta(0), timedelta(days=2)))
def test_both_books_reckon_the_same(tariff: Tariff, into: timedelta) -> None:
    """An hour as it is quoted and set aside is what the audit makes of it."""
    stretches = tuple(stretch(band.weekdays, band.begins, band.ends) for band in tariff.bands)
    grid = Grid(stretches, tariff.zone, 60 * 10**6) if stretches else None
    rates = Rates(tariff.rate, tuple(band.rate for band in tariff.bands), grid)
    begins = OPENED + into
    ends = begins + HELD_FOR
    quoted = due(segments(tariff, begins, ends))
    assert rates.numerator(micros(begins), micros(ends)) // (3600 * 10**6) == quoted
