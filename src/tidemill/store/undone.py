"""Work that is done to see what would come of it, and taken back before anybody else sees it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import Connection


@contextmanager
def undone(connection: Connection) -> Generator[None]:
    """Take back what is written inside; what it raises takes back the whole transaction, as ever."""
    connection.exec_driver_sql("SAVEPOINT undone")
    yield
    connection.exec_driver_sql("ROLLBACK TO SAVEPOINT undone")
    connection.exec_driver_sql("RELEASE SAVEPOINT undone")
