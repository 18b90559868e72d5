"""One user's accounts, by doing every line of the ledger again from nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from tidemill.store.auditing import AccountRow, EntryRow

ORDER = {"voucher": 0, "credit": 1, "balance": 2}
LAST = 3  # what nobody pays
Says = Callable[[str, str], None]


def replay(
    user_id: str,
    accounts: Sequence[AccountRow],
    lines: Iterable[EntryRow],
    held: int,
    says: Says,
) -> int:
    """Compare what accounts hold with what their lines come to; returns how many lines there were.

    On the way no account may be below zero after a posting, and what is charged comes from what is spent
    first. ``held`` is what the user's open holds come to; ``says`` takes whom it is about and what is wrong.
    """
    by_id = {account.id: account for account in accounts}
    rank = {
        account.id: (
            ORDER[account.kind],
            account.expires_at is None,
            account.expires_at or 0,
            account.id,
        )
        for account in accounts
        if account.kind in ORDER
    }
    holds: dict[str, int] = defaultdict(int)
    count = 0
    for posting_id, group in groupby(lines, key=lambda line: line.posting_id):
        posting = list(group)
        count += len(posting)
        for line in posting:
            for account in (line.debit, line.credit):
                if account not in by_id and not account.startswith("own/"):
                    says(account, f"{posting_id} of {user_id} moves it, and it is another's")
            holds[line.debit] -= line.amount
            holds[line.credit] += line.amount
        touched = {line.debit for line in posting} & by_id.keys()
        for account in sorted(touched):
            if holds[account] < 0:
                says(account, f"it was below zero after {posting_id}")
        if posting[0].kind in {"charge", "term"}:
            for sentence in _out_of_turn(posting, by_id, rank, holds):
                says(user_id, sentence)
    for account in accounts:
        if holds[account.id] != account.amount_micro:
            says(account.id, f"it holds {account.amount_micro}, and its lines come to {holds[account.id]}")
        if account.kind == "held" and account.amount_micro != held:
            says(account.id, f"it holds {account.amount_micro}, and the open holds come to {held}")
    return count


def _out_of_turn(
    posting: Sequence[EntryRow],
    by_id: dict[str, AccountRow],
    rank: dict[str, tuple[int, bool, int, str]],
    holds: dict[str, int],
) -> list[str]:
    """Nothing is left of what could have been spent on all of this time before what was spent last."""
    first = posting[0]
    until = first.until if first.kind == "charge" and first.until is not None else first.at
    since = first.since if first.since is not None else first.at
    nothing = (LAST, True, 0, "")
    found = [
        f"{first.posting_id} is paid out of {line.debit}, which had expired"
        for line in posting
        if (account := by_id.get(line.debit))
        and account.expires_at is not None
        and account.expires_at < since
    ]
    last = max(rank.get(line.debit, nothing) for line in posting)
    found += [
        f"{first.posting_id} leaves something in {account.id}, which is spent first"
        for account in by_id.values()
        if account.id in rank
        and rank[account.id] < last
        and holds[account.id] > 0
        and (account.expires_at is None or account.expires_at >= until)
    ]
    return found
