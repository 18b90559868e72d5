"""Money: a whole count of micro-units (millionths) of the deployment's currency."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

MICRO = 1_000_000
MOST = 10**15  # a thousand million units: far above any price, far below 64 bits


def to_micro(amount: Decimal | int | str) -> int:
    """A decimal amount of currency units as micro-units, exactly.

    Raises ValueError for what is no amount, negative, too large, or finer than a micro-unit.
    """
    try:
        micro = Decimal(amount) * MICRO
    except InvalidOperation:
        raise ValueError(f"{amount!r} is not an amount of money") from None
    if not micro.is_finite() or micro != micro.to_integral_value():
        raise ValueError(f"{amount} is finer than a millionth of the currency's unit")
    if not 0 <= micro <= MOST:
        raise ValueError(f"{amount} is not between 0 and {MOST // MICRO}")
    return int(micro)


def to_units(micro: int) -> Decimal:
    """Micro-units as a decimal amount of currency units, exactly."""
    return (Decimal(micro) / MICRO).normalize() + 0


def shown(micro: int) -> str:
    """An amount in currency units for people, with every digit that it has."""
    return f"{to_units(micro):f}"
