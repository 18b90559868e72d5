"""Prepared statements give and take the same values as SQLAlchemy does."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from tests.stock import CPU_TYPE, GPU_TYPE, START, Stocked

from tidemill.store.database import Database
from tidemill.store.prepared import Prepared
from tidemill.store.schema import facts, instance_types, users

ALL_TYPES = select(instance_types).order_by(instance_types.c.position)
TYPES = Prepared(ALL_TYPES.limit(bindparam("most")))
FIRST_TYPES = Prepared(ALL_TYPES.limit(1))
USER = Prepared(select(users).where(users.c.id == bindparam("wanted")))
RENAME = Prepared(
    update(users).where(users.c.id == bindparam("wanted")).values(created_at=bindparam("new_created_at"))
)
KEEP = Prepared(insert(facts), columns=("name", "value"))
FORGET = Prepared(delete(facts).where(facts.c.name == bindparam("wanted")).returning(facts.c.value))


def test_rows_are_those_of_sqlalchemy(stocked: Stocked) -> None:
    """JSON, truth values and instants come out as what they are."""

    def both(connection: Connection) -> None:
        ours = TYPES.all(connection, {"most": 10})
        assert [tuple(row) for row in ours] == [tuple(row) for row in connection.execute(ALL_TYPES)]
        assert {row[1] for row in ours} == {CPU_TYPE.name, GPU_TYPE.name}
        assert len(FIRST_TYPES.all(connection, {})) == 1
        user = USER.first(connection, {"wanted": stocked.alice.id})
        assert user is not None
        assert tuple(user) == tuple(
            connection.execute(select(users).where(users.c.id == stocked.alice.id)).one()
        )
        assert USER.first(connection, {"wanted": "nobody"}) is None

    stocked.database.run(both)


def test_values_go_in_as_what_they_are_and_rows_are_counted(stocked: Stocked) -> None:
    def write(connection: Connection) -> tuple[int, int]:
        named = {"wanted": stocked.alice.id, "new_created_at": START}
        return RENAME.run(connection, named), RENAME.run(connection, named | {"wanted": "nobody"})

    assert stocked.database.run(write) == (1, 0)
    row = stocked.database.run(lambda c: c.execute(select(users.c.created_at)).scalars().first())
    assert row == START


def test_what_is_there_already_is_an_integrity_error_without_its_values(database: Database) -> None:
    def twice(connection: Connection) -> None:
        for _ in range(2):
            KEEP.run(connection, {"name": "one", "value": "very-secret"})

    with pytest.raises(IntegrityError) as raised:
        database.run(twice)
    assert "very-secret" not in str(raised.value)


def test_a_write_can_answer_with_what_it_removed(database: Database) -> None:
    database.run(lambda c: KEEP.run(c, {"name": "one", "value": "x"}))
    assert database.run(lambda c: list(FORGET.first(c, {"wanted": "one"}) or ())) == ["x"]
    assert database.run(lambda c: FORGET.first(c, {"wanted": "one"})) is None
