"""Removing what bears our label and no instance wants."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from tidemill.clock import Clock
from tidemill.drivers.contract import Driver, DriverError
from tidemill.model.observation import InstanceId
from tidemill.reconcile.step import PATIENCE
from tidemill.settings import Settings

log = structlog.get_logger("reconcile")


class Orphans:
    """Removes an orphan that was seen for longer than the grace period.

    The grace lets an operator who restored an old database notice before anything is lost.
    """

    def __init__(self, clock: Clock, settings: Settings, driver: Driver) -> None:
        self._clock = clock
        self._settings = settings
        self._driver = driver
        self._since: dict[InstanceId, float] = {}

    async def remove(self, unwanted: Iterable[InstanceId]) -> None:
        """Called with everything the engine has and no instance wants, at every full pass."""
        now = self._clock.monotonic()
        self._since = {id: self._since.get(id, now) for id in unwanted}
        for id, since in self._since.items():
            if now - since < self._settings.orphan_grace:
                log.warning("found something of ours that no instance wants", instance=id)
                continue
            try:
                async with asyncio.timeout(self._settings.lease * PATIENCE):
                    await self._driver.ensure_absent(id)
            except (DriverError, TimeoutError) as error:
                log.warning("an orphan could not be removed", instance=id, error=str(error))
            else:
                log.warning("removed an orphan", instance=id)
