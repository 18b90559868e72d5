"""That this server lives, said to the others at intervals; and who of the others does no more.

Leases hold as long as their server is present. A server that could not say so for a while stops
working before anybody may take its work over: it is *sure* for three quarters of a lease from the moment
it began its last sign of life, and others wait for a whole one from the moment they saw it. Both count
by monotonic clocks, each by its own. Who was not sure begins anew, under another name and without
leases, and judges the others anew: a database that was away for all makes nobody dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from tidemill.clock import Clock
from tidemill.model.errors import Unavailable
from tidemill.settings import Settings
from tidemill.store import servers
from tidemill.store.database import Database
from tidemill.store.servers import Server

log = structlog.get_logger("presence")

INTERVAL = 0.25  # of a lease: between two signs of life
SURE = 0.75  # of a lease: how long a sign of life is good for oneself


class Presence:
    """One server among those of its deployment. ``name`` is not used by any other, dead or alive."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: Settings,
        *,
        name: str,
        place: str = "",
        address: str = "",
        token_keys: tuple[str, ...] = (),
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self.name = name
        self._place = place
        self._address = address
        self._token_keys = token_keys
        self.others: list[Server] = []  # that were there when it last looked
        self._lives = 1
        self._said: float | None = None  # when the last sign of life that arrived was begun
        self._former: list[str] = []  # lives that ended and may still have leases
        self._heard: dict[str, tuple[int, float]] = {}  # of others: the count, and since when it stands
        self._lost: list[Callable[[], None]] = []
        self._one_at_a_time = asyncio.Lock()

    @property
    def id(self) -> str:
        """Whom leases name; another one after every loss."""
        return self.name if self._lives == 1 else f"{self.name}+{self._lives - 1}"

    @property
    def is_sure(self) -> bool:
        """Whether its leases are its own still."""
        return self._said is not None and self._clock.monotonic() - self._said < self._settings.lease * SURE

    def when_lost(self, act: Callable[[], None]) -> None:
        """Have ``act`` called when the leases are not its own any more."""
        self._lost.append(act)

    async def run(self) -> None:
        """Say it for as long as this runs."""
        while True:
            try:
                await self.keep()
            except Unavailable as error:
                log.error("cannot say that this server lives", error=error.detail or error.message)
            except Exception:  # a defect met once must not be the end of every lease; loud in the log
                log.exception("saying that this server lives failed")
            await self._clock.sleep(self._settings.lease * INTERVAL)

    async def keep(self) -> None:
        """Give a sign of life if it is time to, and bury who gave none. Raises Unavailable."""
        async with self._one_at_a_time:
            if self._said is not None and not self.is_sure:
                self._lose("it could not be said in time")
            began = self._clock.monotonic()
            if self._said is not None and began - self._said < self._settings.lease * INTERVAL / 2:
                return
            everybody = await self._say()
            if everybody is None:
                self._lose("others have taken its work over")
                everybody = await self._say() or []
            self._said = began
            await self._bury(everybody)

    async def leave(self) -> None:
        """Let all leases go. Raises Unavailable; they run out by themselves then."""
        async with self._one_at_a_time:
            ids, now = [*self._former, self.id], self._clock.now()
            self._lose(None)

            def work(connection: Connection) -> None:
                for id in ids:
                    servers.leave(connection, id, now)

            await self._database.write(work)

    def _lose(self, why: str | None) -> None:
        if why is not None:
            log.warning("the leases of this server are lost; it begins anew", why=why)
        self._former.append(self.id)
        self._lives += 1
        self._said = None
        self._heard.clear()
        for act in self._lost:
            act()

    async def _say(self) -> list[Server] | None:
        """Join, or give a sign of life; all that are there then, None when it was buried."""
        joined, former, now = self._said is not None, list(self._former), self._clock.now()
        me = Server(
            id=self.id,
            place=self._place,
            role=self._settings.role,
            address=self._address,
            token_keys=self._token_keys,
            started_at=now,
            seen_at=now,
        )

        def work(connection: Connection) -> list[Server] | None:
            if not joined:
                for id in former:
                    servers.leave(connection, id, now)
                servers.join(connection, me)
            elif not servers.beat(connection, me.id, now):
                return None
            return servers.everybody(connection)

        try:
            async with asyncio.timeout(self._settings.lease * SURE):
                found = await self._database.write(work, durable=False)
        except TimeoutError:
            raise Unavailable(
                "The database is too slow for leases; raise the setting lease if it stays so",
                code="databaseUnavailable",
            ) from None
        except IntegrityError:  # a call that was given up is being carried out after all
            raise Unavailable(
                "The database is still busy with an earlier call of this server", code="databaseUnavailable"
            ) from None
        if not joined:
            self._former = self._former[len(former) :]
        return found

    async def _bury(self, everybody: list[Server]) -> None:
        heard, self._heard, self.others = self._heard, {}, []
        now, ticks = self._clock.now(), self._clock.monotonic()
        for server in everybody:
            if server.id == self.id:
                continue
            count, since = heard.get(server.id, (None, ticks))
            self._heard[server.id] = (server.beats, since if count == server.beats else ticks)
            if ticks - self._heard[server.id][1] >= self._settings.lease and await self._database.write(
                partial(servers.bury, silent=server, at=now), durable=False
            ):
                log.warning("a server fell silent; its work is taken over", server=server.id)
                del self._heard[server.id]
            else:
                self.others.append(server)
