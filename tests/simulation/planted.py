"""Bugs to be planted, one at a time, as somebody might write them: the simulation has to find each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, insert, select, update

from tidemill.actions import launch as launching
from tidemill.drivers.contract import DriverError
from tidemill.model import lifecycle
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Event, Keeps, Move, State, Wanted
from tidemill.model.observation import Seen
from tidemill.reconcile import decide
from tidemill.reconcile import loop as loops
from tidemill.reconcile.loop import Loop
from tidemill.reconcile.presence import Presence
from tidemill.store import fleet, instances, launch_keys, leases, reservations, sightings
from tidemill.store.fleet import Standing
from tidemill.store.prepared import Prepared
from tidemill.store.schema import Instant, meters
from tidemill.store.schema import instances as rows
from tidemill.store.schema import launch_keys as keys

Patch = pytest.MonkeyPatch


def forgets_the_version_check(patch: Patch) -> None:
    """The guarded update writes whatever the row is by now."""

    def update_of(columns: frozenset[str]) -> Prepared:
        return Prepared(
            update(rows)
            .where(rows.c.id == bindparam("written_id"))
            .values({name: bindparam(f"new_{name}", type_=rows.c[name].type) for name in columns})
        )

    patch.setattr(instances, "_update_of", update_of)


def releases_devices_of_the_failed_at_once(patch: Patch) -> None:
    """What failed gives its share back before it was seen stopped."""
    patch.setattr(instances, "frees", lambda state, _event: STATES[state].keeps is not Keeps.YES)


def releases_devices_when_asked_to_stop(patch: Patch) -> None:
    """A share is free as soon as a stop was asked for."""
    patch.setattr(
        instances,
        "frees",
        lambda state, event: state is State.STOPPING or lifecycle.frees(state, event),
    )


def opens_a_meter_twice(patch: Patch) -> None:
    """Every opening of a meter is posted again when it is closed."""
    real = sightings.close_meter

    def close_meter(connection: Connection, instance: Instance, *others: Any) -> None:
        real(connection, instance, *others)
        last = connection.execute(
            select(meters).where(meters.c.instance_id == instance.id).order_by(meters.c.id.desc())
        ).first()
        if last is not None:
            again = {"start": last.start, "opened_at": last.opened_at, "closed_at": last.closed_at}
            connection.execute(insert(meters), {"instance_id": instance.id} | again)

    patch.setattr(sightings, "close_meter", close_meter)


def bills_until_it_was_noticed(patch: Patch) -> None:
    """A meter closes when an end is noticed, not when it was last seen running."""
    real = sightings.close_meter

    def close_meter(
        connection: Connection, instance: Instance, _event: Event, at: datetime, _ended: datetime | None
    ) -> None:
        real(connection, instance, Event.STOP, at, None)

    patch.setattr(sightings, "close_meter", close_meter)
    patch.setattr(sightings, "sighted", lambda *_, **__: None)


def trusts_an_observation_of_an_older_start(patch: Patch) -> None:
    """What is seen is taken for the start that is wanted."""
    real = decide._event_of

    def event_of(instance: Instance, seen: Seen | None) -> Event | None:
        return real(instance, None if seen is None else replace(seen, start=instance.start))

    patch.setattr(decide, "_event_of", event_of)


def takes_silence_for_absence(patch: Patch) -> None:
    """An engine that gives no answer has nothing."""
    real_observe, real_nodes = Loop._observe, loops.register_nodes

    async def observe(loop: Loop) -> Mapping[str, Seen]:
        try:
            return await real_observe(loop)
        except (DriverError, TimeoutError):
            return {}

    async def register_nodes(*given: Any) -> Any:
        try:
            return await real_nodes(*given)
        except (DriverError, TimeoutError):
            return given[-1]

    patch.setattr(Loop, "_observe", observe)
    patch.setattr(loops, "register_nodes", register_nodes)


def forgets_the_key_of_a_launch(patch: Patch) -> None:
    """An Idempotency-Key is not kept."""

    def keep(_connection: Connection, _user: str, _key: str, _body: str, instance_id: str, *_: Any) -> str:
        return instance_id

    patch.setattr(launch_keys, "keep", keep)


def keeps_the_key_of_a_launch_afterwards(patch: Patch) -> None:
    """An Idempotency-Key is looked for with the launch, and kept in a transaction of its own after it."""
    real_keep, real_launch = launch_keys.keep, launching.launch
    later: list[tuple[Any, ...]] = []

    def keep(
        connection: Connection, user_id: str, key: str, body: str, instance_id: str, now: datetime
    ) -> str:
        mine = (keys.c.user_id == user_id, keys.c.key == key)
        earlier = connection.execute(select(keys.c.instance_id).where(*mine)).scalar()
        later.append((user_id, key, body, instance_id, now))
        return earlier or instance_id

    async def launch(context: Any, *given: Any, **named: Any) -> str:
        answer = await real_launch(context, *given, **named)
        while later:
            kept = later.pop()
            await context.database.write(lambda connection, kept=kept: real_keep(connection, *kept))
        return answer

    patch.setattr(launch_keys, "keep", keep)
    patch.setattr("tests.simulation.users.launch", launch)


def looks_before_it_claims(patch: Patch) -> None:
    """What was listed before the claim is what is decided on."""
    real = Loop._observe
    last: dict[Loop, Mapping[str, Seen]] = {}

    async def observe(loop: Loop) -> Mapping[str, Seen]:
        before = last.get(loop)
        last[loop] = await real(loop)
        return last[loop] if before is None else before

    patch.setattr(Loop, "_observe", observe)


def forgets_the_reservation_on_start(patch: Patch) -> None:
    """A start takes no share of the node."""
    patch.setattr(reservations, "reserve_again", lambda *_: None)


def counts_an_overdue_removal_as_done(patch: Patch) -> None:
    """A terminate that was not confirmed in time is given up."""
    patch.setitem(lifecycle.MOVES[State.TERMINATING], Event.OVERDUE, Move(State.RELEASED))


def drops_an_event(patch: Patch) -> None:
    """A move to Stopped is not told."""
    real = instances._write_event

    def write_event(connection: Connection, instance: Instance, *others: Any) -> None:
        if instance.state is not State.STOPPED:
            real(connection, instance, *others)

    patch.setattr(instances, "_write_event", write_event)


def takes_what_is_stopped_for_an_orphan(patch: Patch) -> None:
    """Whatever is not wanted running is removed as nobody's."""
    up = [state.value for state, row in STATES.items() if row.wanted is Wanted.RUNNING]
    real = fleet.standings

    def standings(connection: Connection, region_id: str) -> Iterator[Standing]:
        return (one for one in real(connection, region_id) if one.state in up)

    def unreleased(connection: Connection, _ids: Any) -> set[str]:
        return set(connection.execute(select(rows.c.id).where(rows.c.state.in_(up))).scalars())

    patch.setattr(fleet, "standings", standings)
    patch.setattr(fleet, "unreleased", unreleased)


