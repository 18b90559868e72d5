"""The loop of one region: look at what is due, compare with the engine, take it a step further.

It takes no arguments and keeps nothing that a crash may not lose: what is due is in the
database, what runs is in the engine. What it remembers (the last listing, to tell what changed)
only saves work; after a restart everything counts as changed once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

import structlog
from sqlalchemy import Connection

from tidemill.clock import Clock
from tidemill.drivers.contract import Driver, DriverError
from tidemill.model.errors import Unavailable
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import Wanted
from tidemill.model.observation import InstanceId, Phase, Seen
from tidemill.reconcile.decide import NOT_RUNNING
from tidemill.reconcile.nodes import register_nodes
from tidemill.reconcile.orphans import Orphans
from tidemill.reconcile.step import PATIENCE, Stepper
from tidemill.settings import Settings
from tidemill.store import instances, leases
from tidemill.store.database import Database
from tidemill.store.instances import Stale
from tidemill.wake import Wake

log = structlog.get_logger("reconcile")

CLAIM_MOST = 1000  # ids named in one claim
PASS_PACE = 0.02  # seconds between passes however often it rings: requests come first
HINT_PACE = 0.1  # seconds between listings however much the engine announces
JUMP = 30.0  # seconds that the clock may be ahead of what passed before it counts as set forward
SOON = 0.02  # seconds: what is due at once waits this long, so that a pass takes many


class Loop:
    """Reconciles the instances of one region with its driver."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        wake: Wake,
        settings: Settings,
        region_id: str,
        driver: Driver,
        owner: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._wake = wake
        self._settings = settings
        self._region_id = region_id
        self._driver = driver
        self._owner = owner
        self._stepper = Stepper(database, clock, settings, driver)
        self._orphans = Orphans(clock, settings, driver)
        self._working: dict[InstanceId, asyncio.Task[None]] = {}
        self._missed: set[InstanceId] = set()
        self._hinted = True
        self._last: dict[InstanceId, Seen] = {}
        self._full_at: float | None = None
        self._looked_at: tuple[datetime, float] | None = None
        self._silence = ""  # why the engine gave no answer to the last pass

    async def run(self) -> None:
        """Pass after pass, until cancelled; what is under way is then let go."""
        listener = asyncio.create_task(self._listen())
        try:
            while True:
                try:
                    await self.run_pass()
                except Exception:  # a defect of one pass must not end all later ones; it is loud in the log
                    log.exception("a pass of the loop failed", region=self._region_id)
                await self._clock.sleep(PASS_PACE)
                await self._wake.wait(self._settings.beat)
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener
            await self._let_go()

    async def _let_go(self) -> None:
        tasks = list(self._working.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Unavailable):
            await self._database.write(lambda connection: leases.let_go(connection, self._owner))

    async def _listen(self) -> None:
        """Turn the driver's hints into rings of the bell."""
        while True:
            try:
                async for _ in self._driver.changes():
                    self._hinted = True
                    self._wake.set()
                    await self._clock.sleep(HINT_PACE)
            except DriverError as error:
                log.warning("the engine announces nothing", region=self._region_id, error=str(error))
            except Exception:  # hints only save time; without them the beat and the full pass still look
                log.exception("listening to the engine failed", region=self._region_id)
            await self._clock.sleep(self._settings.beat)

    async def run_pass(self) -> None:
        """One pass: claim, look, and set a task to work for every instance that was claimed."""
        claimed: list[Instance] = []
        try:
            await self._notice_a_jump()
            self._missed = ids = await self._changed()  # missed until they are claimed
            batch = set(islice(ids, CLAIM_MOST))
            busy = set(self._working)
            claimed = await self._claim(batch)
            # What is claimed is looked at after it was claimed, so that nobody moves it in between.
            seen = await self._observe() if claimed else dict[InstanceId, Seen]()
        except (DriverError, TimeoutError) as error:
            await self._say_unanswered(str(error) or "it did not answer in time", claimed)
            return
        except Unavailable as error:
            log.error("the database gives no answer", error=error.detail or error.message)
            return
        if self._silence:
            await self._begin_anew(claimed)
            return
        # Claims are limited, and what is being worked on cannot be claimed: look at those again.
        full = len(claimed) + len(busy) >= self._settings.driver_calls
        self._missed = {id for id in ids if full or id in busy or id not in batch} - {
            row.id for row in claimed
        }
        if (self._missed & busy) - self._working.keys():  # done meanwhile: nobody else rings for them
            self._wake.set()
        for instance in claimed:
            if instance.id in seen:
                self._last[instance.id] = seen[instance.id]
            else:
                self._last.pop(instance.id, None)
            task = asyncio.create_task(self._work(instance, seen.get(instance.id)))
            self._working[instance.id] = task

    async def _changed(self) -> set[InstanceId]:
        """Ids that the engine shows otherwise than last time; now and then, all that is not as wanted."""
        ids = set(self._missed)
        now = self._clock.monotonic()
        full = self._full_at is None or now - self._full_at >= self._settings.full_pass
        if not full and not self._hinted:
            return ids
        self._hinted = False
        if full:
            async with asyncio.timeout(self._settings.lease * PATIENCE):
                await register_nodes(self._database, self._settings, self._region_id, self._driver)
        seen = await self._observe()
        ids |= _differing(seen, self._last)
        if full:
            wanted = await self._database.read_much(lambda c: instances.wanted(c, [self._region_id]))
            ids.update(id for id, want in wanted.items() if not _is_as_wanted(want, seen.get(id)))
            ids.update(await self._database.read_much(lambda c: instances.awake(c, [self._region_id])))
            strange = seen.keys() - wanted.keys()
            others = await self._database.read_much(lambda c: instances.unreleased(c, strange))
            await self._orphans.remove(strange - others)
            self._full_at = now
        return ids

    async def _observe(self) -> Mapping[InstanceId, Seen]:
        async with asyncio.timeout(self._settings.lease * PATIENCE):
            return await self._driver.observe()

    async def _notice_a_jump(self) -> None:
        """When the clock was set forward, deadlines count from here: the time did not pass."""
        now, ticks = self._clock.now(), self._clock.monotonic()
        before, self._looked_at = self._looked_at, (now, ticks)
        if before is None:
            return
        jump = (now - before[0]).total_seconds() - (ticks - before[1])
        if jump > JUMP:
            log.warning("the clock was set forward", seconds=round(jump))
            await self._database.write(lambda c: instances.extend_deadlines(c, [self._region_id], now))

    async def _begin_anew(self, claimed: list[Instance]) -> None:
        """The engine is back: deadlines count from here, its silence was nobody's fault."""
        now = self._clock.now()
        with suppress(Unavailable):  # said again at the next pass
            await self._database.write(lambda c: instances.extend_deadlines(c, [self._region_id], now))
            for instance in claimed:
                await self._database.write(
                    partial(_settle, instance, self._owner, instance.version, now), durable=False
                )
            log.info("the engine answers again", region=self._region_id)
            self._silence = ""
        self._hinted = True
        self._wake.set()

    async def _say_unanswered(self, why: str, claimed: list[Instance]) -> None:
        """Let the log say it once, and those who wait for the engine too; look at them at the next beat."""
        if why != self._silence:
            log.warning("the engine gives no answer", region=self._region_id, error=why)
        self._silence = why
        self._hinted = True
        next_beat = self._clock.now() + timedelta(seconds=self._settings.beat)
        with suppress(Unavailable):  # the leases run out by themselves
            for instance in claimed or await self._claim(set()):
                version = instance.version
                with suppress(Stale):  # changed by its owner meanwhile: that is looked at
                    version = (await self._stepper.say_unreachable(instance)).version
                await self._database.write(
                    partial(_settle, instance, self._owner, version, next_beat), durable=False
                )

    async def _claim(self, ids: set[InstanceId]) -> list[Instance]:
        free = self._settings.driver_calls - len(self._working)
        if free <= 0:
            return []
        now = self._clock.now()
        until = now + timedelta(seconds=self._settings.lease)

        def work(connection: Connection) -> list[Instance]:
            return leases.claim(
                connection,
                owner=self._owner,
                now=now,
                until=until,
                beyond=until + timedelta(seconds=self._settings.lease),
                region_id=self._region_id,
                ids=ids,
                limit=free,
            )

        claimed = await self._database.write(work, durable=False)
        return [instance for instance in claimed if instance.id not in self._working]

    async def _work(self, instance: Instance, seen: Seen | None) -> None:
        """Take one instance a step further, give its lease back, and ring when there is more to do."""
        try:
            due = await self._step(instance, seen)
        finally:
            del self._working[instance.id]
        if due is not None:
            wait = (due - self._clock.now()).total_seconds()
            asyncio.get_running_loop().call_later(max(wait, SOON), self._wake.set)
        if self._missed or len(self._working) >= self._settings.driver_calls - 1:
            self._wake.set()

    async def _step(self, instance: Instance, seen: Seen | None) -> datetime | None:
        due: datetime | None = self._clock.now()
        version = instance.version
        try:
            done, due = await self._stepper.step(instance, seen)
            version = done.version
        except Stale:
            pass  # changed by its owner meanwhile: due at once, decided anew
        except Unavailable as error:
            log.error("the database gives no answer", error=error.detail or error.message)
            due = self._clock.now() + timedelta(seconds=self._settings.beat)
        except Exception:  # a defect met on one instance must not keep the others waiting; loud in the log
            log.exception("working on an instance failed", instance=instance.id)
            due = self._clock.now() + timedelta(seconds=self._settings.lease)
        try:
            settled = await self._database.write(
                lambda connection: leases.settle(connection, instance.id, self._owner, version, due),
                durable=False,
            )
            if not settled:  # its owner asked for something meanwhile
                due = self._clock.now()
        except Unavailable as error:  # the lease runs out by itself
            log.error("the database gives no answer", error=error.detail or error.message)
        return due


def _settle(
    instance: Instance, owner: str, version: int, due: datetime | None, connection: Connection
) -> None:
    leases.settle(connection, instance.id, owner, version, due)


def _differing(seen: Mapping[InstanceId, Seen], last: Mapping[InstanceId, Seen]) -> set[InstanceId]:
    """Ids that one listing shows otherwise than the other; most are the very same and cost nothing."""
    changed = {id for id, now in seen.items() if now is not (before := last.get(id)) and now != before}
    return changed | {id for id in last if id not in seen}


def _is_as_wanted(wanted: Wanted, seen: Seen | None) -> bool:
    """Whether nothing is owed to an instance at rest that the engine shows like this."""
    if wanted is Wanted.RUNNING:
        return seen is not None and seen.phase is Phase.REACHABLE
    if wanted is Wanted.STOPPED:
        return seen is None or seen.phase in NOT_RUNNING
    return False
