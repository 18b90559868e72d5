"""The ledger as plain values: accounts, postings made of transfers, and from where money is spent.

A line moves one positive amount from one account (debit) to another (credit), so that no posting can
take more than it gives. A user's accounts hold what we owe them: a debit makes them smaller. They are
never below zero. Amounts are whole micro-units.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple


class AccountKind(StrEnum):
    """What an account is for. The first four belong to users, the others to the operator."""

    VOUCHER = "voucher"  # one for each voucher
    CREDIT = "credit"  # one for each month's refill
    BALANCE = "balance"  # what was paid in
    HELD = "held"  # set aside for what runs
    REVENUE = "revenue"
    PROMOTIONS = "promotions"  # where vouchers and credit come from and go back to
    PAYMENTS = "payments"  # the world outside: what was paid in and paid back
    WRITE_OFFS = "writeOffs"  # delivered and not to be paid by anybody


class Cause(StrEnum):
    """Why something was posted."""

    PAYMENT = "payment"
    PAYOUT = "payout"
    VOUCHER = "voucher"
    CREDIT = "credit"
    EXPIRY = "expiry"
    HOLD = "hold"
    RELEASE = "release"
    CHARGE = "charge"  # for time
    TERM = "term"  # for a term bought in advance
    CORRECTION = "correction"
    REFUND = "refund"


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REVENUE, PROMOTIONS, PAYMENTS, WRITE_OFFS = "own/revenue", "own/promotions", "own/payments", "own/writeOffs"
OWN = {
    REVENUE: AccountKind.REVENUE,
    PROMOTIONS: AccountKind.PROMOTIONS,
    PAYMENTS: AccountKind.PAYMENTS,
    WRITE_OFFS: AccountKind.WRITE_OFFS,
}
SPENT_FIRST = (AccountKind.VOUCHER, AccountKind.CREDIT, AccountKind.BALANCE)


class Account(NamedTuple):
    """An account of a user. ``amount`` in micro-units; from ``expires_at`` on nothing can be spent of it."""

    id: str
    user_id: str
    kind: AccountKind
    amount: int
    expires_at: datetime | None = None
    name: str = ""

    def is_good(self, instant: datetime) -> bool:
        """Whether what is in it can be spent on time that ends at ``instant``."""
        return self.expires_at is None or self.expires_at >= instant


class Line(NamedTuple):
    """One amount, above zero, from the account ``debit`` to the account ``credit``."""

    debit: str
    credit: str
    amount: int


class Posting(NamedTuple):
    """What was written down at once, for one cause. The id is made of the cause: again is the same.

    ``since`` and ``until`` are the time that is paid for, where it is for time; ``corrects`` names an
    earlier posting.
    """

    id: str
    at: datetime
    cause: Cause
    user_id: str
    lines: tuple[Line, ...]
    instance_id: str | None = None
    meter_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    corrects: str | None = None
    memo: str = ""

    @property
    def effect(self) -> int:
        """By how much it changes what its user owns; what is only set aside stays theirs."""
        return sum(line.amount * ((line.credit not in OWN) - (line.debit not in OWN)) for line in self.lines)


def balance_of(user_id: str) -> str:
    """The id of a user's balance account."""
    return f"{user_id}/balance"


def held_of(user_id: str) -> str:
    """The id of a user's account of what is set aside."""
    return f"{user_id}/held"


def payment(id: str, user_id: str, amount: int, now: datetime, memo: str = "") -> Posting:
    """Money that a user paid in."""
    line = Line(PAYMENTS, balance_of(user_id), amount)
    return Posting(f"payment:{id}", now, Cause.PAYMENT, user_id, (line,), memo=memo)


def payout(id: str, user_id: str, amount: int, now: datetime, memo: str = "") -> Posting:
    """Money that a user was paid back, out of the balance."""
    line = Line(balance_of(user_id), PAYMENTS, amount)
    return Posting(f"payout:{id}", now, Cause.PAYOUT, user_id, (line,), memo=memo)


