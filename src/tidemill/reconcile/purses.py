"""One user's money: refilled, expired, told of when it gets little, and what cannot be paid is stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from tidemill.model.cap import HOUR, MONTH
from tidemill.model.charging import Metered, MeterKind, owed, to_keep
from tidemill.model.ledger import Account, AccountKind, Cause, Purse, expiry, gift
from tidemill.model.lifecycle import Event, move
from tidemill.model.money import shown
from tidemill.model.notice import MONEY
from tidemill.model.tariff import month_of, runs_out
from tidemill.settings import Settings
from tidemill.store import caps, fleet, holds, instances, ledger, metering, wallets
from tidemill.store.wallets import Wallet

ONE_HOUR = timedelta(hours=1)
LOOK_AT_MOST = timedelta(hours=6)  # between looks at a user whose instances cost something
DRY_BEATS = 2  # what is left for fewer looks than this is nothing left


@dataclass(frozen=True, slots=True)
class Due:
    """An instance that is to be moved, as it was when that was found."""

    instance_id: str
    version: int
    event: Event
    reason: str
    message: str


def look(connection: Connection, settings: Settings, user_id: str, now: datetime) -> list[Due]:
    """Look after one user's money; returns which instances are to be stopped, archived or brought back."""
    ledger.take_turns(connection, [user_id])
    wallet = wallets.of(connection, user_id)
    if wallet is None:
        return []
    if wallet.monthly_credit:
        _refill(connection, settings, user_id, wallet.monthly_credit, now)
    waits = _expire(connection, user_id, now)
    accounts = ledger.accounts_of(connection, [user_id])[user_id]
    held, held_from, held_waits = _held(connection, user_id, now)
    funds, waits = Purse(accounts).available(now) + held, waits or held_waits
    rate, unposted = metering.accruing(connection, user_id, now)
    found = _Outlook(None, None, ())
    if rate:
        found = _outlook(connection, settings, user_id, funds, rate, unposted, now)
    _tell(connection, wallet, found, now)  # before the caps: what they stop is as it is after this
    over, over_at = _over_caps(connection, settings, user_id, now)
    back = [] if found.stops else _brought_back(connection, user_id, funds - unposted)
    soon = now + timedelta(seconds=settings.billing_beat)
    next_looks = [
        found.again,
        over_at,
        # Dry or over a cap: what passes can be neither stopped nor archived yet. What is found here is
        # done after it, and found again where the server dies before.
        soon if waits or found.hours == 0 or over or back else None,
        _next_change(settings, [*accounts, *held_from], wallet.monthly_credit, now),
    ]
    wallets.looked(
        connection,
        user_id,
        next_look=min((each for each in next_looks if each is not None), default=None),
        told_hours=found.hours,
    )
    return [*found.stops, *over, *back]


@dataclass(frozen=True, slots=True)
class _Outlook:
    """When to look again; the notice that holds now, in hours left; what is to be stopped.

    ``costing`` are the instances that cost something, and are stopped when it runs out.
    """

    again: datetime | None
    hours: int | None
    stops: Sequence[Due]
    costing: Sequence[str] = ()


def _outlook(
    connection: Connection,
    settings: Settings,
    user_id: str,
    funds: int,
    rate: int,
    unposted: float,
    now: datetime,
) -> _Outlook:
    """How long the money lasts: by one sum where there is plenty, else to the second."""
    first_notice = max(settings.money_notices, default=0)
    at_least = (funds - unposted) / rate  # hours
    if at_least > first_notice + 1:
        pause = min(at_least - first_notice - 0.5, LOOK_AT_MOST / ONE_HOUR)
        return _Outlook(now + pause * ONE_HOUR, None, ())
    meters = [
        each if each.closed else each._replace(until=max(now, each.since))
        for each in metering.owing(connection, user_id, now)
    ]
    left = funds - sum(owed(each) for each in meters)
    meters = [each for each in meters if not each.closed]
    rates = Counter(each.tariff for each in meters)
    dry_at = runs_out(rates, left, now, now + timedelta(hours=first_notice + 2))
    if dry_at is None:
        return _Outlook(now + timedelta(minutes=30), None, ())
    if dry_at <= now + timedelta(seconds=DRY_BEATS * settings.billing_beat):
        return _Outlook(None, 0, _stopped(connection, meters))
    hours_left = (dry_at - now) / timedelta(hours=1)
    hours = min((each for each in settings.money_notices if hours_left <= each), default=None)
    lower = [each for each in settings.money_notices if each < hours_left]
    marks = [dry_at - timedelta(hours=each) for each in lower]
    end = dry_at - timedelta(seconds=DRY_BEATS * settings.billing_beat)
    again = max(min([*marks, end]), now + timedelta(seconds=settings.billing_beat))
    costing = sorted({each.instance_id for each in meters})
    return _Outlook(again, hours, (), costing)


