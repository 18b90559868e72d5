"""What this deployment offers: regions, images, types, from the operator's file to the database."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

import structlog
from sqlalchemy import Connection

from tidemill.catalogue import Machine, Tables
from tidemill.drivers.contract import Driver, DriverError, Node
from tidemill.model.errors import Misconfigured
from tidemill.model.offer import Region
from tidemill.reconcile.nodes import register_nodes
from tidemill.server.engines import has_some_of
from tidemill.server.together import Check
from tidemill.settings import Settings
from tidemill.store import engines, fleet, offers, tariffs
from tidemill.store.database import Database
from tidemill.store.servers import Server

log = structlog.get_logger("server")


def regions_of(settings: Settings, tables: Tables) -> list[Region]:
    """The regions that the operator lists, or the one there is without a list."""
    return tables.regions(
        name=settings.region_name,
        ssh_address=_ssh_address(settings),
        driver=settings.driver,
        zone=settings.timezone,
    )


def _ssh_address(settings: Settings) -> str:
    """How users reach node ports: the setting, else the address that published ports have."""
    if settings.ssh_address:
        return settings.ssh_address
    if settings.publish_address not in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound
        return settings.publish_address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # picks a route; nothing is sent
        return probe.getsockname()[0]
    return "127.0.0.1"


def check_regions(database: Database, regions: list[Region]) -> None:
    """Nobody would work on the instances of a region that is not there. Raises Misconfigured."""
    used = database.run(fleet.regions_in_use)
    for region_id in sorted(used.keys() - {region.id for region in regions}):
        known = database.run(lambda connection, id=region_id: offers.region(connection, id))
        name = region_id if known is None else known.name
        raise Misconfigured(
            f"The region {name!r} is no longer configured and has {used[region_id]} instances. Put "
            f'it back until they are terminated; to rename it, keep its id: id = "{region_id}" in [[region]]'
        )


def elsewhere(
    database: Database, settings: Settings, regions: list[Region], given: Mapping[str, str]
) -> Check:
    """A region has one engine, which all its servers reach; while nobody works it may be given another.

    One with instances is, where the data folder has what belongs to them: its name alone was lost.
    Raises Misconfigured when that cannot come right by itself.
    """
    if database.is_sqlite:
        return lambda others: ""
    moved: list[Region] = []
    for region in regions:
        known = database.run(lambda connection, id=region.id: engines.of(connection, id))
        if known in {"", given[region.id]}:
            continue
        ids = database.run(lambda connection, id=region.id: fleet.ids_of_region(connection, id))
        if ids and not has_some_of(region, settings, ids):
            raise Misconfigured(_other_engine(region))
        moved.append(region)

    def check(others: list[Server]) -> str:
        works = any(each.role != "api" for each in others)
        return _other_engine(moved[0]) if moved and works else ""

    return check


def _other_engine(region: Region) -> str:
    return (
        f"The region {region.name!r} is worked on from another data folder, with an engine and disks that "
        'this one does not have. Start its server there (and one with role = "api" here), or bring that '
        "folder along"
    )


def _machine(nodes: list[Node]) -> Machine:
    """The first node, or this machine when its engine does not answer."""
    if not nodes:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        return Machine(os.cpu_count() or 1, memory, {})
    gpus: dict[str, int] = {}
    for device in nodes[0].devices:
        gpus[device.name] = gpus.get(device.name, 0) + 1
    return Machine(nodes[0].cpu, nodes[0].memory_mb, gpus)


async def publish(
    database: Database,
    settings: Settings,
    tables: Tables,
    regions: list[Region],
    drivers: Mapping[str, Driver],
    given: Mapping[str, str],
    server_id: str,
    now: datetime,
) -> None:
    """Write the catalogue into the database, with types sized to the machine where none are listed.

    ``given`` names the engine of each region. Raises Misconfigured when another one is in use.
    """
    nodes: list[Node] = []
    try:
        async with asyncio.timeout(10):
            nodes = await drivers[regions[0].id].nodes()
    except (DriverError, TimeoutError) as error:
        log.error("the container engine does not answer; serving without it until it does", error=str(error))
    machine = _machine(nodes)
    sized = Machine(machine.cpu, max(64, machine.memory_mb - settings.memory_reserve_mb), machine.gpus)
    images, types, tide = tables.images(), tables.types(sized, regions), tables.tide()

    def work(connection: Connection) -> None:
        offers.publish(connection, new_regions=regions, new_images=images, new_types=types)
        tariffs.publish(
            connection, types=types, regions=regions, tide=tide, disk=settings.data_disk_price, at=now
        )
        for region in regions:
            if not database.is_sqlite and not engines.give(
                connection, region.id, given[region.id], server_id=server_id
            ):
                raise Misconfigured(_other_engine(region))

    await database.write(work)
    for region in regions:
        with suppress(DriverError):
            await register_nodes(database, settings, region.id, drivers[region.id])
