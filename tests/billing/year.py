"""A year without an engine: people, instances, prices, failures, crashes in virtual time, and the audit."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, TypeVar

from sqlalchemy import Connection, update

from tests.stock import CPU_TYPE, IMAGE, REGION, START, HandClock, accept, pay_in
from tidemill.actions.ask import _paid_for
from tidemill.audit.books import compare
from tidemill.audit.findings import Findings
from tidemill.model.account import User
from tidemill.model.errors import NotEnoughMoney, TidemillError, Unavailable
from tidemill.model.instance import Order
from tidemill.model.ledger import Account, AccountKind, Cause, gift
from tidemill.model.lifecycle import STATES, Event, State, Wanted, move
from tidemill.model.offer import ChargeMode
from tidemill.model.tariff import Band
from tidemill.reconcile.billing import Billing
from tidemill.settings import Settings
from tidemill.store import accounts, instances, ledger, nodes, offers, sightings, tariffs, wallets
from tidemill.store.database import Database
from tidemill.store.nodes import FoundNode
from tidemill.store.schema import wallets as wallet_rows
from tidemill.wake import Wake

T = TypeVar("T")
YEAR = timedelta(days=365)
STEPS = 10  # of time, for each instance
UNIT = 1_000_000
BASE = {
    ChargeMode.PER_HOUR: UNIT + 234_567,
    ChargeMode.TIDE_PER_HOUR: 987_653,
    ChargeMode.PER_DAY: 20 * UNIT + 1,
    ChargeMode.PER_WEEK: 120 * UNIT,
    ChargeMode.PER_MONTH: 400 * UNIT + 7,
}
ZONE = "Europe/Berlin"  # the clock goes forward in March and back in October


class Crashing:
    """A database whose caller now and then dies before, or right after, what it wrote stands."""

    def __init__(self, database: Database, chance: Random) -> None:
        self._database = database
        self._chance = chance
        self.crashes = 0

    async def read(self, work: Callable[[Connection], T]) -> T:
        return self._database.run(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        dies = self._chance.random()
        if dies < 0.01:
            self.crashes += 1
            raise Unavailable("simulated: nothing was done")
        done = self._database.run(work)
        if dies < 0.02:
            self.crashes += 1
            raise Unavailable("simulated: it was done")
        return done


@dataclass
class Year:
    """``people`` and ``many`` instances over a year, drawn from ``seed``.

    The engine is looked at and the billing passes before so large a ``share`` of the steps; a step is a
    tenth of what happens to an instance.
    """

    database: Database
    people: int
    many: int
    seed: int = 0
    share: float = 1.0
    counts: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        self.chance = Random(self.seed)
        self.clock = HandClock()
        self.settings = Settings(timezone=ZONE, retention=20 * 86400)
        self.crashing: Any = Crashing(self.database, self.chance)
        self.billing = Billing(self.crashing, self.clock, self.settings, Wake())
        self.users: list[User] = []
        self.ids: list[str] = []

    def run(self) -> Findings:
        """The whole year, and what the audit says at its end."""
        self.database.run(self._offer)
        for number in range(self.people):
            self.users.append(self.database.run(lambda c, n=number: self._user(c, n)))
        steps = self.many * STEPS
        with asyncio.Runner() as runner:
            launched = 0
            for step in range(steps):
                self.clock.pass_by(self.chance.expovariate(1.0) * YEAR.total_seconds() / steps)
                if self.share == 1.0 or self.chance.random() < self.share:
                    self._look()
                    runner.run(self._pass())
                if launched < self.many and launched * STEPS * 0.9 <= step:
                    launched += 1
                    self._try("launch", self._launch)
                else:
                    self._try("act", self._act)
                if step % (steps // 40 or 1) == 0:
                    self._try("price", self._new_price)
            for _ in range(4):
                self.clock.pass_by(600)
                self._look(silent=False)
                runner.run(self._pass())
        self.counts["crashes"] = self.crashing.crashes
        return self.database.run(compare)

    async def _pass(self) -> None:
        try:
            await self.billing.run_pass()
        except Unavailable:
            self.counts["passes cut short"] += 1

    def _try(self, what: str, work: Callable[[Connection], str | None]) -> None:
        try:
            self.counts[self.database.run(work) or what] += 1
        except NotEnoughMoney:
            self.counts["not enough money"] += 1
        except TidemillError as error:
            self.counts[f"refused: {error.code}"] += 1

    def _offer(self, connection: Connection) -> None:
        offers.publish(connection, new_regions=[REGION], new_images=[IMAGE], new_types=[CPU_TYPE])
        nodes.register(connection, REGION.id, [FoundNode("node-0", "node-0", 10**8, 10**8, 10**6, ())])
        for mode in ChargeMode:
            self._price(connection, mode.value, BASE[mode])
        self._price(connection, tariffs.DISK, 321)

    def _price(self, connection: Connection, mode: str, amount: int) -> None:
        bands: tuple[Band, ...] = ()
        if mode == ChargeMode.TIDE_PER_HOUR.value:
            night = Band("night", frozenset(range(7)), 22 * 60, 6 * 60 + 7, amount * 2 // 5)
            evening = Band("evening", frozenset(range(5)), 17 * 60, 20 * 60 + 30, amount * 3 // 2)
            bands = (night, evening)
        type_id = "" if mode == tariffs.DISK else CPU_TYPE.id
        now = self.clock.now()
        price = tariffs.Price(0, type_id, REGION.id, mode, False, amount, bands, ZONE, now, tariffs.ADMIN)
        tariffs.add(connection, price)

    def _new_price(self, connection: Connection) -> None:
        mode = self.chance.choice(list(ChargeMode))
        self._price(connection, mode.value, int(BASE[mode] * self.chance.uniform(0.5, 1.5)))

    def _user(self, connection: Connection, number: int) -> User:
        user = accounts.create_user(
            connection, username=f"user-{number}", password_hash="never", is_admin=False, now=START
        )
        pay_in(connection, user.id, int(self.chance.choice((50, 500, 20_000)) * UNIT), START)
        if self.chance.random() < 0.3:
            connection.execute(
                update(wallet_rows)
                .where(wallet_rows.c.user_id == user.id)
                .values(monthly_credit_micro=25 * UNIT)
            )
        return user

    def _look(self, *, silent: bool = True) -> None:
        """A listing of the region, unless its engine is silent; now and then something is missing in it."""
        if silent and self.chance.random() < 0.05:
            self.counts["silences"] += 1
            return
        missing = {self.chance.choice(self.ids)} if self.ids and self.chance.random() < 0.05 else set[str]()
        now = self.clock.now()
        self.database.run(lambda c: sightings.sighted(c, REGION.id, now, missing, now=now))

    def _launch(self, connection: Connection) -> None:
        chance = self.chance
        mode = chance.choices(list(ChargeMode), (5, 5, 2, 2, 2))[0]
        order = Order(
            name="one",
            image_id=IMAGE.id,
            type_id=CPU_TYPE.id,
            region_id=REGION.id,
            charge_mode=mode,
            duration=1 if mode.hourly else chance.choice((1, 1, 2, 3)),
            data_disk_gb=chance.choice((0, 0, 10, 500)),
            auto_renew=not mode.hourly and chance.random() < 0.6,
            max_spend_micro=30 * UNIT if chance.random() < 0.05 else None,
            stop_after_seconds=86400 if chance.random() < 0.05 else None,
        )
        id = accept(connection, self.settings, chance.choice(self.users), order, self.clock.now()).id
        self.ids.append(id)

    def _act(self, connection: Connection) -> str | None:
        """Something happens to an instance, or somebody pays in, or is given a voucher."""
        chance, now = self.chance, self.clock.now()
        drawn = chance.random()
        user = chance.choice(self.users)
        if drawn < 0.04:
            pay_in(connection, user.id, chance.randint(1, 500 * UNIT), now, f"again-{now:%s.%f}")
            wallets.look_at(connection, user.id, now)
            return "pay-in"
        if drawn < 0.06:
            expires = now + timedelta(days=chance.uniform(0.1, 60))
            account = Account(
                f"{user.id}/voucher/{now:%s.%f}", user.id, AccountKind.VOUCHER, 0, expires, "gift"
            )
            ledger.open_account(connection, account, now)
            ledger.post(connection, [gift(account, Cause.VOUCHER, chance.randint(1, 40 * UNIT), now)])
            wallets.look_at(connection, user.id, now)
            return "voucher"
        if not self.ids:
            return None
        instance = instances.get(connection, chance.choice(self.ids[-60:] if drawn < 0.7 else self.ids))
        assert instance is not None
        events = [event for event in LIKELY[instance.state] if move(instance.state, event) is not None]
        if not events:
            return "nothing"
        event = chance.choice(events)
        ended = now - timedelta(minutes=chance.uniform(0, 90)) if event is Event.EXITED else None
        changed = instances.record(connection, instance, event, now, ended_at=ended)
        if event is Event.START and STATES[instance.state].wanted is not Wanted.RUNNING:
            _paid_for(connection, self.settings, changed, now)
        return f"{instance.state} {event}"


LIKELY: dict[State, tuple[Event, ...]] = dict.fromkeys(
    State, (Event.REACHABLE, Event.REACHABLE, Event.ABSENT, Event.START)
) | {
    State.INITIALIZING: (*[Event.REACHABLE] * 8, Event.REFUSED, Event.STOP),
    State.STARTING: (*[Event.REACHABLE] * 8, Event.REFUSED, Event.EXITED),
    State.RUNNING: (Event.STOP, Event.STOP, Event.RESTART, Event.EXITED, Event.ABSENT, Event.TERMINATE),
    State.STOPPED: (*[Event.START] * 6, Event.TERMINATE),
    State.ARCHIVED: (Event.START,),
}


def report(year: Year, findings: Findings, seconds: float, audited: float) -> str:
    """What was done and how long it took."""
    counts = ", ".join(
        f"{word} {many:,}" for word, many in sorted(year.counts.items(), key=lambda one: -one[1])
    )
    return (
        f"{year.people:,} users, {year.many:,} instances, a year in {seconds:.0f} s; the audit took "
        f"{audited:.1f} s and found {findings.many} differences\n{counts}"
    )


def timed(year: Year) -> tuple[Findings, float, float]:
    """Run it; findings, seconds of the year, seconds of one more audit."""
    began = time.monotonic()
    findings = year.run()
    ran = time.monotonic()
    year.database.run(compare)
    return findings, ran - began, time.monotonic() - ran
