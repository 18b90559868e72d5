"""Guessing passwords: slowed, refused, and not to be raced; the owner gets in again."""

from __future__ import annotations

import asyncio

import pytest
from tests.stock import HandClock

from tidemill.actions.throttle import Throttle
from tidemill.model.errors import TooManyAttempts
from tidemill.settings import Settings
from tidemill.store.database import Database
from tidemill.store.schema import login_failures

SETTINGS = Settings(
    login_free_attempts=3, login_attempts=10, login_attempts_address=50, login_refused_seconds=300
)


@pytest.fixture
def throttle(database: Database, clock: HandClock) -> Throttle:
    return Throttle(database, clock, SETTINGS)


async def attempt(
    throttle: Throttle, name: str = "alice", address: str = "192.0.2.1", *, right: bool = False
) -> bool:
    """Whether the attempt was let through to compare a password."""
    try:
        async with throttle.attempt(name, address) as made:
            await asyncio.sleep(0)
            made.right = right
    except TooManyAttempts:
        return False
    return True


async def test_failures_are_slowed_and_then_refused(throttle: Throttle, clock: HandClock) -> None:
    assert [await attempt(throttle) for _ in range(12)] == [True] * 10 + [False] * 2
    assert clock.slept == [0, 0, 0, 0.25, 0.5, 1, 2, 2, 2, 2, 0, 0]


async def test_a_refusal_says_how_long_and_ends(throttle: Throttle, clock: HandClock) -> None:
    for _ in range(10):
        await attempt(throttle)
    clock.pass_by(100)
    with pytest.raises(TooManyAttempts) as raised:
        async with throttle.attempt("alice", "192.0.2.1"):
            pass
    assert raised.value.retry_after == 200
    clock.pass_by(200)
    assert await attempt(throttle)


async def test_waiting_attempts_do_not_make_it_longer(throttle: Throttle, clock: HandClock) -> None:
    for _ in range(10):
        await attempt(throttle)
    for _ in range(29):
        clock.pass_by(10)
        assert not await attempt(throttle)
    clock.pass_by(10)
    assert await attempt(throttle, right=True)


async def test_success_clears_the_account(throttle: Throttle, clock: HandClock) -> None:
    for _ in range(9):
        await attempt(throttle)
    assert await attempt(throttle, right=True)
    clock.slept.clear()
    assert [await attempt(throttle) for _ in range(11)] == [True] * 10 + [False]
    assert clock.slept[:3] == [0, 0, 0]


async def test_other_spellings_are_the_same_account(throttle: Throttle) -> None:
    for name in ("alice", "ALICE", " Alice ", "ａｌｉｃｅ", "aliCe"):
        for _ in range(2):
            assert await attempt(throttle, name)
    assert not await attempt(throttle, "Alice")
    assert await attempt(throttle, "bob")


async def test_an_address_that_tries_many_accounts_is_refused(throttle: Throttle) -> None:
    assert all([await attempt(throttle, f"user-{number}") for number in range(50)])
    assert not await attempt(throttle, "user-50")
    assert await attempt(throttle, "user-50", "192.0.2.2")


async def test_an_address_where_everybody_gets_it_right_is_not(throttle: Throttle) -> None:
    assert all([await attempt(throttle, f"user-{number}", right=True) for number in range(120)])


async def test_ipv6_counts_by_network(throttle: Throttle) -> None:
    for number in range(50):
        assert await attempt(throttle, f"user-{number}", f"2001:db8:1:2::{number:x}")
    assert not await attempt(throttle, "user-50", "2001:db8:1:2:ffff::1")
    assert await attempt(throttle, "user-51", "2001:db8:1:3::1")


async def test_many_at_once_do_not_pass_the_limit(throttle: Throttle) -> None:
    through = await asyncio.gather(*(attempt(throttle, address=f"192.0.2.{n}") for n in range(60)))
    assert sum(through) == 10


async def test_two_servers_do_not_double_the_limit(
    database_url: str, throttle: Throttle, clock: HandClock
) -> None:
    other_database = Database(database_url)
    try:
        other = Throttle(other_database, clock, SETTINGS)
        tries = (attempt(server, address=f"192.0.2.{n}") for n in range(15) for server in (throttle, other))
        assert sum(await asyncio.gather(*tries)) == 10
    finally:
        other_database.close()


async def test_the_owner_may_log_in_many_times_at_once(throttle: Throttle) -> None:
    assert all(await asyncio.gather(*(attempt(throttle, right=True) for _ in range(60))))


async def test_a_guess_that_hangs_up_counts(throttle: Throttle) -> None:
    entered = asyncio.Event()

    async def hang() -> None:
        async with throttle.attempt("alice", "192.0.2.1"):
            entered.set()
            await asyncio.Event().wait()

    for _ in range(10):
        entered.clear()
        task = asyncio.create_task(hang())
        await entered.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not await attempt(throttle)


async def test_a_clock_set_back_does_not_refuse_for_longer(throttle: Throttle, clock: HandClock) -> None:
    for _ in range(10):
        await attempt(throttle)
    clock.set_back(86400)
    with pytest.raises(TooManyAttempts) as raised:
        async with throttle.attempt("alice", "192.0.2.1"):
            pass
    assert raised.value.retry_after == 300
    clock.pass_by(300)
    assert await attempt(throttle)


async def test_what_was_typed_is_not_kept(throttle: Throttle, database: Database, clock: HandClock) -> None:
    await attempt(throttle, "my password in the wrong field")
    rows = database.run(lambda connection: connection.execute(login_failures.select()).all())
    assert len(rows) == 2
    assert "password" not in str(rows)
    clock.pass_by(300)
    await attempt(throttle, right=True)
    clock.pass_by(301)
    await attempt(throttle, "bob", "192.0.2.9")
    rows = database.run(lambda connection: connection.execute(login_failures.select()).all())
    assert len(rows) == 2
