"""Money for a start: what it needs is set aside in the transaction that asks for it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from tidemill.model.charging import release, set_aside, to_hold
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
    if not amount:
        return
    ledger.take_turns(connection, [instance.user_id])
    kept = instance.start > 1 and _kept(connection, instance, amount, now)
    _check_caps(connection, settings, instance, 0 if kept else amount, now)
    if kept:
        return
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


def _kept(connection: Connection, instance: Instance, amount: int, now: datetime) -> bool:
    """Whether what was set aside for the start before serves for this one too.

    For a term only what it costs today does; anything else is given back.
    """
    if not instance.charge_mode.hourly:
        hold = holds.of_instance(connection, instance.id)
        if hold is not None and hold.amount != amount:
            holds.end(connection, hold.id, now, holds.RELEASED)
            ledger.post(connection, [release(hold, now)])
    return holds.keep(connection, instance.id)


def _check_caps(
    connection: Connection, settings: Settings, instance: Instance, amount: int, now: datetime
) -> None:
    """Raises Forbidden when this start is more than may be spent, naming the cap, its limit and its use."""
    month_began = month_of(now, settings.timezone)[0]
    over = caps.over(connection, instance.user_id, instance.api_key_id, amount, month_began)
    if over is not None:
        cap, used = over
        whose = "this API key" if cap.subject == instance.api_key_id else "this account"
        raise Forbidden(
            f"spend cap of {whose} per {cap.per}: the limit is {shown(cap.limit)} {settings.currency}; "
            f"with this start it would be {shown(used)}; stop something, or have it raised",
            code="overSpendCap",
        )
