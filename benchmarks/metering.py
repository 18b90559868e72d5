"""How fast charges are posted, and what a pass over very many running instances takes.

    uv run python benchmarks/metering.py [--sizes 10000,100000] [--databases sqlite,postgresql]

A database is filled in bulk with running instances of a thousand users, all paid by the hour and with an
unpaid hour behind them, half of them by the tide. One pass of the billing posts what each owes; then the
very rows of the ledger that it wrote are written once more, as SQLAlchemy inserts many rows, into a table
like it and in batches of the same size: that is the bare side. The table has the ledger's indexes, its check
and its foreign keys; a second one without these keys shows what they cost. The bare side pays for no meter
that is brought forward and no account that is drawn on. Told are charges per second, the ratio of the two,
the seconds of a pass, and how much memory the process had at most after the filling, which is not to grow
with the number of instances.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Index,
    MetaData,
    Table,
    UniqueConstraint,
    func,
    insert,
    select,
    update,
)
from tests.postgres import postgres_server
from tests.stock import NODE, REGION, START, HandClock, offer, pay_in

from tidemill.model.offer import ChargeMode, InstanceType
from tidemill.model.tariff import Band
from tidemill.reconcile.billing import BATCH, Billing
from tidemill.server import GC_THRESHOLD
from tidemill.settings import Settings
from tidemill.store import accounts, nodes, schema, tariffs
from tidemill.store.database import Database
from tidemill.store.migrate import migrate
from tidemill.wake import Wake

USERS = 1000
AT_ONCE = 5000
PRICE = 1_234_567
NIGHT = Band("night", frozenset(range(7)), 22 * 60, 8 * 60, 500)
KIND = InstanceType(
    "type-1",
    "one",
    cpu_milli=1000,
    memory_mb=1024,
    prices={ChargeMode.PER_HOUR: PRICE, ChargeMode.TIDE_PER_HOUR: PRICE},
)


def fill(database: Database, count: int) -> None:
    """Users with money, and ``count`` instances that run since an hour ago."""

    def begin(connection: Connection) -> tuple[list[str], dict[str, int]]:
        offer(connection, [KIND])
        tariffs.publish(connection, types=[KIND], regions=[REGION], tide=[NIGHT], disk=0, at=START)
        nodes.register(connection, REGION.id, [NODE])
        ids: list[str] = []
        for number in range(USERS):
            user = accounts.create_user(
                connection, username=f"user-{number}", password_hash="never", is_admin=False, now=START
            )
            pay_in(connection, user.id, 10**14, START)
            ids.append(user.id)
        prices = tariffs.all_current(connection)
        return ids, {key[2]: price.id for key, price in prices.items() if key[0] == KIND.id}

    users, price_of = database.run(begin)
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        database.run(lambda c, numbers=numbers: _running(c, numbers, users, price_of))
    database.run(
        lambda c: c.execute(
            update(schema.regions)
            .where(schema.regions.c.id == REGION.id)
            .values(seen_at=START + timedelta(hours=1))
        )
    )


def _running(connection: Connection, numbers: range, users: list[str], price_of: dict[str, int]) -> None:
    modes = (ChargeMode.PER_HOUR, ChargeMode.TIDE_PER_HOUR)
    rows: list[dict[str, Any]] = [
        {
            "id": f"notebook-{number:012d}", "user_id": users[number % USERS], "name": "one",
            "hostname": "one", "region_id": REGION.id, "node_id": NODE.id, "type_id": KIND.id,
            "type_name": "one", "image_id": "image", "image_name": "image", "image_reference": "image",
            "cpu_milli": 1000, "memory_mb": 1024, "shm_mb": 64, "pids": 64, "gpu_name": "", "gpu_num": 0,
            "charge_mode": modes[number % 2].value, "duration": 1, "price_micro": PRICE, "is_spot": False,
            "data_disk_gb": 0, "enable_common_data": False, "enable_docker": False, "docker_storage_gb": 0,
            "init_script": "", "env": {}, "host_key": b"", "created_at": START, "state": "Running",
            "state_since": START, "started_at": START, "start": 1, "version": 1,
            "tariff_id": price_of[modes[number % 2].value],
        }
        for number in numbers
    ]  # fmt: skip
    connection.execute(insert(schema.instances), rows)
    connection.execute(
        insert(schema.meters),
        [
            {
                "instance_id": row["id"], "start": 1, "opened_at": START, "kind": "compute",
                "user_id": row["user_id"], "rate_most": PRICE, "post_at": START + timedelta(minutes=5),
            }
            for row in rows
        ],
    )  # fmt: skip


def bare_table(name: str, *, keys: bool) -> Table:
    """A table like that of the ledger, with its indexes, and with its foreign keys where asked for."""
    accounts = schema.ledger_accounts.c.id
    return Table(
        name,
        MetaData(),
        *(
            Column(
                each.name,
                each.type,
                *([ForeignKey(accounts)] if keys and each.foreign_keys else []),
                primary_key=each.primary_key,
                nullable=each.nullable,
            )
            for each in schema.entries.columns
        ),
        UniqueConstraint("posting_id", "line"),
        CheckConstraint("amount_micro > 0"),
        Index(f"ix_{name}_user", "user_id", "seq"),
        Index(f"ix_{name}_instance", "instance_id", "seq"),
    )


def bare_inserts(database: Database) -> tuple[float, float]:
    """Seconds that it takes to write the same entries again, in the same batches, and nothing else.

    Into a table just like the ledger, and into one without foreign keys.
    """
    tables = (bare_table("bare", keys=True), bare_table("bare_without_keys", keys=False))

    def rows_of(connection: Connection, after: int) -> list[dict[str, Any]]:
        charges = schema.entries.c.kind == "charge"
        found = connection.execute(
            select(schema.entries)
            .where(charges, schema.entries.c.seq > after)
            .order_by(schema.entries.c.seq)
            .limit(BATCH)
        ).mappings()
        return [dict(row) for row in found]

    for table in tables:
        database.run(table.create)
    seconds, after = [0.0, 0.0], 0
    while rows := database.run(lambda c, after=after: rows_of(c, after)):
        after = rows[-1]["seq"]
        for at, table in enumerate(tables):
            began = time.perf_counter()
            database.run(lambda c, rows=rows, table=table: c.execute(insert(table), rows))
            seconds[at] += time.perf_counter() - began
    return seconds[0], seconds[1]


async def one(url: str, count: int) -> dict[str, Any]:
    """Fill, pass, and write the same again."""
    database = Database(url)
    migrate(database)
    fill(database, count)
    clock = HandClock(START + timedelta(hours=1))
    billing = Billing(database, clock, Settings(), Wake())
    gc.collect()
    gc.freeze()  # as the server does
    gc.set_threshold(*GC_THRESHOLD)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    posted = await billing.post()
    seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    began = time.perf_counter()
    again = await billing.post()
    idle = time.perf_counter() - began
    assert (posted, again) == (count, 0), (posted, again)
    written = database.run(
        lambda c: c.execute(
            select(func.count()).select_from(schema.entries).where(schema.entries.c.kind == "charge")
        ).scalar_one()
    )
    assert written == count, written
    bare, without_keys = bare_inserts(database)
    database.close()
    return {
        "instances": count,
        "pass_seconds": round(seconds, 2),
        "charges_per_second": round(count / seconds),
        "bare_inserts_per_second": round(count / bare),
        "ratio": round(bare / seconds, 3),
        "ratio_to_inserts_without_foreign_keys": round(without_keys / seconds, 3),
        "pass_with_nothing_due_seconds": round(idle, 4),
        "memory_grew_mib": round(grown / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:  # a process of its own, whose memory is its own
        url, _, count = given.one.rpartition("#")
        print(json.dumps(asyncio.run(one(url, int(count)))))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-metering-")))
        for name in given.databases.split(","):
            for size in map(int, given.sizes.split(",")):
                if name == "sqlite":
                    url = f"sqlite:///{folder / f'{size}.db'}"
                else:
                    server = ends.enter_context(postgres_server(durable=True))
                    url = server.new_database(migrated=False)
                done = subprocess.run(
                    [sys.executable, __file__, "--one", f"{url}#{size}"], stdout=subprocess.PIPE, check=True
                )
                found.setdefault(name, []).append(json.loads(done.stdout))
                print(name, found[name][-1], flush=True)
                keep(found)


def keep(found: dict[str, list[dict[str, Any]]]) -> None:
    """Write down what is known so far: the largest sizes take long."""
    text = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "batch": BATCH,
        **found,
    }
    Path(__file__).with_name("results").joinpath("metering.json").write_text(
        json.dumps(text, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
