"""Spend caps on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field

from tidemill.model.cap import HOUR, MONTH, Cap
from tidemill.wire.answers import Answer, units
from tidemill.wire.fields import Choice, Money, Request, Text


class CapLimit(Request):
    """How much per hour or calendar month; without ``limit`` there is no cap any more."""

    per: Annotated[str, Choice((HOUR, MONTH))]
    limit: Annotated[int | None, Money()] = None


class CapRequest(CapLimit):
    """Body of POST /api/billing/cap."""

    apiKeyId: Annotated[str, Text(most=64)] = Field("", description="cap what this key launches alone")


class CapRow(Answer):
    """``of`` is ``account``, ``operator`` (an operator's cap on the account), or ``apiKey``."""

    of: str
    apiKeyId: str
    per: str
    limit: int | float
    setAt: datetime


class CapsAnswer(Answer):
    """The spend caps that hold for an account and for its keys."""

    currency: str
    caps: list[CapRow]

    @classmethod
    def of(cls, found: Sequence[Cap], user_id: str, currency: str) -> CapsAnswer:
        return cls(currency=currency, caps=[_row(cap, user_id) for cap in found])


def _row(cap: Cap, user_id: str) -> CapRow:
    whose = "operator" if cap.is_operators else "account" if cap.subject == user_id else "apiKey"
    key = cap.subject if whose == "apiKey" else ""
    return CapRow(of=whose, apiKeyId=key, per=cap.per, limit=units(cap.limit), setAt=cap.set_at)
