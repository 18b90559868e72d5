"""The machines behind each region, as their drivers reported them last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from tidemill.store.schema import devices, nodes


@dataclass(frozen=True, slots=True)
class FoundDevice:
    id: str
    name: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundNode:
    """A node as it may be given out: capacity after overcommit and reserve."""

    id: str
    name: str
    cpu_milli: int
    memory_mb: int
    disk_gb: int
    devices: tuple[FoundDevice, ...]


def any_present(connection: Connection, region_id: str) -> bool:
    """Whether any machine of the region is there to take an instance, full or not."""
    there = select(nodes.c.id).where(nodes.c.region_id == region_id, nodes.c.present).limit(1)
    return connection.execute(there).first() is not None


def register(connection: Connection, region_id: str, found: Sequence[FoundNode]) -> None:
    """Write what a driver reported; nodes and devices it no longer has take nothing new."""
    known = {
        row.id: row
        for row in connection.execute(
            select(nodes.c.id, nodes.c.present, nodes.c.cpu_milli, nodes.c.memory_mb, nodes.c.disk_gb).where(
                nodes.c.region_id == region_id
            )
        )
    }
    gone = [
        node_id for node_id in known if node_id not in {node.id for node in found} and known[node_id].present
    ]
    if gone:
        connection.execute(update(nodes).where(nodes.c.id.in_(gone)).values(present=False))
    for node in found:
        values = {
            "name": node.name,
            "cpu_milli": node.cpu_milli,
            "memory_mb": node.memory_mb,
            "disk_gb": node.disk_gb,
            "present": True,
        }
        old = known.get(node.id)
        if old is None:
            connection.execute(insert(nodes), values | {"id": node.id, "region_id": region_id})
        elif (old.cpu_milli, old.memory_mb, old.disk_gb, old.present) != (
            node.cpu_milli,
            node.memory_mb,
            node.disk_gb,
            True,
        ):
            connection.execute(update(nodes).where(nodes.c.id == node.id).values(values))
        _register_devices(connection, node)


def _register_devices(connection: Connection, node: FoundNode) -> None:
    known = {
        row.device_id: row
        for row in connection.execute(
            select(devices.c.device_id, devices.c.name, devices.c.paths, devices.c.present).where(
                devices.c.node_id == node.id
            )
        )
    }
    named = {device.id for device in node.devices}
    gone = [device_id for device_id, row in known.items() if device_id not in named and row.present]
    if gone:
        connection.execute(
            update(devices)
            .where(devices.c.node_id == node.id, devices.c.device_id.in_(gone))
            .values(present=False)
        )
    for device in node.devices:
        values = {"name": device.name, "paths": list(device.paths), "present": True}
        old = known.get(device.id)
        if old is None:
            connection.execute(insert(devices), values | {"node_id": node.id, "device_id": device.id})
        elif (old.name, list(old.paths), old.present) != (device.name, list(device.paths), True):
            connection.execute(
                update(devices)
                .where(devices.c.node_id == node.id, devices.c.device_id == device.id)
                .values(values)
            )
