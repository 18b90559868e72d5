"""One audit of a deployment: open its database, compare on one consistent view, leave."""

from __future__ import annotations

import asyncio

from tidemill.audit.books import compare
from tidemill.audit.findings import Findings
from tidemill.deployment import present_url
from tidemill.settings import Settings
from tidemill.store.database import Database


def visit(settings: Settings) -> Findings:
    """The whole of it. Raises Misconfigured where there is no deployment, Unavailable."""
    database = Database(present_url(settings).render_as_string(hide_password=False))
    try:
        return asyncio.run(database.read_much(compare))
    finally:
        database.close()
