"""What a type costs in a region over the next two days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection

from tidemill.actions.catalogue import disk_price_of, prices_of
from tidemill.actions.context import Context
from tidemill.model.account import Caller
from tidemill.model.errors import Invalid, NotFound
from tidemill.model.offer import ChargeMode, Region
from tidemill.model.stock import Prices
from tidemill.model.tariff import Segment, segments
from tidemill.store import offers, tariffs

AHEAD = timedelta(hours=48)


@dataclass(frozen=True, slots=True)
class PriceCurve:
    """``segments`` of the mode tidePerHour, none where it is not offered; ``disk_price`` per GB and hour."""

    region: Region
    prices: Prices
    segments: Sequence[Segment]
    disk_price: int


async def price_curve(
    context: Context, caller: Caller, *, type_id: str, region_id: str, spot: bool
) -> PriceCurve:
    """The prices of a type for launches of now. Raises NotFound, Invalid (not offered as spot)."""
    now = context.clock.now()

    def work(connection: Connection) -> PriceCurve:
        kind = offers.offered_type(connection, type_id)
        if kind is None:
            raise NotFound("instance type not found", code="instanceTypeNotFound")
        region = offers.offered_region(connection, region_id)
        if region is None or (kind.regions and region.id not in kind.regions):
            raise NotFound("region not found", code="regionNotFound")
        if spot and not kind.spot:
            raise Invalid(
                f'instance type "{kind.name}" is not offered as spot; it offers: on demand',
                code="spotNotOffered",
            )
        current = tariffs.all_current(connection)
        prices = prices_of(current, kind, region, spot=spot)
        tide = prices.get(ChargeMode.TIDE_PER_HOUR)
        curve = () if tide is None else segments(tide, now, now + AHEAD)
        return PriceCurve(region, prices, curve, disk_price_of(current, region))

    return await context.database.read_much(work)
