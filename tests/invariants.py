"""What must hold whatever happened: checks over the database, the engine, and what was asked.

Every check says what it found as sentences; no sentence is no violation. They are asked when nothing
is under way: every server has done what was due, or is gone. The simulation, the walks over every point
of failure and the real kills all ask the same checks.

    found = in_database(database, now=..., settings=...)      needs nothing but a database
    found += in_engine(database, await driver.observe())      the engine has what is wanted, and nothing else
    found += as_asked(database, seen, {id: "running"})        everybody has what they asked for last

Each takes a database, or the :class:`Books` that were read from one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any, Literal

from sqlalchemy import Column, Connection, Row, Table, select

from tidemill.model.instance import SSH_PORT
from tidemill.model.lifecycle import STATES, Event, Keeps, State, Wanted, move
from tidemill.model.observation import InstanceId, Phase, Seen
from tidemill.settings import Settings
from tidemill.store import schema
from tidemill.store.database import Database

Asked = Literal["running", "stopped", "gone"]
Rows = Sequence[Row[Any]]

NOT_RUNNING = frozenset({Phase.EXITED, Phase.CREATED})
UP = frozenset({Phase.STARTED, Phase.REACHABLE})
FOUND_AHEAD = frozenset({"adopted", "lost", "startFound"})  # the engine was in a later start than the row
FAILED = frozenset(state for state, row in STATES.items() if row.keeps is Keeps.UNTIL_SEEN_STOPPED)
AT_REST_STOPPED = frozenset({State.STOPPED, State.ARCHIVED}) | FAILED


@dataclass(frozen=True)
class Books:
    """All rows that say something about instances, of one instant."""

    instances: Mapping[InstanceId, Row[Any]]
    nodes: Rows
    devices: Rows
    reservations: Rows
    ports: Rows
    events: Mapping[InstanceId, Rows] = field(repr=False)
    meters: Mapping[InstanceId, Rows] = field(repr=False)
    launch_keys: Rows

    def state(self, instance_id: InstanceId) -> State:
        return State(self.instances[instance_id].state)


def read_books(database: Database) -> Books:
    """Everything in one transaction, so that the rows belong together."""

    def work(connection: Connection) -> Books:
        def rows(table: Any, *order: Any) -> Rows:
            return connection.execute(_everything(table, *order)).all()

        return Books(
            instances={row.id: row for row in rows(schema.instances)},
            nodes=rows(schema.nodes),
            devices=rows(schema.devices),
            reservations=rows(schema.reservations),
            ports=rows(schema.node_ports),
            events=_by_instance(rows(schema.events, schema.events.c.seq)),
            meters=_by_instance(
                [row for row in rows(schema.meters, schema.meters.c.id) if row.kind == "compute"]
            ),
            launch_keys=rows(schema.launch_keys),
        )

    return database.run(work)


@cache
def _everything(table: Table, *order: Column[Any]) -> Any:
    return select(table).order_by(*order)


def _by_instance(rows: Rows) -> dict[InstanceId, list[Row[Any]]]:
    found: dict[InstanceId, list[Row[Any]]] = {}
    for row in rows:
        found.setdefault(row.instance_id, []).append(row)
    return found


def _books(database: Database | Books) -> Books:
    return database if isinstance(database, Books) else read_books(database)


def in_database(
    database: Database | Books,
    *,
    now: datetime,
    settings: Settings,
    servers: Collection[str] = (),
    slack: float = 10.0,
    clock_set_back: bool = False,
    late: float = 0,
) -> list[str]:
    """What is wrong in the database by itself.

    ``servers`` are the names of those alive, who may hold leases. ``slack`` is how many seconds a state
    may outlast its deadline before somebody looks. A clock that was set back (``clock_set_back``) makes
    later hours of an instance carry earlier times. What a user asks for may lie with the database for as
    long as ``late`` seconds; what was posted meanwhile stays posted.
    """
    books = _books(database)
    found = [sentence for check in IN_BOOKS for sentence in check(books)]
    found += meters(books, clock_set_back=clock_set_back, late=late)
    found += leases(books, servers)
    found += deadlines(books, now, settings, slack)
    if not clock_set_back:
        found += meters_do_not_overlap(books)
    return found


def devices(books: Books) -> Iterator[str]:
    """A device belongs to nobody or to one that may hold it, and whoever holds any holds all of its own."""
    holding = {row.instance_id for row in books.reservations}
    held: dict[InstanceId, int] = {}
    for row in books.devices:
        if row.instance_id is None:
            continue
        where = f"device {row.device_id} of node {row.node_id}"
        holder = books.instances.get(row.instance_id)
        if holder is None:
            yield f"{where} is held by {row.instance_id}, which is no instance"
            continue
        held[holder.id] = held.get(holder.id, 0) + 1
        if STATES[State(holder.state)].keeps is Keeps.NO and not _in_term(books, holder):
            yield f"{where} is held by {holder.id}, which is {holder.state}"
        if (row.node_id, row.name) != (holder.node_id, holder.gpu_name):
            yield f"{where} ({row.name}) is held by {holder.id} of {holder.node_id} ({holder.gpu_name})"
    for instance in books.instances.values():
        due = instance.gpu_num if instance.id in holding else 0
        if held.get(instance.id, 0) != due:
            yield f"{instance.id} ({instance.state}) holds {held.get(instance.id, 0)} devices, not {due}"


def _in_term(books: Books, instance: Row[Any]) -> bool:
    """Whether a term that was bought in advance has not been ended: devices are kept through a stop."""
    if instance.term_ends_at is None or State(instance.state) is State.RELEASED:
        return False
    lines = books.events.get(instance.id, ())
    return not any(line.event == Event.EXPIRED and line.at >= instance.term_ends_at for line in lines)


def reservations(books: Books) -> Iterator[str]:
    """Who may hold a share of a node holds its own share, and a node's sums are what is held of it."""
    held = {row.instance_id: row for row in books.reservations}
    for instance in books.instances.values():
        row, share = STATES[State(instance.state)], held.get(instance.id)
        if share is None:
            if row.wanted is Wanted.RUNNING:
                yield f"{instance.id} is {instance.state} and has no share of its node"
        elif _in_term(books, instance):
            continue
        elif row.keeps is Keeps.NO:
            yield f"{instance.id} is {instance.state} and keeps a share of its node"
        elif row.keeps is Keeps.UNTIL_SEEN_STOPPED and instance.due_at is None:
            yield f"{instance.id} is {instance.state}, at rest, and still keeps a share of its node"
        elif (share.node_id, share.cpu_milli, share.memory_mb) != (
            instance.node_id,
            instance.cpu_milli,
            instance.memory_mb,
        ):
            yield f"{instance.id} has another share of a node than it was launched with"
    for instance_id in held.keys() - books.instances.keys():
        yield f"a share of a node is kept for {instance_id}, which is no instance"
    for node in books.nodes:
        mine = [row for row in books.reservations if row.node_id == node.id]
        for what, used, capacity, total in (
            ("CPU", node.cpu_used, node.cpu_milli, sum(row.cpu_milli for row in mine)),
            ("memory", node.memory_used, node.memory_mb, sum(row.memory_mb for row in mine)),
        ):
            if used != total:
                yield f"node {node.name} says {used} {what} are used; its shares add up to {total}"
            if not 0 <= used <= capacity:
                yield f"node {node.name} says {used} of {capacity} {what} are used"


