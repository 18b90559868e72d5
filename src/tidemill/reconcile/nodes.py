"""What the machines behind a region can hold, kept as the driver reports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from sqlalchemy import Connection

from tidemill.drivers.contract import Driver, Node
from tidemill.model.observation import InstanceId, Seen
from tidemill.model.offer import offer_id
from tidemill.settings import Settings
from tidemill.store import holdings, nodes
from tidemill.store.database import Database
from tidemill.store.nodes import Difference, FoundDevice, FoundNode

AT_ONCE = 50  # nodes in one transaction: requests come between
NOTHING = Difference((), (), frozenset())


async def register_nodes(
    database: Database,
    settings: Settings,
    region_id: str,
    driver: Driver,
    known: Sequence[Node] = (),
) -> Sequence[Node]:
    """Ask the driver for its nodes and write down what may be given out; returns what it said.

    ``known`` is what was returned the last time: when it is said again there is nothing to compare.
    On a node that is new, or back, something may run that the database does not know of: its devices
    are taken until it is gone. Raises Unreachable.
    """
    listed = await driver.nodes()

    def look(connection: Connection) -> tuple[Difference, set[InstanceId]]:
        difference = NOTHING
        if listed != known:
            found = [_allowed(node, settings, region_id) for node in listed]
            difference = nodes.compare(connection, region_id, found)
        return difference, holdings.strangers(connection, region_id)

    difference, strangers = await database.read_much(look)
    seen: Mapping[InstanceId, Seen] = {}
    if difference.back or strangers:
        seen = await driver.observe()
    if difference.gone:
        await database.write(lambda c: nodes.leave_out(c, difference.gone), durable=False)
    for at in range(0, len(difference.changed), AT_ONCE):
        some = difference.changed[at : at + AT_ONCE]
        await database.write(partial(_write, region_id, some, difference.back, seen), durable=False)
    if strangers - seen.keys():
        await database.write(lambda c: holdings.free_from(c, holdings.strangers(c, region_id) - seen.keys()))
    return listed


def _write(
    region_id: str,
    changed: Sequence[FoundNode],
    back: frozenset[str],
    seen: Mapping[InstanceId, Seen],
    connection: Connection,
) -> None:
    nodes.register(connection, region_id, changed)
    holdings.hold_as_seen(connection, [node.id for node in changed if node.id in back], seen)


def _allowed(node: Node, settings: Settings, region_id: str) -> FoundNode:
    return FoundNode(
        id=offer_id("node", f"{region_id}/{node.name}"),
        name=node.name,
        cpu_milli=int(node.cpu * 1000 * settings.cpu_overcommit),
        memory_mb=max(0, node.memory_mb - settings.memory_reserve_mb),
        disk_gb=node.disk_gb,
        devices=tuple(FoundDevice(device.id, device.name, device.paths) for device in node.devices),
    )
