"""What was charged is given back, as another posting that names the first."""

from __future__ import annotations

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.actions.operator import id_used, post
from tidemill.model.errors import Conflict, NotFound
from tidemill.model.ledger import Posting
from tidemill.model.money import shown
from tidemill.model.refunding import REFUNDED, left_to_refund
from tidemill.model.refunding import refund as refund_of
from tidemill.store import ledger, postings


async def refund(context: Context, *, posting_id: str, amount: int | None, id: str, memo: str) -> Posting:
    """Give ``amount`` micro-units of a charge back, or all that is left of it, where it came from.

    The same ``id`` for the same charge again adds nothing: also for all that is left, where that is what it
    was for. Raises NotFound, Conflict (it is no charge, there is not so much left of it, or the id was used
    for another amount).
    """
    now = context.clock.now()

    def work(connection: Connection) -> Posting:
        charge = postings.by_ids(connection, [posting_id]).get(posting_id)
        if charge is None:
            raise NotFound("posting not found", code="postingNotFound")
        if charge.cause not in REFUNDED:
            raise Conflict(
                f"This posting is a {charge.cause.value}; only what was charged can be refunded",
                code="notRefundable",
            )
        ledger.take_turns(connection, [charge.user_id])
        earlier = postings.correcting(connection, charge)
        made = refund_of(charge, earlier, amount, id=id, now=now, memo=memo)
        for number, each in enumerate(earlier):
            if each.id == f"refund:{charge.id}:{id}":
                then = sum(left_to_refund(charge, earlier[:number]).values())
                if each.effect != (then if amount is None else amount):
                    raise id_used()
                return each
        if made is None:
            left = sum(left_to_refund(charge, earlier).values())
            raise Conflict(
                f"{shown(-charge.effect)} was paid with this posting, and {shown(left)} of it is left to be "
                "refunded",
                code="notRefundable",
            )
        return post(connection, made)

    return await context.database.write(work)
