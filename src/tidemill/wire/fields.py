"""The types of request fields: strict (nothing is turned into something else), with their rules.

Each is written as ``Annotated[int, Whole(least=1)]`` and brings its own JSON schema, so that the
OpenAPI document says the same as the check. Rules refuse by :func:`tidemill.wire.problem.refusal`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from tidemill.model.money import MICRO, MOST, to_micro
from tidemill.wire.answers import time_of_day, units
from tidemill.wire.problem import BROKEN_RULE, NOT_IN_OPTIONS, NOT_OFFERED, TYPE_MISMATCH, refusal

LARGEST = 2**31 - 1
_TIME_OF_DAY = re.compile(r"(?!24:0?[1-9]|24:[1-5])([01][0-9]|2[0-4]):([0-5][0-9])")
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})


class Request(BaseModel):
    """Base of all request bodies: unknown fields are ignored, null is the same as absent."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():  # pyright: ignore[reportUnknownMemberType]
            return {name: item for name, item in value.items() if item is not None}  # pyright: ignore[reportUnknownVariableType]
        return value  # pyright: ignore[reportUnknownVariableType]


@dataclass(frozen=True, slots=True)
class _Field:
    """A type that is one plain function from a JSON value, and a JSON schema."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(
            lambda value: None if value is None else self.written(value)
        )
        return core_schema.no_info_plain_validator_function(self.check, serialization=written)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self.schema()

    def check(self, value: Any) -> Any:
        raise NotImplementedError

    def written(self, value: Any) -> Any:
        """A checked value as a client sends it."""
        return value

    def schema(self) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Whole(_Field):
    """A JSON number without a fraction (``1.0`` counts) between ``least`` and ``most``."""

    least: int
    most: int = LARGEST

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise refusal(TYPE_MISMATCH)
        if isinstance(value, float) and not value.is_integer():
            raise refusal(BROKEN_RULE, rule=f"must be a whole number of at least {self.least}")
        if not self.least <= value <= self.most:
            between = f"between {self.least} and {self.most}"
            least = f"of at least {self.least}"
            rule = least if value < self.least and self.most == LARGEST else between
            raise refusal(BROKEN_RULE, rule=f"must be a whole number {rule}")
        return int(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Money(_Field):
    """A JSON number of currency units, exact to the micro-unit; gives micro-units.

    With ``signed`` it may be below zero; 0 is refused where it is ``some``.
    """

    signed: bool = False
    some: bool = False

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise refusal(TYPE_MISMATCH)
        written = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        try:
            micro = to_micro(abs(written))
        except ValueError:
            rule = f"must be an amount of at most {MOST // MICRO} with at most six digits after the point"
            raise refusal(BROKEN_RULE, rule=rule) from None
        if written < 0 and not self.signed:
            raise refusal(BROKEN_RULE, rule="may not be below 0")
        if self.some and not micro:
            raise refusal(BROKEN_RULE, rule="may not be 0")
        return -micro if written < 0 else micro

    def written(self, value: Any) -> Any:
        return units(value)

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "number", "maximum": MOST // MICRO}
        return schema | {"minimum": -(MOST // MICRO) if self.signed else 0}


@dataclass(frozen=True, slots=True)
class Flag(_Field):
    """A JSON boolean."""

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise refusal(TYPE_MISMATCH)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Text(_Field):
    """A JSON string of ``least`` to ``most`` characters, without NUL.

    ``one_line`` also refuses control characters and a string of blanks only.
    """

    least: int = 0
    most: int | None = None
    one_line: bool = False

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise refusal(TYPE_MISMATCH)
        if not self.least <= len(value) <= (self.most or len(value)):
            if self.most is None:
                raise refusal(BROKEN_RULE, rule="may not be empty")
            raise refusal(BROKEN_RULE, rule=f"must have {self.least} to {self.most} characters")
        if "\0" in value:
            raise refusal(BROKEN_RULE, rule="contains a NUL character")
        if self.one_line:
            if self.least and not value.strip():
                raise refusal(BROKEN_RULE, rule="may not be blank")
            if any(unicodedata.category(char) in _UNSEEN for char in value):
                raise refusal(BROKEN_RULE, rule="contains a control character")
        return value

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string"}
        if self.least:
            schema["minLength"] = self.least
        if self.most is not None:
            schema["maxLength"] = self.most
        return schema


@dataclass(frozen=True, slots=True)
class Choice(_Field):
    """A JSON string out of ``options``."""

    options: tuple[str, ...]

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise refusal(TYPE_MISMATCH)
        if value not in self.options:
            raise refusal(NOT_IN_OPTIONS, value=value, options=self.options)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.options)}


@dataclass(frozen=True, slots=True)
class NotOffered(_Field):
    """A field of a feature to come: what asks for nothing passes, the rest is refused.

    ``asks`` says whether a value of the right type asks for something.
    """

    type: Callable[[Any], bool]
    asks: Callable[[Any], bool]
    json_type: str

    def check(self, value: Any) -> Any:
        if not self.type(value):
            raise refusal(TYPE_MISMATCH)
        if self.asks(value):
            raise refusal(NOT_OFFERED)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": self.json_type, "description": "not offered by this server yet"}


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


FLAG_TO_COME = NotOffered(_is_bool, bool, "boolean")
NUMBER_TO_COME = NotOffered(_is_number, lambda _: True, "number")


@dataclass(frozen=True, slots=True)
class Instant(_Field):
    """A JSON string with an RFC 3339 time and its offset; gives an aware datetime in UTC."""

    def check(self, value: Any) -> datetime:
        if not isinstance(value, str):
            raise refusal(TYPE_MISMATCH)
        try:
            instant = datetime.fromisoformat(value)
            if instant.tzinfo is None or "T" not in value.upper():
                raise ValueError(value)
            return instant.astimezone(UTC)
        except (ValueError, OverflowError):
            raise refusal(BROKEN_RULE, rule="must be an RFC 3339 time such as 2030-01-31T12:00:00Z") from None

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "date-time"}


@dataclass(frozen=True, slots=True)
class TimeOfDay(_Field):
    """A JSON string such as 22:00, up to 24:00; gives minutes since midnight."""

    def check(self, value: Any) -> int:
        if not isinstance(value, str):
            raise refusal(TYPE_MISMATCH)
        found = _TIME_OF_DAY.fullmatch(value)
        if found is None:
            raise refusal(BROKEN_RULE, rule="must be a time of the day such as 22:00, or 24:00 for its end")
        return int(found[1]) * 60 + int(found[2])

    def written(self, value: Any) -> Any:
        return time_of_day(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^({_TIME_OF_DAY.pattern})$"}
