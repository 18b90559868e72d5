"""One simulation: the whole system on a virtual loop, with everything that its story does to it."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import log
from random import Random
from typing import Any

import structlog

from tests.simulation import money
from tests.simulation.chance import drawn_from, stream
from tests.simulation.checks import DECEPTIVE, Checks
from tests.simulation.money import short_hours
from tests.simulation.servers import NOBODY, Asking, Server, Tower
from tests.simulation.stage import nodes_of, prepared, settings_of
from tests.simulation.store import Call, Manner, shelf
from tests.simulation.story import Act, Story
from tests.simulation.users import Terms, Users, Wish
from tests.simulation.virtual import NeverEnds, VirtualLoop
from tidemill.drivers.contract import Port, Workload
from tidemill.drivers.simulated.dials import Call as EngineCall
from tidemill.drivers.simulated.dials import DialFor, Dials
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.drivers.simulated.engine import Engine
from tidemill.drivers.simulated.journal import RUNNING
from tidemill.model.instance import SSH_PORT
from tidemill.model.lifecycle import Event
from tidemill.model.observation import InstanceId, Phase, Seen

SETTLING_MOST = 400.0  # seconds after the last trouble within which everything is as it has to be
LOOK_EVERY = 3.0
STAYS = 13.0  # seconds for which it then has to stay so: longer than a full pass


@dataclass
class Outcome:
    """What became of a story.

    Attributes:
        wrong: sentences about what must not be; none is well.
        counts: how often what happened.
        digest: of everything that happened, in its order.
        told: the same in lines, when asked for.
    """

    story: Story
    wrong: list[str] = field(default_factory=list[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    digest: str = ""
    told: list[str] = field(default_factory=list[str])
    steps: int = 0
    seconds: float = 0.0


def simulate(story: Story, *, tells: bool = False) -> Outcome:
    """Tell a story to its end, and say what was wrong with it."""
    with drawn_from(story.seed), short_hours(), _listening() as heard, _no_collection():
        world = World(story, tells=tells)
        heard.append(world)
        try:
            return world.run()
        finally:
            heard.clear()


@contextmanager
def _no_collection() -> Generator[None]:
    """Nothing is finalised at an instant that depends on what ran before in this process."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)  # what this one left behind; else all that was ever imported is gone through
        if was:
            gc.enable()


@contextmanager
def _listening() -> Generator[list[World]]:
    """What the product logs goes into the story; what it logs as a defect is one."""
    worlds: list[World] = []

    class Log:
        def __init__(self, _logger: Any, **_how: Any) -> None:
            pass

        def bind(self, **_words: object) -> Log:
            return self

        def info(self, said: str, **words: object) -> None:
            for world in worlds:
                world.say("log:", said, words)

        debug = warning = error = info

        def exception(self, said: str, **words: object) -> None:
            import traceback

            for world in worlds:
                world.wrong(f"logged as a defect: {said} {words}: {traceback.format_exc(limit=-3)}")

    before = structlog.get_config()
    logger: Any = Log
    structlog.configure(wrapper_class=logger, cache_logger_on_first_use=False)
    try:
        yield worlds
    finally:
        structlog.configure(**before)


