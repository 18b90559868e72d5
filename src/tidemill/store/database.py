"""One way into SQLite and PostgreSQL: a transaction is a plain function of a connection.

``await database.write(work)`` runs ``work(connection)`` in a transaction and returns what it returned
once that is durable; ``read`` does the same without writing. The function must touch nothing but the
connection and its arguments: it may be run again.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tidemill.metrics import Metrics
from tidemill.model.errors import Misconfigured, Unavailable
from tidemill.store.sqlite import Sqlite
from tidemill.store.trouble import why_not_written

if TYPE_CHECKING:
    from tidemill.store.postgres import Postgres

CONNECTIONS = 8
HOLDS_SECONDS = 60.0
RECORDED = "tidemill.recorded"  # in a connection's info: its transaction wrote down an event

T = TypeVar("T")
Work = Callable[[Connection], T]


class Database:
    """A database. Raises Unavailable when it gives no answer, is damaged, or its disk is full.

    Its message says whether nothing was changed or that is not known. Made from a SQLAlchemy URL, with
    at most about so many ``connections`` to a PostgreSQL. Raises Misconfigured for one that leads nowhere.
    """

    def __init__(self, url: str, *, connections: int = CONNECTIONS) -> None:
        self.url = parsed(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._backend = Sqlite(self.url) if self.is_sqlite else _postgres(self.url, connections)
        self._metrics = Metrics()
        self._when_recorded: list[Callable[[], None]] = []
        self._failing: dict[bool, tuple[str, float]] = {}  # by durable: why, and when

    def count_in(self, metrics: Metrics) -> None:
        """Have transactions counted there from here on."""
        self._metrics = metrics

    def when_recorded(self, ring: Callable[[], None]) -> None:
        """Have ``ring`` called after each transaction of this process that wrote down an event."""
        self._when_recorded.append(ring)

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Run ``work`` in a transaction; returns after it is durable. Raises what ``work`` raises.

        What may be lost when the machine loses its power (a lease, a hint when to look again) says
        ``durable=False`` and does not wait for the disk. No process of ours that dies loses it.
        """
        recorded = False

        def noticed(connection: Connection) -> T:
            nonlocal recorded
            connection.info.pop(RECORDED, None)  # of whoever had the connection before, and failed
            result = work(connection)
            recorded = connection.info.pop(RECORDED, False)
            return result

        with self._metrics.transaction("write" if durable else "relaxedWrite"):
            try:
                result = await self._backend.write(noticed, durable)
            except Unavailable as error:
                self._failing[durable] = (why_not_written(error), monotonic())
                raise
        self._failing.pop(durable, None)
        if recorded:
            for ring in self._when_recorded:
                ring()
        return result

    @property
    def cannot_write(self) -> str:
        """Why the last write failed, in a few words; "" when it did not.

        Somebody always writes (every server's sign of life), so it costs no write to know. Signs of life
        are small and may still fit on a full disk: what durable writes failed of holds for a minute,
        or until one succeeds.
        """
        for durable, (why, at) in self._failing.items():
            if not durable or monotonic() - at < HOLDS_SECONDS:
                return why
        return ""

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` on a consistent view of what is committed; it takes no more than milliseconds."""
        with self._metrics.transaction("read"):
            return await self._backend.read(work)

    async def read_much(self, work: Work[T]) -> T:
        """The same for work that may take long: others go on meanwhile."""
        with self._metrics.transaction("longRead"):
            return await self._backend.read_much(work)

    def run(self, work: Work[T]) -> T:
        """The same as ``write`` on the calling thread, for callers without an event loop."""
        return self._backend.run(work)

    def run_once(self, work: Work[T]) -> T:
        """The same without another attempt where a PostgreSQL gives no answer: for who is told so at once."""
        return self._backend.run_once(work)

    def close(self) -> None:
        """Let every connection go; what was not committed is not done."""
        self._backend.close()


def _postgres(url: URL, connections: int) -> Postgres:
    """With its driver, which takes a tenth of a short command's time to load."""
    from tidemill.store.postgres import Postgres

    return Postgres(url, connections)


def parsed(url: str) -> URL:
    """The URL of a database this version knows; ``postgres://`` is another spelling. Raises Misconfigured."""
    try:
        found = make_url(url.replace("postgres://", "postgresql://", 1))
    except (ArgumentError, ValueError):  # a port that is no number
        found = None
    if found is not None and found.get_backend_name() == "postgresql":
        return found.set(drivername="postgresql+psycopg")
    if found is not None and found.drivername == "sqlite" and found.database not in {None, "", ":memory:"}:
        return found
    raise Misconfigured(  # the URL may hold a password: not shown
        "setting database_url is no URL of a database this version knows "
        "(sqlite:////path/to/file, postgresql://user:password@host/name)"
    )
