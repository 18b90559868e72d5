"""What the servers of one deployment must agree on before one more of them begins to work.

Whoever fell silent is waited for until it is buried; with whoever is alive there is agreement, or the
new one does not start and says why.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import URL

from tidemill.clock import Clock
from tidemill.model.errors import Misconfigured
from tidemill.reconcile.presence import INTERVAL, Presence
from tidemill.settings import Settings
from tidemill.store.servers import Server

WAIT = 1.5  # of a lease: whoever is silent is buried by then

Check = Callable[[list[Server]], str]


def check_role(settings: Settings, url: URL) -> None:
    """SQLite's file has one server, which has to do everything. Raises Misconfigured."""
    if url.get_backend_name() == "sqlite" and settings.role != "all":
        raise Misconfigured(
            f"A server that is {settings.role} alone needs others beside it, and SQLite has room for one: "
            'set database_url to a PostgreSQL, or role to "all"'
        )


async def agree(presence: Presence, clock: Clock, settings: Settings, check: Check) -> None:
    """Be there, once ``check`` finds nothing wrong with the others. Raises Misconfigured, Unavailable."""
    until = clock.monotonic() + settings.lease * WAIT
    while True:
        await presence.keep()
        wrong = check(presence.others)
        if not wrong:
            return
        if clock.monotonic() >= until:
            raise Misconfigured(wrong)
        await clock.sleep(settings.lease * INTERVAL)


def copies_of(place: str) -> Check:
    """Nobody works from a copy of this data folder (``place`` is "name@where")."""
    folder = place.partition("@")[0]

    def check(others: list[Server]) -> str:
        copies = [each for each in others if each.place and each.place.partition("@")[0] == folder]
        if not copies:
            return ""
        return (
            f"The server {copies[0].id} works from a copy of this data folder. Disks and engine belong to "
            "one of them: stop the other, or give this one a data folder of its own"
        )

    return check


def strangers_to(token_keys: tuple[str, ...]) -> Check:
    """Everybody verifies what everybody else signs; the last of a server's keys is the one that signs."""

    def check(others: list[Server]) -> str:
        for other in others:
            if other.token_keys and not (
                other.token_keys[-1] in token_keys and token_keys[-1] in other.token_keys
            ):
                return (
                    f"The server {other.id} signs access tokens with other keys, and whoever logged in there "
                    "would be nobody here: make the folder keys/ of both data folders the same"
                )
        return ""

    return check
