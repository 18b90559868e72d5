"""PostgreSQL: transactions on threads, tried again where that is safe, and never waited for too long.

Writing transactions are READ COMMITTED: a statement that meets another's row waits for it and looks
again, and what must not race is a constraint, a guarded update or a lock on a row. Reading ones see
one snapshot and may not write. Both are chosen here and not by the server's defaults.

An attempt that surely changed nothing (a deadlock, a lock that was not given, a connection that broke
before the commit was sent) is made again until ``PATIENCE`` is over. Where the answer to a commit is
lost nobody knows whether it was done: it is said, and never tried again.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, ExceptionContext, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tidemill.model.errors import Misconfigured
from tidemill.store.trouble import is_trouble, refusal, sqlstate, unavailable, unknown

T = TypeVar("T")
Work = Callable[[Connection], T]

LEAST_VERSION = 14
PATIENCE = 10.0  # seconds that one call may take, with all its attempts
MUCH_PATIENCE = 60.0  # the same for what reads much
PAUSE, PAUSE_MOST = 0.02, 0.5
CONNECT_SECONDS = 3
CLOSE_SECONDS = 2.0

_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_WRITE_RELAXED = f"{_WRITE}; SET LOCAL synchronous_commit = off"
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_READ_MUCH = f"{_READ}; SET LOCAL statement_timeout = '{MUCH_PATIENCE:.0f}s'"

# Nothing of ours waits for long: not for a lock that somebody keeps, and no other server for a lock
# of one that froze or fell off the network in the middle of a transaction. Compiling a query pays for
# none of ours.
_SESSION = """
SET lock_timeout = '4s';
SET statement_timeout = '10s';
SET idle_in_transaction_session_timeout = '5s';
SET client_connection_check_interval = '2s';
SET tcp_keepalives_idle = 5;
SET tcp_keepalives_interval = 2;
SET tcp_keepalives_count = 3;
SET tcp_user_timeout = '10s';
SET timezone = 'UTC';
SET jit = off
"""
OURS: dict[str, Any] = {  # the same from our side; what the URL says goes first
    "connect_timeout": CONNECT_SECONDS,
    "fallback_application_name": "tidemill",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "target_session_attrs": "primary",
}

# A serialization failure, a deadlock, a lock not given in time: rolled back, and may fare better.
_AGAIN = {"40001", "40P01", "55P03"}
_READ_ONLY = "25006"
_OLD_PLAN = "0A000"  # as prepared before another server's migration, among others


class Postgres:
    """One server's connections: half of them for writing, so that a lock that is kept stops no reader."""

    def __init__(self, url: URL, connections: int) -> None:
        each = max(1, connections // 2)
        self._writers = ThreadPoolExecutor(each, thread_name_prefix="database-write")
        self._readers = ThreadPoolExecutor(each, thread_name_prefix="database-read")
        self._running: dict[Future[Any], _Call] = {}
        self._engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=2 * each,
            max_overflow=2,  # for ``run``, on threads that are not ours
            connect_args={name: value for name, value in OURS.items() if name not in url.query},
            hide_parameters=True,
        )
        event.listen(self._engine, "connect", _connected)
        event.listen(self._engine, "handle_error", _without_values)

    async def write(self, work: Work[T], durable: bool) -> T:
        return await self._call(self._writers, _WRITE if durable else _WRITE_RELAXED, work, PATIENCE)

    async def read(self, work: Work[T]) -> T:
        return await self._call(self._readers, _READ, work, PATIENCE)

    async def read_much(self, work: Work[T]) -> T:
        return await self._call(self._readers, _READ_MUCH, work, MUCH_PATIENCE)

    def run(self, work: Work[T]) -> T:
        """The same on the calling thread. Raises Misconfigured at once when the server lets us not in."""
        return self._attempts(_WRITE, work, _Call(PATIENCE), at_start=True)

    def run_once(self, work: Work[T]) -> T:
        """The same, and one attempt."""
        return self._attempts(_WRITE, work, _Call(0.0), at_start=True)

    async def _call(self, pool: ThreadPoolExecutor, begin: str, work: Work[T], patience: float) -> T:
        call = _Call(patience)
        future = pool.submit(self._attempts, begin, work, call)
        self._running[future] = call
        future.add_done_callback(partial(self._running.pop))
        watch = asyncio.get_running_loop().call_later(patience, call.give_up)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))  # who goes away takes back no work
        finally:
            if future.done():
                watch.cancel()

    def _attempts(self, begin: str, work: Work[T], call: _Call, *, at_start: bool = False) -> T:
        """Run ``work`` until it is committed, is wrong, or time is over."""
        pause = PAUSE
        while True:
            try:
                return self._attempt(begin, work, call)
            except DBAPIError as error:
                if call.committing and (_is_lost(error) or sqlstate(error) is None):
                    raise unknown(error) from error
                if sqlstate(error) == _OLD_PLAN and pause == PAUSE:  # once
                    again = True
                elif not is_trouble(error) or (sqlstate(error) == _READ_ONLY and begin.startswith(_READ)):
                    raise
                else:
                    again = _may_try_again(error)
                refused = refusal(error, self._engine.url)
                if refused is not None:  # to wait does not help; who calls the API is not told why
                    raise (refused if at_start else unavailable(error)) from error
                wait_for = random.uniform(pause / 2, pause)  # noqa: S311 - no secret: so that two part ways
                if not again or not call.has_time(wait_for):
                    raise unavailable(error) from error
                time.sleep(wait_for)
                pause = min(2 * pause, PAUSE_MOST)

    def _attempt(self, begin: str, work: Work[T], call: _Call) -> T:
        call.committing = False
        call.must_not_be_over()
        connection = self._engine.connect()
        raw: psycopg.Connection[Any] = connection.connection.dbapi_connection  # type: ignore[assignment]
        call.holds(raw)
        try:
            call.must_not_be_over()
            connection.exec_driver_sql(begin)
            result = work(connection)
            if raw.info.transaction_status is TransactionStatus.INERROR:
                raise RuntimeError("an error of the database was passed over: a commit would do nothing")
            call.committing = True
            connection.commit()
            return result
        except BaseException:
            with suppress(Exception):
                connection.rollback()
            raise
        finally:
            call.holds(None)
            connection.close()

    def close(self) -> None:
        """Let every connection go, also one that gives no answer."""
        running = dict(self._running)
        wait(running, timeout=CLOSE_SECONDS)
        for call in running.values():
            call.give_up()
        for pool in (self._writers, self._readers):
            pool.shutdown(wait=True, cancel_futures=True)
        self._engine.dispose()