def ports(books: Books) -> Iterator[str]:
    """Everything that is not Released has its ports, the one of ssh among them, on its own node."""
    owned: dict[InstanceId, set[int]] = {}
    for row in books.ports:
        owned.setdefault(row.instance_id, set()).add(row.port)
        owner = books.instances.get(row.instance_id)
        if owner is None or State(owner.state) is State.RELEASED:
            state = "no instance" if owner is None else owner.state
            yield f"node port {row.node_port} is kept for {row.instance_id}, which is {state}"
        elif owner.node_id != row.node_id:
            yield f"node port {row.node_port} of {owner.id} is on another node than the instance"
    for instance in books.instances.values():
        if State(instance.state) is not State.RELEASED and SSH_PORT not in owned.get(instance.id, set()):
            yield f"{instance.id} is {instance.state} and has no node port for ssh"


def meters(books: Books, *, clock_set_back: bool = False, late: float = 0) -> Iterator[str]:
    """One meter for each time in a billed state, with its times; open exactly while it lasts."""
    for instance in books.instances.values():
        billed, found = _billed(books.events.get(instance.id, ())), books.meters.get(instance.id, ())
        still_open = sum(meter.closed_at is None for meter in found)
        if still_open != int(STATES[State(instance.state)].billed):
            yield f"{instance.id} is {instance.state} and has {still_open} open meters"
        if len(found) != len(billed):
            yield f"{instance.id} was in a billed state {len(billed)} times and has {len(found)} meters"
        for meter, time in zip(found, billed, strict=False):
            yield from _wrong_times(meter, time, clock_set_back=clock_set_back, late=late)
    for instance_id in books.meters.keys() - books.instances.keys():
        yield f"there is a meter of {instance_id}, which is no instance"