def _over_caps(
    connection: Connection, settings: Settings, user_id: str, now: datetime
) -> tuple[list[Due], datetime | None]:
    """What runs over a spend cap, the last launched first; and when the next cap may be reached."""
    stops: dict[str, Due] = {}
    reached: list[datetime] = []
    for cap in caps.all_of(connection, user_id):
        rate = caps.rate(connection, cap, user_id)
        ids = caps.running(connection, cap, user_id)
        if cap.per == MONTH:
            begins, ends = month_of(now, settings.timezone)
            due = sum(
                owed(each if each.closed else each._replace(until=max(now, each.since)))
                for each in metering.owing(connection, user_id, now)
                if each.instance_id in set(ids)
            )
            left = cap.limit - caps.spent(connection, cap, user_id, begins) - due
            if left > 0:
                hours = min(left / rate, (ends - now) / ONE_HOUR) if rate else (ends - now) / ONE_HOUR
                soonest = now + hours * ONE_HOUR
                reached.append(min(max(soonest, now + timedelta(seconds=settings.billing_beat)), ends))
                continue
            rate = cap.limit + 1  # all of it
        for instance_id in reversed(ids):
            instance = instances.get(connection, instance_id)
            if rate <= cap.limit:
                break
            if instance is None:
                continue
            if cap.per == HOUR:
                rate -= caps.rate_of(connection, instance)
            message = f"The spend cap per {cap.per} of {shown(cap.limit)} {settings.currency} is reached"
            stops[instance_id] = Due(instance_id, instance.version, Event.UNPAID, "SpendCap", message)
    return list(stops.values()), min(reached, default=None)


def _stopped(connection: Connection, meters: Sequence[Metered]) -> list[Due]:
    """Nothing is left: what costs something is stopped, and archived when it is stopped."""
    found: list[Due] = []
    for instance_id in sorted({meter.instance_id for meter in meters}):
        instance = instances.get(connection, instance_id)
        if instance is None:
            continue
        kinds = {meter.kind for meter in meters if meter.instance_id == instance_id}
        if MeterKind.COMPUTE in kinds:
            message = "There is no money left for it; its data is kept. Pay in, and start it again"
        else:
            message = (
                "There is no money left to pay for its data disk; it is kept for a while. Pay in to keep it"
            )
        if move(instance.state, Event.UNPAID) is None:  # it passes: looked at when it has
            continue
        found.append(Due(instance.id, instance.version, Event.UNPAID, "OutOfMoney", message))
    return found


def _brought_back(connection: Connection, user_id: str, left: float) -> list[Due]:
    """There is money again for an hour of it: what was kept without is kept as before."""
    found: list[Due] = []
    for each in fleet.archived(connection, user_id) if left > 0 else ():
        left -= to_keep(each)
        if left >= 0:
            found.append(Due(each.id, each.version, Event.PAID, "", "Paid in: its data is kept again"))
    return found


def _tell(connection: Connection, wallet: Wallet, found: _Outlook, now: datetime) -> None:
    """Say how long the money lasts: once for each threshold as events, and inside for as long as it holds.

    Raises Stale.
    """
    told, hours = wallet.told_hours, found.hours
    if hours == 0 or (told is None and hours is None):  # it is stopped now; or there is nothing to tell
        return
    words = None
    if hours is not None:
        lasts = "an hour" if hours == 1 else f"{hours} hours"
        words = f"At the present rate the money lasts for less than {lasts}; then it is stopped"
    for instance in fleet.to_run(connection, wallet.user_id):
        # One that is being restarted has no meter at the moment: what it was told stays.
        if words is None or instance.id in found.costing:
            instances.announce(connection, instance, now, MONEY, words)
    if words is None or hours is None or (told is not None and told <= hours):
        return
    for instance_id in found.costing:
        instance = instances.get(connection, instance_id)
        if instance is not None:
            instances.tell(connection, instance, now, "moneyLow", words)


def _refill(connection: Connection, settings: Settings, user_id: str, amount: int, now: datetime) -> None:
    """This month's credit, once; it is good until the month ends."""
    month = now.astimezone(ZoneInfo(settings.timezone))
    account = Account(
        f"{user_id}/credit/{month:%Y-%m}",
        user_id,
        AccountKind.CREDIT,
        0,
        month_of(now, settings.timezone)[1],
        f"credit for {month:%Y-%m}",
    )
    ledger.open_account(connection, account, now)
    ledger.post(connection, [gift(account, Cause.CREDIT, amount, now)])


def _expire(connection: Connection, user_id: str, now: datetime) -> bool:
    """Take back what expired, once all the time before was posted; True when that has to be waited for."""
    waits = False
    for account in ledger.expired(connection, user_id, now):
        if account.expires_at is not None and metering.hurry(connection, user_id, account.expires_at, now):
            waits = True
            continue
        ledger.post(connection, [expiry(account, now)])
    return waits


def _held(connection: Connection, user_id: str, now: datetime) -> tuple[int, list[Account], bool]:
    """What is set aside for hours and can pay for them, in micro-units, and the accounts that it came from.

    What expired meanwhile pays for the time before alone: it counts until that is posted, which is then
    waited for.
    """
    parts = holds.held_for_hours(connection, user_id)
    accounts = ledger.by_ids(connection, parts)
    waits = False
    for account in accounts:
        if account.expires_at is None or account.expires_at > now:
            continue
        if metering.hurry(connection, user_id, account.expires_at, now):
            waits = True
        else:
            del parts[account.id]
    return sum(parts.values()), accounts, waits


def _next_change(
    settings: Settings, accounts: Sequence[Account], monthly_credit: int, now: datetime
) -> datetime | None:
    """When something expires or is refilled next."""
    instants = [each.expires_at for each in accounts if each.expires_at is not None and each.expires_at > now]
    if monthly_credit:
        instants.append(month_of(now, settings.timezone)[1])
    return min(instants, default=None)
