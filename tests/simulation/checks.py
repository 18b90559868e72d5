"""What must be true of a simulated world, beyond what can be asked of any (tests/invariants.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any, Protocol

from sqlalchemy import Connection, or_, select

from tests import invariants
from tests.simulation import money
from tests.simulation.servers import PATIENCE, Server
from tests.simulation.stage import START
from tests.simulation.store import Shelf
from tests.simulation.story import Story
from tests.simulation.users import Users
from tidemill.drivers.simulated.engine import Engine
from tidemill.drivers.simulated.journal import RUNNING, spans
from tidemill.model.lifecycle import USER_EVENTS, Event, State
from tidemill.model.observation import InstanceId, Phase
from tidemill.settings import Settings
from tidemill.store.schema import instances, ssh_keys

QUICK = 0.05  # seconds that a call takes where everything has to be done soon
STOPPED_IN = 40  # calls: what is to be stopped in time may be late where each of them takes long
DEAREST = 5  # the dearest costs so many times what the cheapest does
ENDS_AT_ONCE = USER_EVENTS | {Event.UNPAID, Event.EXPIRED}
SLACK = 0.001  # seconds: instants are kept to the microsecond


class Checked(Protocol):
    shelf: Shelf
    engine: Engine
    settings: Settings
    servers: list[Server]
    users: Users
    story: Story
    outcome: Any
    shown_up: dict[tuple[InstanceId, int], list[float]]  # when listings were begun that showed it reachable

    @property
    def loop(self) -> Any: ...


class Checks:
    """Asks everything that there is to ask of one world."""

    def __init__(self, world: Checked) -> None:
        self._world = world
        self._read: tuple[int, invariants.Books] | None = None
        self.clocks_are_true = True

    def _books(self) -> invariants.Books:
        """What the database holds now, read once for as long as nobody writes."""
        shelf: Any = self._world.shelf
        if self._read is None or self._read[0] != shelf.written:
            self._read = (shelf.written, invariants.read_books(shelf))
        return self._read[1]

    def moving(self) -> list[str]:
        """What is still to be looked at again, or is being worked on."""

        def work(connection: Connection) -> list[str]:
            return [
                f"{row.id} is {row.state}, due at {row.due_at}, leased to {row.leased_to}"
                for row in connection.execute(_MOVING)
            ]

        late = money.waiting(self._world.shelf) if self.clocks_are_true else []
        return self._world.shelf.read(work) + late

    def _is_quick(self) -> bool:
        """Whether the database takes no time to speak of."""
        story = self._world.story
        return story.setup.latency <= QUICK and not story.has_trouble({"slow"})

    def at_rest(self) -> list[str]:
        """What is not as it has to be once nothing goes wrong any more."""
        world = self._world
        books = self._books()
        with world.engine.turn():
            seen = world.engine.listing()
        found = invariants.in_database(
            books,
            now=max(server.clock.now() for server in world.servers),
            settings=world.settings,
            clock_set_back=not self.clocks_are_true,
            late=0 if self._is_quick() else PATIENCE,
        )
        if world.users.asked:  # before the first launch nothing is taken for an orphan
            found += invariants.in_engine(books, seen)
        if self.clocks_are_true:
            found += money.unpaid(world.shelf)
        found += invariants.as_asked(books, seen, money.asked(books, world.users.asked))
        return found

    def of_the_whole(self) -> list[str]:
        """What was wrong at any time."""
        world = self._world
        engine = world.engine
        books = self._books()
        found = [
            f"at {one.at:.3f} s {one.id} on {one.node}: {one.clash.message}" for one in engine.violations
        ]
        self._world.outcome.counts.update(
            f"move: {line.from_state} {line.event}" for lines in books.events.values() for line in lines
        )
        found += money.differences(world.shelf, clocks_are_true=self.clocks_are_true)
        world.outcome.counts.update(money.counted(world.shelf))
        found += self._keys(books)
        found += self._notices(books)
        whats = Counter(act.what for act in self._world.story.acts)
        if not whats.keys() - UNEVENTFUL and self._world.story.setup.latency <= QUICK:
            found += self._prompt(books)
        if not whats.keys() - UNEVENTFUL - BLOWS:
            lost, latency = money.written_off(world.shelf), self._world.story.setup.latency
            if lost > (0 if latency <= QUICK else STOPPED_IN * latency * DEAREST * money.SECOND):
                found.append(f"{lost} micro-units were delivered that nobody could pay")
        blows = sum(whats[blow] for blow in BLOWS)
        setup = self._world.story.setup
        # After a blow it starts once more, within the time that it has in all: both starts must fit into it.
        bears_one = setup.latency <= QUICK and 2 * setup.start < world.settings.starting_deadline
        if not whats.keys() - UNEVENTFUL - BLOWS and blows <= bears_one:
            found += [
                f"{instance.id} failed ({instance.reason}), and it had no reason to"
                for instance in books.instances.values()
                if State(instance.state) in invariants.FAILED
            ]
        if self.clocks_are_true:
            found += self._meters(books)
            if "node_lost" not in whats and not self._world.story.has_trouble(DECEPTIVE):
                found += self._ends(books)
        return found

    def _keys(self, books: invariants.Books) -> Iterator[str]:
        """What runs lets in whom its owner wants to let in."""

        def work(connection: Connection) -> dict[str, set[str]]:
            owned: dict[str, set[str]] = {}
            for row in connection.execute(_KEYS):
                owned.setdefault(row.user_id, set()).add(row.public_key)
            return owned

        owned = self._world.shelf.read(work)
        for instance in books.instances.values():
            made = self._world.engine.made.get(instance.id)
            if instance.state == State.RUNNING and made is not None:
                keys = owned.get(instance.user_id, set())
                if set(made.workload.authorized_keys) != keys:
                    yield f"{instance.id} lets in {len(made.workload.authorized_keys)} keys, not {len(keys)}"

    def _notices(self, books: invariants.Books) -> Iterator[str]:
        """Whoever is inside is told what holds, and nothing else."""
        for instance in books.instances.values():
            made = self._world.engine.made.get(instance.id)
            if instance.state == State.RUNNING and made is not None:
                lines = tuple(notice.line for notice in instance.notices)
                if made.workload.notices != lines:
                    yield f"{instance.id} is told {made.workload.notices}, not {lines}"

    def _prompt(self, books: invariants.Books) -> Iterator[str]:
        """Where nothing goes wrong, what was asked is done soon."""
        setup = self._world.story.setup
        soon = 1 + setup.start + setup.stop + setup.pull + 40 * setup.latency
        if setup.servers > 1:  # another one has to look by itself
            soon += self._world.settings.beat
        for instance_id, lines in books.events.items():
            for before, after in pairwise(lines):
                took = (after.at - before.at).total_seconds()
                if before.event in {"stop", "terminate", "restart"} and took > soon:
                    yield f"{instance_id} was asked to {before.event}, which took {took:.1f} s"

    def _ends(self, books: invariants.Books) -> Iterator[str]:
        """Nothing is said to have ended, or to be gone, that is not."""
        apart = max(abs(server.clock.ahead) for server in self._world.servers) + SLACK
        for instance_id, lines in books.events.items():
            moments = self._world.engine.journal.get(instance_id, ())
            for before, line in pairwise(lines):
                if line.event not in {Event.EXITED, Event.ABSENT} and line.to_state != State.RELEASED:
                    continue
                since, until = _seconds(before.at) - 2 * apart, _seconds(line.at) + 2 * apart
                known = [moment for moment in moments if moment.at <= until]
                first = max((at for at, moment in enumerate(known) if moment.at <= since), default=0)
                there = set(Phase) if line.to_state == State.RELEASED else RUNNING
                # What was made right after it, as far as clocks tell, was not there before.
                is_sure = bool(known) and known[first].at <= _seconds(line.at) - 2 * apart
                if is_sure and all(moment.phase in there for moment in known[first:]):
                    yield f"{instance_id} was said to be {line.event} at {line.at}, and it was there"

    def _meters(self, books: invariants.Books) -> Iterator[str]:
        """Every billed second was one in which the engine really had it running and reachable.

        An engine that shows what was is taken at its word: then a meter may also end with a listing that
        showed this very start reachable, at the instant that it was begun, and no other. What its owner, time
        or money ended is billed until then, for as long as the last sighting counts.
        """
        journal = self._world.engine.journal
        apart = max(abs(server.clock.ahead) for server in self._world.servers) + SLACK
        counts = money.COUNTS.total_seconds()
        for instance_id, meters in books.meters.items():
            for meter in meters:
                which = f"meter {meter.id} of {instance_id}, start {meter.start},"
                moments = [
                    moment
                    for moment in journal.get(instance_id, ())
                    if moment.start == meter.start or moment.phase is None
                ]
                ups = spans(moments, UP)
                if not any(since <= _seconds(meter.opened_at) + apart for since, _ in ups):
                    yield f"{which} was opened at {meter.opened_at}, before it was reachable"
                    continue
                end = ups[-1][1]  # a gap that nobody saw is no end: it vanished and came back
                if meter.closed_at == meter.opened_at:
                    continue  # over before it was written down, and not billed
                if meter.closed_at is None:
                    if end is not None:
                        yield f"{which} is open, and it ended at {end:.3f} s"
                    continue
                closed, why = _seconds(meter.closed_at) - apart, _why_closed(meter, books)
                if end is None or closed <= end:
                    continue
                shown = self._world.shown_up.get((instance_id, meter.start), ())
                last = max(shown, default=_seconds(meter.opened_at))
                if why in ENDS_AT_ONCE and closed <= max(last, _seconds(meter.opened_at)) + counts + apart:
                    continue
                if not any(abs(_seconds(meter.closed_at) - at) <= apart for at in shown):
                    yield f"{which} was closed at {closed:.3f} s by {why}; it ended at {end:.3f} s"


def _why_closed(meter: Any, books: invariants.Books) -> str:
    """The event that ended this time in a billed state."""
    for line in books.events.get(meter.instance_id, ()):
        if line.from_state == State.RUNNING != line.to_state and line.at >= meter.closed_at:
            return line.event
    return ""


_MOVING = select(instances.c.id, instances.c.state, instances.c.due_at, instances.c.leased_to).where(
    or_(instances.c.due_at.is_not(None), instances.c.leased_to.is_not(None))
)
_KEYS = select(ssh_keys.c.user_id, ssh_keys.c.public_key)
BLOWS = frozenset({"exits", "vanishes", "reboot"})  # an instance survives one of them
DECEPTIVE = frozenset({"hides", "shows_old"})  # troubles in which a listing does not tell the truth
UNEVENTFUL = frozenset(
    {"launch", "start", "stop", "restart", "terminate", "add_key", "drop_key", "look", "stray", "pay", "wait"}
)
UP = frozenset({Phase.REACHABLE})


def _seconds(at: datetime) -> float:
    return (at - START).total_seconds()
