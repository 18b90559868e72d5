"""How times, money and sizes are told to people. Programs get the wire's own."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

STEPS = (
    (86400 * 2, 86400, "d"),
    (3600 * 2, 3600, "h"),
    (60 * 2, 60, "m"),
)  # from, seconds of one, its letter
NOTHING = "-"


def span(seconds: float) -> str:
    """A length of time by its largest unit that is there at least twice: ``50s``, ``3m``, ``2h``, ``9d``."""
    whole = int(abs(seconds))
    for least, unit, letter in STEPS:
        if whole >= least:
            return f"{whole // unit}{letter}"
    return f"{whole}s"


def when(said: object) -> datetime | None:
    """An instant as the wire writes it (ISO 8601 with an offset); None for what is none."""
    try:
        instant = datetime.fromisoformat(str(said))
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else None


def ago(then: datetime | None, now: datetime) -> str:
    """``3m ago``, ``in 2h``; ``-`` for never."""
    if then is None:
        return NOTHING
    passed = (now - then).total_seconds()
    if abs(passed) < 1:
        return "now"
    return f"{span(passed)} ago" if passed > 0 else f"in {span(passed)}"


def money(amount: float | Decimal, currency: str = "") -> str:
    """An amount with every digit that it has, at least two after the point: ``12.50 EUR``."""
    exact = Decimal(str(amount))
    text = f"{exact:f}"
    whole, _, rest = text.partition(".")
    text = f"{whole}.{rest.rstrip('0').ljust(2, '0')}"
    return f"{text} {currency}".rstrip()


def number(amount: float) -> str:
    """``4``, ``0.5``; no trailing zeros."""
    return f"{amount:g}"
