"""How far everything that happened is known, and who of those that listen has news.

One for a server, at work while somebody listens: one look at the database for all of them, when it is rung
(something was recorded, here or by another server), and at a slow beat in case a ring was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from tidemill.logs import Logger
from tidemill.model.errors import TooManyAttempts, Unavailable
from tidemill.store import news
from tidemill.store.database import Database
from tidemill.wake import Wake

log = Logger("news")

BEAT = 2.0  # seconds between looks when nothing rings
PACE = 0.05  # seconds between looks however often it rings
GAP_PACE, GAP_PACE_MOST = 0.02, 0.5  # seconds between looks whether a gap is filled
MOST = 1000  # numbers that one look takes
LISTENERS_MOST = 100  # of one user at one server
PATIENCE = 10.0  # seconds that a new listener waits to be told where it begins


class Listener:
    """One that waits to hear of one user's instances; any number of rings before it looks are one."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self) -> None:
        """Until there may be something new."""
        await self._rung.wait()
        self._rung.clear()


class News:
    """``known`` is the number up to which every event that ever will have one has been seen."""

    def __init__(self, database: Database) -> None:
        self.wanted = asyncio.Event()  # somebody listens, or did
        self.known = 0
        self._database = database
        self._bell = Wake()
        self._listeners: dict[str, set[Listener]] = {}
        self._work: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self._gaps = _Gaps()

    def ring(self) -> None:
        """Something was recorded, here or elsewhere."""
        self._bell.set()

    @contextmanager
    def listening(self, user_id: str) -> Generator[Listener]:
        """Raises TooManyAttempts when so many listen for the user already."""
        mine = self._listeners.setdefault(user_id, set())
        if len(mine) >= LISTENERS_MOST:
            raise TooManyAttempts(
                f"This account has {LISTENERS_MOST} event streams open at this server; close one first",
                retry_after=round(BEAT),
            )
        listener = Listener()
        mine.add(listener)
        if self._work is None:
            self._begun, self._gaps = asyncio.Event(), _Gaps()
            self._work = asyncio.create_task(self._run(), name="news")
            self.wanted.set()
        try:
            yield listener
        finally:
            mine.discard(listener)
            if not mine:
                self._listeners.pop(user_id, None)
            self._rest()

    def _rest(self) -> None:
        """Look no more when nobody listens."""
        if not self._listeners and self._work is not None:
            self._work.cancel()
            self._work = None

    async def begun(self) -> None:
        """Until ``known`` is known, for who listens: a moment, right after nobody did. Raises Unavailable."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._begun.wait()
        except TimeoutError:
            raise Unavailable(
                "The database gives no answer; try again later", code="databaseUnavailable"
            ) from None

    async def _run(self) -> None:
        silent = False
        while True:
            pause = BEAT
            try:
                if await self._look():
                    pause = 0.0
                elif self._gaps.open:
                    pause = self._gaps.pause()
                silent = False
            except Unavailable as error:
                if not silent:
                    log.warning("no news from the database", error=error.detail or error.message)
                silent = True
            except Exception:  # a defect of one look is not to end all that come after it; loud in the log
                log.exception("looking for news failed")
            if pause:
                await self._bell.wait(pause)
                await asyncio.sleep(min(pause, PACE))

    async def _look(self) -> bool:
        """Move ``known`` on and ring whoever has news; whether there is more to be seen at once."""
        if not self._begun.is_set():
            await self._begin()
            return False
        known, gaps = self.known, self._gaps
        rows = await self._after(known)
        whole = _without_gap(known, rows)
        over = False
        if whole < len(rows):  # numbers are missing: on their way, or for ever
            if not gaps.open:
                gaps.found(rows[-1][0])
            gaps.seen_with(await self._database.read(news.writers))
            over = gaps.are_over
        if over:  # what was on its way has arrived: what is missing now stays so
            rows = await self._after(known)
            whole = max(_without_gap(known, rows), sum(seq <= gaps.below for seq, _ in rows))
        if over or whole == len(rows):
            gaps.close()
        if whole:
            self.known = rows[whole - 1][0]
        for user_id in {user_id for _, user_id in rows[:whole]}:
            for listener in self._listeners.get(user_id, ()):
                listener.ring()
        return whole == MOST or (over and whole < len(rows))

    async def _begin(self) -> None:
        """Behind all there is, once that is all."""
        if not self._gaps.open:
            self._gaps.found(await self._database.read(news.newest))
        self._gaps.seen_with(await self._database.read(news.writers))
        if self._gaps.are_over:
            self.known = self._gaps.below
            self._gaps.close()
            self._begun.set()

    async def _after(self, known: int) -> list[tuple[int, str]]:
        return await self._database.read(lambda connection: news.after(connection, known, MOST))


class _Gaps:
    """Numbers that are missing below one that was seen, and who may still fill them."""

    def __init__(self) -> None:
        self.below = 0
        self.open = False
        self._suspects: frozenset[str] | None = None
        self._pause = GAP_PACE

    @property
    def are_over(self) -> bool:
        """Nobody is left who may fill one."""
        return self._suspects is not None and not self._suspects

    def found(self, below: int) -> None:
        self.below, self.open, self._suspects, self._pause = below, True, None, GAP_PACE

    def seen_with(self, writers: frozenset[str]) -> None:
        """``writers`` were looked for after the gap was seen: who comes later draws higher numbers."""
        self._suspects = writers if self._suspects is None else self._suspects & writers

    def close(self) -> None:
        """They are filled, or gaps for ever."""
        self.open, self._suspects = False, None

    def pause(self) -> float:
        """Seconds until the next look."""
        pause, self._pause = self._pause, min(2 * self._pause, GAP_PACE_MOST)
        return pause


def _without_gap(known: int, rows: list[tuple[int, str]]) -> int:
    """How many rows at the beginning follow ``known``, and each other, without a number missing."""
    return next((at for at, (seq, _) in enumerate(rows) if seq != known + 1 + at), len(rows))
