"""A whole cloud that a story is told in: clients, one server process at a time, a database, an engine.

The database and the engine stay; a process is made anew whenever it ends. Nothing here waits for real
time: the clock is moved between passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, delete, func, insert, select, text
from structlog.testing import capture_logs
from tests.failures.gate import Gate, GatedDatabase, GatedDriver
from tests.invariants import Asked, as_asked, given_once, in_database, in_engine, read_books
from tests.reconcile.house import NODE, settle
from tests.stock import REGION, START, HandClock, Stocked

from tidemill.actions.context import Context
from tidemill.actions.news import News
from tidemill.drivers.contract import Workload
from tidemill.drivers.simulated.dials import Dials
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.drivers.simulated.engine import Engine
from tidemill.model.account import Caller, User
from tidemill.model.errors import Unavailable
from tidemill.model.instance import Instance
from tidemill.model.observation import InstanceId, Phase
from tidemill.reconcile.loop import Loop
from tidemill.settings import Settings
from tidemill.store import instances as store
from tidemill.store import servers
from tidemill.store.database import Database
from tidemill.store.schema import instances, metadata
from tidemill.wake import Wake

T = TypeVar("T")

# Few passes while it waits for something, all of them within what a sign of life is good for.
PACE: dict[str, float] = {"beat": 5, "full_pass": 30, "orphan_grace": 30, "lease": 60}
PASSES_MOST = 200
NEVER_CHANGED = frozenset({"users", "api_keys", "login_failures", "regions", "images", "instance_types"})
CHANGED = [table for table in metadata.sorted_tables if table.name not in NEVER_CHANGED]
_AHEAD = select(func.min(instances.c.due_at), func.count(instances.c.leased_to))
TRIES_MOST = 5


class Process:
    """One server: its loop, and what its API hands to an action. All of it is lost when it ends."""

    def __init__(self, house: House, gate: Gate, owner: str) -> None:
        self.gate = gate
        self.owner = owner
        self.driver = SimulatedDriver(sleep=house.clock.sleep, engine=house.engine)
        self.driver.dials = house.dials
        wake = Wake()
        database, driver = GatedDatabase(house.database, gate), GatedDriver(self.driver, gate)
        self.context = Context(
            database=database,
            clock=house.clock,
            wake=wake,
            settings=house.settings,
            tokens=cast(Any, None),  # nobody signs in here
            drivers={REGION.id: driver},
            news=News(database),
        )
        self.loop = Loop(
            database=database,
            clock=house.clock,
            wake=wake,
            settings=house.settings,
            region_id=REGION.id,
            driver=driver,
            owner=owner,
        )
        self._listener = asyncio.create_task(self._listen(driver))

    async def _listen(self, driver: GatedDriver) -> None:
        async for _ in driver.changes():
            self.loop._hinted = True

    async def run_pass(self) -> None:
        await self.loop.run_pass()
        await settle(self.loop)

    async def gone(self) -> None:
        """Nothing of it is left; what it was doing stops where it is."""
        tasks = [self._listener, *self.loop._working.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop._orphans.close()

    async def ends(self) -> None:
        """It is told to stop, and does."""
        await self.loop._finish()
        with suppress(Unavailable):
            await self.loop._presence.leave()
        await self.gone()


@dataclass(frozen=True)
class Rows:
    """Everything in a database, to be put back."""

    tables: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Start:
    """Where a story begins: what is in the database and in the engine, and who is who."""

    rows: Rows
    workloads: Sequence[tuple[Workload, Phase]]
    passed: timedelta
    names: dict[str, InstanceId]
    asked: dict[InstanceId, Asked]


@contextmanager
def _ledger_open(connection: Connection) -> Generator[None]:
    """A test begins anew: the triggers that keep entries as they are stand aside."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("ALTER TABLE entries DISABLE TRIGGER USER"))
        yield
        connection.execute(text("ALTER TABLE entries ENABLE TRIGGER USER"))
        return
    kept = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
    for name, _ in kept:
        connection.execute(text(f"DROP TRIGGER {name}"))
    yield
    for _, sql in kept:
        connection.execute(text(sql))


