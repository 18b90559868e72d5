"""Who is there, who fell silent, and that nobody works on what another may have taken over."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.stock import START, HandClock

from tidemill.model.errors import Unavailable
from tidemill.reconcile.presence import Presence
from tidemill.settings import Settings
from tidemill.store import servers
from tidemill.store.database import Database
from tidemill.store.migrate import migrate

SETTINGS = Settings(lease=4)
TICK = 1.0


def there(database: Database) -> set[str]:
    return {server.id for server in database.run(servers.everybody)}


def presence(database: Database, clock: HandClock, name: str) -> Presence:
    return Presence(database, clock, SETTINGS, name=name)


async def test_who_falls_silent_is_buried_after_a_lease_and_not_before(
    database: Database, clock: HandClock
) -> None:
    silent, alive = presence(database, clock, "silent"), presence(database, clock, "alive")
    await silent.keep()
    for _ in range(5):
        assert there(database) - {"alive"} == {"silent"}
        await alive.keep()
        clock.pass_by(TICK)
    assert there(database) == {"alive"}
    assert alive.others == []


async def test_who_was_silent_for_too_long_begins_anew(database: Database, clock: HandClock) -> None:
    slow, alive = presence(database, clock, "slow"), presence(database, clock, "alive")
    lost: list[bool] = []
    slow.when_lost(lambda: lost.append(slow.is_sure))
    await slow.keep()
    for _ in range(6):
        await alive.keep()
        clock.pass_by(TICK)
    assert not slow.is_sure
    assert lost == []
    await slow.keep()
    assert lost == [False]
    assert slow.is_sure
    assert there(database) == {"alive", "slow+1"} == {alive.id, slow.id}


async def test_who_was_not_sure_begins_anew_also_when_nobody_noticed(
    database: Database, clock: HandClock
) -> None:
    only = presence(database, clock, "only")
    await only.keep()
    clock.pass_by(SETTINGS.lease)
    await only.keep()
    assert there(database) == {"only+1"}


async def test_clocks_that_differ_are_no_matter(database: Database) -> None:
    behind, ahead = HandClock(START), HandClock(START + timedelta(days=3))
    ahead.pass_by(12345.6)
    one, other = presence(database, behind, "one"), presence(database, ahead, "other")
    for _ in range(20):
        await one.keep()
        await other.keep()
        behind.pass_by(TICK)
        ahead.pass_by(TICK)
        behind.set_back(30)
    assert there(database) == {"one", "other"}


async def test_a_database_that_was_away_for_all_makes_nobody_dead(
    database: Database, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of_them = [presence(database, clock, name) for name in ("a", "b", "c")]
    for each in all_of_them:
        await each.keep()

    async def away(*_: object, **__: object) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(database, "write", away)
        for _ in range(10):
            clock.pass_by(TICK)
            for each in all_of_them:
                with pytest.raises(Unavailable):
                    await each.keep()
    for each in all_of_them:
        assert not each.is_sure
        await each.keep()
        assert each.is_sure
    await all_of_them[0].keep()
    assert there(database) == {"a+1", "b+1", "c+1"}


async def test_who_leaves_is_gone(database: Database, clock: HandClock) -> None:
    one = presence(database, clock, "one")
    await one.keep()
    await one.leave()
    assert there(database) == set()
    assert not one.is_sure


STEPS = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 3)), min_size=1, max_size=60)


@given(steps=STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_nobody_is_sure_who_was_buried(steps: list[tuple[str, float]], tmp_path: Path) -> None:
    """However unevenly signs of life come: whose row is gone knows that it may not work."""
    database = Database(f"sqlite:///{tmp_path / 'servers.db'}")
    try:
        migrate(database)
        database.run(lambda c: servers.bury_all(c, START))
        clocks = {name: HandClock(START + timedelta(hours=at)) for at, name in enumerate("abc")}
        all_of_them = {name: presence(database, clock, name) for name, clock in clocks.items()}
        for name, seconds in steps:
            await all_of_them[name].keep()
            alive = there(database)
            for each in all_of_them.values():
                assert not each.is_sure or each.id in alive
            for clock in clocks.values():
                clock.pass_by(seconds)
    finally:
        database.close()
