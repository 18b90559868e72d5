"""What is offered where: a type in a region, what it costs there, and whether there is any left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidemill.model.offer import ChargeMode, InstanceType, Region
from tidemill.model.tariff import Tariff

Prices = Mapping[ChargeMode, Tariff]  # the rate is per hour, day, week or month by the mode


@dataclass(frozen=True, slots=True)
class Stock:
    """Whether a type has room in a region right now, and its prices there.

    ``disk_price`` is in micro-units per GB of data disk and hour.
    """

    type: InstanceType
    region: Region
    available: int
    prices: Prices = field(default_factory=dict[ChargeMode, Tariff])
    spot_prices: Prices = field(default_factory=dict[ChargeMode, Tariff])
    disk_price: int = 0

    @property
    def status(self) -> str:
        return "InStock" if self.available > 0 else "OutOfStock"
