"""Many rows in one statement are what they were, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Connection, func, select, update
from sqlalchemy.exc import IntegrityError
from tests.stock import START

from tidemill.store.bulk import Bulk, plan_anew
from tidemill.store.database import Database
from tidemill.store.schema import facts, findings

NAMES = (
    "region_id",
    "kind",
    "name",
    "instance_id",
    "found_at",
    "seen_at",
    "watched",
    "message",
    "ended_at",
    "outcome",
)
WORDS = (
    "",
    "NULL",
    "null",
    "a,b",
    '{"c"}',
    "back\\slash",
    "'; --",
    "two\nlines",
    " spaces ",
    "zürich 🌊",
    "%s %(x)s :y",
)
KEEP = Bulk.into(findings, NAMES)
SAY = Bulk(
    {"which": findings.c.name.type, "said": findings.c.message.type, "more": findings.c.watched.type},
    lambda given: (
        update(findings)
        .where(findings.c.name == given["which"])
        .values(message=given["said"], watched=findings.c.watched + given["more"])
    ),
)
FACTS = Bulk.into(facts, ("name", "value"))


def test_rows_come_out_as_they_went_in_and_in_their_order(database: Database) -> None:
    rows = [
        (
            "r",
            "k",
            f"{number}",
            "i",
            START,
            START + timedelta(microseconds=number),
            number / 4,
            word,
            None,
            "",
        )
        for number, word in enumerate(WORDS)
    ] + [("r", "k", "ended", "i", START, START, 0.0, "half \ud800 a letter\0", START, "gone")]

    def write(connection: Connection) -> list[tuple[object, ...]]:
        plan_anew(connection)
        KEEP.run(connection, rows)
        KEEP.run(connection, [])
        found = connection.execute(select(*(findings.c[name] for name in NAMES)).order_by(findings.c.seq))
        return [tuple(row) for row in found]

    kept = database.run(write)
    assert kept[:-1] == rows[:-1]
    assert kept[-1] == (*rows[-1][:7], "half ? a letter\ufffd", START, "gone")

    def change(connection: Connection) -> dict[str, tuple[str, float]]:
        SAY.run(connection, [("3", 'said "so"', 2.0), ("1", "", 0.5), ("nobody", "x", 1.0)])
        found = connection.execute(select(findings.c.name, findings.c.message, findings.c.watched))
        return {row[0]: (row[1], row[2]) for row in found}

    said = database.run(change)
    assert (said["3"], said["1"]) == (('said "so"', 2.75), ("", 0.75))
    assert said["2"] == ("null", 0.5)


def test_one_that_is_there_already_leaves_none_and_tells_no_values(database: Database) -> None:
    before = database.run(lambda c: c.execute(select(func.count()).select_from(facts)).scalar_one())
    with pytest.raises(IntegrityError) as raised:
        database.run(lambda c: FACTS.run(c, [("one", "very-secret"), ("one", "very-secret")]))
    assert "very-secret" not in str(raised.value)
    assert database.run(lambda c: c.execute(select(func.count()).select_from(facts)).scalar_one()) == before
