"""What every action is handed: the stores and bells of one server, put together in server.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.actions.tokens import Tokens
from tidemill.clock import Clock
from tidemill.drivers.contract import Driver
from tidemill.settings import Settings
from tidemill.store.database import Database
from tidemill.wake import Wake


@dataclass(frozen=True, slots=True)
class Context:
    """``drivers`` by region id; an action only ever reads through them (logs, health)."""

    database: Database
    clock: Clock
    wake: Wake
    settings: Settings
    tokens: Tokens
    drivers: Mapping[str, Driver]
