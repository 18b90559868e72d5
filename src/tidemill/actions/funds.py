"""Money for a start: what it needs is set aside in the transaction that asks for it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from tidemill.model.cap import HOUR
from tidemill.model.charging import set_aside, to_hold
from tidemill.model.errors import Forbidden, NotEnoughMoney
from tidemill.model.instance import Instance
from tidemill.model.ledger import Purse
from tidemill.model.money import shown
from tidemill.model.tariff import Tariff, month_of
from tidemill.settings import Settings
from tidemill.store import caps, holds, ledger, metering
from tidemill.store.tariffs import Price


def hold_for_start(
    connection: Connection, settings: Settings, instance: Instance, price: Price | None, now: datetime
) -> None:
    """Set aside what the start that ``instance`` is in needs: an hour of it, or its whole term.

    Raises NotEnoughMoney, with how much is needed and how much there is; Forbidden (a spend cap).
    """
    if price is None or instance.in_term(now):
        return
    amount = to_hold(instance, price.tariff if instance.charge_mode.hourly else Tariff(0), now)
    if instance.term_began_at is not None:  # that term is over, and the billing may be behind
        ledger.take_turns(connection, [instance.user_id])
        metering.settle_term(connection, instance, now)
    if not amount or holds.keep(connection, instance.id):
        return
    ledger.take_turns(connection, [instance.user_id])
    _check_caps(connection, settings, instance, amount, now)
    purse = Purse(ledger.accounts_of(connection, [instance.user_id])[instance.user_id])
    owed = metering.uncovered(connection, instance.user_id, now)
    available = max(0, purse.available(now) - owed)
    held = set_aside(
        f"{instance.id}:{instance.start}", instance.id, instance.user_id, amount, purse, now, owed
    )
    if held is None:
        what = "the first hour" if instance.charge_mode.hourly else "the term"
        raise NotEnoughMoney(
            f"Not enough money: {shown(amount)} {settings.currency} must be set aside for {what}, and "
            f"{shown(available)} {settings.currency} is available; pay in, stop something, or choose a "
            "smaller type"
        )
    hold, posting = held
    ledger.post(connection, [posting])
    holds.write(connection, hold, now)


def _check_caps(
    connection: Connection, settings: Settings, instance: Instance, amount: int, now: datetime
) -> None:
    """Raises Forbidden when this start is more than may be spent, naming the cap, its limit and its use."""
    for cap in caps.of(connection, instance.user_id, instance.api_key_id):
        if cap.per == HOUR:
            used = caps.rate(connection, cap, instance.user_id)  # with this one
            more = 0
        else:
            since = month_of(now, settings.timezone)[0]
            used = caps.spent(connection, cap, instance.user_id, since)
            used, more = used + caps.held(connection, cap, instance.user_id), amount
        if used + more > cap.limit:
            whose = "this API key" if cap.subject == instance.api_key_id else "this account"
            raise Forbidden(
                f"spend cap of {whose} per {cap.per}: the limit is {shown(cap.limit)} {settings.currency}; "
                f"with this start it would be {shown(used + more)}; stop something, or have it raised",
                code="overSpendCap",
            )