def gift(account: Account, cause: Cause, amount: int, now: datetime, memo: str = "") -> Posting:
    """A voucher or a month's credit: what its own account begins with."""
    line = Line(PROMOTIONS, account.id, amount)
    return Posting(f"{cause}:{account.id}", now, cause, account.user_id, (line,), memo=memo)


def expiry(account: Account, now: datetime) -> Posting:
    """What is left of a voucher or of a month's credit goes back where it came from."""
    line = Line(account.id, PROMOTIONS, account.amount)
    memo = f"expired at {account.expires_at:%Y-%m-%dT%H:%M:%SZ}" if account.expires_at else "expired"
    # What is released or refunded into it later expires again, and may be the same amount.
    at = (now - EPOCH) // timedelta(microseconds=1)
    id = f"expiry:{account.id}:{at}:{account.amount}"
    return Posting(id, now, Cause.EXPIRY, account.user_id, (line,), memo=memo)


class Purse:
    """What one user has to spend, account by account, while postings are made up."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._accounts: list[Account] = []
        self._left: dict[str, int] = {}
        self._expires = False  # whether anything in it does
        self.know(accounts)

    def know(self, accounts: Iterable[Account]) -> None:
        """Have these in it as well, unless they are: one that is empty, to which something goes back."""
        for account in accounts:
            if account.kind in SPENT_FIRST and account.id not in self._left:
                self._left[account.id] = account.amount
                self._accounts.append(account)
                if account.expires_at is not None:
                    self._expires = True
        if len(self._accounts) > 1:
            self._accounts.sort(key=_turn)

    def available(self, until: datetime, *kinds: AccountKind) -> int:
        """What can be spent on time that ends at ``until``; of accounts of ``kinds`` alone, when given."""
        return sum(
            self._left[account.id] for account in self._usable(until) if not kinds or account.kind in kinds
        )

    def take(self, amount: int, until: datetime, *, last_first: bool = False) -> list[tuple[str, int]]:
        """Take up to ``amount``, vouchers before credit before balance, and what expires soonest first.

        With ``last_first`` the other way round: what is only set aside is what would be spent last.
        Returns accounts and amounts; together they are less than ``amount`` when there is not enough.
        """
        taken: list[tuple[str, int]] = []
        usable = self._usable(until)
        for account in reversed(usable) if last_first else usable:
            left = self._left[account.id]
            part = amount if amount < left else left
            if part > 0:
                taken.append((account.id, part))
                self._left[account.id] = left - part
                amount -= part
        return taken

    def give_back(self, parts: Iterable[tuple[str, int]]) -> None:
        """Put what was set aside back where it came from: accounts that it knows."""
        for account_id, amount in parts:
            self._left[account_id] = self._left.get(account_id, 0) + amount

    def _usable(self, until: datetime) -> Sequence[Account]:
        if not self._expires:
            return self._accounts
        return [each for each in self._accounts if each.is_good(until)]

    def expiries(self, since: datetime, until: datetime) -> list[datetime]:
        """Instants inside ``since`` to ``until`` at which something in it expires, in order."""
        if not self._expires:
            return []
        found = {each.expires_at for each in self._accounts if each.expires_at and self._left[each.id] > 0}
        return sorted(instant for instant in found if since < instant < until)


def _turn(account: Account) -> tuple[int, bool, float, str]:
    """What is spent first is first."""
    expires = account.expires_at
    return (
        SPENT_FIRST.index(account.kind),
        expires is None,
        expires.timestamp() if expires else 0.0,
        account.id,
    )


def to_one(parts: Iterable[tuple[str, int]], credit: str) -> tuple[Line, ...]:
    """Lines from several accounts into one."""
    return tuple(Line(debit, credit, amount) for debit, amount in parts)


def from_one(debit: str, parts: Iterable[tuple[str, int]]) -> tuple[Line, ...]:
    """Lines from one account into several."""
    return tuple(Line(debit, credit, amount) for credit, amount in parts)
