"""Statements of the hot paths: compiled once, and on SQLite run on the driver's own cursor.

SQLAlchemy takes ten times as long to look up, bind and wrap a small statement as SQLite takes to run
it, and a launch has ten of them on the event loop. The statement, its types and its result are
SQLAlchemy's all the same; on PostgreSQL, where the way to the server costs more, it runs it as well.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    Connection,
    Delete,
    Insert,
    Select,
    Text,
    TextClause,
    TypeDecorator,
    Update,
    bindparam,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

Statement = Select[*tuple[Any, ...]] | Insert | Update | Delete | TextClause


class _Many(TypeDecorator[Collection[Any]]):
    """Several values of one type as one parameter."""

    impl = Text
    cache_ok = True

    def __init__(self, each: type[TypeEngine[Any]]) -> None:
        super().__init__()
        self.each = each

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return Text() if dialect.name == "sqlite" else ARRAY(self.each)

    def process_bind_param(self, value: Collection[Any] | None, dialect: Dialect) -> Any:
        found = sorted(value or ())
        return json.dumps(found) if dialect.name == "sqlite" else found


class among(FunctionElement[bool]):
    """Whether ``column`` is one of the values in the parameter ``name``.

    Unlike SQLAlchemy's own IN the statement is the same for any number of values, so it can be Prepared.
    The values are those that the database keeps: strings and integers.
    """

    type = Boolean()
    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], name: str) -> None:
        super().__init__(column, bindparam(name, type_=_Many(type(column.type))))

    def self_group(self, against: Any = None) -> Any:
        """As it is: "= 1" behind it, as of any other function, would keep SQLite from using an index."""
        return self


@compiles(among)
def _among(element: among, compiler: SQLCompiler, **words: Any) -> str:
    column, values = element.clauses
    return f"{compiler.process(column, **words)} = ANY ({compiler.process(values, **words)})"


@compiles(among, "sqlite")
def _among_sqlite(element: among, compiler: SQLCompiler, **words: Any) -> str:
    column, values = element.clauses
    given = compiler.process(values, **words)
    return f"{compiler.process(column, **words)} IN (SELECT value FROM json_each({given}))"  # noqa: S608 - a placeholder


class Prepared:
    """One statement with named parameters, for any number of runs.

    An insert names the ``columns`` that it is given. Parameters that expand (``IN`` of a list) are not
    for here: :class:`among` is. Raises what ``connection.execute`` raises, except that on SQLite only
    IntegrityError is SQLAlchemy's; the rest are sqlite3's own.
    """

    def __init__(self, statement: Statement, *, columns: Sequence[str] | None = None) -> None:
        self.statement = statement
        self._columns = columns
        self._plan: _Plan | None = None

    def all(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Every row, as values in the order of the statement's columns."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement, dict(values)).all()
        plan, cursor = self._run(connection, values)
        return plan.rows(cursor.fetchall())

    def stream(self, connection: Connection, values: Mapping[str, Any], size: int) -> Iterator[Sequence[Any]]:
        """The rows of :meth:`all`, of which no more than ``size`` are in memory at once."""
        if connection.dialect.name != "sqlite":
            yield from connection.execute(self.statement, dict(values), execution_options={"yield_per": size})
            return
        plan, cursor = self._run(connection, values)
        while fetched := cursor.fetchmany(size):
            yield from plan.rows(fetched)

    def first(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[Any] | None:
        """The first row, or None."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement, dict(values)).first()
        plan, cursor = self._run(connection, values)
        row = cursor.fetchone()
        cursor.close()
        return None if row is None else plan.rows([row])[0]

    def run(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Run what gives no rows; returns how many rows it changed."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement, dict(values)).rowcount
        return self._run(connection, values)[1].rowcount

    def run_many(self, connection: Connection, rows: Collection[Mapping[str, Any]]) -> None:
        """Run what gives no rows for each of ``rows``, all with the same keys, in one call of the driver."""
        if not rows:
            return
        if connection.dialect.name != "sqlite":
            connection.execute(self.statement, list(rows))
            return
        plan = self._planned(connection)
        self._raise_known(connection, "executemany", plan, map(plan.parameters, rows))

    def _run(self, connection: Connection, values: Mapping[str, Any]) -> tuple[_Plan, sqlite3.Cursor]:
        plan = self._planned(connection)
        return plan, self._raise_known(connection, "execute", plan, plan.parameters(values))

    def _planned(self, connection: Connection) -> _Plan:
        if self._plan is None:
            self._plan = _Plan(self.statement, connection.dialect, self._columns)
        return self._plan

    @staticmethod
    def _raise_known(connection: Connection, how: str, plan: _Plan, parameters: Any) -> sqlite3.Cursor:
        raw: Any = connection.connection.dbapi_connection
        try:
            return getattr(raw, how)(plan.sql, parameters)
        except sqlite3.IntegrityError as error:
            raise IntegrityError(plan.sql, None, error, hide_parameters=True) from error


_Processors = tuple[tuple[int, Callable[[Any], Any]], ...]  # by the place in a row


class _Plan:
    """A statement in the words of one dialect, with what turns values into the driver's and back."""

    def __init__(self, statement: Statement, dialect: Dialect, columns: Sequence[str] | None) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=None if columns is None else list(columns))
        assert isinstance(compiled, SQLCompiler)  # noqa: S101 - what every statement compiles to
        self.sql = compiled.string
        names = tuple(compiled.positiontup or ())
        self._names = names
        binds = compiled.binds
        self._given: dict[str, Any] = {name: binds[name].value for name in names if not binds[name].required}
        into = (binds[name].type.dialect_impl(dialect).bind_processor(dialect) for name in names)
        self._into: _Processors = tuple((at, turn) for at, turn in enumerate(into) if turn is not None)
        self._processors: _Processors = ()
        if not isinstance(statement, TextClause):
            found = (
                (at, column.type.dialect_impl(dialect).result_processor(dialect, None))
                for at, column in enumerate(statement.exported_columns)
            )
            self._processors = tuple((at, process) for at, process in found if process is not None)

    def parameters(self, values: Mapping[str, Any]) -> list[Any]:
        """What the driver binds, in the order of the placeholders. Raises KeyError."""
        given = {**self._given, **values} if self._given else values
        row = [given[name] for name in self._names]
        for at, process in self._into:
            row[at] = process(row[at])
        return row

    def rows(self, fetched: list[Any]) -> Sequence[Sequence[Any]]:
        """Rows of the driver as rows of the statement's types."""
        if not self._processors:
            return fetched
        rows = [list(row) for row in fetched]
        for row in rows:
            for at, process in self._processors:
                row[at] = process(row[at])
        return rows
