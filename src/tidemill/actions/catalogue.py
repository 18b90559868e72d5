"""What can be rented here, and whether there is any left."""

from __future__ import annotations

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.model.account import Caller
from tidemill.model.offer import Image, Region, Stock
from tidemill.model.placement import Need, Room, fits
from tidemill.store import offers, reservations


async def stock(context: Context, caller: Caller) -> list[Stock]:
    """Every type in every region that offers it, in the operator's order."""

    def work(connection: Connection) -> list[Stock]:
        found: list[Stock] = []
        rooms: dict[str, dict[str, list[Room]]] = {}
        regions = offers.all_regions(connection)
        for kind in offers.all_types(connection):
            if kind.gpu_name not in rooms:
                rooms[kind.gpu_name] = reservations.rooms(connection, kind.gpu_name)
            need = Need(kind.cpu_milli, kind.memory_mb, kind.gpu_num)
            found.extend(
                Stock(kind, region, sum(fits(room, need) for room in rooms[kind.gpu_name].get(region.id, [])))
                for region in regions
                if not kind.regions or region.id in kind.regions
            )
        return found

    return await context.database.read_much(work)  # of every machine


async def images(context: Context, caller: Caller) -> list[Image]:
    """The images that can be launched."""
    return await context.database.read(offers.all_images)


async def regions(context: Context, caller: Caller) -> list[Region]:
    """The regions that take launches."""
    return await context.database.read(offers.all_regions)
