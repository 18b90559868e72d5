"""Servers that live, stand still, and die: one machine each, one life after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import Context as Variables
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Protocol, TypeVar

from tests.simulation.stage import REGION, START, settings_of
from tests.simulation.store import Call, Manner, Shelf, SimulatedDatabase
from tests.simulation.story import Story
from tests.simulation.virtual import ACTOR, Actor, VirtualLoop
from tidemill.actions.context import Context
from tidemill.actions.news import News
from tidemill.drivers.contract import DriverError, Workload
from tidemill.drivers.simulated.dials import Call as EngineCall
from tidemill.drivers.simulated.dials import DialFor
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.drivers.simulated.engine import Delivery, Engine
from tidemill.metrics import Metrics
from tidemill.model.errors import Unavailable
from tidemill.model.observation import InstanceId, Seen
from tidemill.reconcile.billing import Billing
from tidemill.reconcile.loop import Loop
from tidemill.reconcile.nodes import register_nodes
from tidemill.reconcile.presence import Presence
from tidemill.server import together
from tidemill.server.bells import Bells
from tidemill.store import servers

T = TypeVar("T")
Action = Callable[[Context], Awaitable[T]]
RESTART_PAUSE = 1.0  # after a server ended because it could not begin
PATIENCE = 30.0  # of a user
LEAVE_SECONDS = 1.5
HEARD = 0.9  # of the rings of another server
Asking = tuple[Actor, EngineCall]  # which life of a server asks the engine for what


class NoAnswer(Exception):
    """Whether it was done, the caller does not know."""


class NotConnected(Exception):
    """It was certainly not done."""


class MachineClock:
    """The clock of one machine: it may be set."""

    def __init__(self, loop: VirtualLoop, ahead: float) -> None:
        self._loop = loop
        self.ahead = ahead

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time() + self.ahead)

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ServersDriver(SimulatedDriver):
    """One server's driver.

    It keeps what is on its way, so that nobody hears of it once the server is dead, and says so when two
    servers that live are at the same instance. What it shows is kept too, which need not be true.
    """

    def __init__(self, world: Around, dial: DialFor, actor: Actor, asking: dict[str, list[Asking]]) -> None:
        super().__init__(engine=world.engine, sleep=asyncio.sleep, dial=dial)
        self.under_way: dict[int, Delivery] = {}
        self._world = world
        self._actor = actor
        self._asking = asking

    async def observe(self) -> Mapping[InstanceId, Seen]:
        begun = self._world.loop.time()
        seen = await super().observe()
        self._world.was_shown(seen, begun)
        return seen

    async def _ask(self, call: EngineCall, id: str, workload: Workload | None = None) -> Delivery:
        others, mine = self._asking.setdefault(id, []), (self._actor, call)
        in_my_way = [other for other in others if self._is_in_my_way(other[0])]
        if in_my_way and self._world.is_an_instance(id) and not self._is_swept([*in_my_way, mine], id):
            names = " and ".join(actor.name for actor, _ in [*others, mine])
            self._world.wrong(f"{names} are at {id} at once")
        if call == "ensure_absent" and not self._world.may_be_removed(id):
            self._world.wrong(f"{self._actor.name} removes {id}, which nobody has terminated")
        others.append(mine)
        try:
            return await super()._ask(call, id, workload)
        finally:
            others.remove(mine)

    def _is_in_my_way(self, other: Actor) -> bool:
        return other is not self._actor and not other.dead and not other.has_stalled

    def _is_swept(self, asking: list[Asking], id: str) -> bool:
        """Whether all of them remove what is left of a Released instance: that takes no lease."""
        return all(call == "ensure_absent" for _, call in asking) and self._world.shelf.is_released(id)

    async def _on_its_way(self, delivery: Delivery) -> None:
        self.under_way[id(delivery)] = delivery
        try:
            await super()._on_its_way(delivery)
        finally:
            del self.under_way[id(delivery)]


class Tower:
    """Where the servers hear each other's bells: late, or not at all."""

    def __init__(self, loop: VirtualLoop, chance: Random, latency: float) -> None:
        self.listeners: dict[asyncio.Event, str] = {}
        self._loop = loop
        self._chance = chance
        self._latency = latency

    def ring(self, who: str) -> None:
        for listener, other in self.listeners.items():
            if other != who and self._chance.random() < HEARD:
                after = self._latency * self._chance.expovariate(1.0)
                self._loop.call_later(after, listener.set, context=NOBODY.copy())