@dataclass(frozen=True)
class _Billed:
    """One time in a billed state, as the events tell it; ``until`` is None while it lasts."""

    start: int
    since: datetime
    until: datetime | None


def _billed(events: Rows) -> list[_Billed]:
    found: list[_Billed] = []
    for event in events:
        before, after = STATES[State(event.from_state)].billed, STATES[State(event.to_state)].billed
        if after and not before:
            found.append(_Billed(event.start, event.at, None))
        elif before and not after and found:
            found[-1] = _Billed(found[-1].start, found[-1].since, event.at)
    return found


def _wrong_times(meter: Row[Any], time: _Billed, *, clock_set_back: bool, late: float) -> Iterator[str]:
    which = f"meter {meter.id} of {meter.instance_id}"
    if (meter.start, meter.opened_at) != (time.start, time.since):
        yield (
            f"{which} was opened at {meter.opened_at} for start {meter.start}; "
            f"start {time.start} was running from {time.since}"
        )
    if meter.closed_at is None:
        if time.until is not None:
            yield f"{which} is open, and the instance ran until {time.until}"
        return
    if meter.closed_at < meter.opened_at:
        yield f"{which} was closed before it was opened"
    elif time.until is None:
        yield f"{which} is closed, and the instance still runs"
    elif meter.closed_at > max(time.until + timedelta(seconds=late), meter.opened_at) and not clock_set_back:
        yield f"{which} was closed at {meter.closed_at}; the instance ran until {time.until}"


def meters_do_not_overlap(books: Books) -> Iterator[str]:
    """No second of an instance is on two of its meters."""
    for instance_id, found in books.meters.items():
        for before, after in pairwise(sorted(found, key=lambda meter: (meter.opened_at, meter.id))):
            if before.closed_at is None or before.closed_at > after.opened_at:
                yield f"meters {before.id} and {after.id} of {instance_id} overlap"


def events(books: Books) -> Iterator[str]:
    """The history of an instance is one path of the table's moves, from its launch to where it is."""
    for instance in books.instances.values():
        history = books.events.get(instance.id, ())
        if not history or history[0].event != "launch" or history[0].start != 1:
            yield f"{instance.id} has no launch at the beginning of its history"
            continue
        state, start = State(history[0].to_state), 1
        for line in history[1:]:
            told = f"line {line.seq} of {instance.id} ({line.from_state} {line.event} {line.to_state})"
            if State(line.from_state) is not state:
                yield f"{told} does not begin in {state}, where the line before ended"
            to, new_start = _leads(State(line.from_state), line.event)
            if to is None or to is not State(line.to_state):
                yield f"{told} is no move of the table"
            if line.start < start if line.event in FOUND_AHEAD else line.start != start + new_start:
                yield f"{told} is of start {line.start} after start {start}"
            state, start = State(line.to_state), line.start
        if (state, start) != (State(instance.state), instance.start):
            yield (
                f"{instance.id} is {instance.state} in start {instance.start}; "
                f"its history ends in {state} in start {start}"
            )
        if any(line.user_id != instance.user_id for line in history):
            yield f"the history of {instance.id} has lines of another user"
    for instance_id in books.events.keys() - books.instances.keys():
        yield f"there is a history of {instance_id}, which is no instance"


def _leads(state: State, event: str) -> tuple[State | None, int]:
    """Where a line leads, and how many starts it begins; what is no event of the table only tells."""
    if event not in set(Event):
        return state, 0
    cell = move(state, Event(event))
    return (None, 0) if cell is None else (cell.to, int(cell.new_start))


def launch_keys(books: Books) -> Iterator[str]:
    """A key of a user leads to one instance, which is there and the user's."""
    seen: set[tuple[str, str]] = set()
    for row in books.launch_keys:
        if (row.user_id, row.key) in seen:
            yield f"the launch key {row.key} of {row.user_id} is there twice"
        seen.add((row.user_id, row.key))
        instance = books.instances.get(row.instance_id)
        if instance is None or instance.user_id != row.user_id:
            yield f"the launch key {row.key} of {row.user_id} leads to {row.instance_id}, not theirs"


def says_why(books: Books) -> Iterator[str]:
    """What failed says why, in a word and in a sentence."""
    for instance in books.instances.values():
        if State(instance.state) in FAILED and not (instance.reason and instance.message):
            yield f"{instance.id} is {instance.state} and does not say why"


