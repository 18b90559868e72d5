"""A test of the walks: what is planted in the product is found by them, on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Connection
from tests.failures.gate import FAULTS, Point
from tests.failures.stories import STORIES, beginning
from tests.failures.test_every_point import told
from tests.stock import HandClock, Stocked, stock

from tidemill.drivers.contract import DriverError
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import Event, Wanted
from tidemill.model.observation import InstanceId, Seen
from tidemill.reconcile.claims import Claims
from tidemill.reconcile.decide import Happened, Plan
from tidemill.reconcile.loop import Loop
from tidemill.reconcile.step import Stepper
from tidemill.store import launch_keys
from tidemill.store.database import Database

Patch = Callable[[pytest.MonkeyPatch], None]
STORY = {story.name: story for story in STORIES}


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    opened = Database(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def stocked(database: Database, clock: HandClock) -> Stocked:
    return stock(database, clock)


def a_key_is_not_kept(patched: pytest.MonkeyPatch) -> None:
    def keep(_: Connection, _user: str, _key: str, _hash: str, instance_id: str, _now: datetime) -> str:
        return instance_id

    patched.setattr(launch_keys, "keep", keep)


def a_lease_whose_answer_was_lost_is_forgotten(patched: pytest.MonkeyPatch) -> None:
    async def settle_forgotten(self: Claims, _: Any) -> None:
        self._taking = self._unsettled = False

    patched.setattr(Claims, "settle_forgotten", settle_forgotten)


def what_is_asked_for_counts_as_done(patched: pytest.MonkeyPatch) -> None:
    """Absence is written down first, and then asked for."""
    real = Stepper._ask

    async def ask(self: Stepper, instance: Instance, plan: Plan) -> Instance:
        if plan.call is Wanted.ABSENT:
            instance = await self._record(instance, Happened(Event.ABSENT))
            plan = Plan(call=plan.call)
        return await real(self, instance, plan)

    patched.setattr(Stepper, "_ask", ask)


def no_answer_counts_as_absence(patched: pytest.MonkeyPatch) -> None:
    real = Loop._observe

    async def observe(self: Loop) -> Mapping[InstanceId, Seen]:
        try:
            return await real(self)
        except DriverError:
            return {}

    patched.setattr(Loop, "_observe", observe)


PLANTED: tuple[tuple[Patch, str], ...] = (
    (a_key_is_not_kept, "launch with an Idempotency-Key"),
    (a_lease_whose_answer_was_lost_is_forgotten, "stop"),
    (what_is_asked_for_counts_as_done, "terminate"),
    (no_answer_counts_as_absence, "add an ssh key while it runs"),
)


@pytest.mark.parametrize(("plant", "name"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
async def test_what_is_planted_is_found(
    plant: Patch, name: str, stocked: Stocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = STORY[name]
    start = await beginning(story, stocked)
    plant(monkeypatch)
    smooth = await told(story, stocked, start, None)  # nothing is to be seen as long as all goes well
    found: list[str] = []
    for number, (kind, _) in enumerate(smooth, 1):
        for fault in FAULTS[kind]:
            try:
                await told(story, stocked, start, Point(number, fault))
            except AssertionError as error:
                found.append(str(error))
                break
    assert found