class SimulatedBell:
    """As ``store.bell.Bell``, in one process."""

    def __init__(self, tower: Tower, who: str) -> None:
        self._tower = tower
        self._who = who

    async def ring(self) -> None:
        self._tower.ring(self._who)

    async def rings(self) -> AsyncGenerator[None]:
        heard = asyncio.Event()
        self._tower.listeners[heard] = self._who
        yield
        while True:
            await heard.wait()
            heard.clear()
            yield


class Around(Protocol):
    """What a server needs of the world."""

    story: Story
    bell: Tower

    loop: VirtualLoop
    shelf: Shelf
    engine: Engine
    asking: dict[str, list[Asking]]

    def dial_for(self, server: int) -> DialFor: ...
    def manner_for(self, server: int) -> Callable[[Call], Manner]: ...
    def say(self, *words: object) -> None: ...
    def wrong(self, sentence: str) -> None: ...
    def is_an_instance(self, id: str) -> bool: ...
    def may_be_removed(self, id: str) -> bool: ...
    def was_shown(self, seen: Mapping[InstanceId, Seen], begun: float) -> None: ...


@dataclass(eq=False)
class Life:
    """A process: everything in it is gone when it dies."""

    actor: Actor
    variables: Variables
    context: Context
    driver: ServersDriver
    bells: Bells
    takes_requests: bool = False
    main: asyncio.Task[None] | None = None
    asked: dict[asyncio.Future[Any], asyncio.Task[Any]] = field(default_factory=dict[Any, Any])


