"""The answer to a dry run."""

from __future__ import annotations

from tidemill.model.quote import Quote
from tidemill.wire.answers import Answer, units
from tidemill.wire.tide import PriceBand


class QuoteInfo(Answer):
    """What it would cost. All amounts in ``currency``.

    ``price`` is per hour, day, week or month by ``chargeMode``, outside of all ``bands``; ``priceNow`` is
    per hour at this instant, null for terms; ``termTotal`` is null for the hourly modes. ``hold`` is what
    the start sets aside of what is ``available``.
    """

    currency: str
    chargeMode: str
    duration: int
    price: int | float
    priceNow: int | float | None
    bands: list[PriceBand]
    termTotal: int | float | None
    diskPerHour: int | float
    hold: int | float
    available: int | float


class QuoteAnswer(Answer):
    """The quote of a dry run: every check passed, and nothing was done."""

    dryRun: bool
    quote: QuoteInfo

    @classmethod
    def of(cls, quote: Quote, currency: str) -> QuoteAnswer:
        return cls(
            dryRun=True,
            quote=QuoteInfo(
                currency=currency,
                chargeMode=quote.charge_mode.value,
                duration=quote.duration,
                price=units(quote.price),
                priceNow=None if quote.price_now is None else units(quote.price_now),
                bands=[PriceBand.of(band) for band in quote.bands],
                termTotal=None if quote.term_total is None else units(quote.term_total),
                diskPerHour=units(quote.disk),
                hold=units(quote.hold),
                available=units(quote.available),
            ),
        )
