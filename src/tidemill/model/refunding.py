"""What was charged and is given back: to the accounts it came from, and never more than came from them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from tidemill.model.ledger import OWN, REVENUE, Cause, Line, Posting

REFUNDED = (Cause.CHARGE, Cause.TERM)


def left_to_refund(charge: Posting, refunds: Iterable[Posting]) -> dict[str, int]:
    """By account, what of a charge was not given back by ``refunds`` yet; what was spent last comes first."""
    left = {
        line.debit: line.amount
        for line in reversed(charge.lines)
        if line.credit == REVENUE and line.debit not in OWN
    }
    for refund in refunds:
        for line in refund.lines:
            left[line.credit] -= line.amount
    return left


def refund(
    charge: Posting, refunds: Iterable[Posting], amount: int | None, *, id: str, now: datetime, memo: str
) -> Posting | None:
    """Give ``amount`` of a charge back, or all that is left of it; None where there is not so much.

    ``id`` tells several refunds of one charge apart.
    """
    left = left_to_refund(charge, refunds)
    wanted = sum(left.values()) if amount is None else amount
    if not 0 < wanted <= sum(left.values()):
        return None
    lines: list[Line] = []
    for account, most in left.items():
        part = min(wanted, most)
        if part:
            lines.append(Line(REVENUE, account, part))
            wanted -= part
    return Posting(
        id=f"refund:{charge.id}:{id}",
        at=now,
        cause=Cause.REFUND,
        user_id=charge.user_id,
        lines=tuple(lines),
        instance_id=charge.instance_id,
        corrects=charge.id,
        memo=memo,
    )