class Server:
    """One machine of the deployment."""

    def __init__(self, world: Around, number: int, role: str, *, ahead: float, is_alone: bool) -> None:
        self.clock = MachineClock(world.loop, ahead)
        self.life: Life | None = None
        self.lives: list[Actor] = []
        self._world = world
        self._number = number
        self._is_alone = is_alone
        self.runs_loops = role != "api"
        self.answers = role != "loop"
        self.settings = settings_of(world.story.setup, role)
        self._down = 0.0

    def start(self) -> None:
        """A new process on the same database and engine."""
        world = self._world
        if self.life is not None:
            return
        actor = Actor(f"server-{self._number}-{len(self.lives)}", dying=self._died)
        self.lives.append(actor)
        variables = copy_context()
        variables.run(ACTOR.set, actor)
        driver = ServersDriver(world, world.dial_for(self._number), actor, world.asking)
        others: Any = None if self._is_alone else SimulatedBell(world.bell, actor.name)
        bells = Bells([REGION.id] if self.runs_loops else [], others, self.clock)
        database = SimulatedDatabase(world.shelf, world.manner_for(self._number))
        context = Context(
            database=database,
            clock=self.clock,
            wake=bells,
            settings=self.settings,
            tokens=None,  # type: ignore[arg-type]  # nobody logs in
            drivers={REGION.id: driver},
            news=News(database),
            metrics=Metrics(),
        )
        self.life = life = Life(actor, variables, context, driver, bells)
        world.say(actor.name, "starts")
        life.main = world.loop.create_task(self._serve(life), context=variables)
        life.main.add_done_callback(self._ended, context=NOBODY)

    async def _serve(self, life: Life) -> None:
        """As ``tidemill.server`` does it, without the web."""
        context, settings = life.context, self.settings
        place = f"folder-{self._number}@machine-{self._number}"
        presence = Presence(context.database, self.clock, settings, name=life.actor.name, place=place)
        try:
            now = self.clock.now()
            if self._is_alone:  # as on SQLite
                await context.database.write(partial(servers.bury_all, at=now))
            else:
                await context.database.write(partial(servers.bury_those_at, place=place, at=now))
            await together.agree(presence, self.clock, settings, together.copies_of(place))
            if self.runs_loops:
                with suppress(DriverError, TimeoutError):
                    async with asyncio.timeout(10):
                        await register_nodes(context.database, settings, REGION.id, life.driver)
        except Unavailable:
            self._world.loop.call_soon(self.dies, RESTART_PAUSE, context=NOBODY)
            return
        background = [asyncio.create_task(presence.run()), asyncio.create_task(life.bells.run())]
        if self.runs_loops:
            billing = Billing(context.database, self.clock, settings, life.bells, context.metrics)
            background.append(asyncio.create_task(billing.run()))
        loops = [
            asyncio.create_task(
                Loop(
                    database=context.database,
                    clock=self.clock,
                    wake=wake,
                    settings=settings,
                    region_id=region_id,
                    driver=life.driver,
                    owner=presence.name,
                    presence=presence,
                ).run()
            )
            for region_id, wake in life.bells.of.items()
        ]
        life.takes_requests = self.answers
        try:
            await asyncio.gather(*loops, *background)
        finally:
            for task in [*loops, *background]:
                task.cancel()
            await asyncio.gather(*loops, *background, return_exceptions=True)
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await presence.leave()

    def _ended(self, main: asyncio.Task[None]) -> None:
        if not main.cancelled() and (error := main.exception()) is not None:
            self._world.wrong(f"the loop of server {self._number} ended: {error!r}")

    def dies(self, down: float) -> None:
        """At once, between two steps; a new process begins ``down`` seconds later."""
        self._down = down
        if self.life is not None:
            self.life.actor.die()

    def dies_after(self, steps: int, down: float) -> None:
        """The same after so many more steps."""
        if self.life is not None:
            self._down = down
            self.life.actor.dies_at = self.life.actor.steps + steps

    def _died(self) -> None:
        life, self.life = self.life, None
        assert life is not None
        self._world.say(life.actor.name, "dies at its step", life.actor.steps)
        for delivery in life.driver.under_way.values():
            delivery.heard = False
        for future in life.asked:
            if not future.done():
                future.set_result(None)
        self._world.loop.call_later(self._down, self.start, context=NOBODY)

    def stalls(self, seconds: float) -> None:
        """Nothing of it runs for so long, and time passes."""
        if self.life is None or self.life.actor.stalled:
            return
        actor = self.life.actor
        actor.stalled = actor.has_stalled = True
        self._world.loop.call_later(seconds, self._world.loop.resume, actor, context=NOBODY)

    def recovers(self) -> None:
        """No more harm is done to it."""
        if self.life is not None:
            self.life.actor.dies_at = None
            if self.life.actor.stalled:
                self._world.loop.resume(self.life.actor)

    def gone(self) -> None:
        """The world ends: nothing of it may reach anything."""
        if self.life is not None:
            life, self.life = self.life, None
            life.actor.dying = None

    async def ends(self, down: float) -> None:
        """Told to stop: finishes requests, lets its leases go, and is started again."""
        life = self.life
        if life is None or life.main is None:
            return
        life.takes_requests = False
        waiting = list(life.asked)
        if waiting:
            await asyncio.wait(waiting, timeout=5)
        life.main.cancel()
        await asyncio.wait([life.main], timeout=30)
        if self.life is life:
            self.dies(down)

    async def ask(self, action: Action[T], committed: Callable[[], None]) -> T:
        """One request of a user. Raises what the action raises, NoAnswer, NotConnected."""
        life, loop = self.life, self._world.loop
        if life is None or not life.takes_requests:
            raise NotConnected
        database = SimulatedDatabase(
            self._world.shelf, self._world.manner_for(self._number), committed=committed
        )
        heard: asyncio.Future[asyncio.Task[T] | None] = loop.create_future()

        def answered(task: asyncio.Task[T]) -> None:
            life.asked.pop(heard, None)
            if not task.cancelled():
                task.exception()  # also of one that nobody waits for any more
            if not heard.done():
                heard.set_result(task)

        task = loop.create_task(
            _run(action, replace(life.context, database=database)), context=life.variables
        )
        life.asked[heard] = task
        task.add_done_callback(answered, context=NOBODY)
        try:
            async with asyncio.timeout(PATIENCE):
                done = await heard
        except TimeoutError:
            raise NoAnswer from None
        if done is None or done.cancelled():
            raise NoAnswer
        return done.result()


async def _run(action: Action[T], context: Context) -> T:
    return await action(context)


NOBODY = copy_context()
