"""Removing what bears our label and no instance wants, once it was watched for its grace.

What makes this safe, whoever else is at work: the engine is listed before the database is read, and an
instance is in the database before anybody makes it, so what is listed and not wanted was not launched a
moment ago by another server; and the database is asked once more right before each removal.

What nobody wants is a finding in the database from the first time it is seen. The seconds it was watched
add up there: over restarts, and once however many servers look. They are counted by the monotonic clock,
and between two servers or two lives of one by no more than ``full_pass`` at a time, so that a clock that
is set forward cannot use the grace up, and time in which nobody looked does not count.

Nothing is removed while a restore is not closed by the operator, nor when the database has never had an
instance: then it is the database that is not the one this engine belongs to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from typing import TypeVar

import structlog
from sqlalchemy import Connection

from tidemill.clock import Clock
from tidemill.drivers.contract import Driver, DriverError, Trace, Traces
from tidemill.metrics import Metrics
from tidemill.model.errors import Unavailable
from tidemill.model.observation import InstanceId
from tidemill.settings import Settings
from tidemill.store import census, facts, findings, fleet, instances
from tidemill.store.database import Database
from tidemill.store.findings import INSTANCE, Finding

log = structlog.get_logger("reconcile")

NAME_MOST = 255
BATCH = 500  # rows that one transaction reads or writes

T = TypeVar("T")
Name = tuple[str, str]  # kind and name: one thing in a region's engine


@dataclass(frozen=True, slots=True)
class Unwanted:
    """What of a listing nobody wants.

    Attributes:
        things: by kind and name.
        shows: whether a kind and a name would have been listed, were it there.
        held: why nothing of it is removed without the operator's word; "" when it is.
    """

    things: Mapping[Name, Trace]
    shows: Callable[[str, str], bool]
    held: str


@dataclass(frozen=True, slots=True)
class Weighed:
    """What is to be written down about a listing, and what is ripe to be removed."""

    new: list[Trace]
    still: list[tuple[Finding, float]]
    over: list[Finding]
    ripe: list[Finding]


def weigh(
    unwanted: Unwanted, known: Iterable[Finding], passed: Callable[[Finding], float], grace: float
) -> Weighed:
    """Compare a listing with what was found before; ``passed`` says how long ago a finding was seen."""
    found = Weighed([], [], [], [])
    before: set[Name] = set()
    for finding in known:
        name = (finding.kind, finding.name)
        before.add(name)
        if name in unwanted.things:
            watched = finding.watched + passed(finding)
            found.still.append((finding, watched))
            if watched >= grace:
                found.ripe.append(finding)
        elif unwanted.shows(finding.kind, finding.name):
            found.over.append(finding)
    found.new.extend(thing for name, thing in unwanted.things.items() if name not in before)
    return found


class Orphans:
    """The orphans of one region."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: Settings,
        region_id: str,
        driver: Driver,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._region_id = region_id
        self._driver = driver
        self._metrics = metrics
        self._looked: tuple[datetime, float] | None = None
        self._removing: asyncio.Task[None] | None = None

    async def look(self, seen: Set[InstanceId], wanted: Set[InstanceId]) -> None:
        """Called at every full pass with what the engine has, and what was wanted after it was listed.

        What is ripe is removed in the background, one after the other: an engine that takes its time
        over an orphan keeps no instance waiting. Raises Unavailable.
        """
        unwanted = await self.unwanted(seen, wanted)
        ripe = await self.write_down(unwanted)
        if ripe and not unwanted.held and not self.busy:
            things = [unwanted.things[finding.kind, finding.name] for finding in ripe]
            self._removing = asyncio.create_task(self._remove_all(list(zip(ripe, things, strict=True))))

    async def unwanted(self, seen: Set[InstanceId], wanted: Set[InstanceId] = frozenset()) -> Unwanted:
        """What of a listing that was made just now nobody wants. Raises Unavailable."""
        there = {(INSTANCE, id): Trace(INSTANCE, id, id) for id in sorted(seen - wanted)}
        shows = _shows_instances
        if isinstance(self._driver, Traces):
            try:
                async with asyncio.timeout(self._settings.driver_patience):
                    with self._metrics.call(self._region_id, "traces"):
                        traces = await self._driver.traces()
                known = seen | wanted
                there |= {_name(one): one for one in traces if one.instance not in known}
                shows = self._shows
            except (DriverError, TimeoutError) as error:
                log.warning("the engine did not show all it has", region=self._region_id, error=str(error))
        # Only now the database: whatever was listed was written there before it was made.
        things: dict[Name, Trace] = {}
        for batch in _batches(there.values()):
            things |= await self._database.read_much(partial(_unwanted, batch))
        held = await self._database.read_much(_held) if things else ""
        return Unwanted(things, shows, held)

    async def write_down(self, unwanted: Unwanted) -> list[Finding]:
        """Keep what was found; returns what was watched for its grace. Raises Unavailable."""
        known = await self._database.read_much(lambda c: findings.open_in(c, self._region_id))
        now, ticks = self._clock.now(), self._clock.monotonic()
        weighed = weigh(unwanted, known, partial(self._passed, now, ticks), self._settings.orphan_grace)
        self._looked = (now, ticks)
        for things in _batches(weighed.new):
            for thing in await self._database.write(partial(self._begin, things, now), durable=False):
                self._metrics.orphans_found.add(self._region_id, thing.kind)
                log.warning("found something of ours that no instance wants", **self._words(thing))
        for seen_again in _batches(weighed.still):
            await self._database.write(partial(_see, seen_again, now), durable=False)
        for rows in _batches(weighed.over):
            await self._database.write(partial(_end, rows, now, self._settings.orphan_grace), durable=False)
        return weighed.ripe

    async def remove(self, finding: Finding, thing: Trace, *, though_held: bool = False) -> str:
        """Remove one thing, unless it is wanted after all; returns why it is still there, or "".

        Raises Unavailable.
        """
        unwanted, held = await self._database.read(lambda c: (_unwanted([thing], c), _held(c)))
        if not unwanted:
            return "an instance wants it"
        if held and not though_held:
            return held
        try:
            async with asyncio.timeout(self._settings.driver_patience):
                await self._erase(thing)
        except (DriverError, TimeoutError) as error:
            why = str(error) or "the engine did not answer in time"
            self._metrics.orphan_failures.add(self._region_id, thing.kind)
            log.warning("an orphan could not be removed", error=why, **self._words(thing))
            await self._database.write(lambda c: findings.say(c, finding, why), durable=False)
            return why
        now = self._clock.now()
        if await self._database.write(partial(_removed, finding, thing, now)):
            self._metrics.orphans_removed.add(self._region_id, thing.kind)
            log.warning("removed an orphan", **self._words(thing))
        return ""

    @property
    def busy(self) -> bool:
        """Whether something is being removed at this moment."""
        return self._removing is not None and not self._removing.done()

    async def settled(self) -> None:
        """Returns when nothing is being removed."""
        if self._removing is not None:
            await asyncio.gather(self._removing, return_exceptions=True)

    async def close(self) -> None:
        """Let go of what is being removed; the next look finds it again."""
        if self._removing is not None:
            self._removing.cancel()
        await self.settled()

    async def _remove_all(self, ripe: list[tuple[Finding, Trace]]) -> None:
        try:
            for finding, thing in ripe:
                await self.remove(finding, thing)
        except Unavailable as error:
            log.error("the database gives no answer", error=error.detail or error.message)
        except Exception:  # a defect met on one of them must not end the loop; it is loud in the log
            log.exception("removing orphans failed", region=self._region_id)

    async def _erase(self, thing: Trace) -> None:
        if thing.kind == INSTANCE:
            with self._metrics.call(self._region_id, "ensure_absent"):
                await self._driver.ensure_absent(thing.instance)
        elif isinstance(self._driver, Traces):
            with self._metrics.call(self._region_id, "erase"):
                await self._driver.erase(thing)

    def _shows(self, kind: str, name: str) -> bool:
        if kind == INSTANCE:
            return True
        return isinstance(self._driver, Traces) and self._driver.shows(kind, name)

    def _passed(self, now: datetime, ticks: float, finding: Finding) -> float:
        """Seconds that it was watched since it was last seen."""
        if self._looked is not None and finding.seen_at == self._looked[0]:
            return ticks - self._looked[1]
        since = (now - finding.seen_at).total_seconds()
        return min(max(0.0, since), self._settings.full_pass)

    def _begin(self, things: Iterable[Trace], now: datetime, connection: Connection) -> list[Trace]:
        return [
            thing
            for thing in things
            if findings.begin(connection, self._region_id, thing.kind, thing.name, thing.instance, now)
        ]

    def _words(self, thing: Trace) -> dict[str, str]:
        return {"region": self._region_id, "kind": thing.kind, "name": thing.name}


