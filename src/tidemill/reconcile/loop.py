"""The loop of one region: look at what is due, compare with the engine, take it a step further.

It takes no arguments and keeps nothing that a crash may not lose: what is due is in the
database, what runs is in the engine. What it remembers (the last listing, to tell what changed)
only saves work; after a restart everything is compared with its row once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice

import structlog

from tidemill.clock import Clock
from tidemill.drivers.contract import Driver, DriverError, Node
from tidemill.metrics import Metrics
from tidemill.model.errors import Unavailable
from tidemill.model.instance import Instance
from tidemill.model.observation import InstanceId, Seen
from tidemill.reconcile.claims import Claims
from tidemill.reconcile.compare import compare, differing
from tidemill.reconcile.nodes import register_nodes
from tidemill.reconcile.orphans import Orphans
from tidemill.reconcile.presence import Presence
from tidemill.reconcile.step import LeaseLost, Stepper
from tidemill.settings import Settings
from tidemill.store import fleet, sightings
from tidemill.store.database import Database
from tidemill.store.instances import Stale
from tidemill.wake import Wake

log = structlog.get_logger("reconcile")

CLAIM_MOST = 1000  # ids named in one claim
PASS_PACE = 0.02  # seconds between passes however often it rings: requests come first
FINISH_SECONDS = 4.0  # that what is under way gets at the end
HINT_PACE = 0.1  # seconds between listings however much the engine announces
JUMP = 30.0  # seconds that the clock may be ahead of what passed before it counts as set forward
SOON = 0.02  # seconds: what is due at once waits this long, so that a pass takes many


class Loop:
    """Reconciles the instances of one region with its driver.

    ``owner`` names the server; loops of one server share its ``presence``. A loop without one keeps its
    own, under that name.
    """

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
        metrics: Metrics | None = None,
        presence: Presence | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._database = database
        self._clock = clock
        self._wake = wake
        self._settings = settings
        self._region_id = region_id
        self._driver = driver
        self._own_presence = presence is None
        self._presence = presence or Presence(database, clock, settings, name=owner)
        self._presence.when_lost(self._drop)
        self._claims = Claims(database, clock, region_id, self._presence)
        self._stepper = Stepper(database, clock, settings, driver, self._presence, self._metrics)
        self._orphans = Orphans(database, clock, settings, region_id, driver, self._metrics)
        self._working: dict[InstanceId, asyncio.Task[None]] = {}
        self._missed: set[InstanceId] = set()
        self._hinted = True
        self._last: dict[InstanceId, Seen] = {}
        self._nodes: Sequence[Node] = ()
        self._full_at: float | None = None
        self._looked_at: tuple[datetime, float] | None = None
        self._silence = ""  # why the engine gave no answer to the last pass

    async def run(self) -> None:
        """Pass after pass, until cancelled; what is under way is then finished or let go."""
        helpers = [asyncio.create_task(self._listen())]
        if self._own_presence:
            helpers.append(asyncio.create_task(self._presence.run()))
        try:
            while True:
                try:
                    with self._metrics.passing(self._region_id):
                        await self.run_pass()
                except Exception:  # a defect of one pass must not end all later ones; it is loud in the log
                    log.exception("a pass of the loop failed", region=self._region_id)
                await self._clock.sleep(PASS_PACE)
                await self._wake.wait(self._settings.beat)
        finally:
            await self._finish()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            if self._own_presence:
                with suppress(Unavailable):  # the leases run out by themselves
                    await self._presence.leave()

    async def _finish(self) -> None:
        """Give what is under way a little time, then let it go; the next server asks again."""
        tasks = list(self._working.values())
        if tasks:
            await asyncio.wait(tasks, timeout=FINISH_SECONDS)
        self._drop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._orphans.close()

    def _drop(self) -> None:
        """Work on nothing any more."""
        for task in self._working.values():
            task.cancel()
        self._working.clear()

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
        owner = self._presence.id
        try:
            await self._presence.keep()
            owner = self._presence.id
            full_pass = self._is_time_for_all()
            if full_pass or self._claims.in_doubt:
                await self._claims.settle_forgotten(self._working.keys())
            await self._notice_a_jump()
            self._missed = ids = await self._changed(full_pass)  # missed until they are claimed
            batch = set(islice(ids, CLAIM_MOST))
            busy = set(self._working)
            claimed = await self._claims.take(batch, owner, self._free)
            # What is claimed is looked at after it was claimed, so that nobody moves it in between.
            seen = await self._observe() if claimed else dict[InstanceId, Seen]()
        except (DriverError, TimeoutError) as error:
            await self._say_unanswered(str(error) or "it did not answer in time", claimed, owner)
            return
        except Unavailable as error:
            log.error("the database gives no answer", error=error.detail or error.message)
            return
        except LeaseLost:  # at the next beat, under another name
            return
        if self._silence:
            await self._begin_anew(claimed, owner)
            return
        if owner != self._presence.id:  # lost meanwhile, and what was claimed with it
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
            task = asyncio.create_task(self._work(instance, seen.get(instance.id), owner))
            self._working[instance.id] = task
        self._claims.taken()

    def _is_time_for_all(self) -> bool:
        now = self._clock.monotonic()
        return self._full_at is None or now - self._full_at >= self._settings.full_pass

    async def _changed(self, full: bool) -> set[InstanceId]:
        """Ids that the engine shows otherwise than last time; with ``full``, all that may owe something."""
        ids, now = set(self._missed), self._clock.monotonic()
        if not full and not self._hinted:
            return ids
        self._hinted = False
        if full:
            async with asyncio.timeout(self._settings.driver_patience):
                self._nodes = await register_nodes(
                    self._database, self._settings, self._region_id, self._driver, self._nodes
                )
        looked_at = self._clock.now()
        seen = await self._observe()
        if not full:
            return ids | differing(seen, self._last)
        found = await self._database.read_much(lambda c: compare(c, self._region_id, seen, self._last))
        await self._database.write(
            lambda c: sightings.sighted(c, self._region_id, looked_at, found.missing, now=self._clock.now()),
            durable=False,
        )
        self._last |= found.agreed
        for id, word in found.unreadable.items():
            log.error("an instance cannot be read and is left alone", instance=id, state=word)
            if id not in seen:
                self._last.pop(id, None)
        await self._orphans.look(seen.keys(), found.there)
        self._full_at = now
        return ids | found.to_look_at

    async def _observe(self) -> Mapping[InstanceId, Seen]:
        async with asyncio.timeout(self._settings.driver_patience):
            with self._metrics.call(self._region_id, "observe"):
                seen = await self._driver.observe()
        self._metrics.engine_up.set(1.0, self._region_id)
        return seen

    async def _notice_a_jump(self) -> None:
        """When the clock was set forward, deadlines count from here: the time did not pass."""
        now, ticks = self._clock.now(), self._clock.monotonic()
        before, self._looked_at = self._looked_at, (now, ticks)
        if before is None:
            return
        jump = (now - before[0]).total_seconds() - (ticks - before[1])
        if jump > JUMP:
            log.warning("the clock was set forward", seconds=round(jump))
            await self._database.write(lambda c: fleet.extend_deadlines(c, [self._region_id], now))

    async def _begin_anew(self, claimed: list[Instance], owner: str) -> None:
        """The engine is back: deadlines count from here, its silence was nobody's fault."""
        now = self._clock.now()
        with suppress(Unavailable):  # said again at the next pass
            await self._database.write(lambda c: fleet.extend_deadlines(c, [self._region_id], now))
            for instance in claimed:
                await self._claims.settle(instance.id, owner, instance.version, now)
            log.info("the engine answers again", region=self._region_id)
            self._silence = ""
        self._hinted = True
        self._wake.set()

    async def _say_unanswered(self, why: str, claimed: list[Instance], owner: str) -> None:
        """Let the log say it once, and those who wait for the engine too; look at them at the next beat."""
        if why != self._silence:
            log.warning("the engine gives no answer", region=self._region_id, error=why)
        self._silence = why
        self._metrics.engine_up.set(0.0, self._region_id)
        self._hinted = True
        next_beat = self._clock.now() + timedelta(seconds=self._settings.beat)
        with suppress(Unavailable, LeaseLost):  # what is not given back here is at the next pass
            for instance in claimed or await self._claims.take((), owner, self._free):
                version = instance.version
                with suppress(Stale):  # changed by its owner meanwhile: that is looked at
                    version = (await self._stepper.say_unreachable(instance)).version
                await self._claims.settle(instance.id, owner, version, next_beat)

    @property
    def _free(self) -> int:
        """How many more may be worked on."""
        return self._settings.driver_calls - len(self._working)

    async def _work(self, instance: Instance, seen: Seen | None, owner: str) -> None:
        """Take one instance a step further, give its lease back, and ring when there is more to do."""
        try:
            due = await self._step(instance, seen, owner)
        finally:
            if self._working.get(instance.id) is asyncio.current_task():
                del self._working[instance.id]
        if due is not None:
            wait = (due - self._clock.now()).total_seconds()
            asyncio.get_running_loop().call_later(max(wait, SOON), self._wake.set)
        if self._missed or len(self._working) >= self._settings.driver_calls - 1:
            self._wake.set()

    async def _step(self, instance: Instance, seen: Seen | None, owner: str) -> datetime | None:
        due: datetime | None = self._clock.now()
        version = instance.version
        try:
            done, due = await self._stepper.step(instance, seen)
            version = done.version
        except LeaseLost:
            return None
        except Stale:
            pass  # changed by its owner meanwhile: due at once, decided anew
        except Unavailable as error:
            log.error("the database gives no answer", error=error.detail or error.message)
            due = self._clock.now() + timedelta(seconds=self._settings.beat)
        except Exception:  # a defect met on one instance must not keep the others waiting; loud in the log
            log.exception("working on an instance failed", instance=instance.id)
            due = self._clock.now() + timedelta(seconds=self._settings.full_pass)
        try:
            if not await self._claims.settle(instance.id, owner, version, due):
                due = self._clock.now()  # its owner asked for something meanwhile
        except Unavailable as error:  # given back at the next pass
            log.error("the database gives no answer", error=error.detail or error.message)
        return due
