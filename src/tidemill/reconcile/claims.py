"""The leases of one loop: taken, given back, and none forgotten.

A lease ends with its server and not by itself, so one that nobody works on must not stay: the answer to
a claim or to giving it back may be lost, and a pass may end in the middle. Whenever one did, the next
pass gives back whatever is leased to this loop and not being worked on.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from tidemill.clock import Clock
from tidemill.model.instance import Instance
from tidemill.model.observation import InstanceId
from tidemill.reconcile.presence import Presence
from tidemill.reconcile.step import LeaseLost
from tidemill.store import leases
from tidemill.store.database import Database


class Claims:
    """The leases of a region that one server has, as long as its ``presence`` is sure."""

    def __init__(self, database: Database, clock: Clock, region_id: str, presence: Presence) -> None:
        self._taking = False
        self._unsettled = False
        self._database = database
        self._clock = clock
        self._region_id = region_id
        self._presence = presence

    @property
    def in_doubt(self) -> bool:
        """Whether there may be some that nobody works on."""
        return self._taking or self._unsettled

    def taken(self) -> None:
        """What was taken last is being worked on."""
        self._taking = False

    async def take(self, ids: Collection[InstanceId], owner: str, most: int) -> list[Instance]:
        """Those that are due, or named in ``ids``; in doubt until the caller says :meth:`taken`.

        Raises LeaseLost, Unavailable.
        """
        if most <= 0:
            return []
        if not self._presence.is_sure:
            raise LeaseLost
        now = self._clock.now()

        def work(connection: Connection) -> list[Instance]:
            return leases.claim(
                connection, owner=owner, now=now, region_id=self._region_id, ids=ids, limit=most
            )

        self._taking = True
        try:
            return await self._database.write(work, durable=False)
        except IntegrityError:  # buried meanwhile: the next sign of life begins anew
            raise LeaseLost from None

    async def settle(self, id: InstanceId, owner: str, version: int, due: datetime | None) -> bool:
        """Give one back and say when to look again; False when the instance was changed since ``version``.

        Raises Unavailable.
        """
        try:
            return await self._database.write(
                lambda connection: leases.settle(connection, id, owner, version, due), durable=False
            )
        except BaseException:
            self._unsettled = True
            raise

    async def settle_forgotten(self, working: Collection[InstanceId]) -> None:
        """Give back what is not in ``working``. Raises Unavailable."""
        owner, now, kept = self._presence.id, self._clock.now(), list(working)
        self._taking = self._unsettled = False
        try:
            await self._database.write(
                lambda connection: leases.settle_all_but(connection, self._region_id, owner, kept, now),
                durable=False,
            )
        except BaseException:
            self._unsettled = True
            raise
