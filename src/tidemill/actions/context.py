"""What every action is handed: the stores and bells of one server, put together in server/."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from tidemill.actions.news import News
from tidemill.actions.tokens import Tokens
from tidemill.clock import Clock
from tidemill.drivers.contract import Driver
from tidemill.metrics import Metrics
from tidemill.settings import Settings
from tidemill.store.database import Database
from tidemill.wake import Wake


@dataclass(frozen=True, slots=True)
class Context:
    """``drivers`` by region id; an action only ever reads through them (logs, health).
    ``stopping`` is set when the server is to stop: what would go on for long ends."""

    database: Database
    clock: Clock
    wake: Wake
    settings: Settings
    tokens: Tokens
    drivers: Mapping[str, Driver]
    news: News
    metrics: Metrics = field(default_factory=Metrics)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
