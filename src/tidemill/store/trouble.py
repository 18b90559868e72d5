"""Telling a database in trouble from a statement that was wrong, and saying the first plainly."""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, DBAPIError, InternalError, OperationalError

from tidemill.model.errors import Misconfigured, Unavailable

# SQLSTATE classes and codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_TROUBLE = (
    "08",  # the connection
    "25006",  # a server that only reads: a standby, or one that is being replaced
    "25P03",  # our transaction was idle for too long
    "25P04",  # or took too long in all
    "28",  # it does not let us in
    "3D",  # no such database
    "40",  # serialization failures and deadlocks
    "42501",  # it lets us in and forbids us the tables
    "53",  # disk full, out of memory, too many connections
    "55P03",  # a lock that was not given in time
    "57",  # an operator, or a timeout, ended it
    "58",  # its own disk or files
    "XX",  # damaged
)

# What does not pass by itself: SQLSTATE; the words of a server that lets nobody in, for which libpq has no
# code; and what to do.
_REFUSALS = (
    (
        "3D000",
        re.compile(r'database ".*" does not exist'),
        "There is no database {database} on {host}; create it (createdb {database}), or name another in the "
        "setting database_url",
    ),
    (
        "28P01",
        re.compile("password authentication failed|no password supplied"),
        "{host} refuses the password of the user {user}; put the right one into the setting database_url",
    ),
    (
        "28000",
        re.compile(
            r'role ".*" does not exist|no pg_hba.conf entry|authentication failed for user|'
            "not permitted to log in"
        ),
        "{host} does not let the user {user} in; make that user (createuser {user}), or allow it in "
        "pg_hba.conf",
    ),
    (
        "42501",
        re.compile("permission denied for"),
        "The user {user} has no rights to the tables of the database {database} on {host}; make it their "
        "owner (ALTER DATABASE {database} OWNER TO {user}; the tables of an older owner: REASSIGN OWNED)",
    ),
)


def refusal(error: BaseException, url: URL) -> Misconfigured | None:
    """What only the operator of a PostgreSQL can mend, with what to do; None for what may pass.

    It shows no password.
    """
    state, words = sqlstate(error), _words(error)
    for code, said, meaning in _REFUSALS:
        if state == code or (state is None and said.search(words)):
            host = f"the PostgreSQL at {url.host or url.query.get('host') or 'its default place'}"
            told = meaning.format(host=host, user=url.username or "of this process", database=url.database)
            return Misconfigured(told[0].upper() + told[1:], detail=words)
    return None


def is_trouble(error: BaseException) -> bool:
    """Whether the database itself gives no answer, is damaged, or cannot write.

    SQLite says so of a damaged file by the bare class ``DatabaseError``.
    """
    if isinstance(error, sqlite3.Error):  # from a transaction that was begun or ended by hand
        return isinstance(error, sqlite3.OperationalError | sqlite3.InternalError) or (
            type(error) is sqlite3.DatabaseError
        )
    state = sqlstate(error)
    if state is not None:
        return state.startswith(_TROUBLE)
    return isinstance(error, OperationalError | InternalError) or type(error) is DatabaseError


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code of an error; None when the error is not the server's own answer."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlstate", None)  # psycopg's have one


def unavailable(error: BaseException) -> Unavailable:
    """What a caller reads of a database in trouble; the engine's words go into the log."""
    return Unavailable(
        "The database does not answer or cannot write; nothing was changed, please try again later",
        code="databaseUnavailable",
        detail=_words(error),
    )


_NOT_WRITTEN = (  # the engines' words, and ours: theirs may name machines
    (re.compile(r"disk is full|no space left|disk full", re.I), "its disk is full"),
    (re.compile(r"read-?only|recovery|hot standby", re.I), "it can only be read"),
    (re.compile(r"is locked|lock timeout", re.I), "somebody else holds it"),
    (re.compile(r"disk I/O|input/output", re.I), "its disk fails"),
)


def why_not_written(error: Unavailable) -> str:
    """Why a write failed, in words for anybody."""
    return next((ours for theirs, ours in _NOT_WRITTEN if theirs.search(error.detail)), "it does not answer")


def unknown(error: BaseException) -> Unavailable:
    """The same where the answer to a commit was lost: it may have been done."""
    return Unavailable(
        "The database gave no answer at the last moment: whether this was done is not known. Look before "
        "you ask for it again; a launch with an Idempotency-Key can be asked for again as it is",
        code="outcomeUnknown",
        detail=_words(error),
    )


def _words(error: BaseException) -> str:
    return str(error.orig if isinstance(error, DBAPIError) else error)
