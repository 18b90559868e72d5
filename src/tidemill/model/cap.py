"""Limits on what may be spent: of a user or one of their API keys, per hour or per calendar month."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

HOUR, MONTH = "hour", "month"
_OPERATOR = "operator/"


@dataclass(frozen=True, slots=True)
class Cap:
    """``limit`` in micro-units per hour or month.

    ``subject`` is a user's id for a cap they set themselves, ``operator/`` and the id for one that the
    operator set, or an API key's id.
    """

    subject: str
    per: str
    limit: int
    set_at: datetime

    @property
    def is_operators(self) -> bool:
        """Whether its user cannot lift it."""
        return self.subject.startswith(_OPERATOR)


def by_operator(user_id: str) -> str:
    """The subject of what the operator allows a user."""
    return f"{_OPERATOR}{user_id}"
