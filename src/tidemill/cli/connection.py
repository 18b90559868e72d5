"""The client that a command speaks through."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tidemill.cli.failures import Exit, Failure

if TYPE_CHECKING:
    from tidemill.cli.access import Access
    from tidemill.client import Client

PATIENCE = 30.0  # seconds without a byte of an answer
ATTEMPTS = 3  # somebody sits there and waits


@contextmanager
def connected(said: str | None = None, *, own: bool = False) -> Generator[Client]:
    """As whoever is logged in at the server that ``--server`` and ``--self`` say. Raises Failure."""
    from tidemill.cli.access import chosen

    access = chosen(said, own=own)
    if not access.is_logged_in:
        raise Failure(
            f"Nobody is logged in at {access.server.url}",
            exit=Exit.NOT_LOGGED_IN,
            code="notLoggedIn",
            next="Log in with: tidemill login",
        )
    with client_of(access) as client:
        yield client


def client_of(access: Access, *, patience: float = PATIENCE) -> Client:
    """Close it, or use it in ``with``."""
    from tidemill.client import Client, Retries

    return Client(
        access.server.url,
        api_key=access.api_key,
        token=access.token,
        timeout=patience,
        retries=Retries(attempts=ATTEMPTS, patience=patience),
    )
