"""What the calls of all subjects share: the line they go over, how they are tried, whose service it is."""

from __future__ import annotations

from decimal import Decimal

from tidemill.client.errors import ClientError
from tidemill.client.kinds import AsyncLine, K, Resource, SyncLine
from tidemill.client.sending import Manner

Amount = int | float | Decimal | str  # of currency units
LARGEST = 30  # powers of ten of it: more takes longer to write than anybody waits


class Subject(Resource[K]):
    """Calls about one subject."""

    def __init__(self, line: SyncLine | AsyncLine, manner: Manner, *, awaits: bool) -> None:
        super().__init__(line, awaits=awaits)
        self.manner = manner


def amount(said: Amount) -> int | float:
    """An amount as a JSON number. Raises ClientError for what is no amount."""
    try:
        exact = Decimal(str(said))
    except ArithmeticError:
        raise ClientError(f"{said!r} is no amount of money; write it as 12.50") from None
    if not exact.is_finite() or exact.adjusted() > LARGEST:
        raise ClientError(f"{said!r} is no amount of money")
    return int(exact) if exact == exact.to_integral_value() else float(exact)
