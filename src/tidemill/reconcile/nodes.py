"""What the machines behind a region can hold, kept as the driver reports it."""

from __future__ import annotations

from sqlalchemy import Connection

from tidemill.drivers.contract import Driver, Node
from tidemill.model.offer import offer_id
from tidemill.settings import Settings
from tidemill.store import nodes
from tidemill.store.database import Database
from tidemill.store.nodes import FoundDevice, FoundNode


async def register_nodes(database: Database, settings: Settings, region_id: str, driver: Driver) -> None:
    """Ask the driver for its nodes and write down what may be given out. Raises Unreachable."""
    found = [_allowed(node, settings, region_id) for node in await driver.nodes()]

    def work(connection: Connection) -> None:
        nodes.register(connection, region_id, found)

    await database.write(work)


def _allowed(node: Node, settings: Settings, region_id: str) -> FoundNode:
    return FoundNode(
        id=offer_id("node", f"{region_id}/{node.name}"),
        name=node.name,
        cpu_milli=int(node.cpu * 1000 * settings.cpu_overcommit),
        memory_mb=max(0, node.memory_mb - settings.memory_reserve_mb),
        disk_gb=node.disk_gb,
        devices=tuple(FoundDevice(device.id, device.name, device.paths) for device in node.devices),
    )
