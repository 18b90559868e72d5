"""What is for rent, as a table: one row for each type in each region, on demand and as spot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tidemill.cli.table import Column
from tidemill.cli.telling import NOTHING, money, number

if TYPE_CHECKING:
    from tidemill.client.orders import Offer

# By charge mode, in the order of the columns: what it is called for short, and how an amount of it ends.
SHORT = {"perHour": "hour", "tidePerHour": "tide", "perDay": "day", "perWeek": "week", "perMonth": "month"}
PER = {"perHour": "/h", "tidePerHour": "/h tide", "perDay": "/day", "perWeek": "/week", "perMonth": "/month"}
UNITS = {"perHour": "hour", "tidePerHour": "hour", "perDay": "day", "perWeek": "week", "perMonth": "month"}


def columns(offers: Sequence[Offer], currency: str) -> list[Column]:
    """Only the charge modes that some offer has; a word for spot only where there is some."""
    modes = [mode for mode in SHORT if any(mode in offer.modes for offer in offers)]
    found = [
        Column("TYPE", lambda offer: offer.type.instanceTypeName, firm=True),
        Column("GPU", gpus),
        Column("CPU", lambda offer: number(offer.type.cpu), right=True),
        Column("MEMORY", lambda offer: f"{number(offer.type.memoryGB)} GB", right=True),
        Column("REGION", lambda offer: offer.region.regionName),
    ]
    if any(offer.is_spot for offer in offers):
        found.append(Column("SPOT", lambda offer: "spot" if offer.is_spot else ""))
    found += [Column(f"{currency}{PER[mode]}", _price_in(mode), right=True) for mode in modes]
    return [*found, Column("STOCK", lambda offer: offer.type.stockStatus)]


def gpus(offer: Offer) -> str:
    """``8x H200-SXM-141GB``; ``-`` for none."""
    return f"{offer.type.gpuNum}x {offer.gpu_name}" if offer.type.gpuNum else NOTHING


def price_of(offer: Offer, mode: str) -> str:
    """The price of one charge mode; of a tide that has bands, the lowest and the highest of the week."""
    for price in offer.type.price:
        if price.chargeMode == mode:
            amounts = [price.price, *(band.price for band in getattr(price, "bands", ()))]
            low, high = min(amounts), max(amounts)
            return money(low) if low == high else f"{money(low)}..{money(high)}"
    return NOTHING


def row(offer: Offer, currency: str) -> dict[str, Any]:
    """For programs: the catalogue's own fields, flat."""
    kind = offer.type.model_dump(mode="json", by_alias=True)
    return {
        "instanceTypeId": kind["instanceTypeId"],
        "instanceTypeName": kind["instanceTypeName"],
        "gpuName": offer.gpu_name,
        **{name: kind[name] for name in ("gpuNum", "cpu", "memoryGB")},
        "isSpotInstance": offer.is_spot,
        "regionId": offer.region.regionId,
        "regionName": offer.region.regionName,
        "stockStatus": kind["stockStatus"],
        "currency": currency,
        "price": kind["price"],
        "dataDiskPrice": offer.region.dataDiskPrice,
    }


def within(offers: Iterable[Offer], *, region: str | None = None, spot: bool | None = None) -> list[Offer]:
    """Those of one region, by its name or id, and those that are spot or are not. Raises Unknown."""
    from tidemill.client.orders import pick

    there = [offer for offer in offers if spot is None or offer.is_spot == spot]
    if region is None:
        return there
    known = [(offer.region.regionId, offer.region.regionName, offer.region.regionId) for offer in there]
    wanted = pick("region", region, known)
    return [offer for offer in there if offer.region.regionId == wanted]


def _price_in(mode: str) -> Callable[[Offer], str]:
    return lambda offer: price_of(offer, mode)