@dataclass
class House:
    """See the module. ``names`` are the instances that a story speaks of."""

    stocked: Stocked
    settings: Settings
    clock: HandClock = field(default_factory=HandClock)
    dials: Dials = field(default_factory=Dials)
    names: dict[str, InstanceId] = field(default_factory=dict[str, InstanceId])
    asked: dict[InstanceId, Asked] = field(default_factory=dict[InstanceId, Asked])
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    tried: set[str] = field(default_factory=set[str])
    process: Process = field(init=False)
    engine: Engine = field(init=False)
    processes: int = 0

    def __post_init__(self) -> None:
        self.engine = Engine([NODE], now=self.clock.monotonic)

    @property
    def database(self) -> Database:
        return self.stocked.database

    def caller(self, user: User | None = None) -> Caller:
        return Caller(user or self.stocked.alice)

    def instance(self, name: str) -> Instance:
        found = self.database.run(lambda connection: store.get(connection, self.names[name]))
        assert found is not None
        return found

    # Processes

    def boot(self, gate: Gate | None = None) -> Process:
        """A new process on what is there."""
        self.processes += 1
        if self.database.is_sqlite and self.processes > 1:  # whoever opens the file is alone with it
            self.database.run(lambda connection: servers.bury_all(connection, self.clock.now()))
        self.process = Process(self, gate or Gate(), f"server-{self.processes}")
        return self.process

    async def rest(self) -> None:
        """Pass after pass, time moving between, until nothing is due, leased, or announced."""
        for _ in range(PASSES_MOST):
            await self.process.run_pass()
            await asyncio.sleep(0)  # who listens hears what the pass brought about
            (due, leased), loop = await self._ahead(), self.process.loop
            busy = leased or loop._hinted or loop._missed
            if due is None and self.engine.next_due() is None and not busy:
                return
            self.clock.pass_by(min(max(0.5, due or 0.0), self.settings.beat))
        raise AssertionError(f"not at rest after {PASSES_MOST} passes")

    async def _ahead(self) -> tuple[float | None, int]:
        """Seconds until something is due (None when all is at rest), and how many are being worked on."""
        at, leased = await self.database.read(lambda c: c.execute(_AHEAD).one())
        return None if at is None else (at - self.clock.now()).total_seconds(), leased

    # What clients do

    async def ask(
        self,
        name: str,
        call: Callable[[Context], Awaitable[T]],
        *,
        again: Callable[[Context], Awaitable[T]] | None = None,
        settled_by: tuple[type[Exception], ...] = (),
    ) -> T:
        """A client's step: the call, repeated until there is an answer; one that was answered is past.

        ``again`` is what is done when an earlier try had no answer; errors of ``settled_by`` then say
        that the earlier try had worked.
        """
        for _ in range(TRIES_MOST):
            if name in self.answers:
                break
            repeated = name in self.tried
            self.tried.add(name)
            try:
                with suppress(*(settled_by if repeated else ())):
                    chosen = again if again is not None and repeated else call
                    self.answers[name] = await chosen(self.process.context)
                self.answers.setdefault(name, None)
            except Unavailable:
                continue
        return self.answers[name]

    def once(self, name: str, happening: Callable[[], object]) -> None:
        """Something that happens to the world, once, however often the story is told."""
        if name not in self.answers:
            self.answers[name] = happening()

    # Beginnings

    def keep(self) -> Start:
        """What is there now, to begin from again and again."""

        def work(connection: Connection) -> Rows:
            return Rows(
                {
                    table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
                    for table in CHANGED
                }
            )

        workloads = [(made.workload, made.seen.phase) for made in self.engine.made.values()]
        return Start(
            self.database.run(work), workloads, self.clock.now() - START, dict(self.names), dict(self.asked)
        )

    async def begin(self, start: Start) -> None:
        """Put ``start`` into the database and into a new engine."""

        def work(connection: Connection) -> None:
            with _ledger_open(connection):
                for table in reversed(CHANGED):
                    connection.execute(delete(table))
            for table in CHANGED:
                if start.rows.tables[table.name]:
                    connection.execute(insert(table), start.rows.tables[table.name])

        self.database.run(work)
        self.clock.pass_by(start.passed.total_seconds())
        self.names, self.asked = dict(start.names), dict(start.asked)
        driver = SimulatedDriver(sleep=self.clock.sleep, engine=self.engine)
        for workload, phase in start.workloads:
            await driver.ensure_running(workload)
            if phase is Phase.EXITED:
                await driver.ensure_stopped(workload.id)

    # What must hold

    async def violations(self) -> list[str]:
        """Everything that is not as it must be, now that all is at rest."""
        with self.engine.turn():
            seen = self.engine.listing()
        books = read_books(self.database)
        found = in_database(books, now=self.clock.now(), settings=self.settings)
        found += in_engine(books, seen)
        found += as_asked(books, seen, self.asked)
        found += given_once(
            {
                id: [(made.node, device.id) for device in made.workload.devices]
                + [(made.node, port.node_port) for port in made.workload.ports]
                for id, made in self.engine.made.items()
                if made.seen.phase in {Phase.STARTED, Phase.REACHABLE}
            }
        )
        found += [
            f"{row.id} ({row.state}) still says that it waits for its engine"
            for row in books.instances.values()
            if row.reason == "EngineUnreachable"
        ]
        return found + [repr(violation) for violation in self.engine.violations]


async def tell(house: House, act: Callable[[House], Awaitable[None]], gate: Gate, *, cold: bool) -> list[str]:
    """Live through a story that goes wrong where ``gate`` says; answers what is wrong once all is at rest.

    No full pass has to put anything right.

    A story that is not ``cold`` begins in a process that has been serving for a while.
    """
    with capture_logs() as logs:
        house.boot(gate)
        try:
            if not cold:
                await house.rest()
            await _go_through(house, act, gate)
            found = await house.violations()
        finally:
            await house.process.gone()
    return found + [f"the log says: {line}" for line in logs if line.get("exc_info")]


async def _go_through(house: House, act: Callable[[House], Awaitable[None]], gate: Gate) -> None:
    """The story with what goes wrong in it; told on by another process where the first one ends."""
    gate.armed = True
    flow = asyncio.ensure_future(_live(house, act))
    ended = asyncio.ensure_future(gate.ended.wait())
    await asyncio.wait([flow, ended], return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    gate.armed = False
    if not gate.ended.is_set():
        return flow.result()
    flow.cancel()
    await asyncio.gather(flow, return_exceptions=True)
    await house.process.gone()
    house.boot()
    await _live(house, act)


async def _live(house: House, act: Callable[[House], Awaitable[None]]) -> None:
    await act(house)
    await house.rest()