def lets_others_at_it(patch: Patch) -> None:
    """Whoever knows an id may ask for things."""
    real = instances.get

    def get(connection: Connection, instance_id: str, *, user_id: str | None = None) -> Instance | None:
        return real(connection, instance_id)

    patch.setattr(instances, "get", get)


def works_without_a_lease(patch: Patch) -> None:
    """What another server works on is taken all the same."""
    due = (
        select(rows.c.id)
        .where(rows.c.due_at <= bindparam("now", type_=Instant), rows.c.region_id == bindparam("here"))
        .limit(bindparam("most"))
        .cte("chosen")
    )
    take = (
        update(rows)
        .where(rows.c.id.in_(select(due.c.id)))
        .values(leased_to=bindparam("owner"))
        .returning(*(rows.c[name] for name in instances.COLUMNS))
    )
    patch.setattr(leases, "_TAKE_DUE", Prepared(take))


def settles_over_what_was_asked(patch: Patch) -> None:
    """Giving a lease back says when to look again, whatever was asked meanwhile."""

    def settle(
        connection: Connection, instance_id: str, owner: str, _version: int, due_at: datetime | None
    ) -> bool:
        mine = (rows.c.id == instance_id, rows.c.leased_to == owner)
        connection.execute(update(rows).where(*mine).values(leased_to=None, due_at=due_at))
        return True

    patch.setattr(leases, "settle", settle)


def never_takes_over(patch: Patch) -> None:
    """The work of a dead server is nobody's."""

    async def bury(_presence: Presence, _everybody: Any) -> None:
        pass

    patch.setattr(Presence, "_bury", bury)
    patch.setattr("tests.simulation.servers.servers.bury_all", lambda *_, **__: None)


def keeps_the_ports_of_the_released(patch: Patch) -> None:
    """Node ports are never given back."""
    patch.setattr(reservations, "release_ports", lambda *_: None)


def restarts_under_the_same_number(patch: Patch) -> None:
    """An instance whose process ended is asked for under the same start number again."""
    for state in (State.RUNNING, State.RESTARTING):
        patch.setitem(lifecycle.MOVES[state], Event.EXITED, Move(State.RESTARTING))


def forgets_changed_keys(patch: Patch) -> None:
    """What runs is brought up to date and keeps the keys it had."""
    patch.setattr(fleet, "touch_for_user", lambda *_: None)


BUGS: tuple[Callable[[Patch], None], ...] = (
    forgets_the_version_check,
    releases_devices_of_the_failed_at_once,
    releases_devices_when_asked_to_stop,
    opens_a_meter_twice,
    bills_until_it_was_noticed,
    trusts_an_observation_of_an_older_start,
    takes_silence_for_absence,
    forgets_the_key_of_a_launch,
    keeps_the_key_of_a_launch_afterwards,
    looks_before_it_claims,
    forgets_the_reservation_on_start,
    counts_an_overdue_removal_as_done,
    drops_an_event,
    takes_what_is_stopped_for_an_orphan,
    lets_others_at_it,
    works_without_a_lease,
    settles_over_what_was_asked,
    never_takes_over,
    keeps_the_ports_of_the_released,
    restarts_under_the_same_number,
    forgets_changed_keys,
)
