"""Prices on the wire: by charge mode, and the bands of those that follow the tide."""

from __future__ import annotations

from pydantic import AliasChoices, Field

from tidemill.catalogue import DAYS
from tidemill.model.offer import ChargeMode
from tidemill.model.stock import Prices
from tidemill.model.tariff import Band, Tariff
from tidemill.wire.answers import Answer, time_of_day, units


class PriceBand(Answer):
    """A stretch of the local week with a price of its own, per hour.

    ``days`` are those on which it begins; where ``to`` is not after ``from`` it ends on the next day.
    """

    name: str
    days: list[str]
    from_: str = Field(validation_alias=AliasChoices("from_", "from"), serialization_alias="from")
    to: str
    price: int | float

    @classmethod
    def of(cls, band: Band) -> PriceBand:
        return cls(
            name=band.name,
            days=[DAYS[day] for day in sorted(band.weekdays)],
            from_=time_of_day(band.begins),
            to=time_of_day(band.ends),
            price=units(band.rate),
        )


class PriceInfo(Answer):
    """Currency units per hour, day, week or month, by charge mode."""

    chargeMode: str
    price: int | float


class TidePriceInfo(PriceInfo):
    """The price that follows the load of the day: ``price`` outside of all bands."""

    bands: list[PriceBand]


def price_infos(prices: Prices) -> list[TidePriceInfo | PriceInfo]:
    """Prices in the wire's order of charge modes."""
    return [_price_info(mode, prices[mode]) for mode in ChargeMode if mode in prices]


def _price_info(mode: ChargeMode, price: Tariff) -> TidePriceInfo | PriceInfo:
    if mode is not ChargeMode.TIDE_PER_HOUR:
        return PriceInfo(chargeMode=mode.value, price=units(price.rate))
    bands = [PriceBand.of(band) for band in price.bands]
    return TidePriceInfo(chargeMode=mode.value, price=units(price.rate), bands=bands)
