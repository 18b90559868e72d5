"""Base of all answers, and the numbers in them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tidemill.model.money import MICRO

MB_PER_GB = 1024
MILLI = 1000


class Answer(BaseModel):
    """A JSON object that the server sends. Instants are aware, in UTC, and end in ``Z``.

    Ours sends every field. A default says that a service which is not ours may leave it out: it has only
    what the contract calls HPC-AI's.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, json_schema_serialization_defaults_required=True)


class Failure(Answer):
    """Every error: a sentence, and a stable word for programs."""

    message: str
    error: str


class NotLoggedIn(Answer):
    """Status 401; ``error`` is there where it is not just the token: the one field that we may leave out."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    code: int
    message: str
    error: str | None = None


class Nothing(Answer):
    """``{}``."""


def units(micro: int) -> int | float:
    """Micro-units of money as a number of currency units.

    The division rounds correctly to the nearest double, whose shortest decimal form is the exact
    amount for all that has at most 15 digits (``model.money.MOST``).
    """
    return _ratio(micro, MICRO)


def time_of_day(minutes: int) -> str:
    """Minutes since midnight as 22:00."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def gigabytes(megabytes: int) -> int | float:
    return _ratio(megabytes, MB_PER_GB)


def cores(milli: int) -> int | float:
    return _ratio(milli, MILLI)


def _ratio(count: int, per: int) -> int | float:
    return count // per if count % per == 0 else count / per
