"""What somebody owns, as they read it: what there is of each kind, and how much of it can be spent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tidemill.model.ledger import Account, AccountKind, Purse, balance_of


@dataclass(frozen=True, slots=True)
class Funds:
    """Amounts in micro-units. ``balance`` has what is held of it in it; ``available_*`` have not.

    ``held`` is all that is set aside, from whatever account it came.
    """

    balance: int
    available_balance: int
    available_vouchers: int
    available_credit: int
    held: int

    @property
    def available(self) -> int:
        return self.available_balance + self.available_vouchers + self.available_credit


def funds_of(
    user_id: str, accounts: Sequence[Account], parts: Iterable[tuple[str, int]], now: datetime
) -> Funds:
    """From a user's accounts, and from which of them everything came that is set aside."""
    purse = Purse(accounts)
    balance = purse.available(now, AccountKind.BALANCE)
    return Funds(
        balance=balance + sum(amount for account, amount in parts if account == balance_of(user_id)),
        available_balance=balance,
        available_vouchers=purse.available(now, AccountKind.VOUCHER),
        available_credit=purse.available(now, AccountKind.CREDIT),
        held=sum(each.amount for each in accounts if each.kind is AccountKind.HELD),
    )
