"""The audit of a database, for tests: what differs, as sentences."""

from __future__ import annotations

from tidemill.audit.books import compare
from tidemill.store.database import Database


def differences(database: Database) -> list[str]:
    """Nothing, when both books agree."""
    found = database.run(compare)
    return [f"{one.about}: {one.meaning}" for one in found.differences]
