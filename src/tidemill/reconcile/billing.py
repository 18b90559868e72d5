"""What time and money do by themselves: charges, holds that end, users who run dry, terms that are over.

Every server that runs loops has one; they share the work by the rows they take. Nothing is kept in memory:
what is due is in the database.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import structlog
from sqlalchemy import Connection

from tidemill.clock import Clock
from tidemill.metrics import Metrics
from tidemill.model.errors import Conflict, Unavailable
from tidemill.model.instance import Instance
from tidemill.reconcile import purses, timers
from tidemill.settings import Settings
from tidemill.store import fleet, instances, metering, wallets
from tidemill.store.database import Database
from tidemill.store.instances import Stale
from tidemill.wake import Wake

log = structlog.get_logger("billing")

BATCH = 500  # meters or holds in one transaction
LOOKS = 50  # wallets, or instances whose time is over, in one look


class Billing:
    """Posts what is due and stops what is not paid for any more. ``wake`` is rung for what it stops."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: Settings,
        wake: Wake,
        metrics: Metrics | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._wake = wake
        self._metrics = metrics or Metrics()

    async def run(self) -> None:
        """Pass after pass, until cancelled."""
        while True:
            try:
                await self.run_pass()
            except Unavailable as error:
                log.error("the database gives no answer", error=error.detail or error.message)
            except Exception:  # a defect of one pass must not end all later ones; it is loud in the log
                log.exception("a pass of the billing failed")
            await self._clock.sleep(self._settings.billing_beat)

    async def run_pass(self) -> None:
        """Everything that is due now."""
        await self.post()
        await self._look_after_money()
        await self._ring_timers()

    async def post(self) -> int:
        """Charge what is due and settle what is to be; returns how many postings that made.

        A batch that fails is made again user by user: who it fails for is said, put off, and keeps nobody
        else from being charged.
        """
        made = 0
        while True:
            try:
                batch = await self._batch()
            except Unavailable:
                raise
            except Exception:
                log.exception("a batch of the billing failed; its users are charged one by one")
                charged, put_off = await self._post_one_by_one()
                if not charged and not put_off:  # it is not for somebody that it fails
                    raise
                made += charged
                continue
            made += batch.postings
            if batch.seen < BATCH:
                return made

    async def _batch(self, user_id: str | None = None) -> metering.Batch:
        batch = await self._database.write(
            partial(metering.run_batch, now=self._clock.now(), limit=BATCH, user_id=user_id)
        )
        for instance_id, what in batch.unreadable:
            log.error("a meter is left alone: the server does not know it", instance=instance_id, what=what)
        return batch

    async def _post_one_by_one(self) -> tuple[int, int]:
        """Charge those whom the next batch has, each by themselves.

        Returns how many postings that made, and how many users were put off since it failed for them.
        """
        made, put_off, now = 0, 0, self._clock.now()
        for user_id in await self._database.read(lambda c: metering.due_users(c, now, BATCH)):
            try:
                made += (await self._batch(user_id)).postings
            except Unavailable:
                raise
            except Exception:
                log.exception("a user could not be charged; tried again later", user=user_id)
                await self._database.write(lambda c, id=user_id: metering.put_off(c, id, now))
                put_off += 1
        return made, put_off

    async def _look_after_money(self) -> None:
        """Refill, let expire, tell who has little left, and stop what nobody can pay."""
        now, failed = self._clock.now(), set[str]()
        while True:  # each look says when the next is: later than now
            most = LOOKS + len(failed)
            due_wallets = await self._database.read(lambda c, most=most: wallets.due(c, now, most))
            for user_id in (wallet.user_id for wallet in due_wallets if wallet.user_id not in failed):
                try:
                    await self._look(user_id)
                except Unavailable:
                    raise
                except Exception:  # it stays due; the others are looked at all the same
                    log.exception("a user's money could not be looked after", user=user_id)
                    failed.add(user_id)
            if len(due_wallets) < most:
                return

    async def _look(self, user_id: str) -> None:
        with suppress(Stale):  # an instance was changed meanwhile: it is looked at again
            found = await self._database.write(
                lambda c: purses.look(c, self._settings, user_id, self._clock.now())
            )
            for due in found:
                await self._move(due)

    async def _move(self, due: purses.Due) -> None:
        """Move one instance, unless it was changed meanwhile: then the next look finds it."""

        def work(connection: Connection) -> tuple[Instance, Instance] | None:
            instance = instances.get(connection, due.instance_id)
            if instance is None or instance.version != due.version:
                return None
            now = self._clock.now()
            return instance, instances.record(
                connection, instance, due.event, now, reason=due.reason, message=due.message
            )

        with suppress(Stale, Conflict):
            moved = await self._database.write(work)
            if moved is not None:
                self._moved(moved[1], due.event.value)

    async def _ring_timers(self) -> None:
        now = self._clock.now()
        for instance_id in await self._database.read(lambda c: fleet.timers(c, now, LOOKS)):
            try:
                moved = await self._database.write(
                    lambda c, id=instance_id: timers.ring(c, self._settings, id, self._clock.now())
                )
            except (Stale, Conflict):
                continue
            except Unavailable:
                raise
            except Exception:  # it stays due; the others' time is up all the same
                log.exception("what is due for an instance could not be done", instance=instance_id)
                continue
            if moved is not None:
                self._moved(moved, "timer")

    def _moved(self, instance: Instance, happened: str) -> None:
        self._metrics.moves.add(instance.region_id, happened, instance.state.value)
        log.info(
            "instance moved",
            instance=instance.id,
            happened=happened,
            after=instance.state.value,
            reason=instance.reason,
        )
        self._wake.set()
