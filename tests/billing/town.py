"""A deployment without an engine: people with money, instances moved by hand, and the billing at work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select, update

from tests.stock import CPU_TYPE, REGION, HandClock, Stocked, accept
from tidemill.actions.ask import _paid_for
from tidemill.model.account import User
from tidemill.model.instance import Instance
from tidemill.model.ledger import (
    PAYMENTS,
    WRITE_OFFS,
    Account,
    AccountKind,
    Cause,
    Line,
    Posting,
    balance_of,
    gift,
)
from tidemill.model.lifecycle import STATES, Event, State, Wanted
from tidemill.model.offer import ChargeMode
from tidemill.model.tariff import Band
from tidemill.reconcile.billing import Billing
from tidemill.settings import Settings
from tidemill.store import instances, ledger, tariffs
from tidemill.store.schema import entries, ledger_accounts, regions
from tidemill.store.schema import instances as rows
from tidemill.wake import Wake

NIGHT = Band("night", frozenset(range(7)), 22 * 60, 8 * 60, 500)


@dataclass
class Town:
    """``stocked`` with its clock; ``see`` says that the engine shows all that is to run."""

    stocked: Stocked
    clock: HandClock
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        self.billing = Billing(self.stocked.database, self.clock, self.settings, Wake())

    @property
    def user(self) -> User:
        return self.stocked.alice

    def price(
        self,
        amount: int,
        mode: ChargeMode = ChargeMode.PER_HOUR,
        *,
        bands: Iterable[Band] = (),
        zone: str = "UTC",
        disk: int | None = None,
    ) -> None:
        """Have the small type cost this from now on, and a GB of data disk per hour."""

        def work(connection: Connection) -> None:
            def add(type_id: str, of: str, micro: int, tide: tuple[Band, ...]) -> None:
                made = tariffs.Price(
                    0, type_id, REGION.id, of, False, micro, tide, zone, self.clock.now(), tariffs.ADMIN
                )
                tariffs.add(connection, made)

            add(CPU_TYPE.id, mode.value, amount, tuple(bands))
            if disk is not None:
                add("", tariffs.DISK, disk, ())

        self.stocked.database.run(work)

    def funds(self, amount: int) -> None:
        """Have the balance be this, and nothing else."""
        held = self.amounts()
        change = amount - held.get("balance", 0)

        def work(connection: Connection) -> None:
            mine = balance_of(self.user.id)
            line = Line(PAYMENTS, mine, change) if change > 0 else Line(mine, PAYMENTS, -change)
            cause = Cause.PAYMENT if change > 0 else Cause.PAYOUT
            posting = Posting(f"set:{self.clock.now()}", self.clock.now(), cause, self.user.id, (line,))
            ledger.post(connection, [posting])

        if change:
            self.stocked.database.run(work)

    def voucher(self, amount: int, expires_at: datetime | None = None, name: str = "gift") -> str:
        account = Account(
            f"{self.user.id}/voucher/{name}", self.user.id, AccountKind.VOUCHER, 0, expires_at, name
        )

        def work(connection: Connection) -> None:
            ledger.open_account(connection, account, self.clock.now())
            ledger.post(connection, [gift(account, Cause.VOUCHER, amount, self.clock.now())])

        self.stocked.database.run(work)
        return account.id

    def launch(self, **order: Any) -> str:
        return self.stocked.database.run(
            lambda c: accept(c, self.settings, self.user, self.stocked.order(**order), self.clock.now())
        ).id

    def do(self, id: str, *events: Event, reason: str = "") -> None:
        """Let these happen to an instance, one after the other, at this instant."""
        for event in events:

            def work(connection: Connection, event: Event = event) -> None:
                before = self.get(id, connection)
                after = instances.record(connection, before, event, self.clock.now(), reason=reason)
                if event is Event.START and STATES[before.state].wanted is not Wanted.RUNNING:
                    _paid_for(connection, self.settings, after, self.clock.now())

            self.stocked.database.run(work)

    def run(self, **order: Any) -> str:
        """A new instance that runs."""
        id = self.launch(**order)
        self.do(id, Event.REACHABLE)
        return id

    def stop(self, id: str) -> None:
        self.do(id, Event.STOP, Event.ABSENT)

    def get(self, id: str, connection: Connection | None = None) -> Instance:
        def work(c: Connection) -> Instance:
            found = instances.get(c, id)
            assert found is not None
            return found

        return self.stocked.database.run(work) if connection is None else work(connection)

    def state(self, id: str) -> State:
        return self.get(id).state

    def see(self) -> None:
        """A listing of the region shows all that runs at this instant."""
        now = self.clock.now()
        self.stocked.database.run(
            lambda c: c.execute(update(regions).where(regions.c.id == REGION.id).values(seen_at=now))
        )

    async def pass_by(self, time: timedelta, step: timedelta = timedelta(minutes=5)) -> None:
        """Let time pass with everything seen and the billing at work in steps."""
        end = self.clock.now() + time
        while self.clock.now() < end:
            self.clock.pass_by(min(step, end - self.clock.now()).total_seconds())
            self.see()
            await self.billing.run_pass()

    async def settle(self) -> None:
        """Have everything posted that can be."""
        self.see()
        for _ in range(3):
            await self.billing.run_pass()

    def entries(self, *causes: Cause) -> Sequence[Row[Any]]:
        """The user's lines of the ledger as they were written; of these causes, where some are given."""
        lines = select(
            entries.c.kind.label("cause"),
            entries.c.debit_account.label("debit"),
            entries.c.amount_micro.label("amount"),
            entries.c.instance_id,
            entries.c.at,
            entries.c.since,
            entries.c.until,
            entries.c.memo,
        ).where(entries.c.user_id == self.user.id, entries.c.kind.in_([*(causes or Cause)]))
        return self.stocked.database.run(lambda c: c.execute(lines.order_by(entries.c.seq)).all())

    def spent(self, id: str | None = None) -> int:
        return sum(
            each.amount
            for each in self.entries(Cause.CHARGE, Cause.TERM)
            if id is None or each.instance_id == id
        )

    def lost(self) -> int:
        """What was delivered and nobody paid, in micro-units."""
        return sum(each.amount for each in self.entries() if each.debit == WRITE_OFFS)

    def amounts(self) -> dict[str, int]:
        """What the user's accounts hold, by the last part of their ids."""
        mine = select(ledger_accounts.c.id, ledger_accounts.c.amount_micro).where(
            ledger_accounts.c.user_id == self.user.id
        )
        found = self.stocked.database.run(lambda c: c.execute(mine).all())
        return {id.partition("/")[2]: amount for id, amount in found}

    def told(self, id: str) -> list[str]:
        history = self.stocked.database.run(lambda c: instances.history(c, id, after=0, limit=1000))
        return [each.event for each in history]

    def everybody(self) -> list[str]:
        return self.stocked.database.run(lambda c: list(c.execute(select(rows.c.id)).scalars()))