class World:
    """See the module. Every method ``do_...`` is what an act of a story may be."""

    def __init__(self, story: Story, *, tells: bool) -> None:
        setup = story.setup
        self.story = story
        self.loop = VirtualLoop()
        self.shelf = shelf()
        self.shelf.load(prepared()[0], self.given_back)
        for user, seconds in enumerate(setup.purses):
            if seconds:
                money.leave(self.shelf, user, seconds)
        self.settings = settings_of(setup)
        self.engine = Engine(nodes_of(setup), now=self.loop.time)
        self.driver = SimulatedDriver(engine=self.engine, sleep=asyncio.sleep)  # of nobody: plays the world
        self.asking: dict[str, list[Asking]] = {}  # who is at an instance
        self.shown_up: dict[tuple[InstanceId, int], list[float]] = {}
        self.outcome = Outcome(story)
        self._tells = tells
        self._hash = hashlib.sha256()
        self._store_chance = stream(story.seed, "store")
        self._engine_chance = stream(story.seed, "engine")
        clocks = stream(story.seed, "clocks")
        self.bell = Tower(self.loop, stream(story.seed, "bells"), setup.latency)
        self.servers = [
            Server(
                self,
                number,
                role,
                ahead=clocks.uniform(-setup.skew, setup.skew) / 2,
                is_alone=setup.servers == 1,
            )
            for number, role in enumerate(setup.roles.split("+"))
        ]
        self.users = Users(self, stream(story.seed, "users"))
        self.checks = Checks(self)
        self._engine_troubles: dict[Act, tuple[str, float, float]] = {}
        self._store_troubles: dict[Act, tuple[str, float, float]] = {}
        self._under_way: dict[asyncio.Task[None], None] = {}
        self._is_deceived = story.has_trouble(DECEPTIVE) or any(act.what == "node_lost" for act in story.acts)
        self.dark = False  # it has ended, and nothing can be reached any more

    # ------------------------------------------------------------------ what others need of it

    def say(self, *words: object) -> None:
        line = f"{self.loop.time():10.4f} {' '.join(map(str, words))}"
        self._hash.update(line.encode())
        if self._tells:
            self.outcome.told.append(line)

    def wrong(self, sentence: str) -> None:
        self.say("WRONG:", sentence)
        self.outcome.wrong.append(f"at {self.loop.time():.3f} s: {sentence}")

    def count(self, what: str) -> None:
        self.outcome.counts[what] += 1

    def is_an_instance(self, id: str) -> bool:
        """Whether anybody ever asked for it."""
        return id in self.users.asked

    def may_be_removed(self, id: str) -> bool:
        """Whether its owner has terminated it, or nobody ever asked for it."""
        return self.users.asked.get(id, "gone") == "gone"

    def was_shown(self, seen: Mapping[InstanceId, Seen], begun: float) -> None:
        """A listing that was begun at ``begun`` told a server this, true or not."""
        for id, one in seen.items():
            if one.phase is Phase.REACHABLE:
                self.shown_up.setdefault((id, one.start), []).append(begun)

    def given_back(self, id: str) -> None:
        """A share of a node is given back: it must not be in use any more."""
        made = self.engine.made.get(id)
        if made is None or made.seen.phase not in RUNNING or made.uninvited or self._is_deceived:
            return
        self.wrong(f"what {id} holds is given back, and it is {made.seen.phase}")

    def manner_for(self, server: int) -> Callable[[Call], Manner]:
        """How the calls of a server's database go."""
        chance = self._store_chance

        def manner(call: Call) -> Manner:
            if self.dark:
                return Manner(0, 0, fails=True)
            before, after = self._wait(chance), self._wait(chance)
            fails = loses = False
            for trouble, p, by in self._store_troubles.values():
                if chance.random() >= p:
                    continue
                self.count(f"database: {trouble}")
                if trouble == "fails":
                    fails = True
                elif trouble == "loses_answer":
                    loses = True
                else:
                    before += by * chance.random()
                    after += by * chance.random()
            self.say(f"server-{server}", call, "fails" if fails else "loses" if loses else "")
            return Manner(before, after, fails, loses)

        return manner

    def dial_for(self, server: int) -> DialFor:
        """How the calls of a server's driver go."""
        chance = self._engine_chance

        def dial(call: EngineCall, id: str | None) -> Dials:
            if self.dark:
                return Dials(unreachable="the world has ended")
            dials = Dials(
                slow_seconds=self._wait(chance),
                slow_after=self._wait(chance),
                start_seconds=self.story.setup.start * chance.random(),
                stop_seconds=self.story.setup.stop * chance.random(),
                pull_seconds=self.story.setup.pull * chance.random(),
            )
            for trouble, p, by in self._engine_troubles.values():
                if chance.random() < p:
                    self.count(f"engine: {trouble}")
                    _turn(dials, trouble, by, self.engine, chance)
            self.say(f"server-{server}", call, id or "")
            return dials

        return dial

    def _wait(self, chance: Random) -> float:
        return -self.story.setup.latency * log(1.0 - chance.random())

    # ------------------------------------------------------------------ the story

    def run(self) -> Outcome:
        outcome = self.outcome
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self.loop.create_task(self._tell(), context=NOBODY.copy()))
        except NeverEnds as error:
            self.wrong(f"it never ends: {error}")
        except Exception as error:
            self.wrong(f"the simulation itself failed: {error!r}")
            raise
        finally:
            outcome.steps, outcome.seconds = self.loop.steps, self.loop.time()
            outcome.digest = self._hash.hexdigest()
            outcome.wrong.extend(self.loop.complaints)
            self.dark = True
            for server in self.servers:
                server.gone()
            self.loop.reap(actor for server in self.servers for actor in server.lives)
            asyncio.set_event_loop(None)
            self.loop.close()
        return outcome

    async def _tell(self) -> None:
        for server in self.servers:
            server.start()
        until = 0.0
        for act in self.story.acts:
            given: dict[str, Any] = dict(act.given)
            until = max(until, act.at, act.at + max(given.get("lasts", 0), given.get("down", 0)))
            await self._until(act.at)
            self.count(f"act: {act.what}")
            self.say("ACT", act.what, given)
            getattr(self, f"do_{act.what}")(act, **given)
        await self._until(until)
        self._calm_down()
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._settle()

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self.loop.time()))

    def _calm_down(self) -> None:
        self.say("CALM")
        self._engine_troubles.clear()
        self._store_troubles.clear()
        for server in self.servers:
            server.recovers()
        for name, space in self.engine.spaces.items():
            if space.lost:
                self.driver.play_node_back(name)

    async def _settle(self) -> None:
        """Everything has to come to rest, as it was asked for, and to stay so."""
        deadline = self.loop.time() + SETTLING_MOST
        wrong = ["nobody looked"]
        while wrong and self.loop.time() < deadline:
            await asyncio.sleep(LOOK_EVERY)
            wrong = self.checks.moving() or self.checks.at_rest()
            if not wrong:
                await asyncio.sleep(STAYS)
                wrong = self.checks.moving() or self.checks.at_rest()
        for sentence in wrong + self.checks.of_the_whole():
            self.wrong(sentence)

    def _go(self, doing: Any) -> None:
        task = self.loop.create_task(doing, context=NOBODY.copy())
        self._under_way[task] = None

        def done(_task: asyncio.Task[None]) -> None:
            del self._under_way[task]
            task.result()

        task.add_done_callback(done)

    # ------------------------------------------------------------------ users

    def do_launch(
        self,
        _act: Act,
        name: str,
        user: int,
        type: str,
        via: int,
        key: str = "",
        ports: int = 0,
        script: int = 0,
        eager: int = 0,
        mode: str = "perHour",
        disk: int = 0,
        spend: float = 0.0,
        limit: int = 0,
    ) -> None:
        terms = Terms(mode, disk, int(spend * money.SECOND), limit)
        wish = Wish(name, user, type, via, key, ports, bool(script), bool(eager), terms)
        self._go(self.users.launch(wish))

    def do_start(self, act: Act, name: str, user: int, via: int) -> None:
        self._go(self.users.verb(Event(act.what), name=name, user=user, via=via))

    do_stop = do_restart = do_terminate = do_start

    def do_add_key(self, _act: Act, user: int, via: int) -> None:
        self._go(self.users.add_key(user=user, via=via))

    def do_drop_key(self, _act: Act, user: int, via: int) -> None:
        self._go(self.users.drop_key(user=user, via=via))

    def do_look(self, _act: Act, user: int, via: int) -> None:
        self._go(self.users.look(user=user, via=via))

    def do_wait(self, _act: Act) -> None:
        """Nothing is done: the story lasts until then."""

    def do_pay(self, act: Act, user: int, seconds: float) -> None:
        money.pay(self.shelf, user, seconds, self.story.acts.index(act))

    # ------------------------------------------------------------------ engine and database

    def do_engine(self, act: Act, trouble: str, lasts: float, p: float = 1.0, by: float = 0.0) -> None:
        self._engine_troubles[act] = (trouble, p, by)
        self.loop.call_later(lasts, self._engine_troubles.pop, act, None, context=NOBODY.copy())

    def do_database(self, act: Act, trouble: str, lasts: float, p: float = 1.0, by: float = 0.0) -> None:
        self._store_troubles[act] = (trouble, p, by)
        self.loop.call_later(lasts, self._store_troubles.pop, act, None, context=NOBODY.copy())

    def do_exits(self, _act: Act, name: str) -> None:
        with self.engine.turn():  # what is due by now has happened: it may be gone
            made = self.engine.made.get(self.users.names.get(name, ""))
        if made is not None and made.seen.phase.value in {"started", "reachable"}:
            self.driver.play_exit(made.workload.id)

    def do_vanishes(self, _act: Act, name: str, returns: float = 0.0) -> None:
        id = self.users.names.get(name, "")
        with self.engine.turn():
            is_there = id in self.engine.made
        if is_there:
            self.driver.play_vanish(id)
            if returns:
                self.loop.call_later(returns, self._comes_back, id, context=NOBODY.copy())

    def _comes_back(self, id: str) -> None:
        with suppress(KeyError):  # it vanished twice, and is back already
            self.driver.play_return(id)

    def do_reboot(self, _act: Act) -> None:
        self.driver.play_reboot()

    def do_node_lost(self, _act: Act, node: int, lasts: float) -> None:
        name = f"node-{node}"
        self.driver.play_node_lost(name)
        self.loop.call_later(lasts, self.driver.play_node_back, name, context=NOBODY.copy())

    def do_stray(self, _act: Act) -> None:
        number = len(self.engine.journal)
        self.driver.play_stray(
            Workload(
                id=f"notebook-00000000-0000-4000-8000-{number:012}",
                start=1,
                tenant="nobody",
                hostname="stray",
                image="stray",
                cpu=0,
                memory_mb=0,
                shm_mb=0,
                pids=1,
                ports=(Port(SSH_PORT, 60000 + number),),
                authorized_keys=(),
                host_key=b"",
            )
        )

    # ------------------------------------------------------------------ servers

    def _server(self, number: int) -> Server:
        return self.servers[number % len(self.servers)]

    def do_crash(self, _act: Act, server: int, steps: int, down: float) -> None:
        self._server(server).dies_after(steps, down)

    def do_ends(self, _act: Act, server: int, down: float) -> None:
        self._go(self._server(server).ends(down))

    def do_stall(self, _act: Act, server: int, lasts: float) -> None:
        self._server(server).stalls(lasts)

    def do_power(self, _act: Act, down: float) -> None:
        """The machine of the database loses its power, and every server with it."""
        for server in self.servers:
            server.dies(down)
        self.shelf.lose_power()

    def do_clock(self, _act: Act, server: int, by: float) -> None:
        self._server(server).clock.ahead += by
        self.checks.clocks_are_true = False


