"""The same money is not spent twice, however many ask at once and whoever they ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.journeys.running import Server, Tenant
from tests.postgres import PostgresServer
from tests.servers.cluster import TINY, cluster
from tests.stock import MONEY

from tidemill.model.ledger import PAYMENTS, Cause, Line, Posting, balance_of
from tidemill.store import accounts, ledger
from tidemill.store.database import Database
from tidemill.store.schema import entries, holds, instances

pytestmark = pytest.mark.slow

ASKED, PAID_FOR = 200, 37
UNIT = 1_000_000  # the hour's price, in micro-units


@pytest.fixture(params=["sqlite", "three servers on postgresql"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Server]]:
    if request.param == "sqlite":
        own = {"driver": "simulated", "node_ports": "1025-65535", "cpu_overcommit": 100}
        server = Server(tmp_path, settings=own, tables={"type": [TINY]}).start()
        yield [server]
        server.stop()
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    url = postgres.new_database()
    with cluster(tmp_path, url) as made:
        made.add()
        made.add()
        made.add()
        yield list(made.members)
    postgres.drop(url)


def _has(database: Database, username: str, amount: int) -> None:
    """Pay out all but ``amount``."""

    def work(connection: object) -> None:
        user = accounts.by_username(connection, username)  # type: ignore[arg-type]
        assert user is not None
        line = Line(balance_of(user.id), PAYMENTS, MONEY - amount)
        posting = Posting("out", datetime.now(UTC), Cause.PAYOUT, user.id, (line,))  # noqa: TID251
        ledger.post(connection, [posting])  # type: ignore[arg-type]

    database.run(work)


def test_two_hundred_launches_with_money_for_thirty_seven(servers: list[Server]) -> None:
    user = servers[0].first_login()
    password = user.password
    with servers[0].database() as database:
        _has(database, user.username, PAID_FOR * UNIT + UNIT - 1)
    tenants = [Tenant(server, user.username, password).log_in() for server in servers]

    def ask(number: int) -> int:
        tenant = tenants[number % len(tenants)]
        return tenant.ask("POST", "/api/instance/create", user.request(type="tiny")).status_code

    with ThreadPoolExecutor(24) as threads:
        answers = Counter(threads.map(ask, range(ASKED)))
    assert answers == {200: PAID_FOR, 402: ASKED - PAID_FOR}
    with servers[0].database() as database:

        def books(connection: object) -> tuple[int, int, int]:
            run = connection.execute  # type: ignore[attr-defined]
            held = select(func.count()).select_from(entries).where(entries.c.kind == "hold")
            return (
                run(select(func.count()).select_from(instances)).scalar_one(),
                run(select(func.count()).select_from(holds)).scalar_one(),
                run(held).scalar_one(),
            )

        assert database.run(books) == (PAID_FOR, PAID_FOR, PAID_FOR)
