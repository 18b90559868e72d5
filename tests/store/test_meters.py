"""Meters are charged again and again: which indexes that reads, and which it writes."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection
from tests.stock import Stocked

from tidemill.store import metering
from tidemill.store.database import Database
from tidemill.store.prepared import Prepared

OF_A_USER = (
    metering._DUE_OF,
    metering._PUT_OFF_USER,
    metering._OWING_OF,
    metering._ACCRUING,
    metering._UNCOVERED,
)


@pytest.fixture
def sqlite(stocked: Stocked) -> Database:
    if not stocked.database.is_sqlite:
        pytest.skip("the plan of a small table says nothing there")
    return stocked.database


@pytest.mark.parametrize("statement", OF_A_USER)
def test_what_a_user_owes_is_found_without_a_look_at_others(sqlite: Database, statement: Prepared) -> None:
    def work(connection: Connection) -> list[str]:
        sql = str(statement.statement.compile(connection))
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + sql, (1,) * sql.count("?"))
        return [row.detail for row in plan]

    of_meters = [line for line in sqlite.run(work) if "meters" in line]
    assert ["ix_meters_open (user_id=?)" in line for line in of_meters] == [True, False], of_meters
    assert ["ix_meters_unposted (user_id=?)" in line for line in of_meters] == [False, True], of_meters


def test_a_charge_writes_no_index_by_user(sqlite: Database) -> None:
    """A batch has as many users as meters, and each of them a page of such an index."""

    def work(connection: Connection) -> set[str]:
        metering._WRITE.run(connection, [(0, None, 0, 0, None)])
        sql = metering._WRITE._plans["sqlite"].sql
        steps = connection.exec_driver_sql("EXPLAIN " + sql, (None,) * sql.count("?"))
        opened = {row.p2 for row in steps if row.opcode == "OpenWrite"}
        tables = connection.exec_driver_sql("SELECT rootpage, name FROM sqlite_schema")
        return {row.name for row in tables if row.rootpage in opened}

    # ix_meters_unposted is open for those that were closed; what runs is not in it.
    assert sqlite.run(work) == {"meters", "ix_meters_post_at", "ix_meters_unposted"}