def _turn(dials: Dials, trouble: str, by: float, engine: Engine, chance: Random) -> None:
    """Turn the dial that a story's word names."""
    said = f"simulated: {trouble}"
    if trouble == "unreachable":
        dials.unreachable = said
    elif trouble == "slow":
        dials.slow_seconds += by * chance.random()
    elif trouble == "late_answer":
        dials.slow_after += by * chance.random()
    elif trouble == "loses_answer":
        dials.loses_answer = True
    elif trouble == "half":
        dials.half = True
    elif trouble == "twice":
        dials.twice = by * chance.random()
    elif trouble == "refuses":
        dials.refuses = said
    elif trouble == "refuses_ends":
        dials.refuses_ends = said
    elif trouble == "no_room":
        dials.no_room = said
    elif trouble == "never":
        dials.never = True
    elif trouble == "pulls":
        dials.pull_seconds = by * chance.random()
    elif trouble == "pull_fails":
        dials.pull_fails = said
    elif trouble == "ends_slowly":
        dials.stop_seconds = by * chance.random()
    elif trouble == "hides":
        dials.hides = frozenset(id for id in sorted(engine.made) if chance.random() < 0.5)
    elif trouble == "shows_old":
        dials.shows_old = by * chance.random()
    else:
        raise ValueError(f"there is no trouble {trouble}")
