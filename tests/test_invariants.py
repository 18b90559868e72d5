"""The checks of invariants.py find what they are for: each is shown a violation, one at a time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text

from tests.invariants import Asked, as_asked, given_once, in_database, in_engine
from tests.stock import GPU_TYPE, NODE, HandClock, Stocked, accept, stock
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import Event
from tidemill.model.observation import Phase, Seen
from tidemill.settings import Settings
from tidemill.store import instances, launch_keys
from tidemill.store.database import Database
from tidemill.store.migrate import migrate

SETTINGS = Settings()
RUNNING, STOPPED, FAILED, PASSING, RELEASED = "running", "stopped", "failed", "passing", "released"
LIVES = {
    RUNNING: (Event.REACHABLE, Event.EXITED, Event.REACHABLE),
    STOPPED: (Event.REACHABLE, Event.STOP, Event.EXITED),
    FAILED: (Event.REFUSED, Event.ABSENT),
    PASSING: (Event.PLACED,),
    RELEASED: (Event.TERMINATE, Event.ABSENT),
}


class Village:
    """One instance of each kind in a database whose own constraints look away."""

    def __init__(self, stocked: Stocked, clock: HandClock) -> None:
        self.stocked, self.clock = stocked, clock
        self.ids = {name: self._live(name) for name in LIVES}

    def _live(self, name: str) -> str:
        def work(connection: Connection) -> str:
            order = self.stocked.order(**({"type_id": GPU_TYPE.id} if name in {RUNNING, PASSING} else {}))
            instance = accept(connection, SETTINGS, self.stocked.alice, order, self.clock.now())
            launch_keys.keep(connection, instance.user_id, name, "", instance.id, self.clock.now())
            for happening in LIVES[name]:
                instance = self._happen(connection, instance, happening)
            if name != PASSING:
                instances.note(connection, instance, due_at=None)
            return instance.id

        return self.stocked.database.run(work)

    def _happen(self, connection: Connection, instance: Instance, happening: Event) -> Instance:
        self.clock.pass_by(10)
        return instances.record(
            connection, instance, happening, self.clock.now(), reason="Word", message="Sentence"
        )

    def plant(self, statement: str) -> None:
        named = {name: id for name, id in self.ids.items() if f":{name}" in statement}
        self.stocked.database.run(lambda connection: connection.execute(text(statement), named))

    def found(self, *, servers: tuple[str, ...] = (), later: float = 0.0) -> list[str]:
        now = self.clock.now() + timedelta(seconds=later)
        return in_database(self.stocked.database, now=now, settings=SETTINGS, servers=servers)

    def seen(self) -> dict[str, Seen]:
        return {
            self.ids[RUNNING]: Seen(2, Phase.REACHABLE),
            self.ids[STOPPED]: Seen(1, Phase.EXITED),
            self.ids[PASSING]: Seen(1, Phase.STARTED),
        }

    def asked(self) -> dict[str, Asked]:
        return {
            self.ids[RUNNING]: "running",
            self.ids[STOPPED]: "stopped",
            self.ids[FAILED]: "running",
            self.ids[RELEASED]: "gone",
        }


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("migrated") / "village.db"
    database = Database(f"sqlite:///{file}")
    migrate(database)
    database.close()
    return file


@pytest.fixture
def village(migrated: Path, tmp_path: Path, clock: HandClock) -> Iterator[Village]:
    database = Database(f"sqlite:///{shutil.copy(migrated, tmp_path)}")
    event.listen(database._backend.engine, "connect", _look_away)
    made = Village(stock(database, clock), clock)
    made.plant("DROP INDEX uq_meters_open")
    yield made
    database.close()


def _look_away(connection: object, _record: object) -> None:
    for pragma in ("ignore_check_constraints=ON", "foreign_keys=OFF"):
        connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]


def test_a_village_in_order_has_nothing_to_say(village: Village) -> None:
    assert village.found() == []
    assert in_engine(village.stocked.database, village.seen()) == []
    asked: dict[str, Asked] = {**village.asked(), village.ids[PASSING]: "running"}
    assert as_asked(village.stocked.database, village.seen(), asked) == [
        f"{village.ids[PASSING]} should be running; it is Starting (Word), in the engine started"
    ]


PLANTED = [
    ("UPDATE devices SET instance_id = 'nobody' WHERE device_id = 'gpu-0'", "which is no instance"),
    ("UPDATE devices SET instance_id = :stopped WHERE device_id = 'gpu-0'", "which is Stopped"),
    ("UPDATE devices SET instance_id = NULL WHERE device_id = 'gpu-0'", "holds 0 devices, not 1"),
    ("UPDATE devices SET instance_id = :running", "holds 2 devices, not 1"),
    ("UPDATE devices SET name = 'A100'", r"\(A100\) is held by .* \(H100\)"),
    ("DELETE FROM reservations WHERE instance_id = :running", "Running and has no share of its node"),
    ("UPDATE reservations SET instance_id = :stopped WHERE instance_id = :running", "Stopped and keeps"),
    ("UPDATE reservations SET instance_id = :failed WHERE instance_id = :running", "at rest, and still"),
    ("UPDATE reservations SET instance_id = 'x' WHERE instance_id = :running", "for x, which is no inst"),
    ("UPDATE reservations SET cpu_milli = 1 WHERE instance_id = :running", "another share"),
    ("UPDATE nodes SET cpu_used = cpu_used + 1", "CPU are used; its shares add up to"),
    ("UPDATE nodes SET memory_used = memory_used + 1", "memory are used; its shares add up to"),
    ("UPDATE nodes SET cpu_used = -1", "says -1 of"),
    ("UPDATE nodes SET cpu_milli = 1", "of 1 CPU are used"),
    ("UPDATE node_ports SET instance_id = :released WHERE instance_id = :stopped", "which is Released"),
    ("UPDATE node_ports SET instance_id = 'nobody' WHERE instance_id = :stopped", "which is no instance"),
    ("UPDATE node_ports SET node_id = 'x' WHERE instance_id = :stopped", "on another node"),
    ("DELETE FROM node_ports WHERE instance_id = :failed", "no node port for ssh"),
    ("DELETE FROM meters WHERE closed_at IS NULL", "Running and has 0 open meters"),
    ("DELETE FROM meters WHERE instance_id = :stopped", "1 times and has 0 meters"),
    ("UPDATE meters SET closed_at = NULL WHERE instance_id = :stopped", "Stopped and has 1 open meters"),
    ("UPDATE meters SET closed_at = NULL WHERE instance_id = :stopped", "is open, and the instance ran"),
    ("UPDATE meters SET closed_at = NULL", "Running and has 2 open meters"),
    ("UPDATE meters SET closed_at = opened_at + 1 WHERE closed_at IS NULL", "is closed, and the instance st"),
    ("UPDATE meters SET closed_at = opened_at - 1 WHERE instance_id = :stopped", "closed before it was"),
    ("UPDATE meters SET closed_at = closed_at + 1 WHERE instance_id = :stopped", "the instance ran until"),
    ("UPDATE meters SET opened_at = opened_at - 1 WHERE instance_id = :stopped", "was running from"),
    ("UPDATE meters SET start = 7 WHERE instance_id = :stopped", "for start 7; start 1 was running"),
    ("UPDATE meters SET closed_at = closed_at + 60000000 WHERE closed_at IS NOT NULL", "overlap"),
    ("UPDATE meters SET instance_id = 'nobody' WHERE instance_id = :stopped", "which is no instance"),
    ("DELETE FROM events WHERE event = 'launch'", "no launch at the beginning"),
    ("DELETE FROM events WHERE event = 'stop'", "where the line before ended"),
    ("UPDATE events SET event = 'placed' WHERE event = 'exited'", "is no move of the table"),
    ("UPDATE events SET to_state = 'Archived' WHERE to_state = 'Stopped'", "is no move of the table"),
    ("UPDATE events SET start = 9 WHERE event = 'stop'", "is of start 9 after start 1"),
    ("UPDATE events SET start = 0, event = 'startFound' WHERE event = 'exited'", "is of start 0 after"),
    ("UPDATE events SET user_id = 'x' WHERE event = 'stop'", "lines of another user"),
    ("UPDATE events SET instance_id = 'x' WHERE instance_id = :stopped", "of x, which is no instance"),
    ("UPDATE instances SET start = 5 WHERE id = :stopped", "its history ends in Stopped in start 1"),
    ("UPDATE instances SET state = 'Archived' WHERE id = :stopped", "its history ends in Stopped in start 1"),
    ("UPDATE launch_keys SET instance_id = 'x' WHERE key = 'failed'", "leads to x, not theirs"),
    ("UPDATE launch_keys SET user_id = 'x' WHERE key = 'failed'", "failed of x leads to .* not theirs"),
    ("UPDATE instances SET reason = '' WHERE id = :failed", "does not say why"),
    ("UPDATE instances SET message = '' WHERE id = :failed", "does not say why"),
    ("UPDATE instances SET due_at = NULL WHERE id = :passing", "nobody is to look at it again"),
    ("UPDATE instances SET leased_to = 'me' WHERE id = :running", "leased to me"),
]


@pytest.mark.parametrize(("statement", "sentence"), PLANTED, ids=range(len(PLANTED)))
def test_what_is_planted_in_the_database_is_found(village: Village, statement: str, sentence: str) -> None:
    village.plant(statement)
    assert [said for said in village.found() if re.search(sentence, said)], village.found()


def test_a_key_that_is_there_twice_is_found(village: Village) -> None:
    for statement in (
        "CREATE TABLE doubled AS SELECT * FROM launch_keys",
        "DROP TABLE launch_keys",
        "ALTER TABLE doubled RENAME TO launch_keys",
        "UPDATE launch_keys SET key = 'same'",
    ):
        village.plant(statement)
    assert sum("is there twice" in said for said in village.found()) == len(LIVES) - 1


def test_a_lease_of_a_living_server_is_none_that_was_left(village: Village) -> None:
    village.plant("UPDATE instances SET leased_to = 'me' WHERE id = :running")
    assert village.found(servers=("me",)) == []


def test_a_state_beyond_its_deadline_is_found_unless_it_says_so(village: Village) -> None:
    late = SETTINGS.starting_deadline + 11
    (said,) = village.found(later=late)
    assert re.search(rf"{village.ids[PASSING]} is Starting for \d+ s; 300 s are allowed", said)
    village.plant("UPDATE instances SET reason = 'Overdue' WHERE id = :passing")
    assert village.found(later=late) == []


@pytest.mark.parametrize(
    ("name", "shown", "sentence"),
    [
        (RUNNING, None, "in the engine not there"),
        (RUNNING, Seen(2, Phase.EXITED), "in the engine exited in start 2"),
        (RUNNING, Seen(1, Phase.REACHABLE), "in the engine reachable in start 1"),
        (STOPPED, Seen(1, Phase.REACHABLE), "Stopped in start 1, and in the engine reachable"),
        (FAILED, Seen(1, Phase.STARTED), "InitializationFailed in start 1, and in the engine started"),
        (RELEASED, Seen(1, Phase.EXITED), "Released in start 1, and in the engine exited"),
        ("notebook-of-nobody", Seen(1, Phase.EXITED), "which no instance wants"),
    ],
)
def test_what_the_engine_has_otherwise_is_found(
    village: Village, name: str, shown: Seen | None, sentence: str
) -> None:
    seen = village.seen()
    seen.pop(village.ids.get(name, name), None)
    if shown is not None:
        seen[village.ids.get(name, name)] = shown
    (said,) = in_engine(village.stocked.database, seen)
    assert sentence in said


@pytest.mark.parametrize(
    ("name", "wish", "sentence"),
    [
        (RUNNING, "stopped", "should be stopped; it is Running"),
        (RUNNING, "gone", "should be gone; it is Running"),
        (STOPPED, "running", "should be running; it is Stopped"),
        (STOPPED, "gone", "should be gone; it is Stopped"),
        (RELEASED, "running", "should be running; it is Released"),
        (FAILED, "gone", "should be gone; it is InitializationFailed"),
        ("notebook-of-nobody", "running", "was promised and does not exist"),
    ],
)
def test_what_was_asked_and_is_not_so_is_found(
    village: Village, name: str, wish: Asked, sentence: str
) -> None:
    village.plant("UPDATE instances SET state = 'Released' WHERE id = :passing")
    asked: dict[str, Asked] = {**village.asked(), village.ids.get(name, name): wish}
    (said,) = as_asked(village.stocked.database, village.seen(), asked)
    assert sentence in said


def test_what_is_there_and_was_promised_to_nobody_is_found(village: Village) -> None:
    (said,) = as_asked(village.stocked.database, village.seen(), village.asked())
    assert said == f"{village.ids[PASSING]} is Starting and was promised to nobody"


def test_a_device_that_two_were_given_is_found() -> None:
    node = NODE.name
    assert given_once({"a": [(node, "gpu-0")], "b": [(node, "gpu-1")]}) == []
    assert len(given_once({"a": [(node, "gpu-0")], "b": [(node, "gpu-0")]})) == 1