def nothing_forgotten(books: Books) -> Iterator[str]:
    """What passes is looked at again."""
    for instance in books.instances.values():
        if STATES[State(instance.state)].deadline is not None and instance.due_at is None:
            yield f"{instance.id} is {instance.state}, and nobody is to look at it again"


IN_BOOKS: tuple[Callable[[Books], Iterator[str]], ...] = (
    devices,
    reservations,
    ports,
    events,
    launch_keys,
    says_why,
    nothing_forgotten,
)


def leases(books: Books, servers: Collection[str]) -> Iterator[str]:
    """Nothing is leased but to a server that is alive; after a loss it goes on as ``name+1``."""
    for instance in books.instances.values():
        holder = instance.leased_to
        if holder is not None and holder not in servers and holder.partition("+")[0] not in servers:
            yield f"{instance.id} is leased to {instance.leased_to}, which is gone"


def deadlines(books: Books, now: datetime, settings: Settings, slack: float) -> Iterator[str]:
    """No state outlasts its deadline; one that only tells so (Stopping, Terminating) has told."""
    for instance in books.instances.values():
        deadline = STATES[State(instance.state)].deadline
        if deadline is None or instance.reason == "Overdue":
            continue
        allowed: float = getattr(settings, deadline)
        lasted = (now - instance.state_since).total_seconds()
        if lasted > allowed + slack:
            yield f"{instance.id} is {instance.state} for {lasted:g} s; {allowed:g} s are allowed"


def in_engine(database: Database | Books, seen: Mapping[InstanceId, Seen]) -> list[str]:
    """What the engine lacks, has too much, or has otherwise than it is wanted."""
    return list(_in_engine(_books(database), seen))


def _in_engine(books: Books, seen: Mapping[InstanceId, Seen]) -> Iterator[str]:
    for instance in books.instances.values():
        wanted, there = STATES[State(instance.state)].wanted, seen.get(instance.id)
        shown = "not there" if there is None else f"{there.phase} in start {there.start}"
        if wanted is Wanted.RUNNING:
            right = there is not None and there.phase in UP and there.start == instance.start
        elif wanted is Wanted.STOPPED:
            right = there is None or there.phase in NOT_RUNNING
        else:
            right = there is None
        if not right:
            yield f"{instance.id} is {instance.state} in start {instance.start}, and in the engine {shown}"
    for instance_id in seen.keys() - books.instances.keys():
        yield f"the engine has {instance_id}, which no instance wants"


def given_once(given: Mapping[InstanceId, Collection[Hashable]]) -> list[str]:
    """What the engine gave to more than one: devices or node ports of whatever is up, by instance."""
    owner: dict[Hashable, InstanceId] = {}
    found: list[str] = []
    for instance_id, things in given.items():
        for thing in things:
            if thing in owner:
                found.append(f"{thing} was given to {owner[thing]} and to {instance_id}")
            owner[thing] = instance_id
    return found


def as_asked(
    database: Database | Books, seen: Mapping[InstanceId, Seen], asked: Mapping[InstanceId, Asked]
) -> list[str]:
    """Who does not have what they asked for last.

    ``asked`` names every instance that was ever promised to somebody, and what was asked for it last with
    success. What is there and was promised to nobody is a launch that was done twice.
    """
    return list(_as_asked(_books(database), seen, asked))


def _as_asked(
    books: Books, seen: Mapping[InstanceId, Seen], asked: Mapping[InstanceId, Asked]
) -> Iterator[str]:
    for instance_id, wish in asked.items():
        if instance_id not in books.instances:
            yield f"{instance_id} was promised and does not exist"
            continue
        instance, state, there = books.instances[instance_id], books.state(instance_id), seen.get(instance_id)
        up = there is not None and there.phase not in NOT_RUNNING
        right = {
            "running": state is State.RUNNING and up,
            "stopped": state in AT_REST_STOPPED and not up,
            "gone": state is State.RELEASED and there is None,
        }[wish]
        failed = wish == "running" and state in FAILED and bool(instance.reason) and not up
        if not right and not failed:
            shown = "not there" if there is None else str(there.phase)
            yield f"{instance_id} should be {wish}; it is {state} ({instance.reason}), in the engine {shown}"
    for instance_id in books.instances.keys() - asked.keys():
        if books.state(instance_id) is not State.RELEASED:
            yield f"{instance_id} is {books.state(instance_id)} and was promised to nobody"
