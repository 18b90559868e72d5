"""Telling a database in trouble from a statement that was wrong, and saying the first plainly."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DatabaseError, DBAPIError, InternalError, OperationalError

from tidemill.model.errors import Unavailable


def is_trouble(error: BaseException) -> bool:
    """Whether the database itself gives no answer, is damaged, or cannot write.

    SQLite says so of a damaged file by the bare class ``DatabaseError``.
    """
    if isinstance(error, sqlite3.Error):  # from a transaction that was begun or ended by hand
        return isinstance(error, sqlite3.OperationalError | sqlite3.InternalError) or (
            type(error) is sqlite3.DatabaseError
        )
    return isinstance(error, OperationalError | InternalError) or type(error) is DatabaseError


def unavailable(error: BaseException) -> Unavailable:
    """What a caller reads of a database in trouble; the engine's words go into the log."""
    return Unavailable(
        "The database does not answer or cannot write; nothing was changed, please try again later",
        code="databaseUnavailable",
        detail=str(error.orig if isinstance(error, DBAPIError) else error),
    )
