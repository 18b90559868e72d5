"""A deployment on the real engine, for the commands that enter instances."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.journeys.running import Server


@contextmanager
def deployment(folder: Path, guest: Path, **options: Any) -> Generator[Server]:
    """A server that runs; all that it made is gone in the end."""
    server = Server(folder / "data", guest=guest, **options)
    try:
        yield server.start()
    finally:
        server.close()


def at(server: Server, token: str) -> Mapping[str, str]:
    """The environment of somebody who is logged in."""
    return {"TIDEMILL_URL": server.url, "TIDEMILL_TOKEN": token}
