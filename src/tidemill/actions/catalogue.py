"""What can be rented here, and whether there is any left."""

from __future__ import annotations

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.model.account import Caller
from tidemill.model.offer import Image, InstanceType, Region
from tidemill.model.placement import Need, Room, fits
from tidemill.model.stock import Prices, Stock
from tidemill.store import offers, reservations, tariffs


async def stock(context: Context, caller: Caller) -> list[Stock]:
    """Every type in every region that offers it, in the operator's order."""

    def work(connection: Connection) -> list[Stock]:
        found: list[Stock] = []
        rooms: dict[str, dict[str, list[Room]]] = {}
        regions = offers.all_regions(connection)
        prices = tariffs.all_current(connection)
        for kind in offers.all_types(connection):
            if kind.gpu_name not in rooms:
                rooms[kind.gpu_name] = reservations.rooms(connection, kind.gpu_name)
            need = Need(kind.cpu_milli, kind.memory_mb, kind.gpu_num)
            found.extend(
                Stock(
                    kind,
                    region,
                    sum(fits(room, need) for room in rooms[kind.gpu_name].get(region.id, [])),
                    prices_of(prices, kind, region),
                    prices_of(prices, kind, region, spot=True) if kind.spot else {},
                    disk_price_of(prices, region),
                )
                for region in regions
                if not kind.regions or region.id in kind.regions
            )
        return found

    return await context.database.read_much(work)  # of every machine


def prices_of(current: tariffs.Current, kind: InstanceType, region: Region, *, spot: bool = False) -> Prices:
    """What a type costs in a region, by the charge modes that it offers."""
    keys = {mode: (kind.id, region.id, mode.value, spot) for mode in kind.prices}
    return {mode: current[key].tariff for mode, key in keys.items() if key in current}


def disk_price_of(current: tariffs.Current, region: Region) -> int:
    """Micro-units per GB of data disk and hour."""
    found = current.get(("", region.id, tariffs.DISK, False))
    return 0 if found is None else found.amount


async def images(context: Context, caller: Caller) -> list[Image]:
    """The images that can be launched."""
    return await context.database.read(offers.all_images)


async def regions(context: Context, caller: Caller) -> list[Region]:
    """The regions that take launches."""
    return await context.database.read(offers.all_regions)
