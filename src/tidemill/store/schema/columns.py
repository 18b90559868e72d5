"""The types of columns, and the metadata that every table is in.

Instants are whole microseconds since 1970 in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import JSON, BigInteger, Integer, MetaData, String, Text, text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from tidemill.model.notice import Notice

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
INSTANTS_KEPT = 4096  # the same instant is in many rows: a listing sees everything at once


def _micros(value: datetime | None) -> int | None:
    return None if value is None else (value - EPOCH) // MICROSECOND


@lru_cache(maxsize=INSTANTS_KEPT)
def _instant(value: int | None) -> datetime | None:
    return None if value is None else EPOCH + timedelta(microseconds=value)


class Instant(TypeDecorator[datetime]):
    """An aware datetime, kept as whole microseconds: the same order and value on every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return _micros(value)

    def bind_processor(self, dialect: Dialect) -> Any:
        return _micros  # itself: what SQLAlchemy would put around it takes longer than it does

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return _instant(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return _instant


class Notices(TypeDecorator[tuple[Notice, ...]]):
    """What is told inside an instance, by kind; NULL for nothing, as nearly everywhere."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: tuple[Notice, ...] | None, dialect: Dialect) -> Any:
        return {each.kind: {"at": each.at.isoformat(), "text": each.text} for each in value or ()} or None

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[Notice, ...]:
        kept: dict[str, dict[str, str]] = value or {}
        return tuple(
            Notice(kind, datetime.fromisoformat(each["at"]), each["text"]) for kind, each in kept.items()
        )


class Words(TypeDecorator[str]):
    """Text that somebody else wrote (an engine, a registry), as both databases can keep it.

    PostgreSQL takes no NUL and nothing longer than the column, and neither takes half a character;
    words that cannot be kept must not keep an instance from ever being written again.
    """

    impl = Text
    cache_ok = True

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.most = most

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return Text() if self.most is None else String(self.most)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        kept = value[: self.most]
        if kept.isascii() and "\0" not in kept:
            return kept
        return kept.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def only(condition: str) -> dict[str, Any]:
    """For an Index of those rows alone that ``condition`` holds for; both databases know its SQL."""
    return {f"{dialect}_where": text(condition) for dialect in ("sqlite", "postgresql")}


# SQLite counts rows by itself only for a column of type INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
