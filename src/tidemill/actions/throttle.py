"""Slows password guessing down and then refuses it, per account and per address.

An attempt is counted as failed before it is known how it ends, and taken back when it was right:
however many arrive at once, no more than the limit get through. Within one server the attempts on
one account take turns, so that the owner's own logins at the same moment do not count against
each other. A refusal does not depend on whether the account exists.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from tidemill.clock import Clock
from tidemill.model.errors import TooManyAttempts
from tidemill.settings import Settings
from tidemill.store import accounts, login_failures
from tidemill.store.database import Database
from tidemill.store.login_failures import Failures

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 2.0
AT_ONCE = 2  # passwords compared at the same time: each takes 64 MiB


@dataclass(slots=True)
class Attempt:
    """One attempt; set ``right`` when the password was the right one."""

    right: bool = False


class Throttle:
    """One per server."""

    def __init__(self, database: Database, clock: Clock, settings: Settings) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._window = timedelta(seconds=settings.login_refused_seconds)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._comparing = asyncio.Semaphore(AT_ONCE)

    @asynccontextmanager
    async def attempt(self, username: str, address: str) -> AsyncGenerator[Attempt]:
        """Compare a password inside of this. Raises TooManyAttempts when there were too many."""
        account, place = _account(username), _address(address)
        turn = self._turns.setdefault(account, asyncio.Lock())
        async with turn:
            await self._clock.sleep(await self._pause(account))
            async with self._comparing:
                await self._count(account, place)
                attempt = Attempt()
                try:
                    yield attempt
                finally:
                    if attempt.right:
                        await self._take_back(account, place)

    async def _pause(self, account: str) -> float:
        """Seconds that the answer waits; 0 for one that will be refused anyway."""
        now = self._clock.now()
        row = await self._database.read(lambda connection: login_failures.read(connection, account))
        count = self._recent(row, now)
        over = count - self._settings.login_free_attempts
        if over < 0 or count >= self._settings.login_attempts:
            return 0.0
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**over)

    async def _count(self, account: str, place: str) -> None:
        now = self._clock.now()
        limits = (
            (place, self._settings.login_attempts_address),
            (account, self._settings.login_attempts),
        )

        def work(connection: Connection) -> datetime | None:
            rows = [
                (subject, login_failures.lock(connection, subject, now), most) for subject, most in limits
            ]
            for subject, row, most in rows:
                if self._recent(row, now) >= most:
                    since = min(row.last_at, now)  # the clock may have been set back
                    login_failures.write(connection, subject, row.count, since)
                    return since + self._window
            for subject, row, _ in rows:
                login_failures.write(connection, subject, self._recent(row, now) + 1, now)
            login_failures.sweep(connection, now, self._window)
            return None

        until = await self._database.write(work)
        if until is not None:
            raise TooManyAttempts(
                "Too many failed logins; please wait before trying again",
                retry_after=max(1, math.ceil((until - now).total_seconds())),
            )

    async def _take_back(self, account: str, place: str) -> None:
        def work(connection: Connection) -> None:
            login_failures.take_back(connection, place)
            login_failures.forget(connection, account)

        await self._database.write(work)

    def _recent(self, row: Failures | None, now: datetime) -> int:
        return 0 if row is None or now - row.last_at >= self._window else row.count


def _account(username: str) -> str:
    """Hashed: people type passwords into the wrong field, and any length fits."""
    return "account:" + hashlib.sha256(accounts.normalised(username).encode()).hexdigest()


def _address(address: str) -> str:
    """The address, or for IPv6 its /64: whoever has one has the whole."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "address:" + hashlib.sha256(address.encode()).hexdigest()
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return f"address:{parsed.ipv4_mapped}"
        return f"address:{ipaddress.ip_network((int(parsed), 64), strict=False)}"
    return f"address:{parsed}"
