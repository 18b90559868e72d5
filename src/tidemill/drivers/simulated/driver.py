"""An engine that does not exist, for trying the API and for tests; deterministic.

It keeps the driver contract to the letter, until :class:`Dials` make it slow, silent, contrary or
forgetful; the ``play_*`` methods are the world around it (a process dies, a machine is lost). Its
:class:`Engine` enforces what a real one would and writes down what really happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress

from tidemill.drivers.contract import Capabilities, Driver, Node, Port, Unreachable, Workload
from tidemill.drivers.simulated.dials import Call, DialFor, Dials
from tidemill.drivers.simulated.engine import Delivery, Engine
from tidemill.drivers.simulated.journal import RUNNING, Moment
from tidemill.drivers.simulated.objects import Made
from tidemill.drivers.simulated.space import Violation
from tidemill.drivers.simulated.world import World
from tidemill.model.observation import InstanceId, Seen

LOST = "the answer was lost"


class SimulatedDriver(World, Driver):
    """One server's way to a simulated engine.

    Args:
        nodes: the machines of an engine of its own; none for one without bounds.
        sleep: lets the injected clock's time pass.
        now: the injected clock's seconds; what takes time in the engine needs it.
        dial: draws the dials for each call, from its name and the instance; else ``dials`` hold.
        engine: one that is there already; ``nodes`` and ``now`` are then its own.
    """

    capabilities = Capabilities(data_disks=True, logs=True, devices=True)

    def __init__(
        self,
        *,
        nodes: Sequence[Node] = (),
        sleep: Callable[[float], Awaitable[None]],
        now: Callable[[], float] | None = None,
        dial: DialFor | None = None,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(engine or Engine(nodes, now=now))
        self.dials = Dials()
        self.dial = dial
        self._sleep = sleep

    @property
    def made(self) -> dict[InstanceId, Made]:
        """Every object there is, whether or not it is to be seen."""
        return self.engine.made

    @property
    def violations(self) -> list[Violation]:
        """Everything that was asked for and is held by another, or not there."""
        return self.engine.violations

    @property
    def journal(self) -> dict[InstanceId, list[Moment]]:
        """What really happened to each object, also to those that are gone."""
        self.engine.look()
        return self.engine.journal

    async def nodes(self) -> list[Node]:
        dials = await self._begin("nodes", None)
        self.engine.look()
        found = self.engine.nodes()
        await self._end(dials)
        return found

    async def published(self) -> Mapping[InstanceId, frozenset[Port]]:
        dials = await self._begin("observe", None)
        self.engine.look()
        found = {
            id: frozenset(made.workload.ports) for id, made in self.made.items() if made.seen.phase in RUNNING
        }
        await self._end(dials)
        return found

    async def observe(self) -> Mapping[InstanceId, Seen]:
        dials = await self._begin("observe", None)
        self.engine.look()
        found = self.engine.listing(dials.shows_old)
        await self._end(dials)
        if dials.hides is True:
            return {}
        for id in dials.hides or ():
            found.pop(id, None)
        return found

    async def changes(self) -> AsyncIterator[None]:
        passing = asyncio.create_task(self._let_time_pass())
        passing.add_done_callback(lambda _: self.engine.hints.ring())
        try:
            async with aclosing(self.engine.hints.listen()) as hints:
                async for _ in hints:
                    if passing.done():  # the engine gives no answer
                        passing.result()
                    yield
        finally:
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)

    async def ensure_running(self, workload: Workload) -> None:
        await self._ask("ensure_running", workload.id, workload)

    async def ensure_stopped(self, id: InstanceId) -> bool:
        return (await self._ask("ensure_stopped", id)).has_stopped

    async def ensure_absent(self, id: InstanceId) -> None:
        await self._ask("ensure_absent", id)

    async def logs(self, id: InstanceId, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        await self._end(await self._begin("logs", id))
        self.engine.look()
        made = self.made.get(id)
        starts = made.starts if made is not None else []
        lines = [f"simulated start {start}\n".encode() for start in starts]
        for line in lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]:
            yield line

    async def close(self) -> None:
        """Nothing of the engine ends with its driver."""
        self.engine.close()

    async def _ask(self, call: Call, id: InstanceId, workload: Workload | None = None) -> Delivery:
        dials = self._dials(call, id)
        delivery = Delivery(call, id, dials, workload)
        if dials.slow_seconds:
            await self._on_its_way(delivery)
        if dials.unreachable:
            raise Unreachable(dials.unreachable)
        with self.engine.turn():
            self.engine.deliver(delivery)
            if dials.twice:
                self.engine.send(Delivery(call, id, dials, workload, heard=False), dials.twice)
        await self._end(dials)
        if delivery.error is not None:
            raise delivery.error
        if dials.loses_answer or dials.half:
            raise Unreachable(LOST)
        return delivery

    async def _on_its_way(self, delivery: Delivery) -> None:
        """It takes its time, and arrives also when its caller has gone."""
        if not delivery.dials.unreachable:
            with self.engine.turn():
                self.engine.send(delivery, delivery.dials.slow_seconds)
        try:
            await self._sleep(delivery.dials.slow_seconds)
        except BaseException:
            delivery.heard = False
            raise

    async def _begin(self, call: Call, id: InstanceId | None) -> Dials:
        dials = self._dials(call, id)
        if dials.slow_seconds:
            await self._sleep(dials.slow_seconds)
        if dials.unreachable:
            raise Unreachable(dials.unreachable)
        return dials

    async def _end(self, dials: Dials) -> None:
        if dials.slow_after:
            await self._sleep(dials.slow_after)

    def _dials(self, call: Call, id: InstanceId | None) -> Dials:
        return self.dials if self.dial is None else self.dial(call, id)

    async def _let_time_pass(self) -> None:
        """Have the engine do what is due when it is due, so that those who listen hear of it."""
        async with aclosing(self.engine.sooner.listen()) as sooner:
            earlier = asyncio.ensure_future(anext(sooner))
            try:
                while True:
                    self.engine.look()
                    waits = [earlier, *self._until_next_due()]
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                    for rest in waits[1:]:
                        rest.cancel()
                    if earlier.done():
                        earlier = asyncio.ensure_future(anext(sooner))
            finally:
                earlier.cancel()
                with suppress(asyncio.CancelledError):
                    await earlier

    def _until_next_due(self) -> list[asyncio.Future[None]]:
        known = [seconds for seconds in (self.engine.next_due(), self.engine.poll) if seconds is not None]
        return [asyncio.ensure_future(self._sleep(min(known)))] if known else []
