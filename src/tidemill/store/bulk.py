"""One statement for many rows at once: what the billing writes its batches with.

On SQLite it is the driver's own loop over the rows. On PostgreSQL every column is one parameter, an array,
and ``unnest`` makes rows of them: one exchange and one plan for all. A statement for each row takes twice
as long there, though they are sent together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Insert,
    Table,
    Update,
    bindparam,
    column,
    func,
    insert,
    select,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

Given = Mapping[str, ColumnElement[Any]]


class Bulk:
    """A statement for rows of the values that ``types`` names, made by ``of`` of what one row gives.

    ``of_one`` makes it where the driver goes from row to row, if that has shorter words: SQLite takes a fifth
    longer for an INSERT of a SELECT than for one of VALUES.
    Raises what ``connection.execute`` raises, except that on SQLite only IntegrityError is SQLAlchemy's;
    the rest are sqlite3's own.
    """

    def __init__(
        self,
        types: Mapping[str, TypeEngine[Any]],
        of: Callable[[Given], Insert | Update],
        *,
        of_one: Callable[[Given], Insert | Update] | None = None,
    ) -> None:
        self._types = types
        self._of = of
        self._of_one = of_one or of
        self._plans: dict[str, _Plan] = {}

    @classmethod
    def into(cls, table: Table, names: Sequence[str]) -> Bulk:
        """What adds rows to a table, in the order they are given."""
        return cls(
            {name: table.c[name].type for name in names},
            lambda given: insert(table).from_select(list(names), select(*given.values())),
            of_one=lambda given: insert(table).values(dict(given)),
        )

    def run(self, connection: Connection, rows: Collection[Sequence[Any]]) -> None:
        """Run it for ``rows`` of values in the order of the names."""
        if not rows:
            return
        dialect = connection.dialect
        plan = self._plans.get(dialect.name)
        if plan is None:
            of = self._of_one if dialect.name == "sqlite" else self._of
            plan = self._plans[dialect.name] = _Plan(self._types, of, dialect)
        columns = [
            values if process is None else _turned(process, values)
            for process, values in zip(plan.into, zip(*rows, strict=True), strict=True)
        ]
        if dialect.name == "sqlite":
            self._run_sqlite(connection, plan, columns)
        else:
            given = {name: _array(values) for name, values in zip(self._types, columns, strict=True)}
            connection.exec_driver_sql(plan.sql, given)

    @staticmethod
    def _run_sqlite(connection: Connection, plan: _Plan, columns: Sequence[Sequence[Any]]) -> None:
        raw: Any = connection.connection.dbapi_connection
        try:
            raw.executemany(plan.sql, zip(*(columns[at] for at in plan.order), strict=True))
        except sqlite3.IntegrityError as error:
            raise IntegrityError(plan.sql, None, error, hide_parameters=True) from error


def plan_anew(connection: Connection) -> None:
    """Until the transaction ends, have every statement planned for the values that it is given.

    PostgreSQL keeps plans, and one that was made while a table was small is a bad one later: a ledger grows
    from nothing to millions of rows.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_custom_plan")


class _Plan:
    """A statement in the words of one dialect, with what turns values into the driver's.

    ``order`` has the place of the name for each placeholder, where these have none.
    """

    def __init__(
        self, types: Mapping[str, TypeEngine[Any]], of: Callable[[Given], Insert | Update], dialect: Dialect
    ) -> None:
        compiled = of(_given(types, dialect)).compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)  # noqa: S101 - what every statement compiles to
        self.sql = compiled.string
        self.into = [each.dialect_impl(dialect).bind_processor(dialect) for each in types.values()]
        names = list(types)
        self.order = [names.index(name) for name in compiled.positiontup or ()]


def _turned(process: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    """Values as the driver takes them. What is in many rows, as the instant of a batch is, is turned once."""
    turned = {id(value): value for value in values}
    for key, value in turned.items():
        turned[key] = process(value)
    return [turned[id(value)] for value in values]


def _given(types: Mapping[str, TypeEngine[Any]], dialect: Dialect) -> Given:
    if dialect.name == "sqlite":
        return {name: bindparam(name, type_=each) for name, each in types.items()}
    arrays = [bindparam(name, type_=ARRAY(each)) for name, each in types.items()]
    rows = func.unnest(*arrays).table_valued(*(column(name, each) for name, each in types.items()))
    given = rows.render_derived(name="given")
    return {name: given.c[name] for name in types}


def _array(values: Iterable[Any]) -> str:
    """An array as PostgreSQL reads it: its driver takes ten times as long to write one."""
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "NULL" if value is None else str(value)