def _name(thing: Trace) -> Name:
    """As the database keeps it."""
    return thing.kind, thing.name[:NAME_MOST]


def _shows_instances(kind: str, name: str) -> bool:
    return kind == INSTANCE


def _unwanted(things: Iterable[Trace], connection: Connection) -> dict[Name, Trace]:
    """Those that belong to no instance, and to no tenant who has one."""
    found = {_name(thing): thing for thing in things}
    ids = {thing.instance for thing in found.values() if thing.instance}
    tenants = {thing.tenant for thing in found.values() if thing.tenant and not thing.instance}
    wanted = fleet.unreleased(connection, ids)
    busy = census.tenants_with_instances(connection, tenants)
    return {
        name: thing
        for name, thing in found.items()
        if not (thing.instance in wanted if thing.instance else thing.tenant in busy)
    }


def _held(connection: Connection) -> str:
    """Why nothing is removed without the operator's word."""
    if facts.get(connection, facts.RESTORED_AT) is not None:
        return "the database was restored from a backup, which may not know all that runs"
    if not census.any_instance_ever(connection):
        return "the database has never had an instance, so it may not be the one that this was made by"
    return ""


def _see(rows: Iterable[tuple[Finding, float]], now: datetime, connection: Connection) -> None:
    for finding, watched in rows:
        findings.see(connection, finding, now, watched)


def _end(rows: Iterable[Finding], now: datetime, grace: float, connection: Connection) -> None:
    """They went by themselves; one that went within its grace was only on its way out."""
    for finding in rows:
        if finding.watched >= grace:
            findings.end(connection, finding, now, findings.GONE)
        else:
            findings.drop(connection, finding)


def _removed(finding: Finding, thing: Trace, now: datetime, connection: Connection) -> bool:
    """Write a removal down, in the instance's history as well; False when another server has done so."""
    if not findings.end(connection, finding, now, findings.REMOVED):
        return False
    instance = instances.get(connection, thing.instance) if thing.instance else None
    if instance is not None:
        what = (
            "The engine still had this instance"
            if thing.kind == INSTANCE
            else f"A {thing.kind} of it was left"
        )
        instances.tell(connection, instance, now, "leftoverRemoved", f"{what} after it was released; removed")
    return True


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch
