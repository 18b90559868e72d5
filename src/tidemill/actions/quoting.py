"""The quote for a start: what the very transaction of the start has written, which is then undone."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from tidemill.model.instance import Instance
from tidemill.model.ledger import Purse
from tidemill.model.quote import Quote
from tidemill.store import holds, ledger, tariffs


def held_for(connection: Connection, instance_id: str) -> int:
    """What is set aside for an instance, in micro-units."""
    hold = holds.of_instance(connection, instance_id)
    return 0 if hold is None else hold.amount


def quote_of(
    connection: Connection, instance: Instance, held_before: int, owed_before: int, now: datetime
) -> Quote:
    """The terms of an instance that was just started.

    ``held_before`` is what was set aside for it already; ``owed_before`` what its user had used and was not
    posted, beyond what is held for that (``metering.uncovered``).
    """
    price = None
    if instance.tariff_id is not None:
        price = tariffs.by_ids(connection, [instance.tariff_id])[instance.tariff_id]
    hold = held_for(connection, instance.id) - held_before
    left = Purse(ledger.accounts_of(connection, [instance.user_id])[instance.user_id]).available(now)
    hourly = instance.charge_mode.hourly
    return Quote(
        charge_mode=instance.charge_mode,
        duration=instance.duration,
        price=instance.price_micro,
        price_now=None if not hourly else 0 if price is None else price.tariff.at(now)[1],
        bands=() if price is None else price.bands,
        term_total=None if hourly else instance.price_micro * instance.duration,
        disk=instance.disk_price_micro * instance.data_disk_gb,
        hold=hold,
        available=max(0, left + hold - owed_before),
    )