class _Call:
    """One call of somebody's, with its attempts; it can be cut short while it waits for the server."""

    def __init__(self, patience: float) -> None:
        self.committing = False
        self._until = time.monotonic() + patience
        self._given_up = False
        self._connection: psycopg.Connection[Any] | None = None

    def has_time(self, seconds: float) -> bool:
        return not self._given_up and time.monotonic() + seconds < self._until

    def must_not_be_over(self) -> None:
        """Raises Unavailable when nobody waits any more: it waited for its turn, or for a connection."""
        if self._given_up:
            raise unavailable(TimeoutError("no connection to the database was free in time"))

    def holds(self, connection: psycopg.Connection[Any] | None) -> None:
        self._connection = connection

    def give_up(self) -> None:
        """End the wait by ending the connection: a server that froze answers to nothing else."""
        self._given_up = True
        connection = self._connection
        if connection is None:
            return
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


def _is_lost(error: DBAPIError) -> bool:
    """Whether the connection broke, rather than the server answering with an error."""
    return error.connection_invalidated


def _may_try_again(error: DBAPIError) -> bool:
    state = sqlstate(error)
    if state is None or _is_lost(error):  # no connection, or it broke before the commit was sent
        return True
    return state in _AGAIN or state == _READ_ONLY


def _connected(connection: psycopg.Connection[Any], _record: object) -> None:
    version = connection.info.server_version
    if version < LEAST_VERSION * 10_000:
        raise Misconfigured(
            f"The database is PostgreSQL {version // 10_000}; {LEAST_VERSION} or newer is needed"
        )
    connection.autocommit = True  # transactions begin where we say, in one exchange with their options
    connection.execute(_SESSION)


def _without_values(context: ExceptionContext) -> None:
    """Leave out what the server adds to an error: whole rows, with the secrets in them."""
    original, wrapped = context.original_exception, context.sqlalchemy_exception
    if isinstance(original, psycopg.Error) and original.diag.message_primary:
        original.args = (original.diag.message_primary,)
        if wrapped is not None:
            wrapped.args = (f"({type(original).__qualname__}) {original}",)
    if sqlstate(original) == _READ_ONLY:
        context.is_disconnect = True  # the next attempt finds the server that writes
